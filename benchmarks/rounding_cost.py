"""What Gram matrices cost a calibration, and feedback the encoding: rounding_cost.json.

Processor seconds, in turns. Calibration, without the criterion `rerouted`, with no Gram matrices,
shared and own ones; of the pass alone, without opening the model: of gemmule on its own calibration
set, and of layers of Gemma 4 26B-A4B's width on random tokens, of which all count for them, and
half, as of a text of 262,144 (`--gram-tokens`). Encoding: rows as wide as the
real Gemma 4 26B-A4B's (2816; its experts' 704 and 2112 as 768 and 2048, which superblocks divide),
in one thread, blocks of rows as `apply` makes them; the factor is made once for a layer.

    python benchmarks/rounding_cost.py [--rounds 3] [--only gemmule 26B encoding]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from goals import result_path, write_result
from random_models import gemma26, random_rows

import secateur
from secateur import Calibration
from secateur.formats.ggml.codec import encode
from secateur.outputs.blocks import rows_of_block
from secateur.rounding.factor import Groups, factorize
from secateur.rounding.ggml_types import FEEDBACK_GRIDS

PARTS = ("encoding", "gemmule", "26B")
WIDTHS = (2816, 2048, 768)
TOKENS = 4096
KINDS: dict[str, dict[str, Any]] = {
    "none": {},
    "shared": {"gram": "shared", "gram_tokens": 0},
    "own": {"gram": "own", "gram_tokens": 0},
}
HALF = "own, half of the tokens"
WIDE_KINDS = {
    "none": KINDS["none"],
    "own": KINDS["own"],
    HALF: {"gram": "own", "gram_tokens": TOKENS // 2},
}
FULL, SLIDING = 5, 25
"""Layers of Gemma 4 26B-A4B by what they attend to."""
TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q6_K", "IQ4_XS", "Q4_0", "IQ3_XXS", "IQ2_S")


def spent(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def calibrate_once(model: str | Path, path: Path, request: Calibration) -> float:
    """Processor seconds of the pass, from the first to the last that it tells."""
    told: list[float] = []

    def note(stage: str, done: int, total: int, unit: str) -> None:
        if stage == "calibrate":
            told.append(time.process_time())

    secateur.calibrate(model, path, request, workers=1, progress=note)
    return told[-1] - told[0]


def calibrations(
    model: str | Path, text: Mapping[str, Any], rounds: int, kinds: Mapping[str, Any]
) -> dict[str, Any]:
    """Processor seconds of calibrations in one thread, which wait for no other."""
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for kind, times in found.items():
                request = Calibration(**text, reroute_tokens=0, **kinds[kind])
                path = Path(folder) / f"{len(kind)}-{turn}.safetensors"
                seconds = calibrate_once(model, path, request)
                if turn:  # the first compiles and reads
                    times.append(round(seconds, 2))
    return _ratios(found)


def _ratios(found: Mapping[str, list[float]]) -> dict[str, Any]:
    turns = {
        kind: [time / none for time, none in zip(times, found["none"], strict=True)]
        for kind, times in found.items()
    }
    return {
        "cpu_seconds": found,
        "over_none": {kind: round(statistics.median(each), 3) for kind, each in turns.items()},
        "turns": {kind: [round(one, 3) for one in each] for kind, each in turns.items()},
    }


def at_width(folder: Path, rounds: int) -> dict[str, Any]:
    """The same at the width of the real Gemma 4 26B-A4B, with random weights: of its last layer,
    which attends to everything and whose output projection takes in 8192 numbers, of two layers,
    and by these of all: FULL such layers, and SLIDING ones like the other."""
    found = {}
    for layers in (1, 2):
        changed = {"vocab_size": 4096, "vocab_size_per_layer_input": 4096}
        model = gemma26(folder / f"model{layers}", layers, **changed)
        rows = random_rows(folder / "rows.jsonl", TOKENS, 4096, 512)
        found[layers] = calibrations(model, {"rows": rows}, rounds, WIDE_KINDS)["cpu_seconds"]
    both = {
        kind: [
            FULL * one + SLIDING * (two - one)
            for one, two in zip(found[1][kind], found[2][kind], strict=True)
        ]
        for kind in found[1]
    }
    return {
        "layers": {str(layers): seconds for layers, seconds in found.items()},
        **_ratios({kind: [round(time, 1) for time in times] for kind, times in both.items()}),
    }


def encodings(rounds: int) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for width in WIDTHS:
        rows = (chance.standard_normal((rows_of_block(width), width)) * 0.02).astype(np.float32)
        tokens = width + 500
        inputs = chance.standard_normal((tokens, width)).astype(np.float32)
        gram = inputs.T @ inputs
        importance = np.ones(width, np.float32)
        seconds = spent(lambda g=gram, t=tokens: factorize(g, Groups(32), t))
        entry: dict[str, Any] = {"factor_cpu_seconds": round(seconds, 2)}
        for name in TYPES:
            grid, ratios = FEEDBACK_GRIDS[name], []
            factor = factorize(gram, grid.groups, tokens)
            assert factor is not None
            for turn in range(rounds + 1):
                nearest = encode(rows, name, importance)
                plain = spent(lambda r=rows, n=name, i=importance: encode(r, n, i))
                more = spent(lambda r=rows, e=nearest, g=grid, f=factor: g.round(r, e, f))
                if turn:
                    ratios.append((plain + more) / plain)
            entry[name] = round(statistics.median(ratios), 2)
        found[str(width)] = entry
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, help="keep the rest")
    options = parser.parse_args()
    path, rounds = result_path("rounding_cost"), options.rounds
    report = json.loads(path.read_text()) if path.exists() else {"calibration": {}}
    if "encoding" in options.only:
        report["encoding_over_nearest"] = encodings(4 * rounds)
    if "gemmule" in options.only:
        text = {"corpus": "gemmule"}
        report["calibration"]["gemmule"] = calibrations("gemmule", text, rounds, KINDS)
    if "26B" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            report["calibration"]["26B"] = at_width(Path(folder), rounds)
    write_result(path, report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
