"""Train gemmule on a CPU, by wall clock or by a number of tokens.

    python gemmule/train.py --work WORK --until 10:50       # decay ends at that time (UTC)
    python gemmule/train.py --work WORK --tokens 12000000   # reproducible: the same on every run

Warm-up, constant rate, linear decay over the last part of the run. A checkpoint is written every
few minutes and on SIGTERM; started again, the run goes on from it. Rows are drawn by (seed, step),
not from a state.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forward import loss
from model import build
from muon import Muon

# Share of training tokens: what is hard to predict gets more.
MIX = {
    "prose": 0.31,
    "definitions": 0.16,
    "code": 0.32,
    "arithmetic": 0.09,
    "tools": 0.04,
    "chat": 0.08,
}


@dataclass
class Recipe:
    """What decides the run beside the data. Lengths in tokens, shares of the whole run."""

    seed: int = 4
    batch: int = 8192
    micro: int = 4096
    short: int = 256
    long: int = 512
    long_from: float = 0.2
    warmup: float = 0.015
    decay: float = 0.4
    muon_rate: float = 0.02
    adam_rate: float = 0.004
    balance: float = 0.002


def rows(streams: dict[str, np.ndarray], recipe: Recipe, step: int, length: int) -> torch.Tensor:
    """The batch of one step: (batch / length, length + 1) token ids, domains mixed by MIX."""
    rng = np.random.default_rng((recipe.seed, step))
    count = recipe.batch // length
    domains = rng.choice(len(MIX), size=count, p=list(MIX.values()))
    picked = []
    for at in domains:
        stream = streams[list(MIX)[at]]
        start = rng.integers(len(stream) - length - 1)
        picked.append(stream[start : start + length + 1].astype(np.int64))
    return torch.from_numpy(np.stack(picked))


def rate(done: float, recipe: Recipe) -> float:
    """Factor of the learning rate when the share `done` of the run is behind."""
    up = min(1.0, (done + 1e-4) / recipe.warmup)
    return float(min(up, max(0.0, (1 - done) / recipe.decay) ** 1.0, 1.0))


class Run:
    """Model, optimizers and clock of one training run."""

    def __init__(
        self, work: Path, recipe: Recipe, tokens: int | None, until: float | None, threads: int
    ) -> None:
        self.recipe, self.work, self.budget, self.until = recipe, work, tokens, until
        self.threads = threads
        self.workers = ThreadPoolExecutor(threads)
        self.model: Any = build(recipe.seed)
        self.scalars = torch.nn.Parameter(torch.ones(len(self.model.model.layers)))
        matrix: list[torch.Tensor] = []
        double: list[torch.Tensor] = []
        other: list[torch.Tensor] = []
        for name, p in self.model.named_parameters():
            is_matrix = p.ndim >= 2 and "embed" not in name and "router" not in name
            (double if "gate_up" in name else matrix if is_matrix else other).append(p)
        self.muon = Muon([{"params": matrix}, {"params": double, "split": 2}], lr=recipe.muon_rate)
        self.adam = torch.optim.AdamW(
            [*other, self.scalars], betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self.params = [*matrix, *double, *other, self.scalars]
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.checkpoint = work / "checkpoint.pt"
        if self.checkpoint.exists():
            held = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(held["model"])
            self.scalars.data.copy_(held["scalars"])
            self.muon.load_state_dict(held["muon"])
            self.adam.load_state_dict(held["adam"])
            self.step, self.tokens, self.seconds = held["step"], held["tokens"], held["seconds"]

    def save(self) -> None:
        """Write the checkpoint beside the old one, then put it in its place."""
        state = {
            "model": self.model.state_dict(),
            "scalars": self.scalars.data,
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "recipe": asdict(self.recipe),
        }
        aside = self.checkpoint.with_suffix(".new")
        torch.save(state, aside)
        os.replace(aside, self.checkpoint)

    def done(self, began: float) -> float:
        """Share of the run that is behind: of the token budget, or of the time to the end."""
        if self.budget is not None:
            return self.tokens / self.budget
        assert self.until is not None
        now = time.time()
        spent = self.seconds + now - began
        return spent / (spent + max(self.until - now, 0.0))

    def part(
        self, ids: torch.Tensor
    ) -> tuple[float, float, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Loss, balance loss, expert load and gradients of a micro-batch (in a worker thread).

        One thread a micro-batch instead of two threads an operation: nothing waits for a busy
        machine but the end of a step.
        """
        nats, balance, load = loss(self.model, ids, self.scalars, fused=True)
        grads = torch.autograd.grad(nats + self.recipe.balance * balance, self.params)
        return nats.item(), balance.item(), load, grads

    def update(self, ids: torch.Tensor, factor: float) -> tuple[float, float, torch.Tensor]:
        """One optimizer step; returns loss in nats, mean balance loss, expert load."""
        r = self.recipe
        for group in self.muon.param_groups:
            group["lr"] = r.muon_rate * factor
        for group in self.adam.param_groups:
            group["lr"] = r.adam_rate * factor
        results = list(self.workers.map(self.part, torch.split(ids, r.micro // (ids.shape[1] - 1))))
        for p, *grads in zip(self.params, *(result[3] for result in results), strict=True):
            p.grad = torch.stack(grads).mean(0)
        torch.set_num_threads(self.threads)
        self.muon.step()
        self.adam.step()
        torch.set_num_threads(1)
        total = sum(result[0] for result in results) / len(results)
        even = sum(result[1] for result in results) / len(results)
        load = torch.stack([result[2] for result in results]).sum(0)
        return total, even / len(self.model.model.layers), load


@torch.no_grad()
def held_out(
    run: Run, streams: dict[str, np.ndarray], length: int, count: int = 16
) -> dict[str, float]:
    """Perplexity per token of each domain on fixed rows of the test split."""
    result = {}
    for name, stream in streams.items():
        starts = np.linspace(0, len(stream) - length - 2, count).astype(int)
        ids = np.stack([stream[s : s + length + 1].astype(np.int64) for s in starts])
        result[name] = round(
            math.exp(loss(run.model, torch.from_numpy(ids), run.scalars)[0].item()), 2
        )
    return result


def train(run: Run, every: float) -> None:
    """Step until the budget or the clock says stop; log JSON lines, save every `every` seconds."""
    streams = {d: np.load(run.work / "tokens" / f"train-{d}.npy", mmap_mode="r") for d in MIX}
    held = {d: np.load(run.work / "tokens" / f"test-{d}.npy", mmap_mode="r") for d in MIX}
    began = saved = time.time()
    asked_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked_to_stop.append(number))
    with (run.work / "train.jsonl").open("a", buffering=1) as log:
        while (done := run.done(began)) < 1.0 and not asked_to_stop:
            length = run.recipe.long if done >= run.recipe.long_from else run.recipe.short
            factor = rate(done, run.recipe)
            start = time.time()
            nats, even, load = run.update(rows(streams, run.recipe, run.step, length), factor)
            run.step, run.tokens = run.step + 1, run.tokens + run.recipe.batch
            if run.step % 10 == 0:
                load = load / load.sum(1, keepdim=True)
                row: dict[str, Any] = {
                    "step": run.step,
                    "tokens": run.tokens,
                    "done": round(done, 4),
                    "loss": round(nats, 4),
                    "balance": round(even, 3),
                    "least": round(load.min().item(), 4),
                    "most": round(load.max().item(), 3),
                    "tok/s": round(run.recipe.batch / (time.time() - start)),
                }
                if run.step % 100 == 0:
                    row["held_out"] = held_out(run, held, 512)
                log.write(json.dumps(row) + "\n")
            if time.time() - saved > every:
                run.seconds += time.time() - began
                began = saved = time.time()
                run.save()
        run.seconds += time.time() - began
        run.save()
        if asked_to_stop:
            return
        log.write(
            json.dumps(
                {
                    "final": run.tokens,
                    "seconds": run.seconds,
                    "held_out": held_out(run, held, 512, 48),
                }
            )
            + "\n"
        )


def main() -> None:
    """Parse, train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    how_long = parser.add_mutually_exclusive_group(required=True)
    how_long.add_argument("--tokens", type=int)
    how_long.add_argument("--until", help="UTC time of today, HH:MM")
    parser.add_argument(
        "--save-every", type=float, default=240.0, help="seconds between checkpoints"
    )
    parser.add_argument("--threads", type=int, default=2)
    for key, value in asdict(Recipe()).items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)  # workers take one each; the optimizers take all
    until = None
    if args.until:
        clock = datetime.strptime(args.until, "%H:%M")
        until = (
            datetime.now(UTC).replace(hour=clock.hour, minute=clock.minute, second=0).timestamp()
        )
    recipe = Recipe(**{key: getattr(args, key) for key in asdict(Recipe())})
    train(Run(args.work, recipe, args.tokens, until, args.threads), args.save_every)


if __name__ == "__main__":
    main()
