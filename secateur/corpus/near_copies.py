"""Which documents are nearly the same as one of a given few: by the runs of tokens they share.

A document is looked at as the set of its shingles, all runs of `LENGTH` tokens in it (Broder 1997,
"On the resemblance and containment of documents"). Two documents are near copies when half of the
smaller one's shingles are in the other. Shingles that many documents share (a system prompt, the
turns that a chat template writes) say nothing and do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LENGTH = 8
"""Tokens of a shingle."""
SHARED = 0.5
"""Share of the smaller document's shingles from which on two documents are near copies."""

_FACTORS = np.random.Generator(np.random.PCG64(8)).integers(1, 1 << 63, LENGTH, np.uint64) * 2 + 1


def find_near_copies(
    few: Sequence[NDArray[np.int64]], others: Sequence[NDArray[np.int64]]
) -> list[int | None]:
    """For each of `others` (token ids), the number of the one of `few` that it nearly is.

    None where it is no near copy. Memory: the shingles of `few`, and which of them each of
    `others` shares.
    """
    own = [_shingles(ids) for ids in few]
    known, places = np.unique(np.concatenate([*own, np.empty(0, np.uint64)]), return_inverse=True)
    owners = np.repeat(np.arange(len(own)), [len(one) for one in own])
    sizes, hits = [], []
    for ids in others:
        shingles = _shingles(ids)
        sizes.append(len(shingles))
        hits.append(_find(known, shingles))
    found_in = np.bincount(places, minlength=len(known))
    for hit in hits:
        found_in[hit] += 1
    rare = found_in < _too_many(len(few) + len(others))
    order = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(len(known) + 1))
    own_sizes = np.bincount(owners, weights=rare[places], minlength=len(own))
    matches: list[int | None] = []
    for size, hit in zip(sizes, hits, strict=True):
        shared = hit[rare[hit]]
        members = [owners[order[starts[place] : starts[place + 1]]] for place in shared]
        if not members:
            matches.append(None)
            continue
        common = np.bincount(np.concatenate(members), minlength=len(own))
        smaller = np.maximum(1, np.minimum(own_sizes, size - (len(hit) - len(shared))))
        best = int(np.argmax(common / smaller))
        matches.append(best if common[best] >= SHARED * smaller[best] else None)
    return matches


def _shingles(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The distinct shingles of a document as hashes, ascending; a shorter document is one."""
    padded = np.pad(ids, (0, max(0, LENGTH - len(ids))), constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded.astype(np.uint64), LENGTH)
    return np.unique(windows @ _FACTORS)


def _find(known: NDArray[np.uint64], shingles: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Places in `known`, ascending, of the shingles that are in it."""
    if not len(known):
        return np.empty(0, np.intp)
    places = np.minimum(np.searchsorted(known, shingles), len(known) - 1)
    found: NDArray[np.intp] = places[known[places] == shingles]
    return found


def _too_many(documents: int) -> float:
    """Documents that share a shingle from which on it is taken for part of a form."""
    return max(3.0, min(documents / 2, 10 + documents / 20))
