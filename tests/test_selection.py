"""Selecting experts: counts, ties, protection, groups, super experts, drop maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_statistics import MODEL

from secateur.errors import PlanError
from secateur.pruning.drop_map import drop_map, read_drop_map
from secateur.pruning.selection import (
    Constraints,
    check_count,
    hints,
    kept_count,
    select,
    super_experts,
)
from secateur.statistics.statistics import Statistics

EIGHT = Constraints(experts=8, top_k=2)


def scores(*values: float) -> dict[int, Any]:
    return {0: np.array(values, np.float64)}


@pytest.mark.parametrize(
    ("drop", "experts", "kept"),
    [(0.30, 128, 90), (0.20, 128, 103), (0.15, 128, 109), (0.25, 32, 24), (0.0, 8, 8)],
)
def test_the_dropped_ones_are_counted_and_rounded_down(
    drop: float, experts: int, kept: int
) -> None:
    assert kept_count(experts, drop=drop) == kept
    assert kept_count(experts, keep=kept) == kept


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({"keep": 4, "drop": 0.5}, "give one of how many .*, not both"),
        ({"drop": 1.0}, r"drop is 1,"),
        ({"drop": 25}, r"less than 1 \(0\.25\?\)"),
        ({"drop": -0.1}, r"drop is -0\.1"),
        ({"drop": float("nan")}, "drop is nan"),
        ({"keep": 0}, "--experts is 0, but the model has 8"),
        ({"keep": 9}, "--experts is 9, but the model has 8"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(pruning: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        kept_count(8, **pruning)


def test_the_best_stay_in_ascending_order() -> None:
    assert select(scores(3, 1, 4, 1.5, 9, 2, 6, 5), 4, EIGHT) == {0: (2, 4, 6, 7)}


def test_of_equals_the_one_with_fewer_tokens_goes_then_the_higher_number() -> None:
    same = scores(*[1.0] * 8)
    assert select(same, 3, EIGHT) == {0: (0, 1, 2)}
    tokens = {0: np.array([0, 5, 5, 9, 0, 9, 1, 5])}
    assert select(same, 3, EIGHT, tokens) == {0: (1, 3, 5)}


def test_protected_experts_stay() -> None:
    limits = Constraints(8, 2, protected={0: {1, 3}})
    assert select(scores(3, 1, 4, 1.5, 9, 2, 6, 5), 4, limits) == {0: (1, 3, 4, 6)}
    with pytest.raises(PlanError, match="protects 3 experts, but only 2 are kept"):
        select(scores(*range(8)), 2, Constraints(8, 2, protected={0: (0, 1, 2)}))


def test_every_group_keeps_equally_many() -> None:
    limits = Constraints(8, 2, groups=2, used_groups=1)
    assert select(scores(9, 8, 7, 6, 1, 2, 3, 4), 4, limits) == {0: (0, 1, 6, 7)}
    with pytest.raises(PlanError, match="shared by 2 groups of equal size: keep 4 or 6"):
        select(scores(*range(8)), 5, limits)
    crowded = Constraints(8, 2, groups=2, used_groups=1, protected={0: {0, 1, 2}})
    with pytest.raises(PlanError, match="protects 3 experts of group 0, but only 2"):
        select(scores(*range(8)), 4, crowded)


def test_a_router_must_have_enough_to_choose_from() -> None:
    with pytest.raises(PlanError, match="each token is sent to 2: keep at least 2"):
        check_count(1, EIGHT)
    with pytest.raises(PlanError, match="keep at least 12"):
        check_count(8, Constraints(16, 6, groups=4, used_groups=2))
    check_count(12, Constraints(16, 6, groups=4, used_groups=2))


def peaks(*layers: list[float], first: int = 0) -> Statistics:
    arrays = {
        f"layer.{first + n}.largest": np.array([row], np.float32) for n, row in enumerate(layers)
    }
    counts = {name.replace("largest", "tokens"): np.ones((1, 64), np.int64) for name in arrays}
    return Statistics(MODEL, ("all",), {"all": 1}, 0, (), (), {**arrays, **counts})


def test_super_experts_are_keyed_by_decoder_layer() -> None:
    """The reference counts only MoE layers and then protects the wrong ones."""
    quiet = [1.0] * 64
    loud = [*quiet[:5], 100.0, *quiet[6:]]
    found = peaks(quiet, loud, quiet, quiet, first=3)
    assert super_experts(found) == {4: {5}}
    late = peaks(quiet, quiet, quiet, loud, first=3)
    assert super_experts(late) == {}
    assert super_experts(late, everywhere=True) == {6: {5}}


def test_a_drop_map_reads_back(tmp_path: Path) -> None:
    keep = {1: (0, 2), 4: (1, 3)}
    path = tmp_path / "map.json"
    path.write_text(json.dumps(drop_map(keep, 4)))
    assert read_drop_map(path, 4, (1, 4)) == keep
    path.write_text('{"layers": {"1": {"drop": [1, 3]}, "4": {"keep": [3, 1]}}}')
    assert read_drop_map(path, 4, (1, 4)) == keep


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "is not usable JSON .line 1, column 1: .*expected a drop map"),
        ("[]", "is no drop map"),
        ('{"layers": {"x": {}}}', "is no drop map"),
        ('{"layers": {"1": {"keep": [0]}}}', r"differ in MoE layers \[4\]"),
        ('{"layers": {"1": {}, "4": {}}}', "layer 1: has neither"),
        ('{"layers": {"1": [], "4": {}}}', "layer 1: has neither"),
        ('{"layers": {"1": {"keep": [4]}, "4": {}}}', "'keep' must list expert numbers 0 to 3"),
        ('{"layers": {"1": {"drop": [true]}, "4": {}}}', "'drop' must list expert numbers"),
        ('{"layers": {"1": {"keep": [0], "drop": [1]}, "4": {}}}', "contradict each other"),
        ('{"layers": {"1": {"keep": [0, 0]}, "4": {}}}', "'keep' lists an expert twice"),
        ('{"experts": 8, "layers": {}}', "made for 8 experts per layer, but the model has 4"),
    ],
)
def test_a_drop_map_that_is_wrong_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=message) as caught:
        read_drop_map(path, 4, (1, 4))
    assert "\n" not in str(caught.value)


def test_a_missing_drop_map_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot read .*none: No such file.*expected a drop map"):
        read_drop_map(tmp_path / "none", 4, (1, 4))


def test_counts_that_ranks_cannot_share_get_a_hint() -> None:
    assert hints(96) == []
    assert "2, 4, 8 ranks: servers with expert parallelism prefer 88 or 96" in hints(95)[0]
    assert "4, 8 ranks" in hints(90)[0]
