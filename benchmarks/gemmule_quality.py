"""How good gemmule is, and whether its experts specialise.

    python benchmarks/gemmule_quality.py [--model secateur/gemmule] [--threads 2]

From the shipped sets alone: held-out perplexity per domain with a bootstrap interval over
documents, the load of every expert per layer and domain, and the rank correlation of REAP scores
between domains against that between two halves of one domain. Writes gemmule_quality.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from goals import result_path
from scipy.stats import spearmanr
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

DOMAINS = ("prose", "definitions", "code", "arithmetic", "tools", "chat")
BATCH = 16  # documents of similar length in one padded batch


@dataclass
class Document:
    """Token ids, where the answer begins (0 for raw text), its half, and bytes of raw text."""

    domain: str
    ids: list[int]
    answer: int
    half: int
    size: int = 0


@dataclass
class Observer:
    """Sums for every (layer, half, expert): tokens routed there, and gate times output norm."""

    layers: int
    experts: int
    real: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    half: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    calls: int = 0

    def __post_init__(self) -> None:
        self.count = np.zeros((self.layers, 2, self.experts))
        self.score = np.zeros((self.layers, 2, self.experts))

    def __call__(
        self, module: Any, hidden: torch.Tensor, index: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        """The experts function: eager experts that also add to the sums (layers run in order)."""
        layer = self.calls % self.layers
        self.calls += 1
        out = torch.zeros_like(hidden)
        for expert in range(self.experts):
            token, slot = torch.where(index == expert)
            inner = F.linear(hidden[token], module.gate_up_proj[expert])
            y = F.linear(module._apply_gate(inner), module.down_proj[expert])
            weight = gate[token, slot]
            out.index_add_(0, token, y * weight[:, None])
            saliency = weight * y.norm(dim=1)
            for half in (0, 1):
                chosen = self.real[token] & (self.half[token] == half)
                self.count[layer, half, expert] += chosen.sum().item()
                self.score[layer, half, expert] += saliency[chosen].double().sum().item()
        return out

    def reap(self) -> np.ndarray:
        """Mean of gate times output norm over an expert's tokens: (layers, 2, experts)."""
        return self.score / np.maximum(self.count, 1)


def read(model: Path, tokenizer: Any, names: tuple[str, ...]) -> list[Document]:
    """Documents of the named sets; dialogues as the chat template renders them for generation."""
    documents: list[Document] = []
    for name in names:
        for line in (model / "sets" / f"{name}.jsonl").open(encoding="utf-8"):
            record = json.loads(line)
            half = len(documents) % 2
            if "text" in record:
                text = record["text"]
                ids = tokenizer(f"<bos>{text}<eos>", add_special_tokens=False)["input_ids"]
                documents.append(Document(record["domain"], ids, 0, half, len(text.encode())))
                continue
            options = {"tools": record.get("tools"), "tokenize": False}
            before = tokenizer.apply_chat_template(record["messages"][:-1], **options)
            whole = tokenizer.apply_chat_template(record["messages"], **options)
            prompt = tokenizer.apply_chat_template(
                record["messages"][:-1], add_generation_prompt=True, **options
            )
            answer = whole[len(before) :].removeprefix("<|turn>model\n")
            encoded = [
                tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, answer)
            ]
            documents.append(Document(record["domain"], sum(encoded, []), len(encoded[0]), half))
    return documents


@torch.no_grad()
def losses(model: Any, documents: list[Document], observer: Observer) -> list[np.ndarray]:
    """Next-token losses in nats of every document, in the order given."""
    order = sorted(range(len(documents)), key=lambda i: len(documents[i].ids))
    found: dict[int, np.ndarray] = {}
    for at in range(0, len(order), BATCH):
        members = order[at : at + BATCH]
        longest = max(len(documents[i].ids) for i in members)
        ids = torch.tensor(
            [documents[i].ids + [0] * (longest - len(documents[i].ids)) for i in members]
        )
        mask = torch.tensor([[p < len(documents[i].ids) for p in range(longest)] for i in members])
        half = torch.tensor([documents[i].half for i in members]).unsqueeze(1).expand_as(ids)
        observer.real, observer.half = mask.flatten(), half.flatten()
        logits = model(ids, attention_mask=mask.long(), use_cache=False).logits
        nats = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        for row, i in enumerate(members):
            found[i] = nats[row, : len(documents[i].ids) - 1].double().numpy()
    return [found[i] for i in range(len(documents))]


def perplexity(parts: list[np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
    """exp of the mean loss over tokens, with a 95% interval from 2000 resamplings of documents."""
    sums = np.array([part.sum() for part in parts])
    counts = np.array([len(part) for part in parts])
    drawn = rng.integers(len(parts), size=(2000, len(parts)))
    low, high = np.percentile(np.exp(sums[drawn].sum(1) / counts[drawn].sum(1)), [2.5, 97.5])
    return {
        "perplexity": round(float(np.exp(sums.sum() / counts.sum())), 3),
        "interval_95": [round(float(low), 3), round(float(high), 3)],
        "tokens": int(counts.sum()),
        "documents": len(parts),
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman rank correlation of two (layers, experts) score tables, averaged over layers."""
    return float(np.mean([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]))


def correlations(scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Within a domain: half against half. Between two: all four pairs of halves, averaged."""
    within = {d: round(correlation(s[:, 0], s[:, 1]), 3) for d, s in scores.items()}
    between = {}
    for one, two in combinations(scores, 2):
        pairs = [correlation(scores[one][:, i], scores[two][:, j]) for i in (0, 1) for j in (0, 1)]
        between[f"{one} / {two}"] = round(float(np.mean(pairs)), 3)
    return {"within": within, "between": between}


def measure(model: Any, documents: dict[str, list[Document]], observer: Observer) -> dict[str, Any]:
    """One domain's perplexities of the test set; the observer sees the other sets too."""
    rng = np.random.default_rng(0)
    nats = losses(model, documents["test"], observer)
    pairs = list(zip(nats, documents["test"], strict=True))
    raw = [n for n, d in pairs if not d.answer]
    bits = float(sum(part.sum() for part in raw)) / float(np.log(2))
    per_byte = round(bits / sum(d.size for _, d in pairs), 3)
    losses(model, documents["others"], observer)
    return {
        "all": perplexity(nats, rng),
        "raw text": perplexity(raw, rng) | {"bits_per_byte": per_byte},
        "answers": perplexity([n[d.answer - 1 :] for n, d in pairs if d.answer], rng),
    }


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parent
    parser.add_argument("--model", type=Path, default=here.parent / "secateur" / "gemmule")
    parser.add_argument("--out", type=Path, default=result_path("gemmule_quality"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began = time.time()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model.eval()
    sets = {"test": ("test",), "others": ("calibration", "selection")}
    read_sets = {key: read(args.model, tokenizer, names) for key, names in sets.items()}
    held: dict[str, Any] = {}
    loads: dict[str, Any] = {}
    scores: dict[str, np.ndarray] = {}
    for domain in DOMAINS:
        observer = Observer(model.config.num_hidden_layers, model.config.num_experts)
        ALL_EXPERTS_FUNCTIONS.register("gemmule_observed", observer)
        model.set_experts_implementation("gemmule_observed")
        mine = {key: [d for d in found if d.domain == domain] for key, found in read_sets.items()}
        held[domain] = measure(model, mine, observer)
        total = observer.count.sum(1)
        loads[domain] = (total / total.sum(1, keepdims=True)).round(4).tolist()
        scores[domain] = observer.reap()
        print(domain, held[domain]["all"], f"{time.time() - began:.0f} s", flush=True)
    report = {
        "what": "perplexity per token of the test set; expert load (shares of a layer); "
        "REAP rank correlation",
        "machine": f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, float32 from bf16 weights",
        "weights_sha256": sha256((args.model / "model.safetensors").read_bytes()).hexdigest(),
        "held_out": held,
        "reap_spearman": correlations(scores),
        "least_load_of_any_expert": float(np.mean(list(loads.values()), 0).min()),
        "expert_load": loads,
        "seconds": round(time.time() - began),
    }
    args.out.write_text(json.dumps(report) + "\n")
    print(json.dumps(report["reap_spearman"], indent=1))


if __name__ == "__main__":
    main()
