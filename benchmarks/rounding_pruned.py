"""Whether a pruned model's own Gram matrices round it better: rounding_pruned.json.

gemmule without a quarter of its experts, in Q3_K_M and Q4_K_M: to nearest, with feedback on the
Gram matrices of the whole model's calibration, and with feedback on those of a second calibration
that runs the pruned model on the same text, whose kept experts see the tokens that were rerouted
to them. Everything else is the same: experts, types, importance matrix. Mean KL from the unpruned
original on its own answers to the test set's prompts; ratios with 95 % intervals over answers.

    python benchmarks/rounding_pruned.py [--drop 0.25] [--types Q3_K_M,Q4_K_M] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from goals import result_path, write_result
from rounding import TEST_SET, Run, ratio

import secateur
from secateur import Calibration, Formats, Measuring, Pruning
from secateur.evaluation.scores import Scores

TEXT = Calibration(corpus="gemmule", gram="own")


def write(
    model: str, kind: str, rounding: Any, drop: float, files: tuple[Path, Path], out: Path
) -> Path:
    """The GGUF of a model; `files` are its statistics and the importance matrix for all."""
    statistics, imatrix = files
    plan = secateur.plan(
        model, Pruning(drop=drop), Formats(to="gguf", types=kind, rounding=rounding),
        statistics=statistics, imatrix=imatrix,
    )  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    secateur.apply(plan, out, statistics=statistics, imatrix=imatrix)
    (format_id,) = plan.formats
    return out / next(iter(plan.files[format_id]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drop", type=float, default=0.25)
    parser.add_argument("--types", default="Q3_K_M,Q4_K_M")
    parser.add_argument("--per-domain", type=int, default=12)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        whole, pruned = work / "whole.safetensors", work / "pruned.safetensors"
        if not whole.exists():
            secateur.calibrate("gemmule", whole, TEXT)
        model = work / "model"
        if not model.exists():
            formats = Formats(to="safetensors,gguf", types="Q4_K_M", rounding="nearest")
            plan = secateur.plan("gemmule", Pruning(drop=options.drop), formats, statistics=whole)
            secateur.apply(plan, model, statistics=whole)
        if not pruned.exists():
            secateur.calibrate(str(model), pruned, TEXT)
        imatrix = model / "imatrix.gguf"
        ways = {
            "nearest": ("gemmule", "nearest", options.drop, (whole, imatrix)),
            "whole": ("gemmule", "feedback", options.drop, (whole, imatrix)),
            "pruned": (str(model), "feedback", 0.0, (pruned, imatrix)),
        }
        measuring = Measuring(prompts=TEST_SET, per_domain=options.per_domain)
        run = Run("gemmule", measuring, work)
        types: dict[str, Any] = {}
        for kind in options.types.split(","):
            scores: dict[str, Scores] = {}
            for way, (source, rounding, drop, files) in ways.items():
                path = write(source, kind, rounding, drop, files, work / f"{kind}-{way}")
                scores[way] = run.score(path)
            pairs = {"whole over nearest": ("nearest", "whole"),
                     "pruned over whole": ("whole", "pruned")}  # fmt: skip
            types[kind] = {
                name: ratio(
                    {"nearest": scores[one], "feedback": scores[other]}, run.answers, "pooled"
                )
                for name, (one, other) in pairs.items()
            }
            print(kind, json.dumps({n: e["ratio"] for n, e in types[kind].items()}), flush=True)
        report = {"model": "gemmule", "drop": options.drop, "gram": TEXT.gram, "types": types}
        write_result(result_path("rounding_pruned"), report)


if __name__ == "__main__":
    main()
