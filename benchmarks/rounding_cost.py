"""What Gram matrices cost a calibration, and feedback the encoding: rounding_cost.json.

Processor seconds, in turns. Calibration: gemmule's own calibration set without the criterion
`rerouted`, with no Gram matrices, shared and own ones. Encoding: rows as wide as the real Gemma 4
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from goals import result_path

import secateur
from secateur import Calibration
from secateur.formats.ggml.codec import encode
from secateur.outputs.blocks import ELEMENTS
from secateur.rounding.factor import factorize
from secateur.rounding.feedback import round_with_feedback
from secateur.rounding.ggml_grids import GGML_GRIDS

WIDTHS = (2816, 2048, 768)
TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q6_K", "IQ4_XS", "Q4_0")


def spent(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def calibrations(rounds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {"none": [], "shared": [], "own": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for kind, times in found.items():
                request = Calibration(corpus="gemmule", reroute_tokens=0, gram=kind)
                path = Path(folder) / f"{kind}{turn}.safetensors"
                seconds = spent(lambda r=request, p=path: secateur.calibrate("gemmule", p, r))
                if turn:  # the first compiles and reads
                    times.append(round(seconds, 2))
    base = statistics.median(found["none"])
    ratios = {kind: round(statistics.median(times) / base, 3) for kind, times in found.items()}
    return {"cpu_seconds": found, "over_none": ratios}


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
        "calibration": calibrations(options.rounds),
    }
    text = json.dumps(report, indent=1)
    result_path("rounding_cost").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
