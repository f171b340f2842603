"""Train a small Qwen3 mixture of experts: a second really trained model, with another router.

    python benchmarks/models/qwen3_moe.py --work WORK --tokens 6000000 -o WORK/qwen3-moe

WORK holds gemmule's token streams (gemmule/README.md: corpus.py, pack.py). The router takes the
softmax over all experts, keeps the top 4 and normalises them; there are no shared layers beside the
experts and no norms after them. The run is a function of seed, data and thread count; a checkpoint
is written every few minutes and on SIGTERM, and started again the run goes on from it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

sys.path.insert(0, str(Path(__file__).parents[2] / "gemmule"))
from muon import Muon
from sorted_experts import sorted_experts
from train import MIX, Recipe, rate, rows

TOKENIZER = Path(__file__).parents[2] / "secateur" / "gemmule"
SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 0.01,
    "output_router_logits": True,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
RECIPE = Recipe(seed=7, batch=8192, micro=8192, muon_rate=0.02, adam_rate=0.004)
SAVE_SECONDS = 240.0


def build() -> Any:
    """A fresh model in float32."""
    torch.manual_seed(RECIPE.seed)
    ALL_EXPERTS_FUNCTIONS.register("sorted", sorted_experts)
    config = Qwen3MoeConfig(**SHAPE)
    config._experts_implementation = "sorted"
    return Qwen3MoeForCausalLM(config).float()


class Run:
    """Model, optimizers and how far the run is."""

    def __init__(self, work: Path) -> None:
        self.checkpoint = work / "qwen3-moe.pt"
        self.model = build()
        matrices, doubles, others = [], [], []
        for name, p in self.model.named_parameters():
            is_matrix = p.ndim >= 2 and "embed" not in name and "mlp.gate." not in name
            (doubles if "gate_up" in name else matrices if is_matrix else others).append(p)
        groups = [{"params": matrices}, {"params": doubles, "split": 2}]
        self.muon = Muon(groups, lr=RECIPE.muon_rate)
        self.adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.step = 0
        if self.checkpoint.exists():
            held = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(held["model"])
            self.muon.load_state_dict(held["muon"])
            self.adam.load_state_dict(held["adam"])
            self.step = held["step"]

    def save(self) -> None:
        aside = self.checkpoint.with_suffix(".new")
        state = {name: getattr(self, name).state_dict() for name in ("model", "muon", "adam")}
        torch.save({**state, "step": self.step}, aside)
        os.replace(aside, self.checkpoint)

    def update(self, ids: Tensor, factor: float) -> float:
        for group in self.muon.param_groups:
            group["lr"] = RECIPE.muon_rate * factor
        for group in self.adam.param_groups:
            group["lr"] = RECIPE.adam_rate * factor
        self.model.zero_grad(set_to_none=True)
        found = self.model(ids[:, :-1], use_cache=False)
        logits = found.logits.flatten(0, 1)
        nats = functional.cross_entropy(logits, ids[:, 1:].flatten())
        (nats + RECIPE.balance * len(self.model.model.layers) * found.aux_loss).backward()
        self.muon.step()
        self.adam.step()
        self.step += 1
        return nats.item()

    @torch.no_grad()
    def held_out(self, streams: dict[str, np.ndarray], count: int = 16) -> dict[str, float]:
        """Perplexity per token of each domain on fixed rows of the test split."""
        found = {}
        for name, stream in streams.items():
            starts = np.linspace(0, len(stream) - 514, count).astype(int)
            ids = torch.from_numpy(np.stack([stream[s : s + 513].astype(np.int64) for s in starts]))
            logits = self.model(ids[:, :-1], use_cache=False).logits.flatten(0, 1)
            found[name] = round(
                functional.cross_entropy(logits, ids[:, 1:].flatten()).exp().item(), 2
            )
        return found


def train(run: Run, work: Path, tokens: int) -> bool:
    """Step to the end of the budget, or to SIGTERM; whether the end was reached."""
    streams = {d: np.load(work / "tokens" / f"train-{d}.npy", mmap_mode="r") for d in MIX}
    held = {d: np.load(work / "tokens" / f"test-{d}.npy", mmap_mode="r") for d in MIX}
    asked_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked_to_stop.append(number))
    saved = time.monotonic()
    with (work / "qwen3-moe.jsonl").open("a", buffering=1) as log:
        while (done := run.step * RECIPE.batch / tokens) < 1 and not asked_to_stop:
            length = RECIPE.long if done >= RECIPE.long_from else RECIPE.short
            nats = run.update(rows(streams, RECIPE, run.step, length), rate(done, RECIPE))
            if run.step % 10 == 0:
                row: dict[str, Any] = {
                    "step": run.step,
                    "done": round(done, 4),
                    "loss": round(nats, 4),
                }
                if run.step % 100 == 0:
                    row["held_out"] = run.held_out(held)
                log.write(json.dumps(row) + "\n")
            if time.monotonic() - saved > SAVE_SECONDS:
                run.save()
                saved = time.monotonic()
        run.save()
        if not asked_to_stop:
            log.write(json.dumps({"final": tokens, "held_out": run.held_out(held, 48)}) + "\n")
    return not asked_to_stop


def export(run: Run, out: Path) -> None:
    """A folder that transformers and secateur can load: bf16, published names, with a tokenizer."""
    aside = out.with_name(out.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    run.model.config.output_router_logits = False
    run.model.config._experts_implementation = None
    run.model.to(torch.bfloat16).save_pretrained(aside)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TOKENIZER / name, aside / name)
    shutil.copyfile(TOKENIZER / "generation_config.json", aside / "generation_config.json")
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=6_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = Run(options.work)
    if train(run, options.work, options.tokens):
        export(run, options.out)


if __name__ == "__main__":
    main()
