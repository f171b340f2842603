"""Every type of ggml whose codes are chosen with feedback; TQ types and floats are not."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.rounding.codebook_grids import CODEBOOK_GRIDS
from secateur.rounding.ggml_grids import GGML_GRIDS
from secateur.rounding.grid import Codes, Grid

FEEDBACK_GRIDS: Mapping[str, Grid[Codes]] = {**GGML_GRIDS, **CODEBOOK_GRIDS}
"""By type."""
