"""The table of ggml types: numbers, sizes, and refusals."""

import gguf
import pytest

from secateur.errors import FormatError
from secateur.formats.ggml.types import TYPES, TYPES_BY_ID, bytes_of, ggml_type

NEWER_THAN_GGUF_PY = {"Q1_0", "Q2_0"}
DIFFERENT_IN_GGUF_PY = {"Q8_1"}  # gguf 0.19 still has the size of 2023; no file holds this type


def test_the_table_equals_gguf_pys():
    known = {kind.name: kind for kind in gguf.GGMLQuantizationType}
    for name, kind in TYPES.items():
        if name not in known:
            assert name in NEWER_THAN_GGUF_PY
            continue
        if name in DIFFERENT_IN_GGUF_PY:
            continue
        assert (int(known[name]), *gguf.GGML_QUANT_SIZES[known[name]]) == (
            kind.id,
            kind.block,
            kind.nbytes,
        )
    assert set(known) <= set(TYPES)


def test_names_and_numbers_are_unique():
    assert len(TYPES) == len(TYPES_BY_ID) == 35


@pytest.mark.parametrize(
    ("name", "bits"), [("Q4_K", 4.5), ("Q6_K", 6.5625), ("IQ1_S", 1.5625), ("MXFP4", 4.25)]
)
def test_bits_per_weight_count_the_scales(name, bits):
    assert ggml_type(name).bits_per_weight == bits


def test_bytes_follow_the_last_axis():
    assert bytes_of("F32", (3, 5)) == 60
    assert bytes_of("Q8_0", (128, 2816, 704)) == 128 * 2816 * 704 // 32 * 34
    assert bytes_of("q4_k", (2, 256)) == 288
    assert bytes_of("F16", ()) == 2


def test_a_row_that_does_not_divide_is_refused_with_a_remedy():
    with pytest.raises(FormatError, match=r"blk\.0\.ffn_down\.weight.*704.*256.*Q5_0"):
        bytes_of("Q4_K", (2816, 704), "blk.0.ffn_down.weight")
    with pytest.raises(FormatError, match="F16, BF16 or F32"):
        bytes_of("Q8_0", (4, 7))


def test_an_unknown_type_lists_the_known():
    with pytest.raises(FormatError, match=r"Q9_K.*IQ4_XS"):
        ggml_type("Q9_K")
