"""A sample of tokens that merges: the tokens of the smallest hashes of their content.

A token is its document's content, its place in it, and which copy or piece of that document it
is in. Per category the tokens with the smallest hashes are taken, so the sample of a whole corpus
is the union of its parts' samples, cut again: the same however the text was divided, and in any
order (a bottom-k sketch).

Shapes: S tokens of the sample.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

REROUTE_TOKENS = 16384
"""Tokens sampled per layer for the criterion `rerouted`, shared evenly by the categories."""

GRAM_TOKENS = 131072
"""Tokens whose inputs are added to Gram matrices (what the experts' down projections see apart)."""


class TokenKeys(NamedTuple):
    """What identifies the tokens of a sample, all [S], in the order of these columns."""

    category: NDArray[np.int16]
    hash: NDArray[np.uint64]
    document: NDArray[np.uint64]
    place: NDArray[np.int32]
    """position in the piece of the document that is run"""

    def take(self, chosen: NDArray[np.int64]) -> TokenKeys:
        """The tokens of some rows, in their order."""
        return TokenKeys(
            self.category[chosen], self.hash[chosen], self.document[chosen], self.place[chosen]
        )


def document_key(sha256: str, copy: int, seed: int) -> np.uint64:
    """The key of a copy or piece of a document; `copy` counts from 0 those of equal content."""
    digest = hashlib.sha256(f"{seed} {sha256} {copy}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def hash_places(document: np.uint64, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 [n]: the hashes of a document's tokens (the finaliser of SplitMix64)."""
    mixed = np.full(len(places), document, np.uint64)
    mixed += (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def smallest(keys: TokenKeys, share: int) -> NDArray[np.int64]:
    """The rows of the `share` smallest hashes of every category, in the order of a sample."""
    order = np.lexsort((keys.place, keys.document, keys.hash, keys.category))
    category = keys.category[order]
    first = np.searchsorted(category, category, side="left")
    return np.asarray(order[np.arange(len(order)) - first < share], np.int64)


def share_of(tokens: int, categories: int) -> int:
    """How many tokens every category gives to a sample of `tokens`."""
    return -(-tokens // max(1, categories))


def join_keys(parts: list[TokenKeys]) -> TokenKeys:
    """The tokens of all parts, one after the other."""
    return TokenKeys(
        np.concatenate([part.category for part in parts]),
        np.concatenate([part.hash for part in parts]),
        np.concatenate([part.document for part in parts]),
        np.concatenate([part.place for part in parts]),
    )


def no_keys() -> TokenKeys:
    """The keys of an empty sample."""
    hashes = np.zeros(0, np.uint64)
    return TokenKeys(np.zeros(0, np.int16), hashes, hashes, np.zeros(0, np.int32))
