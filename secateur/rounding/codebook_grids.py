"""The grids of ggml's codebook types: groups of 4 or 8 numbers are one point of a codebook.

The type's encoder proposes scales; the solver (codebook_feedback.py) takes those near them that
cost least, and chooses points and signs. What points stand for is read by decoding them: what
llama.cpp makes of the bytes is what counts.

Shapes: R rows of C numbers, S superblocks, P points of the lattice, L levels of a coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.codec import decode
from secateur.formats.ggml.grid_layout import GRID_LAYOUTS, SUPER, GridLayout, GridParts
from secateur.formats.ggml.types import ggml_type
from secateur.rounding.codebook_feedback import choose_points
from secateur.rounding.codebook_kernels import NEAR, Codebook, Trials
from secateur.rounding.factor import Factor, Groups
from secateur.rounding.grid import STEPS, Choose, Codes, Floats

_TRIED = STEPS[:3]
"""Of a scale's codes; five take 1.6 times as long and lose 2 % less (docs/log.md)."""
SHIFT = 0.125
"""Of IQ1's points, in units of the scale (IQ1S_DELTA of ggml-common.h)."""


@dataclass(frozen=True)
class CodebookGrid:
    """A codebook type of ggml. What it encodes is uint8 [R, bytes of a row]."""

    name: str
    layout: GridLayout

    @property
    def groups(self) -> Groups:
        """Neighbours that share a scale; those that are one point have to stay together."""
        return Groups(self.layout.n, in_file_order=True)

    def round(
        self, rows: Floats, encoded: Codes, factor: Factor, choose: Choose | None = None
    ) -> Codes:
        """Points, signs and scales that make up for each other's errors; `factor` is made for
        these groups. They are chosen on a core of the CPU, whatever `choose` is."""
        layout = self.layout
        d, codes = layout.read_scales(encoded.reshape(-1, ggml_type(self.name).nbytes))
        near = np.clip(codes + np.array(_TRIED).reshape(-1, 1, 1), 0, layout.most)
        shifts = np.repeat(self._shifts, len(_TRIED))
        near = np.tile(near, (len(self._shifts), 1, 1))
        scales = d.astype(np.float32)[:, None] * (2 * near + 1).astype(np.float32)
        trials = Trials(scales.reshape(len(near), len(rows), -1), shifts)
        found = choose_points(rows, trials, self.codebook, factor)
        chosen = found.trials.reshape(len(d), -1)
        points, signs = found.points.reshape(len(d), -1), found.signs.reshape(len(d), -1)
        if layout.signs == "shift":
            below = shifts[chosen] < 0 if len(self._shifts) > 1 else points >= layout.book
            signs = np.repeat(below, signs.shape[1] // below.shape[1], axis=1).astype(np.uint8)
            points = points % np.uint16(layout.book)
        kept = np.take_along_axis(near, chosen[None], 0)[0].astype(np.uint8)
        return layout.pack(GridParts(points, signs, kept, d)).reshape(encoded.shape)

    @property
    def _shifts(self) -> Floats:
        """Of blocks; groups that are shifted one by one have points for both."""
        by_block = self.layout.shared == self.layout.n
        return np.array([SHIFT, -SHIFT] if by_block else [0], np.float32)

    @cached_property
    def codebook(self) -> Codebook:
        """Read out of ggml's decoder. Where every group is shifted by itself, each point is there
        shifted up, and after all of these shifted down."""
        layout, (dims, _, levels) = self.layout, self.layout.lattice
        blocks = layout.all_points()
        numbers = decode(blocks, self.name, (len(blocks), SUPER)).reshape(-1, dims)
        if layout.shared:
            numbers -= np.float32(SHIFT)
        values = np.unique(numbers)
        assert len(values) == levels
        lattice = values[layout.lattice.all_points()]
        if layout.shared == dims:
            numbers = np.concatenate([numbers + np.float32(SHIFT), numbers - np.float32(SHIFT)])
        near = _nearest(lattice, numbers)
        return Codebook(
            dims,
            np.ascontiguousarray(numbers[near].transpose(0, 2, 1)).reshape(len(near), -1),
            near.astype(np.uint16),
            (values[:-1] + values[1:]) / np.float32(2),
            values,
            layout.signs != "shift",
            layout.signs == "even",
        )


def _nearest(lattice: Floats, book: Floats) -> NDArray[np.intp]:
    """[P, NEAR]: the places in the codebook [N, dims] of the points nearest to each of the
    lattice's [P, dims], the nearest first, of equally near ones the first in the codebook."""
    found = np.empty((len(lattice), NEAR), np.intp)
    for first in range(0, len(lattice), 512):
        some = lattice[first : first + 512]
        distances = np.zeros((len(some), len(book)), np.float32)
        for axis in range(book.shape[1]):
            distances += (some[:, axis, None] - book[None, :, axis]) ** 2
        found[first : first + 512] = np.argsort(distances, axis=1, kind="stable")[:, :NEAR]
    return found


CODEBOOK_GRIDS: Mapping[str, CodebookGrid] = {
    name: CodebookGrid(name, layout) for name, layout in GRID_LAYOUTS.items()
}
"""By type."""
