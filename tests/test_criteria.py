"""Criteria against a table small enough to do by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata
from test_statistics import MODEL

from secateur.errors import PlanError
from secateur.pruning.choose import Pruning
from secateur.pruning.criteria.aggregations import AGGREGATIONS
from secateur.pruning.criteria.base import Criterion, Formula, Settings
from secateur.pruning.criteria.base import score as score_by
from secateur.pruning.criteria.registry import (
    CRITERIA,
    check_aggregation,
    find_criterion,
)
from secateur.statistics import exact
from secateur.statistics.statistics import Statistics
from secateur.statistics.sums import BUILT_IN, SAMPLE_UNIT

# Two categories, four experts; the last expert saw no token.
TOKENS = [[2, 1, 4, 0], [2, 0, 4, 0]]
SUMS = {
    "gate": [[1.0, 0.5, 0.4, 0], [0.6, 0, 0.4, 0]],
    "norm": [[6.0, 8.0, 4.0, 0], [2.0, 0, 4.0, 0]],
    "gate_norm": [[3.0, 4.0, 0.4, 0], [1.0, 0, 1.2, 0]],
    "squared_norm": [[20.0, 64.0, 4.0, 0], [4.0, 0, 4.0, 0]],
    "reference_gate": [[2.0, 0.25, 1.0, 0], [2.0, 0, 1.0, 0]],
    "reference_gate_norm": [[6.0, 2.0, 1.0, 0], [2.0, 0, 3.0, 0]],
}
LARGEST = [[3.0, 5.0, 1.0, 0], [7.0, 0, 1.0, 0]]
SAMPLES = [[3.0, 2.0, 1.0, 0], [0.5, 2.5, 1.0, 0], [1.0, 0, 2.0, 0]]
"""Two samples of the first category, one of the second."""


def table() -> Statistics:
    layer: dict[str, Any] = {
        "tokens": np.array(TOKENS, np.int64),
        "largest": np.array(LARGEST, np.float32),
        "sample_norms": (np.array(SAMPLES) / SAMPLE_UNIT).astype(np.int64),
        "rerouted.pooled.scores": np.array([3.0, 1, 2, 0]),
        "rerouted.worst.scores": np.array([1.0, 3, 2, 0]),
        **{name: exact.limbs(np.array(values)) for name, values in SUMS.items()},
    }
    arrays = {f"layer.{n}.{name}": array for n in (2, 5) for name, array in layer.items()}
    samples = tuple(
        {"sha256": sha, "category": category, "source": "f", "tokens": 1}
        for sha, category in (("a", "code"), ("b", "code"), ("c", "prose"))
    )
    return Statistics(
        {**MODEL, "experts": 4},
        ("code", "prose"),
        {"code": 5, "prose": 4},
        0,
        (),
        samples,
        arrays,
        {**BUILT_IN, "sample_norms": "per_sample"},
    )


def score(
    statistics: Statistics,
    criterion: str | Criterion,
    settings: Settings = Settings(),  # noqa: B008
) -> dict[int, Any]:
    return score_by(statistics, find_criterion(criterion), settings)


BY_HAND = {
    "reap": [4.0 / 4, 4.0, 1.6 / 8, 0],
    "frequency": [4, 1, 8, 0],
    "ean_sum": [8, 8, 8, 0],
    "ean_mean": [2, 8, 1, 0],
    "weighted_ean_sum": [4, 4, 1.6, 0],
    "weighted_frequency": [1.6, 0.5, 0.8, 0],
    "max_activation": [7, 5, 1, 0],
    "msan": [6, 64, 1, 0],
    "rerouted": [3, 1, 2, 0],
}


@pytest.mark.parametrize("criterion", BY_HAND)
def test_a_criterion_equals_the_hand_count(criterion: str) -> None:
    found = score(table(), criterion)
    assert sorted(found) == [2, 5]
    assert found[2] == pytest.approx(BY_HAND[criterion])


def test_every_criterion_is_tested() -> None:
    assert {*BY_HAND, "contribution", "random"} == set(CRITERIA)
    assert set(AGGREGATIONS) == {"pooled", "mean-rank", "worst-category"}


def test_the_reference_gate_changes_what_has_a_gate() -> None:
    reference = Settings(gate="reference")
    assert score(table(), "reap", reference)[2] == pytest.approx([2, 2, 0.5, 0])
    assert score(table(), "weighted_frequency", reference)[2] == pytest.approx([4, 0.25, 2, 0])
    for without in ("ean_mean", "frequency", "contribution", "rerouted"):
        with pytest.raises(PlanError, match=f"'{without}' is not made of routing weights"):
            score(table(), without, reference)
    with pytest.raises(PlanError, match="routing_weight is 'open', expected true or reference"):
        score(table(), "reap", Settings(gate="open"))  # type: ignore[arg-type]


def test_contribution_counts_the_samples_that_protect() -> None:
    totals = np.array([4.5, 4.5, 4.0, 0])
    one = score(table(), "contribution", Settings(protect_per_sample=1))[2]
    assert one == pytest.approx(np.array([1, 1, 1, 0]) + totals / 5.5)
    two = score(table(), "contribution", Settings(protect_per_sample=2))[2]
    # The second of the third sample is expert 0; an expert that did nothing is never protected.
    assert two == pytest.approx(np.array([2, 2, 2, 0]) + totals / 5.5)
    all_of_them = score(table(), "contribution", Settings(protect_per_sample=16))[2]
    assert all_of_them == pytest.approx(np.array([3, 2, 3, 0]) + totals / 5.5)


def test_random_is_seeded_and_differs_by_layer() -> None:
    first, again = score(table(), "random"), score(table(), "random")
    assert all(np.array_equal(first[layer], again[layer]) for layer in (2, 5))
    assert sorted(first[2]) == [0, 1, 2, 3]
    seeds = [score(table(), "random", Settings(random_seed=seed)) for seed in range(8)]
    assert len({tuple(found[2]) for found in seeds}) > 1
    assert any(not np.array_equal(found[2], found[5]) for found in seeds)


def test_ranks_give_every_category_one_vote() -> None:
    # ean_mean: code [3, 8, 1, 0] ranks 3 4 2 1; prose [1, 0, 1, 0] ranks 3.5 1.5 3.5 1.5.
    found = score(table(), "ean_mean", Settings(aggregation="mean-rank"))[2]
    assert found == pytest.approx([3.25, 2.75, 2.75, 1.25])


def test_worst_category_keeps_what_any_category_needs() -> None:
    found = score(table(), "ean_mean", Settings(aggregation="worst-category"))[2]
    assert found == pytest.approx(
        [3.5 + 3.25 / 10, 4 + 2.75 / 10, 3.5 + 2.75 / 10, 1.5 + 1.25 / 10]
    )


def test_the_mean_rank_decides_between_equal_best_ranks_only() -> None:
    """Of 16 experts, 0 and 1 share the ranks 14 and 15 of one category and are last in the other;
    2 is 14th where the others were not, and good in both."""
    first = np.arange(16.0)
    first[[13, 14]] = 13.5  # equals: both have the rank 14.5
    second = np.arange(16.0)
    second[[13, 0]], second[[12, 15]] = second[[0, 13]], second[[15, 12]]
    columns = [first, second]
    combined = AGGREGATIONS["worst-category"].combine(lambda chosen: columns[chosen[0]], 2)
    best = np.maximum(rankdata(first), rankdata(second))
    assert all(
        combined[one] > combined[other]
        for one in range(16)
        for other in range(16)
        if best[one] > best[other]
    )


@pytest.mark.parametrize("wrong", [[np.nan, 1.0, 2.0, 3.0], [1.0, 2.0]])
def test_scores_that_are_no_numbers_are_refused(wrong: list[float]) -> None:
    mine = Formula("mine", "a user's own", ("tokens",), lambda _, __: np.array(wrong))
    with pytest.raises(PlanError, match="'mine' gives layer 2 scores of shape .*: correct its"):
        score(table(), mine)


def test_a_request_refuses_what_its_criterion_does_not_know_at_once() -> None:
    with pytest.raises(PlanError, match="'rerouted' knows the aggregations"):
        Pruning(experts=2, aggregation="mean-rank")
    with pytest.raises(PlanError, match="'frequency' is not made of routing weights"):
        Pruning(experts=2, criterion="frequency", routing_weight="reference")
    for criterion, odd in (("reap", {"random_seed": 1}), ("random", {"protect_per_sample": 4})):
        (name,) = odd
        with pytest.raises(
            PlanError, match=f"^{name} .--{name.replace('_', '-')}. decides nothing"
        ):
            Pruning(experts=2, criterion=criterion, **odd)
    assert Pruning(experts=2, criterion="random", random_seed=1).settings.random_seed == 1


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(PlanError, match="unknown criterion 'reep': choose one of rerouted, reap"):
        score(table(), "reep")
    with pytest.raises(PlanError, match="unknown aggregation 'mean': choose one of pooled, mean-"):
        check_aggregation("mean")


def test_rerouted_knows_its_own_aggregations() -> None:
    worst = score(table(), "rerouted", Settings(aggregation="worst-category"))[2]
    assert worst.tolist() == [1, 3, 2, 0]
    with pytest.raises(PlanError, match="'rerouted' knows the aggregations pooled, worst-category"):
        score(table(), "rerouted", Settings(aggregation="mean-rank"))


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "random"])
def test_a_lacking_sum_is_named_with_the_remedy(criterion: str) -> None:
    whole = table()
    lost = CRITERIA[criterion].sums[0]
    arrays = {name: array for name, array in whole.arrays.items() if not name.endswith(f".{lost}")}
    with pytest.raises(PlanError, match=f"lack '{lost}', which the criterion '{criterion}'"):
        score(replace(whole, arrays=arrays), criterion)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_criterion_reads_only_what_it_names(criterion: str) -> None:
    """Statistics with nothing but the named sums give the same scores."""
    whole, named = table(), CRITERIA[criterion].sums
    arrays = {
        name: array
        for name, array in whole.arrays.items()
        if name.split(".", 2)[2] in (*named, "tokens")
    }
    bare = score(replace(whole, arrays=arrays), criterion)
    assert all(np.array_equal(bare[layer], score(whole, criterion)[layer]) for layer in bare)
