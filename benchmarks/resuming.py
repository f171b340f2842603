"""What it costs a calibration to keep what another needs to go on. Writes resuming.json.

Every calibration of the command line keeps its hidden states and sums in a folder as it goes from
layer to layer, at most a twentieth of its time (calibration.pass_folder). Two shapes: gemmule with
its own mix, and six layers of 128 experts at width 1024. The same pass with such a folder and
without one takes turns in one process, after a small pass that imports and compiles everything:
wall and processor seconds, bytes written and layers saved; ratios of turns, and their medians.

    python benchmarks/resuming.py [--turns 7] [--shapes gemmule wide]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import random_models
from goals import result_path, write_result

from secateur.calibration.layer_pass import calibrate
from secateur.calibration.pass_folder import PassFolder
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.load import load_corpus, load_rows, load_tokenizer
from secateur.corpus.rows import Corpus
from secateur.forward.backends.cpu import CpuBackend
from secateur.statistics.statistics import Statistics
from secateur.system.allocator import return_large_blocks

SHAPES = ("gemmule", "wide")
VOCAB, TOKENS, ROW = 4096, 8192, 512
"""Of both; of the random text."""
WIDE = {
    "num_hidden_layers": 6,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"],
}
WORKERS = 2


class Counted(PassFolder):
    """A pass' folder that counts what is kept in it."""

    layers = written = 0

    def save(self, forward: Any, layers: int, arrays: Any) -> None:
        super().save(forward, layers, arrays)
        self.layers += 1
        self.written += sum(
            path.stat().st_size
            for path in self.path.iterdir()
            if path.stem.endswith(f"-{layers:04}")
        )


def model_of(shape: str, folder: Path) -> tuple[Checkpoint, Corpus]:
    """A shape's model and text."""
    if shape == "gemmule":
        checkpoint = open_checkpoint(shape)
        tokenizer = load_tokenizer(checkpoint.path)
        return checkpoint, load_corpus(shape, tokenizer, vocab_size=VOCAB)
    rows = random_models.random_rows(folder / "rows.jsonl", TOKENS, VOCAB, ROW)
    checkpoint = open_checkpoint(random_models.wide(folder / "model", **WIDE))
    return checkpoint, load_rows(rows, VOCAB)


def timed(
    checkpoint: Checkpoint, corpus: Corpus, resume: PassFolder | None
) -> tuple[dict[str, float], Statistics]:
    """A pass; its seconds and what it gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    sampling, backend = Sampling(0, resume=resume), CpuBackend(WORKERS)
    found = calibrate(checkpoint, corpus, sampling=sampling, backend=backend)
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return seconds, found


def compare(shape: str, turns: int) -> dict[str, Any]:
    """The row of a shape. Ends when a pass that keeps what it did gives other sums."""
    plain: list[dict[str, float]] = []
    kept: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, corpus = model_of(shape, folder)
        _, expected = timed(checkpoint, corpus, None)
        for turn in range(turns):
            counted = Counted(folder / f"pass{turn}")
            ways = [(plain, None), (kept, counted)]
            for seconds, resume in ways[:: 1 if turn % 2 else -1]:  # who goes first takes turns too
                spent, found = timed(checkpoint, corpus, resume)
                seconds.append(spent)
                if any(not np.array_equal(found.arrays[key], expected.arrays[key])
                       for key in expected.arrays):  # fmt: skip
                    raise SystemExit(f"{shape}: a pass gave other sums than the first one")
            print(shape, plain[-1], kept[-1], file=sys.stderr, flush=True)
    return {
        "tokens": corpus.tokens,
        "layers": checkpoint.layers,
        "layers_saved": counted.layers,
        "bytes_written": counted.written,
        "turns": turns,
        "seconds": {
            clock: {"without": median(one[clock] for one in plain),
                    "kept": median(one[clock] for one in kept)}
            for clock in ("wall", "cpu")
        },
        "kept_over_without": {clock: ratios(kept, plain, clock) for clock in ("wall", "cpu")},
        "load_average": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def ratios(
    kept: list[dict[str, float]], plain: list[dict[str, float]], clock: str
) -> dict[str, float]:
    """Of turns: the median, the least and the most."""
    turns = sorted(mine[clock] / without[clock] for mine, without in zip(kept, plain, strict=True))
    found = {"median": median(turns), "least": turns[0], "most": turns[-1]}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    options = parser.parse_args()
    return_large_blocks()  # as the command line does
    path = result_path("resuming")
    report = json.loads(path.read_text()) if path.exists() else {}
    for shape in options.shapes:
        report[shape] = compare(shape, options.turns)
        write_result(path, report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
