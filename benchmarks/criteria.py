"""Which pruning criterion keeps gemmule closest to itself. Writes criteria.json beside itself.

gemmule is calibrated on its own calibration set (all domains, then one alone), every criterion
chooses what stays, and the divergence from the unpruned model is measured on held-out documents:
mean KL(original || pruned) over all positions, full vocabulary, float32. Dropping is done by
masking the router, which equals slicing (tests/test_experts.py). Intervals are 95 %, from
resampling whole documents; ratios see the same documents on both sides. No setting of any
criterion was tuned on these documents.

    python benchmarks/criteria.py [--tokens 3000] [--alone code] [--workers 2]
        [--criteria rerouted,reap,weighted_frequency]

With `--criteria` only these are measured, into criteria_some.json; `rerouted` and `reap` have to
be among them, to compare with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from goals import result_path
from numpy.typing import NDArray

from secateur.calibration.layer_pass import calibrate
from secateur.calibration.observers.sample_norms import SAMPLE_NORMS
from secateur.calibration.removal_search import count_flops
from secateur.calibration.routing import routing_of
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.load import load_corpus, load_tokenizer
from secateur.corpus.rows import Corpus, make_corpus
from secateur.evaluation.intervals import bootstrap
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.batches import (
    ON_CPU,
    MicroBatch,
    batch_documents,
    make_micro_batches,
)
from secateur.forward.experts import IMPLEMENTATION, register
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import CheckpointWeights
from secateur.pruning.choose import Pruning, choose
from secateur.pruning.criteria.registry import CRITERIA as REGISTRY
from secateur.statistics.statistics import Statistics
from secateur.statistics.token_sample import REROUTE_TOKENS

DROPPED = (0.125, 0.25, 0.375, 0.5)
SEEDS = (0, 1, 2)
CRITERIA: Mapping[str, dict[str, Any]] = {
    **{name: {"criterion": name} for name in REGISTRY if name not in ("contribution", "random")},
    "rerouted, worst category": {"criterion": "rerouted", "aggregation": "worst-category"},
    "reap, reference gate": {"criterion": "reap", "routing_weight": "reference"},
    # 16 of 128 experts, as card 001 has it, and twice that share.
    "contribution, 4 protected": {"criterion": "contribution", "protect_per_sample": 4},
    "contribution, 8 protected": {"criterion": "contribution", "protect_per_sample": 8},
    **{f"random {seed}": {"criterion": "random", "random_seed": seed} for seed in SEEDS},
}
Sums = NDArray[np.float64]
"""Summed divergence per held-out document, in nats."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out documents and what the unpruned model says about them."""

    batches: tuple[MicroBatch, ...]
    teacher: tuple[torch.Tensor, ...]
    """per micro-batch float32 [counted tokens, V]: log-probabilities"""
    document: tuple[NDArray[np.int64], ...]
    """per micro-batch [counted tokens]: number of the token's document"""
    domain: NDArray[np.str_]
    """[documents]"""
    tokens: NDArray[np.int64]
    """[documents]"""


class Masked:
    """gemmule whole in transformers, with experts that its routers cannot choose."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        register()
        loader: Any = transformers.AutoModelForCausalLM
        self._model = loader.from_pretrained(
            checkpoint.path, dtype=torch.float32, experts_implementation=IMPLEMENTATION
        ).eval()
        self._dropped: dict[int, list[int]] = {}
        for layer in checkpoint.moe_layers:
            path = checkpoint.family.fill(checkpoint.family.router.module, layer)
            router = self._model.get_submodule(path)

            def mask(_: Any, __: Any, logits: torch.Tensor, layer: int = layer) -> torch.Tensor:
                logits[..., self._dropped.get(layer, [])] = float("-inf")
                return logits

            router.proj.register_forward_hook(mask)
        self._experts = checkpoint.experts

    def log_probabilities(
        self, batch: MicroBatch, keep: Mapping[int, tuple[int, ...]]
    ) -> torch.Tensor:
        """float32 [counted tokens, V]."""
        every = range(self._experts)
        self._dropped = {layer: sorted(set(every) - set(kept)) for layer, kept in keep.items()}
        with torch.inference_mode():
            logits = self._model(input_ids=batch.input_ids, use_cache=False).logits
            return torch.log_softmax(logits[batch.mask].float(), -1)


def read_sets(checkpoint: Checkpoint, name: str) -> Corpus:
    """One of gemmule's own sets, each document a row of its own."""
    with tempfile.TemporaryDirectory() as folder:
        mix = Path(folder) / "mix.yaml"
        path = json.dumps(str((checkpoint.path / "sets" / f"{name}.jsonl").resolve()))
        mix.write_text(
            f"name: {name}\nseed: 42\nsequence_length: 1024\npack: false\nsources:\n"
            f"  - {{name: {name}, path: {path}, category_field: domain}}\n"
        )
        return load_corpus(mix, load_tokenizer(checkpoint.path))


def part(corpus: Corpus, wanted: Callable[[str, int], bool]) -> Corpus:
    """The rows that `wanted(category, tokens of it so far)` accepts."""
    seen: dict[str, int] = {}
    rows = []
    for row in corpus.rows:
        if wanted(row.category, seen.get(row.category, 0)):
            rows.append(row)
            seen[row.category] = seen.get(row.category, 0) + len(row.input_ids)
    return make_corpus(rows, corpus.samples, corpus.description)


def held_out(model: Masked, corpus: Corpus) -> HeldOut:
    batches = batch_documents(corpus.rows, ON_CPU.most)
    document = []
    for batch in batches:
        rows = np.repeat([line.row for line in batch.lines], batch.input_ids.shape[1])
        document.append(rows[batch.mask.reshape(-1).numpy()])
    return HeldOut(
        batches,
        tuple(model.log_probabilities(batch, {}) for batch in batches),
        tuple(document),
        np.array([row.category for row in corpus.rows]),
        np.bincount(np.concatenate(document)),
    )


def divergence(model: Masked, data: HeldOut, keep: Mapping[int, tuple[int, ...]]) -> Sums:
    total = np.zeros(len(data.tokens))
    for batch, teacher, document in zip(data.batches, data.teacher, data.document, strict=True):
        pruned = model.log_probabilities(batch, keep)
        each = (teacher.exp() * (teacher - pruned)).sum(-1).double().numpy()
        total += np.bincount(document, each, len(total))
    return total


def mean_of(data: HeldOut, sums: Sums, domain: str | None = None) -> dict[str, float | None]:
    """Mean divergence in nats per token with its interval, of one domain or of all."""
    mine = np.ones(len(sums), np.bool_) if domain is None else data.domain == domain
    tokens, values = data.tokens[mine], sums[mine]
    found = bootstrap(
        int(mine.sum()), lambda draws: values[draws].sum(-1) / tokens[draws].sum(-1), seed=0
    )
    return rounded(found)


def ratio_of(sums: Sums, other: Sums) -> dict[str, float | None]:
    """Divergence as a share of another's, with its interval; both see the same documents."""
    found = bootstrap(len(sums), lambda draws: sums[draws].sum(-1) / other[draws].sum(-1), seed=0)
    return rounded(found)


def rounded(interval: Any) -> dict[str, float | None]:
    return {
        name: None if value is None else float(f"{value:.4g}")
        for name, value in interval._asdict().items()
    }


def measure(
    model: Masked,
    data: HeldOut,
    checkpoint: Checkpoint,
    statistics: Statistics,
    names: list[str],
) -> dict[float, dict[str, Sums]]:
    """{share dropped: {criterion: divergence}}."""
    results: dict[float, dict[str, Sums]] = {}
    known: dict[str, Sums] = {}
    for dropped in DROPPED:
        for name in names:
            request = Pruning(drop=dropped, **CRITERIA[name])
            keep = choose(checkpoint, statistics, request).keep
            key = json.dumps(sorted(keep.items()))
            if key not in known:
                known[key] = divergence(model, data, keep)
            results.setdefault(dropped, {})[name] = known[key]
            mean = known[key].sum() / data.tokens.sum()
            print(f"{dropped:.3f} {name:28} {mean:.4f}", file=sys.stderr)
    return results


def table(
    data: HeldOut, results: dict[float, dict[str, Sums]], random: dict[float, list[Sums]]
) -> Iterator[dict[str, Any]]:
    domains = sorted(set(data.domain.tolist()))
    for dropped, by_name in results.items():
        order = sorted(by_name, key=lambda name: float(by_name[name].sum()))
        for place, name in enumerate(order, 1):
            sums = by_name[name]
            yield {
                "dropped": dropped,
                "criterion": name,
                "place": place,
                "divergence": mean_of(data, sums),
                "per_domain": {domain: mean_of(data, sums, domain) for domain in domains},
                "of_reap": ratio_of(sums, by_name["reap"]),
                "of_rerouted": ratio_of(sums, by_name["rerouted"]),
                **of_random(sums, random[dropped]),
            }


def of_random(sums: Sums, random: list[Sums]) -> dict[str, float]:
    """Divergence as a share of the mean of random choices; nothing where none was measured."""
    if not random:
        return {}
    return {"of_random": float(f"{sums.sum() / np.mean([r.sum() for r in random]):.4g}")}


def timed(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    started, before = time.perf_counter(), time.process_time()
    result = action()
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    return result, {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}


def plain_forward(checkpoint: Checkpoint, corpus: Corpus, workers: int) -> None:
    """The streamed forward alone: no sums, no criterion."""
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    batches = make_micro_batches(corpus.rows, hidden)
    with ForwardPass(CheckpointWeights(checkpoint), batches, CpuBackend(workers)) as forward:
        for layer in range(checkpoint.layers):
            with forward.load_layer(layer) as module:
                forward.run(module, layer)


def costs(checkpoint: Checkpoint, corpus: Corpus, workers: int) -> tuple[Statistics, Any]:
    """Statistics of all domains, and what `rerouted` added to the pass."""
    _, plain = timed(lambda: plain_forward(checkpoint, corpus, workers))
    backend = CpuBackend(workers)
    _, without = timed(lambda: calibrate(checkpoint, corpus, sampling=Sampling(0), backend=backend))
    statistics, whole = timed(
        lambda: calibrate(checkpoint, corpus, observers=[SAMPLE_NORMS], backend=backend)
    )
    hidden, width = (
        checkpoint.family.number(checkpoint.config, what) for what in ("hidden", "expert_width")
    )
    norm = checkpoint.family.post_norm is not None
    ranks = routing_of(checkpoint.family, checkpoint.config).ranks(checkpoint.experts)
    layer = count_flops(ranks, REROUTE_TOKENS, hidden, width, gated=True, norm=norm)
    added = whole["cpu_seconds"] - without["cpu_seconds"]
    return statistics, {
        "calibration_tokens": corpus.tokens,
        "rerouted_tokens": REROUTE_TOKENS,
        "rerouted_flop": layer * len(checkpoint.moe_layers),
        "plain_forward": plain,
        "calibrate_without_rerouted": without,
        "calibrate": whole,
        "rerouted_over_plain_forward_cpu": round(added / plain["cpu_seconds"], 3),
    }


def provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    names = {
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    }
    return {
        "commit": git("rev-parse", "HEAD"),
        "changed_files": git("status", "--porcelain", "--untracked-files=no").splitlines(),
        "model": checkpoint.identity(),
        "machine": {
            "cpu": sorted(names),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=3000, help="held-out tokens per domain")
    parser.add_argument("--alone", default="code", help="the domain to calibrate on alone")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--criteria", help="only these, comma-separated")
    options = parser.parse_args()
    names = options.criteria.split(",") if options.criteria else list(CRITERIA)
    started = time.perf_counter()
    torch.set_num_threads(options.workers)
    checkpoint = open_checkpoint("gemmule")
    about = provenance(checkpoint)
    calibration = read_sets(checkpoint, "calibration")
    everything, spent = costs(checkpoint, calibration, options.workers)
    alone = part(calibration, lambda domain, _: domain == options.alone)
    narrow = calibrate(
        checkpoint, alone, observers=[SAMPLE_NORMS], backend=CpuBackend(options.workers)
    )
    test = part(read_sets(checkpoint, "test"), lambda _, so_far: so_far < options.tokens)
    model = Masked(checkpoint)
    data = held_out(model, test)
    on_all = measure(model, data, checkpoint, everything, names)
    fixed = [name for name in names if not name.startswith("random")]
    on_one = measure(model, data, checkpoint, narrow, fixed)
    random = {
        dropped: [by_name[f"random {seed}"] for seed in SEEDS if f"random {seed}" in by_name]
        for dropped, by_name in on_all.items()
    }
    report = {
        "what": "mean KL(original || pruned) in nats per token on held-out documents of gemmule",
        **about,
        "held_out": {
            domain: {
                "documents": int((data.domain == domain).sum()),
                "tokens": int(data.tokens[data.domain == domain].sum()),
            }
            for domain in sorted(set(data.domain.tolist()))
        },
        "cost": spent,
        "calibrated_on_all": list(table(data, on_all, random)),
        f"calibrated_on_{options.alone}": list(table(data, on_one, random)),
        "seconds": round(time.perf_counter() - started, 1),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    name = "criteria_some" if options.criteria else "criteria"
    result_path(name).write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
