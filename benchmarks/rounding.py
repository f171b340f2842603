"""What rounding with error feedback is worth at equal bytes: rounding.json.

gemmule, unpruned, calibrated on its own calibration set: every type to nearest (scales weighed by
the importance matrix) and with feedback, as whole files. Divergence from the original on its own
answers to the test set's prompts: mean KL, its 99th percentile, agreement of the best token; pooled
and by domain. The ratio of the means (feedback over nearest) has a 95 % interval from resampling
answers, the same for both. A type that is in rounding.json already, with as many Gram matrices, is
not measured again.

    python benchmarks/rounding.py [--types Q2_K,Q4_K_M,mlx-4] [--gram own] [--model FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from goals import result_path, write_result

import secateur
from secateur import Calibration, Formats, Measuring, Pruning
from secateur.api.held_out import Text
from secateur.api.measure import start
from secateur.api.models import Model, open_weights
from secateur.checkpoint.hub import gemmule_folder
from secateur.evaluation.intervals import Clusters, bootstrap
from secateur.evaluation.scores import Scores
from secateur.evaluation.summary import token_groups
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.outputs.base import Artefact
from secateur.recipes.recipe import Recipe
from secateur.system.progress import no_progress

TYPES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q5_K_M", "Q6_K", "mlx-2", "mlx-3", "mlx-4")
TYPES += ("mlx-8", "mlx-mixed-4-8", "mlx-mxfp4", "Q8_0")
TYPES += ("IQ3_XXS", "IQ2_S", "IQ3_S", "IQ2_XXS", "IQ1_M")
GROUP = 32
"""Of MLX's types here: 64 does not divide gemmule's experts (96) and dense layers (288)."""
ROUNDINGS = ("nearest", "feedback")
TEST_SET = gemmule_folder() / "sets" / "test.jsonl"


def formats(kind: str, rounding: Any) -> Formats:
    """The request for one type; `mlx-3` is MLX in 3 bits, its embedding in 8."""
    if not kind.startswith("mlx-"):
        return Formats(to="gguf", types=kind, rounding=rounding)
    if kind == "mlx-mixed-4-8":
        return Formats(to="mlx", types="mlx-mixed-4-8-32", rounding=rounding)
    word = kind.removeprefix("mlx-")
    base = word if word == "mxfp4" else f"affine-{word}-{GROUP}"
    recipe = Recipe(word, base, "mlx", embedding=f"affine-8-{GROUP}")
    return Formats(to="mlx", recipes=(recipe,), rounding=rounding)


def write(
    model: Model, kind: str, rounding: str, statistics: Path, out: Path
) -> tuple[Path, int, float]:
    """(artefact, its bytes of tensors, processor seconds of writing)."""
    return write_formats(model, formats(kind, rounding), statistics, out)


def write_formats(
    model: Model, wanted: Formats, statistics: Path, out: Path
) -> tuple[Path, int, float]:
    """The same of a request for one format, of all of the model's experts."""
    plan = secateur.plan(model, Pruning(drop=0.0), wanted, statistics=statistics)
    (format_id,) = plan.formats
    began = time.process_time()
    secateur.apply(plan, out, model=model, statistics=statistics)
    spent = time.process_time() - began
    (first, *_) = plan.files[format_id]
    path = out / first if format_id.startswith("gguf") else out / format_id
    return path, plan.tensor_bytes(format_id), spent


def ratio(
    pair: dict[str, Scores],
    answers: AnswerSet,
    domain: str,
    above: str = "feedback",
    below: str = "nearest",
) -> dict[str, Any]:
    """Mean KL, p99 and agreement of both (or more), of one domain or all, and the ratio of one's
    mean KL over another's with its interval."""
    group = next(one for one in token_groups(answers) if one.domain == domain)
    kl = {name: group.collect(scores, ["kl"])["kl"] for name, scores in pair.items()}
    agrees = {name: group.collect(scores, ["agrees"])["agrees"] for name, scores in pair.items()}

    def evaluate(draws: Any) -> Any:
        return kl[above].mean(draws) / kl[below].mean(draws)

    every = np.arange(kl[below].answers)
    found = bootstrap(kl[below].answers, evaluate, seed=0, width=_width(kl))
    return {
        "answers": kl[below].answers,
        "tokens": len(group.tokens),
        "kl_mean": {name: _digits(one.mean(every)) for name, one in kl.items()},
        "ratio": [_digits(found.value), _digits(found.low), _digits(found.high)],
        "kl_p99": {name: _digits(one.quantile(every, 0.99)) for name, one in kl.items()},
        "top1_agreement": {name: _digits(one.mean(every)) for name, one in agrees.items()},
    }


def _width(clusters: dict[str, Clusters]) -> int:
    return max(one.width for one in clusters.values())


def _digits(value: Any) -> float:
    return float(f"{float(value):.4g}")


class Run:
    """The original's answers, and one type after the other."""

    def __init__(self, model: Model, request: Measuring, work: Path) -> None:
        self._model, self._work = model, work
        original = open_weights(model, None, "measuring")
        self._run = start(original, request, Text(), work, None, no_progress)
        self.answers, self._teacher = self._run.ask_original()

    def score(self, path: Path) -> Scores:
        """What an artefact says of the answers."""
        artefact: Artefact = self._run.open(path)
        return self._run.score(artefact, self.answers, self._teacher)

    def measure(self, kind: str, statistics: Path) -> dict[str, Any]:
        pair: dict[str, Scores] = {}
        nbytes: set[int] = set()
        seconds: dict[str, float] = {}
        for rounding in ROUNDINGS:
            out = self._work / f"{kind}-{rounding}"
            shutil.rmtree(out, ignore_errors=True)
            path, size, seconds[rounding] = write(self._model, kind, rounding, statistics, out)
            pair[rounding] = self.score(path)
            nbytes.add(size)
            shutil.rmtree(out)
        (size,) = nbytes  # equal, to the byte
        domains = sorted({group.domain for group in token_groups(self.answers)} - {"pooled"})
        return {
            "tensor_bytes": size,
            "write_cpu_seconds": {name: round(spent, 2) for name, spent in seconds.items()},
            **ratio(pair, self.answers, "pooled"),
            "domains": {domain: ratio(pair, self.answers, domain) for domain in domains},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gemmule", help="a folder: gemmule's sets are its text")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--per-domain", type=int, default=12)
    parser.add_argument("--gram", default="own", choices=["shared", "own"])
    parser.add_argument("--rows", type=Path, help="calibrate on these rows, not on gemmule's set")
    parser.add_argument("--work", type=Path, help="keeps the statistics and scores for another run")
    parser.add_argument("--out", type=Path, default=result_path("rounding"))
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if options.out.exists():
        found = json.loads(options.out.read_text())
        results = found["types"] if found["gram"] == options.gram else {}
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        statistics = work / f"{options.gram}.safetensors"
        if not statistics.exists():
            text = {"rows": options.rows} if options.rows else {"corpus": "gemmule"}
            request = Calibration(reroute_tokens=0, gram=options.gram, **text)
            secateur.calibrate(options.model, statistics, request)
        measuring = Measuring(prompts=TEST_SET, per_domain=options.per_domain)
        run = Run(options.model, measuring, work)
        for kind in options.types.split(","):
            if kind in results:
                continue
            results[kind] = run.measure(kind, statistics)
            print(kind, json.dumps({k: results[kind][k] for k in ("kl_mean", "ratio")}), flush=True)
            report = {
                "model": Path(options.model).name,
                "gram": options.gram,
                "types": results,
            }
            write_result(options.out, report)


if __name__ == "__main__":
    main()
