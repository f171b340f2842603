"""How much text rounding with feedback needs: gram_tokens.json.

A model, unpruned, calibrated on every so many of the calibration set's records, so that Gram
matrices and importance matrix come of as little text: each type to nearest and with feedback, as
whole files, and their divergence from the original on its own answers to the test set's prompts.
The mean KL with feedback over nearest's from the same text, and over that with feedback from all
text, with 95 % intervals from resampling answers, the same for both.

    python benchmarks/gram_tokens.py gemmule gemmule [--every 240,60,1] [--types Q4_K_M]
    python benchmarks/gram_tokens.py qwen3-moe WORK/qwen3-moe
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from goals import result_path
from rounding import ROUNDINGS, TEST_SET, Run, ratio, write
from rounding_models import open_model, save, write_mix

import secateur
from secateur import Calibration, Measuring
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.mix import read_mix
from secateur.evaluation.scores import Scores
from secateur.statistics.gram_file import GramFile, gram_path

EVERY, TYPES = "240,60,15,1", "Q4_K_M,mlx-3"


def calibrate(model: Checkpoint, every: int, work: Path) -> Path:
    """Statistics with Gram matrices of every so many records."""
    folder = work / f"every-{every}"
    folder.mkdir(exist_ok=True)
    statistics = folder / "statistics.safetensors"
    if not statistics.exists():
        mix = read_mix(write_mix(folder, [], every))
        secateur.calibrate(model, statistics, Calibration(mix, reroute_tokens=0, gram="own"))
    return statistics


def describe(statistics: Path) -> dict[str, Any]:
    """How many tokens a column Gram matrices come of: those of what a layer sees, and those of what
    its experts' `down` see."""
    file = GramFile(gram_path(statistics))
    columns = file.description.columns
    outer = {name: counts[0] for name, counts in file.tokens().items() if len(counts) == 1}
    inner = {name: counts for name, counts in file.tokens().items() if len(counts) > 1}
    experts = [count / columns[name] for name, counts in inner.items() for count in counts]
    return {
        "tokens": max(outer.values()),
        "per_column_of_the_widest": _digits(min(outer[name] / columns[name] for name in outer)),
        "per_column_of_experts": [_digits(np.quantile(experts, q)) for q in (0, 0.5, 1)],
    }


def _digits(value: Any) -> float:
    return float(f"{float(value):.3g}")


def measure(run: Run, model: Checkpoint, kind: str, files: dict[int, Path], work: Path) -> Any:
    """{every: the ratios of a type}"""
    scores: dict[tuple[int, str], Scores] = {}
    for every, statistics in files.items():
        for rounding in ROUNDINGS:
            out = work / f"{kind}-{every}-{rounding}"
            shutil.rmtree(out, ignore_errors=True)
            path, _, _ = write(model, kind, rounding, statistics, out)
            scores[every, rounding] = run.score(path)
            shutil.rmtree(out)

    def over(above: Scores, below: Scores) -> dict[str, Any]:
        return ratio({"nearest": below, "feedback": above}, run.answers, "pooled")

    found = {}
    for every in files:
        beside = over(scores[every, "feedback"], scores[every, "nearest"])
        found[every] = {"kl_mean": beside["kl_mean"], "over_nearest": beside["ratio"]}
        if every != min(files):
            all_text = over(scores[every, "feedback"], scores[min(files), "feedback"])
            found[every]["over_all_text"] = all_text["ratio"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="what the model is called in the results")
    parser.add_argument("model", help="its folder, or gemmule")
    parser.add_argument("--every", default=EVERY, help="records; the least stands for all text")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--per-domain", type=int, default=12)
    parser.add_argument("--work", type=Path, help="keeps statistics and scores for another run")
    parser.add_argument("--out", type=Path, default=result_path("gram_tokens"))
    options = parser.parse_args()
    model = open_model(options.model)
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        run = Run(model, Measuring(prompts=TEST_SET, per_domain=options.per_domain), work)
        files = {
            int(every): calibrate(model, int(every), work) for every in options.every.split(",")
        }
        entry: dict[str, Any] = {
            "text": {every: describe(statistics) for every, statistics in files.items()},
            "types": {},
        }
        for kind in options.types.split(","):
            entry["types"][kind] = measure(run, model, kind, files, work)
            print(kind, json.dumps(entry["types"][kind]), flush=True)
            save(options.out, options.name, entry)


if __name__ == "__main__":
    main()
