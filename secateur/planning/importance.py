"""The importance matrix of a calibration run, under GGUF names and for the experts kept.

Calibration sums squared inputs by the running model's parameters; llama.cpp looks them up by
GGUF tensor name. Which names a parameter has there is in the family's rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secateur.calibration.statistics import Statistics
from secateur.checkpoint.families import Family
from secateur.formats.imatrix import Imatrix, ImatrixEntry, quantize_metadata, select_experts
from secateur.planning.selection import Keep

FILE = "imatrix.gguf"
"""Its name in an output."""

Facts = Mapping[str, str | int]
"""What a GGUF says of the matrix it was quantized with: llama.cpp's quantize.imatrix.* keys."""


def importance_facts(statistics: Statistics, family: Family, keep: Keep) -> Facts:
    """The facts of the matrix that `importance_matrix` makes; what plans remember of it."""
    metadata = quantize_metadata(importance_matrix(statistics, family, keep), FILE)
    return {
        key: value.value for key, value in metadata.items() if isinstance(value.value, str | int)
    }


def importance_matrix(statistics: Statistics, family: Family, keep: Keep) -> Imatrix:
    """llama.cpp's imatrix from our sums, its experts sliced to `keep` and renumbered.

    A parameter that no row gives a GGUF name (a router that stays in F32) is left out.
    """
    entries = {}
    for running, (squares, tokens) in statistics.importance().items():
        for name in gguf_names(family, running):
            entries[name] = ImatrixEntry(squares.astype(np.float32), tokens.astype(np.float32))
    datasets = tuple(sorted({str(s["source"]) for s in statistics.samples}))
    length = max(int(corpus.get("sequence_length", 0)) for corpus in statistics.corpora)
    total = sum(statistics.tokens.values())
    whole = Imatrix(datasets, -(-total // max(length, 1)), length, entries)
    return select_experts(whole, keep)


def gguf_names(family: Family, running: str) -> list[str]:
    """GGUF names of the tensors that a parameter of the running model becomes."""
    place = family.classify(running)
    rows = [row for row in family.rows if row is place.row or row.into == place.row.name]
    return [family.fill(row.gguf, place.layer) for row in rows if row.gguf]
