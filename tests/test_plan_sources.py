"""A plan is applied with what it was made with, and what a person changed in it is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_line import Line

from secateur import Formats, Pruning, apply, plan
from secateur.checkpoint.reader import open_checkpoint
from secateur.errors import PlanError
from secateur.planning.edits import STATISTICS
from secateur.release.report import Report, to_markdown
from secateur.statistics.file import load, save
from secateur.statistics.identity import statistics_sha256
from secateur.statistics.statistics import Statistics

EVIDENCE = "evidence/statistics.safetensors"


@pytest.fixture
def statistics(made: Path) -> Statistics:
    return load(made / EVIDENCE)


def others(statistics: Statistics) -> Statistics:
    """Statistics of the same documents in which one array holds one other number."""
    name = next(name for name in statistics.arrays if name.startswith("imatrix."))
    array = statistics.arrays[name].copy()
    array.flat[0] += 1
    return replace(statistics, arrays={**statistics.arrays, name: array})


@pytest.mark.parametrize("types", [(), ("Q4_K_M",)])
def test_other_statistics_than_the_plan_s_are_refused(
    types: tuple[str, ...], line: Line, statistics: Statistics, tmp_path: Path
) -> None:
    decided = plan(line.model, Pruning(experts=6), Formats(types=types), statistics=statistics)
    assert decided.selection[STATISTICS] == statistics_sha256(statistics)
    with pytest.raises(PlanError, match="was made with the statistics of sha256 .* plan again"):
        apply(decided, tmp_path / "out", statistics=others(statistics))
    assert not (tmp_path / "out").exists()
    apply(decided, tmp_path / "out", statistics=statistics)


def test_statistics_that_the_plan_does_not_know_are_refused(
    line: Line, statistics: Statistics, tmp_path: Path
) -> None:
    decided = plan(line.model, Pruning(drop=0.0), Formats())
    with pytest.raises(PlanError, match="made without statistics: leave out --stats"):
        apply(decided, tmp_path / "out", statistics=statistics)


def test_the_hash_is_of_the_content_not_of_the_file(statistics: Statistics, tmp_path: Path) -> None:
    save(statistics, tmp_path / "moved")
    assert statistics_sha256(load(tmp_path / "moved")) == statistics_sha256(statistics)
    assert statistics_sha256(others(statistics)) != statistics_sha256(statistics)
    turned = {name: np.asfortranarray(array) for name, array in statistics.arrays.items()}
    assert statistics_sha256(replace(statistics, arrays=turned)) == statistics_sha256(statistics)


def test_edited_experts_are_not_said_to_be_chosen_by_the_criterion(
    line: Line, statistics: Statistics, shrunk: Report, tmp_path: Path
) -> None:
    decided = plan(line.model, Pruning(experts=6), Formats(types=("Q8_0",)), statistics=statistics)
    first = min(decided.keep)
    unused = next(e for e in range(8) if e not in decided.keep[first])
    kept = tuple(sorted((*decided.keep[first][1:], unused)))
    edited = replace(decided, keep={**decided.keep, first: kept})
    manifest = apply(edited, tmp_path / "out", statistics=statistics)
    assert manifest["edited"] == [f"experts kept in layer {first}"]
    text = to_markdown(replace(shrunk, made=manifest))
    assert "`rerouted`, and edited by hand afterwards" in text
    assert f"Edited by hand: experts kept in layer {first}." in text
    assert "edited by hand" not in to_markdown(shrunk)


def test_the_statistics_are_not_taken_for_weights(made: Path) -> None:
    """Some loaders read every *.safetensors next to config.json."""
    assert {path.name for path in made.glob("*.safetensors")} == {"model.safetensors"}
    assert open_checkpoint(made).experts == 6
    assert EVIDENCE in json.loads((made / "manifest.json").read_text())["files"]
