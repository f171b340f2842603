"""What Gram matrices cost a calibration, and feedback the encoding: rounding_cost.json.

Processor seconds, in turns. Calibration, without the criterion `rerouted`, with no Gram matrices,
shared and own ones: of gemmule on its own calibration set, and of two layers of Gemma 4 26B-A4B's
width on random tokens. Encoding: rows as wide as the real Gemma 4
26B-A4B's (2816; its experts' 704 and 2112 as 768 and 2048, which superblocks divide), in one
thread, blocks of rows as `apply` makes them; the factor is made once for all rows of a layer.

    python benchmarks/rounding_cost.py [--rounds 3]
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
from secateur.outputs.blocks import ELEMENTS
from secateur.rounding.factor import factorize
from secateur.rounding.feedback import round_with_feedback
from secateur.rounding.ggml_grids import GGML_GRIDS

WIDTHS = (2816, 2048, 768)
TOKENS = 4096
TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q6_K", "IQ4_XS", "Q4_0")


def spent(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def calibrations(model: str | Path, text: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Processor seconds of calibrations in one thread, which wait for no other."""
    found: dict[str, list[float]] = {"none": [], "shared": [], "own": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for kind, times in found.items():
                request = Calibration(**text, reroute_tokens=0, gram=kind)
                path = Path(folder) / f"{kind}{turn}.safetensors"
                seconds = spent(
                    lambda r=request, p=path: secateur.calibrate(model, p, r, workers=1)
                )
                if turn:  # the first compiles and reads
                    times.append(round(seconds, 2))
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
    """The same for two layers as wide as the real Gemma 4 26B-A4B, with random weights."""
    model = gemma26(folder / "model", 2, vocab_size=4096, vocab_size_per_layer_input=4096)
    rows = random_rows(folder / "rows.jsonl", TOKENS, 4096, 512)
    return calibrations(model, {"rows": rows}, rounds)


def encodings(rounds: int) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for width in WIDTHS:
        rows = (chance.standard_normal((ELEMENTS // width, width)) * 0.02).astype(np.float32)
        inputs = chance.standard_normal((width + 500, width)).astype(np.float32)
        gram = inputs.T @ inputs
        importance = np.ones(width, np.float32)
        factors = {group: factorize(gram, group) for group in (16, 32)}
        seconds = spent(lambda g=gram: factorize(g, 32))
        entry: dict[str, Any] = {"factor_cpu_seconds": round(seconds, 2)}
        for name in TYPES:
            grid, ratios = GGML_GRIDS[name], []
            factor = factors[grid.group]
            for turn in range(rounds + 1):
                nearest = encode(rows, name, importance)
                plain = spent(lambda r=rows, n=name, i=importance: encode(r, n, i))
                more = spent(
                    lambda r=rows, e=nearest, g=grid, f=factor: round_with_feedback(r, e, g, f)
                )
                if turn:
                    ratios.append((plain + more) / plain)
            entry[name] = round(statistics.median(ratios), 2)
        found[str(width)] = entry
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report = {
        "encoding_over_nearest": encodings(4 * options.rounds),
        "calibration": {"gemmule": calibrations("gemmule", {"corpus": "gemmule"}, options.rounds)},
    }
    with tempfile.TemporaryDirectory() as folder:
        report["calibration"]["26B"] = at_width(Path(folder), options.rounds)
    write_result(result_path("rounding_cost"), report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
