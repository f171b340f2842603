"""Statistics of several runs as one: exact, to the same bytes in any order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secateur.errors import StatisticsError
from secateur.statistics.statistics import Statistics, sample_key
from secateur.statistics.sums import Array, Kind, combine

IMATRIX = "imatrix."
NAMED_AT_MOST = 5
"""Documents that an error names."""


def merge(left: Statistics, right: Statistics) -> Statistics:
    """Both runs as one. Associative and commutative to the bit.

    The solutions of `rerouted` are no sums and are left out: they are solved again from the
    token samples (calibration.merging). So are sums that only one of the two has.
    Raises StatisticsError when the two are of different models, or share text.
    """
    if left.model["identity"] != right.model["identity"]:
        raise StatisticsError(
            f"cannot merge statistics of {left.model['source']} and {right.model['source']}: "
            "they were made on different models"
        )
    refuse_overlap(left, right)
    categories = tuple(sorted({*left.categories, *right.categories}))
    samples = _merge_samples(left.samples, right.samples)
    rows = {sample_key(sample): row for row, sample in enumerate(samples)}
    sums = {name: kind for name, kind in left.sums.items() if right.sums.get(name) == kind}
    arrays: dict[str, Array] = {}
    for part in (left, right):
        for name, array in part.arrays.items():
            kind = _kind_of(name, sums)
            if kind is None:
                continue
            spread = (
                array if name.startswith(IMATRIX) else _spread(array, kind, part, categories, rows)
            )
            arrays[name] = combine(kind, arrays[name], spread) if name in arrays else spread
    corpora = {json.dumps(corpus, sort_keys=True): corpus for corpus in left.corpora}
    corpora.update({json.dumps(corpus, sort_keys=True): corpus for corpus in right.corpora})
    return Statistics(
        # The same weights may lie in two places; either name would do, if it is always the same.
        model=min(left.model, right.model, key=lambda model: json.dumps(model, sort_keys=True)),
        categories=categories,
        tokens={c: left.tokens.get(c, 0) + right.tokens.get(c, 0) for c in categories},
        skipped=left.skipped + right.skipped,
        corpora=tuple(corpora[key] for key in sorted(corpora)),
        samples=samples,
        arrays={name: arrays[name] for name in sorted(arrays)},
        sums={name: sums[name] for name in sorted(sums)},
        shards=_incomplete((*left.shards, *right.shards)),
        devices=tuple(sorted({*left.devices, *right.devices})),
    )


def refuse_overlap(left: Statistics, right: Statistics) -> None:
    """Raise StatisticsError when text of one is in the other as well, and would count twice.

    Two different parts of one corpus may share a document: its pieces, or copies of it, may lie
    in both, and each is still counted once.
    """
    ours, theirs = _parts_by_corpus(left), _parts_by_corpus(right)
    for sha in sorted(set(ours) & set(theirs)):
        if not ours[sha] or not theirs[sha]:
            raise StatisticsError(f"both hold the corpus {_describe_corpus(left, sha)}: {_TWICE}")
        if twice := sorted(ours[sha] & theirs[sha]):
            part, parts = twice[0]
            raise StatisticsError(
                f"both hold part {part} of {parts} of the corpus {_describe_corpus(left, sha)}: "
                f"{_TWICE}"
            )
        if len({parts for _, parts in ours[sha] | theirs[sha]}) > 1:
            raise StatisticsError(
                f"the corpus {_describe_corpus(left, sha)} was cut into "
                f"{' and '.join(sorted({str(n) for _, n in ours[sha] | theirs[sha]}))} parts, "
                "which overlap: merge parts of one cut"
            )
    if set(ours) & set(theirs):
        return
    known = {sample_key(sample) for sample in left.samples}
    if shared := [sample for sample in right.samples if sample_key(sample) in known]:
        named = ", ".join(
            f"{sample['sha256'][:12]} ({sample['source']})" for sample in shared[:NAMED_AT_MOST]
        )
        more = ", ..." if len(shared) > NAMED_AT_MOST else ""
        raise StatisticsError(
            f"{len(shared)} of {len(right.samples)} documents are in both, and would count twice: "
            f"{named}{more}: leave them out of one corpus and calibrate on it again"
        )


_TWICE = "merged, its tokens would count twice: name every file once"


def _parts_by_corpus(statistics: Statistics) -> dict[str, set[tuple[int, int]]]:
    """{sha256 of a corpus: the (part, parts) that are there, empty when all are}."""
    found: dict[str, set[tuple[int, int]]] = {
        str(corpus["sha256"]): set() for corpus in statistics.corpora if "sha256" in corpus
    }
    for sha, part, parts in statistics.shards:
        found.setdefault(sha, set()).add((part, parts))
    return found


def _describe_corpus(statistics: Statistics, sha: str) -> str:
    for corpus in statistics.corpora:
        if corpus.get("sha256") == sha:
            name = corpus.get("mix") or corpus.get("rows_file")
            return f"{name} ({sha[:12]})" if name else sha[:12]
    return sha[:12]


def _incomplete(shards: Sequence[tuple[str, int, int]]) -> tuple[tuple[str, int, int], ...]:
    """The parts, without those of corpora of which all parts are there."""
    have: dict[tuple[str, int], int] = {}
    for sha, _, parts in shards:
        have[sha, parts] = have.get((sha, parts), 0) + 1
    return tuple(sorted(shard for shard in shards if have[shard[0], shard[2]] < shard[2]))


def _kind_of(name: str, sums: Mapping[str, Kind]) -> Kind | None:
    """How an array is combined, by its full name; None for one that is left out."""
    if name.startswith(IMATRIX):
        return "sum" if name.endswith(".sums") else "count"
    return sums.get(name.split(".", 2)[2])


def _merge_samples(
    left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    together: dict[tuple[str, str], dict[str, Any]] = {}
    for sample in (*left, *right):
        known = together.setdefault(sample_key(sample), {**sample, "tokens": 0})
        known["tokens"] += sample["tokens"]
        known["source"] = min(known["source"], sample["source"])
    return tuple(together[key] for key in sorted(together))


def _spread(
    array: Array,
    kind: Kind,
    part: Statistics,
    categories: Sequence[str],
    rows: Mapping[tuple[str, str], int],
) -> Array:
    """The part's array with its categories or samples at the places they have in the whole."""
    if kind == "per_sample":
        size, places = len(rows), [rows[sample_key(sample)] for sample in part.samples]
    else:
        size, places = len(categories), [categories.index(name) for name in part.categories]
    axis = array.ndim - 2
    shape = list(array.shape)
    shape[axis] = size
    spread = np.zeros(shape, array.dtype)
    index: list[Any] = [slice(None)] * array.ndim
    index[axis] = places
    spread[tuple(index)] = array
    return spread
