"""By how many bytes feedback moves every point of experts against bits: frontier.json.

gemmule with 24 to 32 of its 32 experts, in GGUF types, to nearest and with feedback: bytes and mean
KL on its own answers. A file with feedback is as near to the original as a file to nearest of more
bytes: how many more is read off the files to nearest with as many experts, the logarithm of the KL
being interpolated over the bytes (of a type that is no better than a smaller one, that one's; the
smallest file is worth no less than its size). The interval is of resampled answers, the same for
all files.

    python benchmarks/frontier.py [--work WORK] [--per-domain 8]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from goals import result_path, write_result
from numpy.typing import NDArray
from rounding import TEST_SET

import secateur
from secateur import Calibration, Formats, Measuring, Pruning
from secateur.api.held_out import Text
from secateur.api.measure import start
from secateur.api.models import open_weights
from secateur.evaluation.intervals import Clusters, bootstrap
from secateur.evaluation.summary import token_groups
from secateur.system.progress import no_progress

EXPERTS = (24, 28, 30, 32)
TYPES = ("IQ2_M", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
ANCHOR = "Q8_0"
"""To nearest only: what the best files with feedback are compared with."""
GRAM = "own"


class Point(NamedTuple):
    """One file."""

    experts: int
    type: str
    rounding: str
    nbytes: int
    weights: int
    kl: Clusters

    @property
    def mean(self) -> float:
        return float(self.kl.mean(np.arange(self.kl.answers)))


class Files:
    """Writes files and scores them against the original's answers."""

    def __init__(self, statistics: Path, per_domain: int, work: Path) -> None:
        self._statistics, self._work = statistics, work
        request = Measuring(prompts=TEST_SET, per_domain=per_domain)
        original = open_weights("gemmule", None, "measuring")
        self._run = start(original, request, Text(), work, None, no_progress)
        self.answers, self._teacher = self._run.ask_original()

    def measure(self, experts: int, kind: str, rounding: Any) -> Point:
        plan = secateur.plan(
            "gemmule",
            Pruning(experts=experts),
            Formats("gguf", kind, rounding=rounding),
            statistics=self._statistics,
        )
        out = self._work / f"{experts}-{kind}-{rounding}"
        shutil.rmtree(out, ignore_errors=True)
        secateur.apply(plan, out, statistics=self._statistics)
        (form,) = plan.formats
        (file,) = plan.files[form]
        artefact = self._run.open(out / file)
        scores = self._run.score(artefact, self.answers, self._teacher)
        shutil.rmtree(out)
        nbytes, bits = plan.tensor_bytes(form), plan.output(form).bits_per_weight
        kl = next(token_groups(self.answers)).collect(scores, ["kl"])["kl"]
        return Point(experts, kind, rounding, nbytes, round(8 * nbytes / bits), kl)


def bytes_alike(ladder: list[Point], point: Point, draws: Any) -> NDArray[np.float64]:
    """Bytes of a file to nearest with the KL of `point`, for each draw of answers."""
    ladder = sorted(ladder, key=lambda one: one.nbytes)
    sizes = np.array([one.nbytes for one in ladder], float)
    known = np.stack([np.log(one.kl.mean(draws)) for one in ladder], -1)
    known = -np.minimum.accumulate(known, -1).reshape(-1, len(ladder))
    asked = -np.log(point.kl.mean(draws)).reshape(-1)
    found = [np.interp(one, row, sizes) for one, row in zip(asked, known, strict=True)]
    return np.array(found).reshape(np.shape(draws)[:-1])


def describe(points: list[Point], point: Point) -> dict[str, Any]:
    """A file with feedback, beside that to nearest, and what it is worth in bytes."""
    alike = [one for one in points if one.experts == point.experts and one.rounding == "nearest"]
    nearest = next(one for one in alike if one.type == point.type)
    each = np.arange(point.kl.answers)
    saved = bootstrap(
        point.kl.answers,
        lambda draws: bytes_alike(alike, point, draws) - point.nbytes,
        seed=0,
        width=point.kl.answers * len(alike),
    )
    assert saved.low is not None and saved.high is not None
    interval = np.array([saved.value, saved.low, saved.high])
    return {
        "experts": point.experts,
        "type": point.type,
        "tensor_bytes": point.nbytes,
        "kl_mean": {one.rounding: float(f"{one.kl.mean(each):.4g}") for one in (nearest, point)},
        "worth_bytes": [int(one) for one in interval],
        "worth_share": [round(one / point.nbytes, 4) for one in interval],
        "worth_bits_per_weight": [round(8 * one / point.weights, 3) for one in interval],
    }


def frontier(points: list[Point], rounding: str) -> list[str]:
    """Files to which nothing as small is nearer, the smallest first."""
    found: list[Point] = []
    for point in sorted(
        (one for one in points if one.rounding == rounding), key=lambda o: o.nbytes
    ):
        if not found or point.mean < found[-1].mean:
            found.append(point)
    return [f"{one.experts} {one.type}" for one in found if one.type != ANCHOR]


def summarise(points: list[Point], files: Files) -> dict[str, Any]:
    """The result, of the files that there are."""
    return {
        "model": "gemmule",
        "gram": GRAM,
        "answers": points[0].kl.answers,
        "tokens": len(next(token_groups(files.answers)).tokens),
        "files": [describe(points, one) for one in points if one.rounding == "feedback"],
        "frontier": {one: frontier(points, one) for one in ("nearest", "feedback")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-domain", type=int, default=8)
    parser.add_argument("--experts", type=int, nargs="+", default=EXPERTS)
    parser.add_argument("--work", type=Path, help="keeps statistics and scores for another run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        statistics = work / "statistics.safetensors"
        if not statistics.exists():
            request = Calibration(corpus="gemmule", gram=GRAM)
            secateur.calibrate("gemmule", statistics, request)
        files = Files(statistics, options.per_domain, work)
        points: list[Point] = []
        for experts in options.experts:
            for kind in (*TYPES, ANCHOR):
                for rounding in ("nearest",) if kind == ANCHOR else ("nearest", "feedback"):
                    points.append(files.measure(experts, kind, rounding))
            write_result(result_path("frontier"), summarise(points, files))
            print(experts, flush=True)


if __name__ == "__main__":
    main()
