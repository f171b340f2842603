"""How many tokens a Gram matrix needs for rounding with feedback: gram_tokens.json.

gemmule, unpruned, calibrated on its own calibration set with Gram matrices of all tokens, and of
fewer, which are drawn by hashes as `calibrate --gram-tokens` draws them. Whole files with feedback;
divergence from the original on its own answers to the test set's prompts. The ratio of the mean KL
to that with all tokens has a 95 % interval from resampling answers, the same for both.

    python benchmarks/gram_tokens.py [--tokens 1024,4096,16384] [--types Q3_K_M,Q2_K] [--work DIR]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from goals import result_path, write_result
from rounding import TEST_SET, Run, ratio, write

import secateur
from secateur import Calibration, Measuring
from secateur.statistics.gram_file import GramFile, gram_path

TOKENS, TYPES = "1024,2048,4096,8192,16384", "Q3_K_M,Q2_K"
OUTER = "model.layers.0.self_attn.q_proj.weight"
MODEL = "gemmule"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default=TOKENS)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--per-domain", type=int, default=12)
    parser.add_argument("--work", type=Path, help="keeps statistics and scores for another run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        run = Run(MODEL, Measuring(prompts=TEST_SET, per_domain=options.per_domain), work)
        counts = [0, *map(int, options.tokens.split(","))]
        files = {count: calibrate(count, work) for count in counts}
        report: dict[str, Any] = {
            "model": MODEL,
            "columns_of_the_widest": max(columns_of(files[0])),
            "tokens_of_all": tokens_of(files[0]),
            "types": {},
        }
        for kind in options.types.split(","):
            scores = {}
            for count, statistics in files.items():
                out = work / f"{kind}-{count}"
                path, _, _ = write(MODEL, kind, "feedback", statistics, out)
                scores[count] = run.score(path)
            report["types"][kind] = {
                tokens_of(files[count]): ratio(
                    {"nearest": scores[0], "feedback": scores[count]}, run.answers, "pooled"
                )["ratio"]
                for count in counts[1:]
            }
            print(kind, json.dumps(report["types"][kind]), flush=True)
            write_result(result_path("gram_tokens"), report)


def calibrate(count: int, work: Path) -> Path:
    """Statistics with Gram matrices of so many tokens; 0: of all."""
    statistics = work / f"gram-{count}.safetensors"
    if not statistics.exists():
        request = Calibration(corpus=MODEL, reroute_tokens=0, gram="shared", gram_tokens=count)
        secateur.calibrate(MODEL, statistics, request)
    return statistics


def tokens_of(statistics: Path) -> int:
    return int(GramFile(gram_path(statistics)).input(OUTER).tokens.sum())


def columns_of(statistics: Path) -> list[int]:
    return list(GramFile(gram_path(statistics)).description.columns.values())


if __name__ == "__main__":
    main()
