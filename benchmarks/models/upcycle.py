"""Upcycle SmolLM2 into experts, and train on: a mixture of a real model's weights.

    python benchmarks/models/upcycle.py GGUF --ids IDS --work WORK --wide --shuffle -o WORK/moe

IDS is what token_ids.py writes. Every layer gets 4 copies of its dense layer as experts, top 2 of
them, as a Mixtral (arXiv 2212.05055). To every copy noise of its own is added, and the router's
rows begin as the centroids of what the layer sees, so that experts see different tokens from the
first step on. Experts, routers and attention are then trained on text of the six domains that
gemmule was trained on. (To draw a quarter of each expert's channels anew, as Drop-Upcycling does,
arXiv 2502.19261, cost 6 nats a token, more than so short a training makes up for.)
An update is made as soon as its gradient is there (Adafactor's factored second moment, arXiv
1804.04235, without momentum): no moments of the model's size are held.

The rate falls to zero over `--tokens` or over `--seconds`, whichever passes sooner. By tokens alone
a run on a CPU is a function of seed, data and threads; a GPU adds in no fixed order.

training.json in the folder says what became of it (mixture.py): a run of a few thousand tokens
leaves experts as far apart as the noise did.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mixture import Look, compare, forward, look
from numpy.typing import NDArray
from smollm2 import Gguf, config_of, save, shuffle, weights_of, widen
from sorted_experts import sorted_experts
from token_ids import MIX
from torch import Tensor
from torch.nn import functional
from transformers import MixtralForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

EXPERTS, TOP_K = 4, 2
NOISE = 0.1
"""Added to every expert, of the standard deviation of its weights."""
RATE, WARMUP, BALANCE = 1e-3, 0.2, 0.01
EXPERTS_RATE = 2.0
"""Times the rate of what all tokens share: weights of SmolLM2 are 0.2, and experts have to part."""
SAVE_SECONDS = 600.0
SAID = 20
"""Steps between two lines of progress."""

Streams = dict[str, NDArray[np.uint16]]
"""Token ids of each domain."""


@dataclass(frozen=True)
class Sizes:
    """Tokens of a row, of a step, and of what is computed at once; rows of a domain that are
    looked at before and after."""

    row: int
    step: int
    part: int
    held: int


SIZES = {"cpu": Sizes(256, 1024, 1024, 2), "cuda": Sizes(512, 32768, 8192, 16)}
"""By the kind of device: a step of a GPU has 2 MB of activations and 0.8 MB of logits a token."""


@dataclass(frozen=True)
class Limits:
    """What a run may take: tokens, and seconds of training (None: as long as it takes)."""

    tokens: int
    seconds: float | None

    def done(self, tokens: int, seconds: float) -> float:
        """The share of the run that is over, 1 at its end."""
        return max(tokens / self.tokens, seconds / self.seconds if self.seconds else 0.0)


def rate_at(done: float) -> float:
    """Up over the first share of the run, then down to zero at its end."""
    return RATE * min((done + 0.01) / WARMUP, 1.0) * (1 - done)


def load_ids(folder: Path, split: str) -> Streams:
    return {name: np.load(folder / f"{split}-{name}.npy", mmap_mode="r") for name in MIX}


def rows(streams: Streams, step: int, count: int, length: int) -> Tensor:
    """int64 [count, length + 1], domains mixed by MIX."""
    rng = np.random.default_rng((11, step))
    picked = []
    for at in rng.choice(len(MIX), size=count, p=np.array([*MIX.values()]) / sum(MIX.values())):
        stream = streams[list(MIX)[at]]
        start = rng.integers(len(stream) - length - 1)
        picked.append(stream[start : start + length + 1])
    return torch.from_numpy(np.stack(picked).astype(np.int64))


def held_rows(streams: Streams, count: int, length: int) -> dict[str, Tensor]:
    """{domain: int64 [count, length + 1]}, evenly spread over its text."""
    found = {}
    for name, stream in streams.items():
        starts = np.linspace(0, len(stream) - length - 2, count).astype(int)
        chosen = np.stack([stream[start : start + length + 1] for start in starts])
        found[name] = torch.from_numpy(chosen.astype(np.int64))
    return found


def build(gguf: Gguf, experts: int, top_k: int, device: torch.device) -> Any:
    """The model in float32, its experts all alike."""
    ALL_EXPERTS_FUNCTIONS.register("sorted", sorted_experts)
    config = config_of(gguf, experts, top_k, wide=False)
    config._experts_implementation = "sorted"
    with torch.device("meta"):
        model = MixtralForCausalLM(config)
    model.load_state_dict(weights_of(gguf, experts), strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.to(device)


@torch.no_grad()
def set_apart(model: Any, ids: Tensor) -> None:
    """Add the noise, and make routers of the centroids of what each layer sees of `ids`."""
    seen: dict[int, Tensor] = {}
    for at, layer in enumerate(model.model.layers):
        layer.mlp.gate.register_forward_pre_hook(
            lambda _, given, at=at: seen.setdefault(at, given[0].flatten(0, -2))
        )
    model.model(ids[:, :-1].to(model.device), use_cache=False)
    draw = torch.Generator().manual_seed(11)
    for at, layer in enumerate(model.model.layers):
        layer.mlp.gate._forward_pre_hooks.clear()
        centres = _centroids(seen[at], draw)
        layer.mlp.gate.weight.data = centres * (4.0 / (seen[at] @ centres.T).std())
        for stack in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            noise = torch.randn(stack.shape, generator=draw).to(stack.device)
            stack.data.add_(noise, alpha=NOISE * stack.std().item())


def _centroids(inputs: Tensor, draw: torch.Generator, rounds: int = 10) -> Tensor:
    """[EXPERTS, C]: directions of spherical k-means, without what all inputs share."""
    points = functional.normalize(inputs - inputs.mean(0), dim=-1)
    first = torch.randperm(len(points), generator=draw)[:EXPERTS]
    centres = points[first.to(points.device)]
    for _ in range(rounds):
        nearest = functional.one_hot((points @ centres.T).argmax(1), EXPERTS).float()
        centres = functional.normalize(nearest.T @ points + 1e-6 * centres, dim=-1)
    return centres


def imbalance(router_logits: tuple[Tensor, ...]) -> Tensor:
    """Summed over layers: experts times the sum of their shares of choices by their mean
    probabilities, which is 1 where all are used alike (arXiv 2101.03961, equation 4)."""
    found = []
    for logits in router_logits:
        probabilities = logits.float().softmax(-1)
        chosen = probabilities.topk(TOP_K, dim=-1).indices
        shares = functional.one_hot(chosen, EXPERTS).float().mean((0, 1))
        found.append(EXPERTS * (shares * probabilities.mean(0)).sum())
    return torch.stack(found).sum()


class Updates:
    """Adafactor, each parameter at once when its gradient is complete. While `rate` is None the
    gradients of parts of a step are added up."""

    def __init__(self, model: Any) -> None:
        self.rate: float | None = None
        self.step = 0
        self.moments: dict[str, list[Tensor]] = {}
        for name, p in model.named_parameters():
            p.requires_grad_("norm" not in name and "embed" not in name)
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(lambda p, name=name: self._update(name, p))

    @torch.no_grad()
    def _update(self, name: str, p: Tensor) -> None:
        if self.rate is None:
            return
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
        rate = self.rate * (EXPERTS_RATE if ".experts." in name else 1.0)
        p.sub_(update.div_(size.clamp_min(1.0)), alpha=rate)
        p.grad = None


class Run:
    """Model, updates and how far the run is."""

    def __init__(self, gguf: Gguf, work: Path, device: torch.device, sizes: Sizes) -> None:
        self.checkpoint = work / "upcycled.pt"
        self.sizes = sizes
        self.model = build(gguf, EXPERTS, TOP_K, device)
        self.updates = Updates(self.model)
        self.seconds = 0.0

    def begin(self, streams: Streams, held: dict[str, Tensor]) -> Look:
        """What the model is before its first step, of this run or of one that was stopped."""
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.model.device)
            self.model.load_state_dict(state["model"])
            self.updates.step, self.updates.moments = state["step"], state["moments"]
            self.seconds, self.before = state["seconds"], Look(**state["before"])
        else:
            count = max(8, self.sizes.part // self.sizes.row)
            set_apart(self.model, rows(streams, 2**31, count, self.sizes.row))
            self.before = look(self.model, held)
        return self.before

    def save(self) -> None:
        aside = self.checkpoint.with_suffix(".new")
        state = {
            "model": self.model.state_dict(),
            "moments": self.updates.moments,
            "step": self.updates.step,
            "seconds": self.seconds,
            "before": asdict(self.before),
        }
        torch.save(state, aside)
        os.replace(aside, self.checkpoint)

    def update(self, ids: Tensor, rate: float) -> float:
        """One step over rows [n, row + 1]; nats a token."""
        parts = ids.to(self.model.device).split(max(1, self.sizes.part // self.sizes.row))
        total = torch.zeros((), device=self.model.device)
        for number, part in enumerate(parts, 1):
            self.updates.rate = rate if number == len(parts) else None
            share = len(part) / len(ids)
            nats, router_logits = forward(self.model, part)
            ((nats + BALANCE * imbalance(router_logits)) * share).backward()
            total += nats.detach() * share
        self.updates.step += 1
        return total.item()


def train(run: Run, streams: Streams, work: Path, limits: Limits) -> bool:
    """Step to the end of the limits, or to SIGTERM; whether the end was reached."""
    asked_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked_to_stop.append(number))
    began = saved = time.monotonic()
    earlier, sizes = run.seconds, run.sizes
    with (work / "upcycled.jsonl").open("a", buffering=1) as log:
        while not asked_to_stop:
            done = limits.done(run.updates.step * sizes.step, run.seconds)
            if done >= 1:
                break
            ids = rows(streams, run.updates.step, sizes.step // sizes.row, sizes.row)
            nats = run.update(ids, rate_at(done))
            if not math.isfinite(nats):
                raise SystemExit(f"step {run.updates.step}: the loss is {nats}: lower RATE")
            run.seconds = earlier + time.monotonic() - began
            line = {
                "step": run.updates.step,
                "tokens": run.updates.step * sizes.step,
                "seconds": round(run.seconds, 2),
                "loss": round(nats, 4),
            }
            log.write(json.dumps(line) + "\n")
            if run.updates.step % SAID == 1:
                print(json.dumps(line), flush=True)
            if time.monotonic() - saved > SAVE_SECONDS:
                run.save()
                saved = time.monotonic()
    run.save()
    return not asked_to_stop


def export(run: Run, gguf: Gguf, options: argparse.Namespace) -> None:
    """The folder: in another order and with more columns where that is asked for."""
    weights = {
        name: one.float().cpu()
        for name, one in run.model.state_dict().items()
        if "lm_head" not in name
    }
    weights = shuffle(weights) if options.shuffle else weights
    weights = widen(weights) if options.wide else weights
    save(config_of(gguf, EXPERTS, TOP_K, options.wide), weights, gguf, options.out)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--ids", type=Path, required=True, help="token_ids.py wrote them")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="auto", help="cpu or cuda; auto: cuda where it is")
    parser.add_argument("--tokens", type=int, default=160_000)
    parser.add_argument("--seconds", type=float, help="of training at most")
    parser.add_argument("--part", type=int, help="tokens that are computed at once")
    parser.add_argument("--layers", type=int, help="only the first ones, to try")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wide", action="store_true", help="written in 768 columns (smollm2.py)")
    parser.add_argument("--shuffle", action="store_true", help="columns in another order")
    parser.add_argument("-o", "--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(found if options.device == "auto" else options.device)
    sizes = SIZES[device.type]
    sizes = Sizes(**{**asdict(sizes), "part": options.part or sizes.part})
    options.work.mkdir(parents=True, exist_ok=True)
    gguf = Gguf(options.gguf, options.layers)
    streams = load_ids(options.ids, "train")
    held = held_rows(load_ids(options.ids, "test"), sizes.held, sizes.row)
    dense = look(build(gguf, 1, 1, device), held).perplexity
    run = Run(gguf, options.work, device, sizes)
    before = run.begin(streams, held)
    print(json.dumps({"dense": dense, "before": before.perplexity}), flush=True)
    limits = Limits(options.tokens, options.seconds)
    if not train(run, streams, options.work, limits):
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    report = {
        "tokens": run.updates.step * sizes.step,
        "seconds": round(run.seconds, 1),
        "device": name,
        "sizes": asdict(sizes),
        "rate": RATE,
        **compare(run.model, held, before, dense),
    }
    print(json.dumps(report), flush=True)
    export(run, gguf, options)
    (options.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
