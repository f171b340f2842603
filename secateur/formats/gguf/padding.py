"""Feed-forward widths rounded up with zeros, so that types with large blocks fit.

A hidden unit of a gated feed-forward whose weights in gate, up and down are all zero computes
act(0) * 0 = 0 and adds 0 to every output: a model widened by such units gives the same numbers.
So gate and up get rows of zeros (each half of a fused stack its own), down gets columns of zeros,
and the config says the new width. The words of the families' rows say which axes are widths.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import CheckpointError, FamilyError
from secateur.families.schema import Family, TensorRow
from secateur.formats.imatrix.matrix import ImatrixEntry

STEP = 256
"""What widths are rounded up to: the largest block of any type."""

AXES = {
    "expert_width": ("ffn", "gate", "up", "gate|up"),
    "dense_width": ("dense_ffn",),
}
"""Config number -> the words of the axes that are as wide; `gate|up` is twice as wide."""


@dataclass(frozen=True, slots=True)
class Width:
    """A width of the model, as its config has it and as it is written."""

    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Padding:
    """How a matrix is widened: its rows are `parts` equal runs, each followed by `below` rows of
    zeros, and every row ends in `right` zeros."""

    parts: int = 1
    below: int = 0
    right: int = 0


NO_PADDING = Padding()
"""Nothing is added."""


def rounded(width: int) -> int:
    """The next multiple of STEP."""
    return -(-width // STEP) * STEP


def width_of(row: TensorRow, axis: int) -> str | None:
    """The config number that a row's axis is as wide as; None for an axis of another kind."""
    return next((what for what, words in AXES.items() if row.axes[axis] in words), None)


def padding_of(
    row: TensorRow, shape: Sequence[int], widths: Mapping[str, Width], split: int = 1
) -> Padding:
    """What widening by `widths` adds to a tensor of this row and shape.

    `split`: the tensor is one of so many that the row's two projections are written as.
    Raises FamilyError for a row that is widened in a way not known here, CheckpointError for a
    tensor that is not as wide as the config says.
    """
    parts, below, right = 1, 0, 0
    for axis, word in enumerate(row.axes):
        what = width_of(row, axis)
        if what is None or what not in widths:
            continue
        width, halves = widths[what], (word.count("|") + 1) // split or 1
        from_end = len(row.axes) - axis
        if from_end > 2 or (from_end == 1 and (halves > 1 or len(row.axes) == 1)):
            raise FamilyError(f"{row.name!r}: padding does not know how to widen its axis {word!r}")
        if shape[-from_end] != halves * width.old:
            raise CheckpointError(
                f"{row.name!r} has {shape[-from_end]} along its axis {word!r}, expected "
                f"{halves * width.old} by the config: it cannot be padded"
            )
        if from_end == 1:
            right = width.new - width.old
        else:
            parts, below = halves, width.new - width.old
    return Padding(parts, below, right)


def padded_shape(shape: Sequence[int], padding: Padding) -> tuple[int, ...]:
    """The shape of a tensor with its zeros."""
    if padding == NO_PADDING:
        return tuple(shape)
    return (*shape[:-2], shape[-2] + padding.parts * padding.below, shape[-1] + padding.right)


def padded_rows(rows: NDArray[np.float32], below: int, right: int) -> NDArray[np.float32]:
    """float32 [R + below, C + right]: the rows [R, C], and zeros below and to the right of them."""
    if not below and not right:
        return rows
    out = np.zeros((rows.shape[0] + below, rows.shape[1] + right), np.float32)
    out[: rows.shape[0], : rows.shape[1]] = rows
    return out


def padded_entry(entry: ImatrixEntry, right: int) -> ImatrixEntry:
    """Importance with the sums of inputs that are always zero, as llama-imatrix would see them."""
    if not right:
        return entry
    return ImatrixEntry(np.pad(entry.in_sum2, ((0, 0), (0, right))), entry.counts)


def widened_config(
    config: Mapping[str, Any], family: Family, widths: Mapping[str, Width]
) -> dict[str, Any]:
    """A config with the new widths under the keys that it has."""
    edited = copy.deepcopy(dict(config))
    section, _ = family.section(edited)
    part = edited[section] if section else edited
    for what, width in widths.items():
        for key in family.config.get(what, ()):
            if key in part:
                part[key] = width.new
    return edited
