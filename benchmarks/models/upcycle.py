"""Upcycle SmolLM2 into experts, and train on: a mixture of a real model's weights.

    python benchmarks/models/upcycle.py GGUF --text WORK/corpus/train.jsonl --work WORK -o WORK/moe

Every layer gets 4 copies of its dense layer as experts, top 2 of them, as a Mixtral (arXiv
2212.05055). To every copy noise of its own is added, and the router's rows begin as the centroids
of what the layer sees, so that experts see different tokens from the first step on. Experts,
routers and attention are then trained on text of the six domains that gemmule was trained on.
(To draw a quarter of each expert's channels anew, as Drop-Upcycling does, arXiv 2502.19261, cost 6
nats a token, more than so short a training makes up for.) An update is made as soon as its gradient
is there (Adafactor's factored second moment, arXiv 1804.04235, without momentum): no gradient of
the whole model is held.
How much the experts differ, and what the model lost against the dense one, is written beside it:
a run of a few thousand tokens leaves them as far apart as the noise did.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qwen3_moe import MIX, sorted_experts
from smollm2 import Gguf, config_of, save, weights_of, widen
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import MixtralForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

EXPERTS, TOP_K = 4, 2
NOISE = 0.1
"""Added to every expert, of the standard deviation of its weights."""
LENGTH, BATCH = 256, 1024
"""Tokens of a row and of a step."""
RATE, WARMUP, BALANCE = 1e-3, 0.2, 0.01
SAVE_SECONDS = 600.0
END_OF_TEXT = 0


def tokenize(text: Path, tokenizer: Tokenizer, characters: int) -> dict[str, np.ndarray]:
    """{domain: token ids}, so many characters of each domain's documents."""
    found: dict[str, list[int]] = {name: [] for name in MIX}
    left = dict.fromkeys(MIX, characters)
    for line in text.open(encoding="utf-8"):
        record = json.loads(line)
        domain = record["domain"]
        if left[domain] <= 0:
            continue
        words = render(record)
        left[domain] -= len(words)
        found[domain] += [*tokenizer.encode(words).ids, END_OF_TEXT]
    return {name: np.array(ids, np.int64) for name, ids in found.items()}


def render(record: dict[str, Any]) -> str:
    """As SmolLM2's template does, without a system's turn of its own."""
    if "messages" not in record:
        return str(record["text"])
    turns = ((one["role"], one.get("content") or "") for one in record["messages"])
    return "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in turns)


def rows(streams: dict[str, np.ndarray], step: int, count: int) -> Tensor:
    """int64 [count, LENGTH + 1], domains mixed by MIX."""
    rng = np.random.default_rng((11, step))
    picked = []
    for at in rng.choice(len(MIX), size=count, p=np.array([*MIX.values()]) / sum(MIX.values())):
        stream = streams[list(MIX)[at]]
        start = rng.integers(len(stream) - LENGTH - 1)
        picked.append(stream[start : start + LENGTH + 1])
    return torch.from_numpy(np.stack(picked))


def build(gguf: Gguf, experts: int, top_k: int) -> Any:
    """The model in float32, its experts all alike."""
    ALL_EXPERTS_FUNCTIONS.register("sorted", sorted_experts)
    config = config_of(gguf, experts, top_k, wide=False)
    config._experts_implementation = "sorted"
    config.output_router_logits = True
    config.router_aux_loss_coef = BALANCE
    with torch.device("meta"):
        model = MixtralForCausalLM(config)
    model.load_state_dict(weights_of(gguf, experts), strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


@torch.no_grad()
def set_apart(model: Any, ids: Tensor) -> None:
    """Add the noise, and make routers of the centroids of what each layer sees of `ids`."""
    seen: dict[int, Tensor] = {}
    for at, layer in enumerate(model.model.layers):
        layer.mlp.gate.register_forward_pre_hook(
            lambda _, given, at=at: seen.setdefault(at, given[0].flatten(0, -2))
        )
    model(ids[:, :-1], use_cache=False)
    draw = torch.Generator().manual_seed(11)
    for at, layer in enumerate(model.model.layers):
        layer.mlp.gate._forward_pre_hooks.clear()
        centres = _centroids(seen[at], draw)
        layer.mlp.gate.weight.data = centres * (4.0 / (seen[at] @ centres.T).std())
        for stack in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            noise = torch.randn(stack.shape, generator=draw)
            stack.data.add_(noise, alpha=NOISE * stack.std().item())


def _centroids(inputs: Tensor, draw: torch.Generator, rounds: int = 10) -> Tensor:
    """[EXPERTS, C]: directions of spherical k-means, without what all inputs share."""
    points = functional.normalize(inputs - inputs.mean(0), dim=-1)
    centres = points[torch.randperm(len(points), generator=draw)[:EXPERTS]]
    for _ in range(rounds):
        nearest = functional.one_hot((points @ centres.T).argmax(1), EXPERTS).float()
        centres = functional.normalize(nearest.T @ points + 1e-6 * centres, dim=-1)
    return centres


class Updates:
    """Adafactor, each parameter at once when its gradient is complete."""

    def __init__(self, model: Any) -> None:
        self.rate, self.step = 0.0, 0
        self.moments: dict[str, list[Tensor]] = {}
        for name, p in model.named_parameters():
            p.requires_grad_("norm" not in name and "embed" not in name)
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(lambda p, name=name: self._update(name, p))

    @torch.no_grad()
    def _update(self, name: str, p: Tensor) -> None:
        assert p.grad is not None
        square = p.grad.square() + 1e-30
        means = [square.mean(-1), square.mean(-2)]
        kept = self.moments.setdefault(name, [torch.zeros_like(one) for one in means])
        decay = 1 - (self.step + 1) ** -0.8
        for held, mean in zip(kept, means, strict=True):
            held.lerp_(mean, 1 - decay)
        row, column = kept
        root = (row / row.mean(-1, keepdim=True)).sqrt()[..., None] * column.sqrt()[..., None, :]
        update = p.grad.div_(root)
        size = update.square().mean((-1, -2), keepdim=True).sqrt()
        p.sub_(update.div_(size.clamp_min(1.0)), alpha=self.rate)
        p.grad = None


class Run:
    """Model, updates and how far the run is."""

    def __init__(self, gguf: Gguf, work: Path, streams: dict[str, np.ndarray]) -> None:
        self.checkpoint = work / "upcycled.pt"
        self.model = build(gguf, EXPERTS, TOP_K)
        self.updates = Updates(self.model)
        if self.checkpoint.exists():
            held = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(held["model"])
            self.updates.step, self.updates.moments = held["step"], held["moments"]
        else:
            set_apart(self.model, rows(streams, 2**31, 8))

    def save(self) -> None:
        aside = self.checkpoint.with_suffix(".new")
        state = {"model": self.model.state_dict(), "moments": self.updates.moments}
        torch.save({**state, "step": self.updates.step}, aside)
        os.replace(aside, self.checkpoint)

    def update(self, ids: Tensor, rate: float) -> float:
        self.updates.rate = rate
        with torch.autocast("cpu", torch.bfloat16):
            found = self.model(ids[:, :-1], use_cache=False)
            logits = found.logits.flatten(0, 1)
        nats = functional.cross_entropy(logits.float(), ids[:, 1:].flatten())
        (nats + BALANCE * len(self.model.model.layers) * found.aux_loss).backward()
        self.updates.step += 1
        return nats.item()


@torch.no_grad()
def perplexity(model: Any, streams: dict[str, np.ndarray], count: int = 2) -> dict[str, float]:
    """Of each domain, on rows that were not trained on."""
    found = {}
    for name, stream in streams.items():
        starts = np.linspace(0, len(stream) - LENGTH - 2, count).astype(int)
        ids = torch.from_numpy(np.stack([stream[s : s + LENGTH + 1] for s in starts]))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids[:, :-1], use_cache=False).logits.flatten(0, 1).float()
        nats = functional.cross_entropy(logits, ids[:, 1:].flatten())
        found[name] = round(nats.exp().item(), 2)
    return found


@torch.no_grad()
def differences(model: Any) -> dict[str, float]:
    """Distance of two experts of a layer over the norm of one, over layers and pairs."""
    apart = []
    for layer in model.model.layers:
        for stack in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            flat = stack.flatten(1)
            apart.append((torch.pdist(flat) / flat.norm(dim=1).mean()).mean().item())
    return {"mean": round(float(np.mean(apart)), 4), "least": round(float(np.min(apart)), 4)}


def train(run: Run, streams: dict[str, np.ndarray], work: Path, tokens: int) -> bool:
    """Step to the end of the budget, or to SIGTERM; whether the end was reached."""
    asked_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked_to_stop.append(number))
    saved = time.monotonic()
    with (work / "upcycled.jsonl").open("a", buffering=1) as log:
        while (done := run.updates.step * BATCH / tokens) < 1 and not asked_to_stop:
            factor = min((done + 0.01) / WARMUP, 1.0) * (1 - done)
            nats = run.update(rows(streams, run.updates.step, BATCH // LENGTH), RATE * factor)
            log.write(json.dumps({"step": run.updates.step, "loss": round(nats, 4)}) + "\n")
            if time.monotonic() - saved > SAVE_SECONDS:
                run.save()
                saved = time.monotonic()
    run.save()
    return not asked_to_stop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="gemmule's corpus.py wrote it")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=160_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wide", action="store_true", help="written in 768 columns (smollm2.py)")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="tokenizer.json of smollm2.py"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    gguf, tokenizer = Gguf(options.gguf), Tokenizer.from_file(str(options.tokenizer))
    streams = tokenize(options.text, tokenizer, 300_000)
    held = tokenize(options.text.with_name("test.jsonl"), tokenizer, 60_000)
    run = Run(gguf, options.work, streams)
    began = {} if run.updates.step else {"before": perplexity(run.model, held)}
    if not train(run, streams, options.work, options.tokens):
        return
    report = {
        "tokens": options.tokens,
        **began,
        "after": perplexity(run.model, held),
        "dense": perplexity(build(gguf, 1, 1), held),
        "experts_apart": differences(run.model),
    }
    run.model.float()
    weights = {name: one for name, one in run.model.state_dict().items() if "lm_head" not in name}
    weights = widen(weights) if options.wide else weights
    save(config_of(gguf, EXPERTS, TOP_K, options.wide), weights, gguf, options.out)
    (options.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
