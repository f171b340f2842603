"""Which types have an encoder of ours; the others are encoded by ggml's kernels."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.formats.ggml.block_encoders import ENCODERS as _BLOCKS
from secateur.formats.ggml.block_encoders import WEIGHED_ENCODERS as _WEIGHED_BLOCKS
from secateur.formats.ggml.block_encoders import Encoder
from secateur.formats.ggml.grid_encoders import GRID_ENCODERS
from secateur.formats.ggml.ternary_encoders import TERNARY_ENCODERS

NEED_IMPORTANCE = frozenset({"IQ2_XXS", "IQ2_XS", "IQ1_S"})
"""Types that ggml encodes only with an importance (ggml_quantize_requires_imatrix)."""

WEIGHED_ENCODERS: Mapping[str, Encoder] = {
    **_WEIGHED_BLOCKS,
    **GRID_ENCODERS,
    **TERNARY_ENCODERS,
}
"""By type, with an importance."""

ENCODERS: Mapping[str, Encoder] = {
    **_BLOCKS,
    "IQ1_M": TERNARY_ENCODERS["IQ1_M"],
    **{name: one for name, one in GRID_ENCODERS.items() if name not in NEED_IMPORTANCE},
}
"""By type, without an importance."""
