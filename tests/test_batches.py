"""Documents to micro-batches, and token-expert assignments to work items."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secateur.calibration.shards import Shard, take_groups
from secateur.forward.batches import (
    ON_CPU,
    ON_DEVICE,
    Group,
    Line,
    batch_documents,
    group_micro_batches,
    make_micro_batches,
)
from secateur.forward.expert_work import split_work


class Documents(NamedTuple):
    """A row of documents, one after the other; token t of a row has the id t + 1."""

    documents: NDArray[np.int32]

    @property
    def input_ids(self) -> NDArray[np.int64]:
        return np.arange(1, len(self.documents) + 1)


def row(lengths: list[int]) -> Documents:
    return Documents(np.repeat(np.arange(len(lengths)), lengths).astype(np.int32))


def cost(lengths: list[int], cuts: tuple[int, ...]) -> int:
    """Tokens with padding, and the overhead of each part, of falling lengths cut at `cuts`."""
    return sum(
        lengths[a] * (b - a) + ON_CPU.overhead
        for a, b in itertools.pairwise((0, *cuts, len(lengths)))
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(100, 900))
def test_no_other_cut_takes_fewer_tokens(lengths: list[int], tokens: int) -> None:
    ordered = sorted(lengths, reverse=True)
    found = batch_documents([row(lengths)], tokens)
    sizes = [batch.input_ids.shape for batch in found]
    assert sum(count for count, _ in sizes) == len(lengths)
    assert all(count * length <= tokens for count, length in sizes if count > 1)
    best = min(
        cost(ordered, cuts)
        for parts in range(len(ordered))
        for cuts in itertools.combinations(range(1, len(ordered)), parts)
        if all(
            b - a == 1 or ordered[a] * (b - a) <= tokens
            for a, b in itertools.pairwise((0, *cuts, len(ordered)))
        )
    )
    assert sum(count * length + ON_CPU.overhead for count, length in sizes) == best


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=6), min_size=1, max_size=6))
def test_every_token_is_in_one_place_and_groups_are_bounded(lengths: list[list[int]]) -> None:
    rows = [row(part) for part in lengths]
    found = make_micro_batches(rows, 1024)
    seen = [
        (line.row, int(token))
        for batch in found
        for line, ids, mask in zip(batch.lines, batch.input_ids, batch.mask, strict=True)
        for token in ids[mask]
    ]
    assert sorted(seen) == [(n, t + 1) for n, one in enumerate(rows) for t in range(len(one[0]))]
    assert [batch.index for batch in found] == list(range(len(found)))
    together = group_micro_batches(found)
    assert [batch for group in together for batch in group] == list(found)
    for group in together:
        assert len(group) == 1 or sum(b.input_ids.numel() for b in group) <= ON_CPU.group


@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_part_has_the_same_documents_whatever_fits_on_a_device(part: int) -> None:
    size = replace(ON_DEVICE, most=1000, least=1000)
    rows = [row([(37 * n) % 190 + 10 for n in range(60)])]
    groups = group_micro_batches(make_micro_batches(rows, 64, size), size)
    plain, _ = take_groups(groups, Shard(part, 3))
    small, others = take_groups(groups, Shard(part, 3), 300)
    assert lines_of(small) == lines_of(plain) and len(small) > len(plain)
    assert lines_of((*small, *others)) == lines_of(groups)
    for (batch,) in small:
        assert batch.input_ids.numel() <= 300 or len(batch.lines) == 1
        for line, ids, mask in zip(batch.lines, batch.input_ids, batch.mask, strict=True):
            assert ids[mask].tolist() == list(range(line.start + 1, line.stop + 1))
    numbers = [batch.index for group in (*small, *others) for batch in group]
    assert numbers == list(range(len(numbers)))


def lines_of(groups: Sequence[Group]) -> list[Line]:
    return sorted(line for group in groups for batch in group for line in batch.lines)


def test_narrow_models_have_longer_micro_batches() -> None:
    rows = [row([200] * 200)]
    wide, narrow = (
        max(batch.input_ids.numel() for batch in make_micro_batches(rows, hidden))
        for hidden in (2816, 256)
    )
    assert wide <= ON_CPU.most
    assert ON_CPU.most < narrow <= 2 * ON_CPU.most


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 50), st.integers(1, 6))
def test_items_hold_every_assignment_once_within_bounds(
    counts: list[int], rows: int, together: int
) -> None:
    items = split_work(counts, rows, together)
    assert [expert for item in items for expert in item.experts] == list(np.flatnonzero(counts))
    place = 0
    done: dict[int, int] = {}
    for item in items:
        assert len(item.experts) <= together
        assert len(item.experts) == 1 or len(item.tiles) == 1
        for first, sizes in item.tiles:
            assert first == place
            assert 0 < sum(sizes) <= rows
            assert len(sizes) == len(item.experts)
            for expert, size in zip(item.experts, sizes, strict=True):
                done[expert] = done.get(expert, 0) + size
            place += sum(sizes)
    assert done == {expert: count for expert, count in enumerate(counts) if count}
