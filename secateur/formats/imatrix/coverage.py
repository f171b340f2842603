"""How well an importance matrix covers the experts: which had no data, and which had little.

llama-quantize says nothing of an expert without data and weighs all its columns the same, which
ruins the smallest types; so look before using a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.formats.imatrix.matrix import Imatrix, find_layer
from secateur.system.sizes import show_count

_SHOWN = 8
"""Experts that a sentence names before it says '...'."""


@dataclass(frozen=True)
class LayerCoverage:
    """One layer's experts: the tokens of the least and the middle one, the experts without data,
    and those with some but fewer than wanted."""

    layer: int
    experts: int
    least: int
    median: int
    unseen: tuple[int, ...]
    few: tuple[int, ...]


@dataclass(frozen=True)
class ImatrixCoverage:
    """What an importance matrix knows. `wanted` is in tokens per expert.

    A matrix from a .dat is not `counted`: it has lost the tokens of single experts, so that
    only those without any data are known, and `tokens` are its chunks.
    """

    datasets: tuple[str, ...]
    entries: int
    tokens: int
    counted: bool
    wanted: int
    layers: tuple[LayerCoverage, ...]

    @property
    def unseen(self) -> tuple[tuple[int, int], ...]:
        """(layer, expert) of the experts without data."""
        return tuple((row.layer, expert) for row in self.layers for expert in row.unseen)

    @property
    def few(self) -> tuple[tuple[int, int], ...]:
        """(layer, expert) of the experts with some data, but fewer tokens than wanted."""
        return tuple((row.layer, expert) for row in self.layers for expert in row.few)

    def sentences(self) -> list[str]:
        """The report for a person."""
        unit = "tokens" if self.counted else "chunks"
        lines = [
            f"{show_count(self.entries, 'entry', 'entries')} of {self.tokens:,} {unit} "
            f"({', '.join(self.datasets)})"
        ]
        for row in self.layers:
            counts = f", tokens: least {row.least}, median {row.median}" if self.counted else ""
            lines.append(
                f"layer {row.layer}: {row.experts} experts{counts}"
                + (f", without data: {list_numbers(row.unseen)}" if row.unseen else "")
                + (f", below {self.wanted}: {list_numbers(row.few)}" if row.few else "")
            )
        total = sum(row.experts for row in self.layers)
        if self.unseen:
            lines.append(
                f"{len(self.unseen)} of {total} experts have no data: {list_experts(self.unseen)}"
            )
        if self.few:
            lines.append(
                f"{len(self.few)} of {total} experts have fewer than {self.wanted} tokens: "
                f"{list_experts(self.few)}"
            )
        if not (self.unseen or self.few) and self.layers:
            what = f"at least {show_count(self.wanted, 'token')}" if self.counted else "some data"
            lines.append(f"all {total} experts have {what}")
        if not self.counted:
            lines.append("the .dat form has lost the tokens of single experts")
        return lines


def measure_coverage(imatrix: Imatrix, wanted: int) -> ImatrixCoverage:
    """Judge a matrix whose stacks are split into experts (`file.open_imatrix`)."""
    counted = imatrix.chunk_size > 0
    layers = []
    for layer, counts in count_expert_tokens(imatrix).items():
        few = (counts < wanted) & (counts > 0) if counted else np.zeros(counts.shape, np.bool_)
        layers.append(
            LayerCoverage(
                layer=layer,
                experts=counts.size,
                least=int(counts.min()),
                median=int(np.median(counts)),
                unseen=tuple(map(int, np.flatnonzero(counts == 0))),
                few=tuple(map(int, np.flatnonzero(few))),
            )
        )
    return ImatrixCoverage(
        datasets=imatrix.datasets,
        entries=len(imatrix.entries),
        tokens=imatrix.chunk_count * max(imatrix.chunk_size, 1),
        counted=counted,
        wanted=wanted,
        layers=tuple(layers),
    )


def count_expert_tokens(imatrix: Imatrix) -> dict[int, NDArray[np.int64]]:
    """{MoE layer: int64 [E]}: tokens of each expert, in the stack of the layer that has least."""
    tokens: dict[int, NDArray[np.int64]] = {}
    for name, entry in sorted(imatrix.entries.items()):
        layer = find_layer(name)
        if layer is None or entry.counts.size == 1:
            continue
        counts = np.rint(entry.counts).astype(np.int64)
        known = tokens.get(layer)
        if known is None or known.shape != counts.shape:
            tokens[layer] = counts
        else:
            tokens[layer] = np.minimum(known, counts)
    return dict(sorted(tokens.items()))


def list_experts(experts: Sequence[tuple[int, int]], shown: int = _SHOWN) -> str:
    """LAYER:EXPERT of the first few, as other options write them."""
    first = ", ".join(f"{layer}:{expert}" for layer, expert in experts[:shown])
    return f"{first}, ..." if len(experts) > shown else first


def list_numbers(experts: Sequence[int]) -> str:
    """The first few numbers of a list."""
    first = ", ".join(map(str, experts[:_SHOWN]))
    return f"{first}, ..." if len(experts) > _SHOWN else first
