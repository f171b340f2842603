"""Coverage: which experts saw too few tokens, and how many more would do."""

from __future__ import annotations

import numpy as np
from test_statistics import MODEL

from secateur.statistics.coverage import LEAST, UnderSampled, coverage
from secateur.statistics.statistics import Statistics


def seen(*layers: list[list[int]], tokens: int = 1000) -> Statistics:
    """Counts [C, E] of layers 1, 2, ..."""
    arrays = {}
    for number, counts in enumerate(layers, start=1):
        arrays[f"layer.{number}.tokens"] = np.array(counts, np.int64)
    names = ("code", "prose")[: len(layers[0])]
    each = {name: tokens // len(names) for name in names}
    return Statistics(MODEL, names, each, 0, (), (), arrays)


def test_enough_tokens_for_all_is_one_sentence() -> None:
    found = coverage(seen([[40, 32, 99, 50]]))
    assert found.under_sampled == ()
    assert (found.tokens, found.wanted, found.experts, found.more) == (1000, LEAST, 4, 0)
    assert found.sentences() == ["all 4 experts saw at least 32 of 1000 tokens"]


def test_categories_are_counted_together_and_the_worst_comes_first() -> None:
    found = coverage(seen([[16, 8, 99, 50], [16, 8, 0, 0]], [[0, 40, 40, 20], [0, 40, 40, 0]]))
    assert found.under_sampled == (
        UnderSampled(2, 0, 0),
        UnderSampled(1, 1, 16),
        UnderSampled(2, 3, 20),
    )
    assert found.experts == 8
    assert found.unseen == 1
    # 16 of 1000 tokens: twice as many give 32.
    assert found.more == 1000
    first, more, unseen = found.sentences()
    assert "3 of 8 experts saw fewer than 32" in first
    assert "layer 2 expert 0 (0), layer 1 expert 1 (16)" in first
    assert "about 1000 more tokens" in more
    assert "1 saw none at all" in unseen


def test_the_wanted_number_is_a_choice() -> None:
    assert coverage(seen([[1, 2, 3, 4]]), wanted=1).under_sampled == ()
    assert len(coverage(seen([[1, 2, 3, 4]]), wanted=4).under_sampled) == 3
    assert coverage(seen([[3, 9, 9, 9]], tokens=10), wanted=4).more == 4  # 40/3, rounded up


def test_many_under_sampled_experts_are_shortened() -> None:
    found = coverage(seen(*[[[0, 0, 0, 0]]] * 3))
    assert len(found.under_sampled) == 12
    assert found.more == 0
    assert found.sentences()[0].endswith(", ...")
    assert len(found.sentences()) == 2
