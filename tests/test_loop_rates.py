"""Rates of degenerate replies: intervals that know of seeds, and a paired comparison."""

from __future__ import annotations

import pytest
from scipy import stats

from secateur.evaluation.intervals import wilson_interval
from secateur.evaluation.measurement import POOLED, Measurement
from secateur.evaluation.robustness.detectors.base import Exchange
from secateur.evaluation.robustness.rates import (
    JudgedReply,
    effective_count,
    loop_differences,
    loop_measurements,
)
from secateur.evaluation.robustness.verdict import judge

LOOP = judge(Exchange("Say it.", "We should look again. " * 30, finish="length"))
SOUND = judge(Exchange("Say it.", "It was the third door on the left that had been open."))
CUT = judge(Exchange("Say it.", "It was the third door on the", finish="length"))


def replies(loops: list[int], seeds: int, domain: str = "code") -> list[JudgedReply]:
    """A prompt for every number: so many of its replies loop."""
    return [
        JudgedReply(f"{domain}-{number}", domain, LOOP if seed < count else SOUND, 40)
        for number, count in enumerate(loops)
        for seed in range(seeds)
    ]


def number(found: tuple[Measurement, ...], name: str, domain: str = POOLED) -> Measurement:
    return next(one for one in found if (one.name, one.domain) == (name, domain))


@pytest.mark.parametrize(("hits", "count"), [(0, 3), (0, 300), (1, 3), (7, 900), (30, 30)])
def test_the_interval_is_wilsons(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    found = wilson_interval(hits / count, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_replies_to_one_prompt_count_for_as_much_as_they_differ() -> None:
    same, mixed = [[True] * 3] * 30 + [[False] * 3] * 30, [[True, False, False]] * 60
    assert effective_count(same) == pytest.approx(60, rel=0.02)  # seeds say nothing new
    assert effective_count(mixed) == 180  # prompts say nothing new
    assert effective_count([[False] * 3] * 300) == 300  # nothing is known of it
    assert effective_count([[True], [False], [False]]) == 3


def test_rates_add_up_and_a_cut_reply_is_no_loop() -> None:
    some = [*replies([3, 1, 0, 0], 3), JudgedReply("code-9", "code", CUT, 7),
            JudgedReply("code-9", "code", None)]  # fmt: skip
    found = loop_measurements(some)
    loop, cut = number(found, "loop_rate"), number(found, "truncated_rate")
    assert (loop.value, dict(loop.n)) == (4 / 13, {"replies": 13, "prompts": 5})
    assert cut.value == 1 / 13 and number(found, "degenerate_rate").value == loop.value
    assert loop.low is not None and loop.low < loop.value < (loop.high or 0)
    assert number(found, "repeated_suffix").value == loop.value
    assert number(found, "server_errors").value == 1
    assert number(found, "reply_tokens_median").value == 40


def test_domains_are_told_apart() -> None:
    some = replies([3, 3], 3) + replies([0, 0], 3, "prose")
    found = loop_measurements(some)
    assert [number(found, "loop_rate", of).value for of in ("code", "prose", POOLED)] == [1, 0, 0.5]


def test_an_artefact_that_loops_more_is_told_from_one_that_does_not() -> None:
    before, worse = replies([0] * 50 + [1] * 10, 3), replies([0] * 30 + [2] * 30, 3)
    found = loop_differences(before, worse)
    difference = number(found, "loop_rate_difference")
    assert difference.value == pytest.approx((60 - 10) / 180)
    assert difference.low is not None and difference.low > 0
    assert number(found, "loop_rate_difference_p_value").value < 0.001
    same = loop_differences(before, before)
    assert number(same, "loop_rate_difference").value == 0
    assert number(same, "loop_rate_difference_p_value").value == 1


def test_with_one_seed_the_test_is_mcnemars() -> None:
    before, after = replies([1] * 4 + [0] * 20, 1), replies([0] * 4 + [1] * 12 + [0] * 8, 1)
    found = number(loop_differences(before, after), "loop_rate_difference_p_value")
    assert found.value == pytest.approx(stats.binomtest(4, 16).pvalue)
    assert "McNemar" in found.unit


def test_prompts_that_a_server_failed_are_in_no_comparison() -> None:
    before = replies([1, 0, 0, 0, 0, 0], 2)
    after = [*before[:-1], JudgedReply(before[-1].prompt, "code", None)]
    assert number(loop_differences(before, after), "loop_rate_difference").n == {"prompts": 5}


def test_a_single_prompt_that_differs_proves_nothing() -> None:
    before, after = replies([0, 0, 0, 0, 0], 2), replies([2, 0, 0, 0, 0], 2)
    assert number(loop_differences(before, after), "loop_rate_difference_p_value").value == 1
