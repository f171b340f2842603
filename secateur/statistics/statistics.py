"""What a calibration run knows: named sums per layer, category and expert, and imatrix sums.

Sums, never means, and exact ones (statistics.exact): shards, domains and machines merge to the
same bytes in any order. Shapes: C categories, E experts, S samples (documents).

The arrays by name, as `statistics.file` stores them:

    layer.{l}.{sum}                   one of `Statistics.sums`; shapes in statistics.sums
    layer.{l}.rerouted.{o}.scores     float64 [E]         order of removal for an objective, and the
    layer.{l}.rerouted.{o}.errors     float64 [E + 1]     error with so many experts kept, over all
    layer.{l}.rerouted.{o}.errors_by_category             tokens and float64 [E + 1, C] per category
                                                          (calibration.removal_search)
    imatrix.{name}.sums               int64 [2, M, N]     exact sums of squared inputs, M matrices
                                                          of N inputs
    imatrix.{name}.tokens             int64 [M]           tokens behind them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.statistics import exact
from secateur.statistics.sums import BUILT_IN, Array, Kind, value_of

VERSION = 3
"""Of the file; raised whenever an older reader would misread a newer file."""


@dataclass(frozen=True)
class Statistics:
    """The result of observing a model on a corpus.

    `model` names the checkpoint (source, revision, identity, layers, experts, top_k);
    `corpora` describes every corpus merged in, sorted by hash; `samples` lists source, category,
    sha256 and tokens of each document, sorted by `sample_key`, and gives sums of the kind
    `per_sample` their rows. `sums` gives the kind of every named sum. `shards` lists the parts
    that are there of corpora of which not all is: (sha256 of the corpus, part, parts in all).
    `devices` are the kinds of machine that computed them, sorted (forward.backends): sums of one
    kind are those of a single pass to the bit, however the corpus was divided.
    """

    model: Mapping[str, Any]
    categories: tuple[str, ...]
    tokens: Mapping[str, int]
    skipped: int
    corpora: tuple[Mapping[str, Any], ...]
    samples: tuple[Mapping[str, Any], ...]
    arrays: Mapping[str, Array] = field(repr=False)
    sums: Mapping[str, Kind] = field(default_factory=lambda: BUILT_IN)
    shards: tuple[tuple[str, int, int], ...] = ()
    devices: tuple[str, ...] = ("cpu",)

    @property
    def layers(self) -> tuple[int, ...]:
        """The MoE layers, ascending."""
        names = (name.split(".") for name in self.arrays if name.startswith("layer."))
        return tuple(sorted(int(parts[1]) for parts in names if parts[2:] == ["tokens"]))

    @property
    def experts(self) -> int:
        """Experts per MoE layer."""
        return int(self.model["experts"])

    @property
    def top_k(self) -> int:
        """Experts chosen per token."""
        return int(self.model["top_k"])

    def has(self, name: str) -> bool:
        """True when every MoE layer has an array `name`: a sum, or part of a solution."""
        layers = self.layers
        return bool(layers) and all(array_name(layer, name) in self.arrays for layer in layers)

    def array(self, layer: int, name: str) -> NDArray[np.float64]:
        """A layer's array by name, in float64: sums [C, E], per_sample [S, E], others as stored."""
        array = self.arrays[array_name(layer, name)]
        kind = self.sums.get(name)
        return np.asarray(array, np.float64) if kind is None else value_of(kind, array)

    def count(self, layer: int) -> NDArray[np.int64]:
        """int64 [C, E]: tokens that each expert worked on."""
        return self.arrays[array_name(layer, "tokens")]

    def importance(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """{running name: (squared inputs float64 [M, N], tokens int64 [M])}."""
        names = [n.removesuffix(".sums") for n in self.arrays if n.startswith("imatrix.")]
        return {
            name.removeprefix("imatrix."): (
                exact.value(self.arrays[f"{name}.sums"]),
                self.arrays[f"{name}.tokens"],
            )
            for name in names
            if f"{name}.sums" in self.arrays
        }

    def header(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON."""
        return {
            "version": VERSION,
            "model": dict(self.model),
            "categories": list(self.categories),
            "tokens": dict(self.tokens),
            "skipped": self.skipped,
            "corpora": [dict(corpus) for corpus in self.corpora],
            "samples": [dict(sample) for sample in self.samples],
            "sums": dict(self.sums),
            "shards": [list(shard) for shard in self.shards],
            "devices": list(self.devices),
        }


def array_name(layer: int, name: str) -> str:
    """The full name of a layer's array."""
    return f"layer.{layer}.{name}"


def sample_key(sample: Mapping[str, Any]) -> tuple[str, str]:
    """What makes two documents the same sample: their content and their category."""
    return str(sample["sha256"]), str(sample["category"])
