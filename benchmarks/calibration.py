"""What a calibration pass costs, against transformers' own forward. Writes calibration.json.

Both run the same tokens on the same number of cores, in turns, each in a process of its own. Ours
is all of `calibrate`: opening the shards, building the skeleton, the forward pass, REAP and imatrix
sums; once without, once with the default criterion `rerouted` solved (goal: at most 2.0). Theirs is
the bare forward of the base model, loaded beforehand: no head, no cache, no loading. It may choose
the best of its experts implementations and of several batch sizes (packed as ours are; none is
given a mask), and runs twice: as it is, and with the settings of malloc that our command line
makes, which help it too. Ratios of medians, of best runs, of turns, and of CPU seconds.

    python benchmarks/calibration.py [--rounds 7] [--only gemmule|wide] [--forward eager,4096]
        [--before CHECKOUT]

`--before` lets the code of another checkout (a git worktree of an older commit) take its turns too.
SECATEUR_BENCHMARK_THREADS=1 takes one thread instead of two: on a busy machine torch's own threads
wait for each other, which counts as CPU time.
On a machine that others use, give the shell a session of its own first: `setsid`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import random_models
import torch
import transformers
from goals import result_path, write_result

from secateur.calibration.layer_pass import calibrate
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.load import load_corpus, load_tokenizer
from secateur.corpus.rows import Corpus, Row, Sample, make_corpus
from secateur.forward.batches import MicroBatch, batch_documents, make_micro_batches
from secateur.statistics.token_sample import REROUTE_TOKENS
from secateur.system.allocator import LARGE_BLOCK, count_heaps, return_large_blocks

REROUTED = "rerouted"
THREADS = int(os.environ.get("SECATEUR_BENCHMARK_THREADS", "2"))
SPAWN = multiprocessing.get_context("spawn")
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
BATCH_TOKENS = (512, 1024, 4096)
TRIAL = 256
"""Tokens on which the implementations are compared (batched_mm copies weights per token)."""
GATHERED = 4 << 30
"""Bytes: batched_mm is left out where its copies of weights for TRIAL tokens take more."""


def gemmule() -> tuple[Checkpoint, Corpus]:
    """gemmule and its own calibration mix."""
    checkpoint = open_checkpoint("gemmule")
    tokenizer = load_tokenizer(checkpoint.path)
    return checkpoint, load_corpus("gemmule", tokenizer, vocab_size=4096)


def wide(folder: Path, tokens: int, row: int = 512) -> tuple[Checkpoint, Corpus]:
    """A random Gemma 4 with 128 experts, top 8, hidden 1024, in bf16; random rows."""
    draw = np.random.default_rng(0)
    places = np.arange(row, dtype=np.int32)
    rows = [
        Row(draw.integers(4, 4096, row), np.zeros(row, np.int32), places, "random", (number,))
        for number in range(tokens // row)
    ]
    samples = [Sample("random", "random", f"{n:064d}", row) for n in range(len(rows))]
    model = open_checkpoint(random_models.wide(folder))
    return model, make_corpus(rows, samples, {"mix": "random"})


def parameters_of_an_expert(model: Any) -> int:
    """Numbers in one expert's matrices."""
    stacked = [p for name, p in model.layers[0].named_parameters() if ".experts." in f".{name}"]
    return sum(p[0].numel() for p in stacked if p.dim() == 3)


def forward(model: Any, batches: Sequence[MicroBatch]) -> None:
    with torch.inference_mode():
        for batch in batches:
            model(input_ids=batch.input_ids, use_cache=False)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def best_forward(
    checkpoint: Checkpoint, corpus: Corpus, known: str | None
) -> tuple[Any, Sequence[MicroBatch], dict]:
    """transformers' model and batches at their fastest, and what was tried: nothing when it is
    `known`, such as "eager,4096"."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.path, dtype=torch.float32
    ).base_model.eval()
    if known is not None:
        name, tokens = known.split(",")
        model.set_experts_implementation(name)
        return model, batch_documents(corpus.rows, int(tokens)), {"chosen": known}
    tried: dict[str, float] = {}
    choices: dict[str, tuple[str, Sequence[MicroBatch]]] = {}
    short = batch_documents(corpus.rows, TRIAL)[:1]
    gathered = 4 * TRIAL * checkpoint.top_k * parameters_of_an_expert(model)
    names = [name for name in IMPLEMENTATIONS if name != "batched_mm" or gathered < GATHERED]
    for name in names:
        model.set_experts_implementation(name)
        seconds = min(timed(lambda: forward(model, short))[0] for _ in range(2))
        tried[f"{name}, one batch of {TRIAL}"] = seconds
    quickest = min(tried.values())
    for name in names:
        if tried[f"{name}, one batch of {TRIAL}"] > 3 * quickest:
            continue
        model.set_experts_implementation(name)
        for tokens in BATCH_TOKENS:
            batches = batch_documents(corpus.rows, tokens)
            key = f"{name}, batches of {tokens}"
            tried[key] = min(timed(partial(forward, model, batches))[0] for _ in range(2))
            choices[key] = (name, batches)
    best = min(choices, key=tried.__getitem__)
    model.set_experts_implementation(choices[best][0])
    figures = {key: round(seconds, 3) for key, seconds in tried.items()}
    return model, choices[best][1], {"chosen": best, "seconds": figures}


def serve_forward(
    pipe: Connection, checkpoint: Checkpoint, corpus: Corpus, known: str | None
) -> None:
    """A process that runs transformers' forward when it is told to."""
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    model, batches, tried = best_forward(checkpoint, corpus, known)
    pipe.send({**tried, "filled_tokens": sum(batch.input_ids.numel() for batch in batches)})
    while (what := pipe.recv()) != "end":
        model.to(torch.bfloat16 if what == "bf16" else torch.float32)
        some = batches if what == "forward" else batches[:1]
        pipe.send(timed(lambda some=some: forward(model, some)))  # type: ignore[misc]


def how_to_calibrate() -> dict[str, Any]:
    """THREADS as calibrate takes them: as `workers` in checkouts older than its backends."""
    try:
        from secateur.forward.backends.cpu import CpuBackend
    except ImportError:
        return {"workers": THREADS}
    return {"backend": CpuBackend(THREADS)}


def serve_calibrate(pipe: Connection, checkpoint: Checkpoint, corpus: Corpus) -> None:
    """A process that calibrates when it is told to."""
    transformers.utils.logging.disable_progress_bar()
    return_large_blocks()  # as the command line does
    run = partial(calibrate, checkpoint, corpus, **how_to_calibrate())
    run()  # compiles, the first time
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    filled = sum(batch.input_ids.numel() for batch in make_micro_batches(corpus.rows, hidden))
    pipe.send({"filled_tokens": filled})
    while (what := pipe.recv()) != "end":
        sampling = Sampling(REROUTE_TOKENS if what == REROUTED else 0)
        pipe.send(timed(partial(run, sampling=sampling)))


class Side:
    """One of those that take turns, in a process of its own."""

    def __init__(
        self,
        serve: Callable[..., None],
        given: tuple[Any, ...],
        tree: Path | None = None,
        **settings: str,
    ) -> None:
        """`tree` is another checkout, of whose code the process is."""
        self.pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(theirs, *given), daemon=True)
        os.environ |= settings
        known = sys.path.copy()
        sys.path[:0] = [] if tree is None else [str(tree)]
        self._process.start()
        theirs.close()  # else nothing would tell when the process fails
        sys.path[:] = known
        for name in settings:
            del os.environ[name]
        self.facts: dict[str, Any] = self.pipe.recv()

    def run(self, what: str) -> tuple[float, float]:
        """(wall, CPU) seconds."""
        self.pipe.send(what)
        return self.pipe.recv()  # type: ignore[no-any-return]

    def end(self) -> None:
        self.pipe.send("end")
        self._process.join()


def compare(checkpoint: Checkpoint, corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    given, theirs = (checkpoint, corpus), (checkpoint, corpus, options.forward)
    malloc = {
        "MALLOC_MMAP_THRESHOLD_": str(LARGE_BLOCK),
        "MALLOC_TRIM_THRESHOLD_": str(4 * LARGE_BLOCK),
        "MALLOC_ARENA_MAX": str(count_heaps()),
    }
    sides = {
        "forward": Side(serve_forward, theirs),
        "forward, our malloc": Side(serve_forward, theirs, **malloc),
        "calibrate": Side(serve_calibrate, given),
    }
    turns = {name: (sides[name], name.split(",")[0]) for name in sides}
    turns[REROUTED] = sides["calibrate"], REROUTED
    if options.before is not None:
        sides["before"] = Side(serve_calibrate, given, options.before)
        turns["calibrate before"] = sides["before"], "calibrate"
        turns["rerouted before"] = sides["before"], REROUTED
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for number in range(options.rounds):
        names = list(turns)
        start = number % len(names)
        for name in names[start:] + names[:start]:
            side, what = turns[name]
            runs[name].append(side.run(what))
            print(f"{name}: {runs[name][-1][0]:.2f} s", file=sys.stderr, flush=True)
    one, sixteen = (sides["forward"].run(what)[0] for what in ("one", "bf16"))
    for side in sides.values():
        side.end()
    found = {
        "machine": machine(),
        "tokens": corpus.tokens,
        "sampled_tokens_at_most": REROUTE_TOKENS,
        "rounds": options.rounds,
        "sides": {name: side.facts for name, side in sides.items()},
        "seconds": {
            name: {"best": min(seconds), "median": statistics.median(seconds)}
            for name in runs
            for seconds in [[run[0] for run in runs[name]]]
        },
        "cpu_seconds": {name: statistics.median(run[1] for run in runs[name]) for name in runs},
        "calibrate_over_forward_with_our_malloc": ratios(
            runs["calibrate"], runs["forward, our malloc"]
        ),
        **{
            f"{name}_over_forward".replace(" ", "_"): ratios(runs[name], runs["forward"])
            for name in turns
            if not name.startswith("forward")
        },
        "bf16_over_fp32_forward_one_batch": sixteen / one,
        "load_average_after": [round(load, 1) for load in os.getloadavg()],
    }
    return json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 3))  # type: ignore[no-any-return]


def ratios(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> dict[str, Any]:
    """Of (wall, CPU) seconds of runs in turns."""
    wall, cpu = ([[run[place] for run in runs] for runs in (ours, theirs)] for place in (0, 1))
    pairs = [a / b for a, b in zip(*wall, strict=True)]
    return {
        "median": statistics.median(wall[0]) / statistics.median(wall[1]),
        "best": min(wall[0]) / min(wall[1]),
        "turns": {"least": min(pairs), "median": statistics.median(pairs), "most": max(pairs)},
        "cpu": statistics.median(cpu[0]) / statistics.median(cpu[1]),
    }


def machine() -> dict[str, Any]:
    """Where and on how many threads; with the load now."""
    name = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": THREADS,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["gemmule", "wide"])
    parser.add_argument("--forward", help="the best forward, if known, such as eager,4096")
    parser.add_argument("--before", type=Path, help="checkout of the code to compare with")
    parser.add_argument("--out", type=Path, default=result_path("calibration"))
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.out.exists():
        found = json.loads(options.out.read_text())
    if options.before is not None:
        command = ["git", "-C", str(options.before), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found["before"] = done.stdout.strip()
    if options.only != "wide":
        found["gemmule"] = compare(*gemmule(), options)
    if options.only != "gemmule":
        with tempfile.TemporaryDirectory() as folder:
            given = wide(Path(folder) / "model", 4096)
            found["wide"] = compare(*given, options)
    write_result(options.out, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
