"""The goals that this project holds itself to, and how every result stands to them.

Each result says it itself, under "goals": limit, value, met. So a goal that is no longer met, or
met at last, is a line of the difference when a result is made again. `write_result` puts it there.
After a goal was changed, put it into the results that there are:

    python benchmarks/goals.py
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
OUT_VARIABLE = "SECATEUR_BENCHMARK_OUT"
"""Names the folder for results of quick runs (run_all.py sets it), which replace no other."""


@dataclass(frozen=True)
class Goal:
    """A number of a result, and what it may be at most (or at least)."""

    name: str
    result: str
    """The result's file, without its ending."""
    limit: float
    value: Callable[[Any], Iterable[float]]
    """The numbers, such as one of every shape; the worst counts. KeyError: not measured."""
    at_least: bool = False

    def describe(self) -> str:
        """The limit in words."""
        return f"at {'least' if self.at_least else 'most'} {self.limit:g}"

    def status(self, found: Any) -> dict[str, Any]:
        """{goal, limit, value, met}; value and met are None where it was not measured."""
        try:
            values = [float(value) for value in self.value(found)]
        except KeyError:
            values = []
        worst = (min if self.at_least else max)(values, default=None)
        met = None
        if worst is not None:
            worst = float(f"{worst:.4g}")
            met = worst >= self.limit if self.at_least else worst <= self.limit
            met = met and not math.isnan(worst)
        return {"goal": self.name, "limit": self.describe(), "value": worst, "met": met}


def _shapes(found: Any, *path: str) -> list[float]:
    """The number at a path in every shape."""
    values = []
    for shape in ("gemmule", "wide"):
        value = found[shape]
        for key in path:
            value = value[key]
        values.append(value)
    return values


def _measuring(found: Any) -> list[float]:
    shapes = [shape for shape in found.values() if isinstance(shape, Mapping)]
    rows = [row for shape in shapes for row in shape["over_plain_forward"]["cpu"].values()]
    return [row["all"]["median"] for row in rows]


def _device(words: str) -> Callable[[Any], Iterable[float]]:
    """The rows of device.json's table that begin with those words."""

    def values(found: Any) -> list[float]:
        (row,) = (row for name, row in found["table"].items() if name.startswith(words))
        return list(row.values())

    return values


def _rounding(*kinds: str) -> Callable[[Any], Iterable[float]]:
    """What is left of the divergence with feedback, of some types of rounding.json."""

    def values(found: Any) -> list[float]:
        return [found["types"][kind]["ratio"][0] for kind in kinds]

    return values


def _width_estimates(found: Any) -> list[float]:
    runs = [run for steps in found["runs"].values() for run in steps.values()]
    ratios = [run["took_over_estimated"] for run in runs]
    return [max(ratio, 1 / ratio) for ratio in ratios]


GOALS = (
    Goal(
        "calibration (REAP and imatrix sums) over a plain fp32 forward",
        "calibration",
        0.9,
        lambda found: _shapes(found, "calibrate_over_forward", "median"),
    ),
    Goal(
        "the same with the default criterion solved",
        "calibration_rerouted",
        2.0,
        lambda found: _shapes(found, "rerouted_over_forward", "median"),
    ),
    Goal(
        "calibration on a GPU over transformers' own bf16 forward",
        "device",
        1.1,
        _device("pass with all sums"),
    ),
    Goal(
        "the same streamed from disk, share of the slower limit",
        "device",
        0.6,
        _device("streamed from disk"),
        at_least=True,
    ),
    Goal("`rerouted` solved on a GPU, of the pass", "device", 0.5, _device("rerouted solved")),
    Goal(
        "calibration with Gram matrices over without, on a GPU",
        "device",
        1.25,
        _device("calibration with Gram matrices"),
    ),
    Goal(
        "memory to calibrate a 26B-shaped checkpoint, GiB",
        "memory",
        3.0,
        lambda found: [run["peak_resident_mib"] / 1024 for run in found["runs"]],
    ),
    Goal(
        "pruning, bytes a second over a plain file copy",
        "pruning",
        0.8,
        lambda found: [
            found["results"][disk]["throughput_of_prune_over_cp_both_fsynced"]["median"]
            for disk in ("warm", "cold")
        ],
        at_least=True,
    ),
    Goal(
        "GGUF in Q4_K_M over convert_hf_to_gguf and llama-quantize, time",
        "gguf_speed",
        0.2,
        lambda found: [found["results"]["Q4_K_M"]["median_ratio"]],
    ),
    Goal(
        "GGUF in IQ3_XXS over convert_hf_to_gguf and llama-quantize, time",
        "gguf_speed",
        0.5,
        lambda found: [found["results"]["IQ3_XXS"]["median_ratio"]],
    ),
    Goal(
        "bytes of GGUF tensors that differ from llama-quantize's",
        "type_parity",
        0,
        lambda found: [found["all"]["differing_bytes"]],
    ),
    Goal(
        "cases whose predicted types or sizes differ from llama-quantize's",
        "dry_run",
        0,
        lambda found: [found["cases_that_differ"], found["from_configs"]["cases_that_differ"]],
    ),
    Goal(
        "calibration that keeps what another needs to go on over one that does not",
        "resuming",
        1.05,
        lambda found: _shapes(found, "kept_over_without", "cpu", "median"),
    ),
    Goal("measuring one artefact over a plain fp32 forward", "measuring", 1.3, _measuring),
    Goal(
        "what `shrink` estimates over what it takes, either way",
        "estimate",
        1.3,
        lambda found: [max(ratio, 1 / ratio) for ratio in _shapes(found, "all_stages", "median")],
    ),
    Goal("the same of every step at the real width", "width", 1.3, _width_estimates),
    Goal(
        "calibration at the real width, share of the rate of one large product",
        "width",
        0.6,
        lambda found: found["line"]["calibrate"]["share_of_product"].values(),
        at_least=True,
    ),
    Goal(
        "divergence with feedback over nearest, 2 and 3 bits",
        "rounding",
        0.6,
        _rounding("Q2_K", "Q3_K_M", "mlx-2", "mlx-3"),
    ),
    Goal(
        "the same, 4 bits",
        "rounding",
        0.75,
        _rounding("Q4_K_M", "Q4_0", "IQ4_XS", "mlx-4", "mlx-mixed-4-8", "mlx-mxfp4"),
    ),
    Goal(
        "calibration with Gram matrices over without (26B's width: of 262,144 tokens)",
        "rounding_cost",
        1.25,
        lambda found: [
            found["calibration"]["gemmule"]["over_none"]["own"],
            found["calibration"]["26B"]["over_none"]["own, half of the tokens"],
        ],
    ),
    Goal(
        "Q4_K_M with feedback over nearest, time of `apply`",
        "rounding_speed",
        4.0,
        lambda found: [found["types"]["Q4_K_M"]["wall_ratio"]],
    ),
)

PROVED_BY_TESTS = {
    "same inputs, same bytes: runs, threads, a kill at any moment": "tests/test_pipeline.py",
    "predicted file sizes are those of the files, to the byte": "tests/test_output.py",
    "families: permuting the experts changes no logit": "tests/test_experts.py",
    "bad input: one line, exit code 2, nothing half-written": "tests/test_bad_input.py",
}
"""Goals that are no number: the tests that hold them."""


RESULTS = tuple(sorted({goal.result for goal in GOALS}))
"""The results that have goals."""


def statuses(name: str, found: Any) -> list[dict[str, Any]]:
    """How a result stands to its goals."""
    return [goal.status(found) for goal in GOALS if goal.result == name]


def with_statuses(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The result, which says first how it stands to its goals; as it was where it has none."""
    rest = {key: value for key, value in found.items() if key != "goals"}
    goals = statuses(name, rest)
    return {"goals": goals, **rest} if goals else rest


def result_path(name: str) -> Path:
    """Where the result of that name is written."""
    folder = Path(os.environ.get(OUT_VARIABLE, FOLDER))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.json"


def write_result(path: Path, found: Mapping[str, Any]) -> None:
    """Write a result with its goals' statuses; the file's name says whose goals they are."""
    text = json.dumps(with_statuses(path.stem, found), indent=1)
    path.write_text(text + "\n", "utf-8")


def table(folders: Mapping[str, Path]) -> str:
    """Markdown: every goal with its limit, and its value and status in {size: its results}."""
    heads = [f"{size} {word}".strip() for size in folders for word in ("value", "met")]
    lines = [["goal", "limit", *heads], ["---"] * (2 + len(heads))]
    for goal in GOALS:
        cells = [goal.name, goal.describe()]
        for folder in folders.values():
            cells += _cells(goal.name, folder / f"{goal.result}.json")
        lines.append(cells)
    for name, test in PROVED_BY_TESTS.items():
        lines.append([name, "always", f"`{test}`", *[""] * (len(heads) - 1)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(name: str, path: Path) -> list[str]:
    """The value, and whether it is met, of a goal in a result."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for status in found.get("goals", []):
        if status["goal"] == name and status["met"] is not None:
            return [f"{status['value']:g}", "yes" if status["met"] else "**no**"]
    return ["", "not measured"]


if __name__ == "__main__":
    for one in RESULTS:
        path = FOLDER / f"{one}.json"
        write_result(path, json.loads(path.read_text("utf-8")))
