"""Two models on the same items: the statistics, against hand computation and known values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import RequestError
from secateur.evaluation.tasks.difference import difference_interval, score_interval
from secateur.evaluation.tasks.paired import (
    Flips,
    cohens_h,
    compare_paired,
    items_needed,
    mcnemar,
    possible_pairings,
    wilson,
)


def answers(right: str) -> dict[str, list[float]]:
    """One item a character: 1 is right."""
    return {f"q{number:03}": [float(mark)] for number, mark in enumerate(right)}


def test_flips_are_counted_both_ways() -> None:
    found = compare_paired("t", answers("1101000111"), answers("1010000110"))
    assert found.flips == Flips(kept=3, lost=3, gained=1, missed=3)
    assert found.difference.value == pytest.approx(-0.2)
    assert found.before.value == pytest.approx(0.6)
    assert found.test == "exact McNemar"
    assert found.p_value == pytest.approx(2 * (1 + 4) / 16)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [(8, 5, 0.58105), (3, 0, 0.25), (0, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125)],
)
def test_mcnemar_is_the_exact_one(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(p, abs=1e-5)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_an_interval_of_a_difference_holds_0_exactly_where_the_test_does_not_reject() -> None:
    for items, step in ((5, 1), (40, 4)):
        for lost in range(0, items + 1, step):
            for gained in range(0, items + 1 - lost, step):
                value, low, high = difference_interval(lost, gained, items)
                assert low is not None and high is not None
                assert -1 <= low <= value <= high <= 1
                assert (low <= 0 <= high) == (mcnemar(lost, gained) > 0.05)
    # Fagerland, Lydersen & Laake 2014, table 4: Tango's interval of the airways of 21 children.
    assert score_interval(7, 1, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert difference_interval(0, 3, 4) == (0.75, None, None)


def test_equal_answers_to_few_items_are_no_proof_that_two_models_are_equal() -> None:
    once = compare_paired("t", answers("110100011101"), answers("110100011101")).difference
    often = {f"q{i}": [1.0, 1.0, 0.0] for i in range(12)}
    several = compare_paired("t", often, often).difference
    assert once == several
    assert once.high == pytest.approx(-once.low) == pytest.approx(0.2425, abs=1e-4)  # type: ignore[operator]
    weighed = {item: 2.0 if number < 4 else 0.5 for number, item in enumerate(often)}
    apart = compare_paired("t", often, often, weights=weighed).difference
    assert apart.high is not None and apart.high > 0.2425  # a few items count most
    more = {**often, "q3": [1.0, 1.0, 1.0]}
    moved = compare_paired("t", often, more).difference
    assert moved.low < 0 < moved.value < several.high < moved.high  # type: ignore[operator]


@pytest.mark.slow
def test_an_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    """Simulated: 60 prompts of three dependent replies each, of which few are loops."""
    rng, covered, runs = np.random.default_rng(1), 0, 150
    for _ in range(runs):
        before, after = (
            {f"p{i}": list((rng.random(3) < share[i]).astype(float)) for i in range(60)}
            for share in (rng.beta(0.1, 1.9, 60), rng.beta(0.1, 1.9, 60))
        )
        low, high = compare_paired("t", before, after).difference[1:]
        covered += low <= 0 <= high  # type: ignore[operator]
    assert covered / runs >= 0.94


def test_items_needed_are_those_of_the_formula() -> None:
    assert items_needed(0.10, 0.015) == 3487
    assert items_needed(0.10, 0.05) == 312
    assert items_needed(0.10, -0.05) == 312
    assert items_needed(0.2, 0) is None
    assert items_needed(0.0, 0.1) == items_needed(0.1, 0.1)  # a difference flips at least itself


def test_so_many_items_as_needed_do_show_the_difference() -> None:
    """Simulated: with `items_needed` items about 80 % of the runs have p below 5 %."""
    needed = items_needed(0.2, 0.1)
    assert needed is not None
    drawn = np.random.default_rng(0).multinomial(needed, [0.15, 0.05, 0.8], size=600)
    seen = np.mean([mcnemar(int(lost), int(gained)) <= 0.05 for lost, gained, _ in drawn])
    assert 0.70 < seen < 0.86  # the exact test is a little more careful than the formula


def test_wilson_is_defined_at_the_ends() -> None:
    low = wilson(0, 3)
    assert (low.value, low.low) == (0, 0)
    assert low.high == pytest.approx(0.5615, abs=1e-4)
    assert wilson(3, 3).low == pytest.approx(1 - 0.5615, abs=1e-4)
    with pytest.raises(RequestError, match="no item"):
        wilson(0, 0)


def test_the_effect_size_is_cohens_h() -> None:
    assert cohens_h(0.25, 0.75) == pytest.approx(math.pi / 3)
    assert cohens_h(0.9, 0.9) == 0
    assert cohens_h(1.0, 0.0) == pytest.approx(-math.pi)


@settings(max_examples=30)
@given(st.integers(1, 40).flatmap(lambda n: st.tuples(*[st.integers(0, n)] * 2, st.just(n))))
def test_pairings_bound_every_p(counts: tuple[int, int, int]) -> None:
    before, after, items = counts
    pairing = possible_pairings(before, after, items)
    for flips in pairing:
        assert min(flips) >= 0
        assert flips.items == items
        assert flips.kept + flips.lost == before
        assert flips.kept + flips.gained == after
    ps = [
        mcnemar(before - both, after - both)
        for both in range(max(0, before + after - items), min(before, after) + 1)
    ]
    assert min(ps) == pytest.approx(mcnemar(pairing.best.lost, pairing.best.gained))
    assert max(ps) == pytest.approx(mcnemar(pairing.worst.lost, pairing.worst.gained))


def test_a_cards_case_cannot_be_seen() -> None:
    pairing = possible_pairings(162, 159, 198)
    assert pairing.best == Flips(159, 3, 0, 36)
    assert mcnemar(pairing.best.lost, pairing.best.gained) == 0.25
    with pytest.raises(RequestError, match="cannot be"):
        possible_pairings(5, 3, 4)


def test_answers_to_one_item_widen_the_interval_and_change_the_test() -> None:
    """Ten alike answers to each of 20 items are 20 items, not 200."""
    rng = np.random.default_rng(3)
    before = rng.random(20) < 0.8
    after = before & (rng.random(20) < 0.7)
    copies = {f"i{i}-{c}": [float(before[i])] for i in range(20) for c in range(10)}
    others = {f"i{i}-{c}": [float(after[i])] for i in range(20) for c in range(10)}
    alone = compare_paired("t", copies, others)
    together = compare_paired(
        "t",
        {f"i{i}": [float(before[i])] * 10 for i in range(20)},
        {f"i{i}": [float(after[i])] * 10 for i in range(20)},
    )
    assert together.difference.value == pytest.approx(alone.difference.value)
    width = [found.difference.high - found.difference.low for found in (alone, together)]  # type: ignore[operator]
    assert width[1] > 2.5 * width[0]
    assert together.test.startswith("permutation")
    lost = int(np.sum(before & ~after))
    assert together.p_value == pytest.approx(mcnemar(lost, 0), rel=0.2)
    assert alone.p_value < 1e-6 < together.p_value


def test_several_answers_an_item_are_one_item() -> None:
    before = {f"q{i}": [1.0, 1.0, 0.0] for i in range(12)}
    after = {f"q{i}": [1.0, 0.0, 0.0] for i in range(12)}
    found = compare_paired("t", before, after)
    assert found.flips == Flips(0, 12, 0, 0)
    assert found.difference.value == pytest.approx(-1 / 3)
    assert found.p_value == pytest.approx(2 / 2**12, rel=0.01)


def test_one_item_that_moved_shows_nothing() -> None:
    before = {f"q{i}": [1.0, 1.0] for i in range(8)}
    assert compare_paired("t", before, {**before, "q3": [1.0, 0.0]}).p_value == 1.0
    assert compare_paired("t", before, before).p_value == 1.0


def test_the_order_of_items_does_not_matter_and_a_seed_repeats() -> None:
    before, after = answers("110100011101"), answers("101000011001")
    turned = dict(reversed(before.items()))
    first = compare_paired("t", before, after, seed=5)
    assert first == compare_paired("t", turned, after, seed=5)


def test_equal_models_are_equal() -> None:
    found = compare_paired("t", answers("1" * 30), answers("1" * 30))
    assert (found.p_value, found.effect, found.needed, found.stands) == (1.0, 0.0, None, False)
    assert "needed" not in {entry.name for entry in found.measurements()}


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(RequestError, match="an answer of the first model only: 1, of the second"):
        compare_paired("t", answers("111"), answers("11"))
    with pytest.raises(RequestError, match="no item"):
        compare_paired("t", {}, {})
    with pytest.raises(RequestError, match="2 answers of the first model and 1 of the second"):
        compare_paired("t", {"a": [1, 0]}, {"a": [1]})
    with pytest.raises(RequestError, match="outside 0 to 1"):
        compare_paired("t", {"a": [2.0]}, {"a": [1]})


def test_measurements_and_the_line_say_the_same() -> None:
    found = compare_paired("words", answers("1" * 40 + "0" * 10), answers("1" * 30 + "0" * 20))
    numbers = {entry.name: entry for entry in found.measurements()}
    difference = numbers["accuracy_difference"]
    assert difference.value == pytest.approx(-0.2)
    assert difference.low is not None
    assert difference.low < -0.2 < difference.high  # type: ignore[operator]
    assert {entry.domain for entry in numbers.values()} == {"words"}
    assert {entry.kind for entry in numbers.values()} == {"tasks"}
    assert dict(difference.n) == {"items": 50}
    assert numbers["flips_lost"].value == 10
    assert numbers["items_needed"].value == found.needed
    line = found.describe()
    assert "-20.0 points" in line
    assert "10 lost, 0 gained of 50" in line
    assert f"{found.needed} items would show" in line


def test_the_verdicts_on_published_differences_are_those_of_the_benchmark() -> None:
    import claims_statistics

    made = json.loads(Path(claims_statistics.__file__).with_suffix(".json").read_text())
    for one, kept in zip(claims_statistics.differences(), made["differences"], strict=True):
        found = claims_statistics.judge(one)
        assert {name: kept[name] for name in found} == json.loads(json.dumps(found))
    stand = {one["what"] for one in made["differences"] if one["verdict"] == "stands"}
    assert stand == {
        "world religions, 20 % dropped", "world religions, 30 % dropped",
        "philosophy, 30 % dropped",
    }  # fmt: skip
    assert set(made["verdicts"]["001"]) == {"cannot stand", "open"}


def test_rates_of_unequal_questions_stay_between_0_and_1() -> None:
    """Of a group in which every task counts the same: 3 of its questions count as much as 57."""
    right = answers("1" * 60)
    weights = {item: 10.0 if number < 3 else 30 / 57 for number, item in enumerate(right)}
    few = compare_paired("t", right, {**right, "q000": [0.0]}, weights=weights)
    assert few.before.value == 1.0 and few.before.high == 1.0  # type: ignore[comparison-overlap]
    assert few.before.low is not None and few.before.low < 0.75  # some 12 questions are not 60
    assert few.after.value == pytest.approx(5 / 6)
    assert few.after.high is not None and few.after.high <= 1
    assert math.isfinite(few.effect)


def test_an_effect_size_bears_the_rounding_of_weights() -> None:
    for many in range(7, 200, 3):
        right = answers("1" * many)
        weights = {
            item: many / 3 / (2 if number < 2 else 3 if number < 5 else many - 5)
            for number, item in enumerate(right)
        }
        assert compare_paired("t", right, right, weights=weights).effect == 0
