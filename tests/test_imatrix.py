"""The importance matrix: llama.cpp's file, its conventions, and pruning it with the experts."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from secateur.errors import FormatError
from secateur.formats.gguf import TensorInfo, Value
from secateur.formats.gguf_writer import TensorChunk, write_gguf
from secateur.formats.imatrix import (
    Imatrix,
    ImatrixEntry,
    merge,
    quantize_metadata,
    read_imatrix,
    select_experts,
    starved_experts,
    write_imatrix,
)

DENSE, EXPERTS = "blk.0.attn_q.weight", "blk.1.ffn_down_exps.weight"


def recording(scale=1):
    counts = np.array([4, 0, 2, 1], np.float32) * scale
    sums = (np.arange(4 * 6, dtype=np.float32).reshape(4, 6) + 1) * counts[:, None]
    return Imatrix(
        datasets=("a.txt",),
        chunk_count=3,
        chunk_size=512,
        entries={
            EXPERTS: ImatrixEntry(sums, counts),
            DENSE: ImatrixEntry(np.full((1, 5), 14 * scale, np.float32), np.float32([7 * scale])),
        },
    )


def assert_same(left, right):
    assert (left.datasets, left.chunk_count, left.chunk_size) == (
        right.datasets,
        right.chunk_count,
        right.chunk_size,
    )
    assert set(left.entries) == set(right.entries)
    for name, entry in left.entries.items():
        np.testing.assert_array_equal(entry.in_sum2, right.entries[name].in_sum2)
        np.testing.assert_array_equal(entry.counts, right.entries[name].counts)


def test_what_was_written_is_read_back(tmp_path):
    path = tmp_path / "imatrix.gguf"
    assert write_imatrix(path, recording()) == path.stat().st_size
    assert_same(read_imatrix(path), recording())


def test_gguf_py_sees_llama_cpps_layout(tmp_path):
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, recording())
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["a.txt"]
    assert [(t.name, t.shape.tolist()) for t in reader.tensors] == [
        (f"{DENSE}.in_sum2", [5]),
        (f"{DENSE}.counts", [1]),
        (f"{EXPERTS}.in_sum2", [6, 4]),
        (f"{EXPERTS}.counts", [1, 4]),
    ]


def test_a_file_of_llama_imatrix_is_read_and_written_back_to_the_byte(tmp_path):
    source = Path(__file__).parent / "golden/llama_imatrix.gguf"
    imatrix = read_imatrix(source)
    write_imatrix(tmp_path / "copy.gguf", imatrix)
    assert (tmp_path / "copy.gguf").read_bytes() == source.read_bytes()
    down, gate_up = (
        imatrix.entries[f"blk.0.ffn_{part}_exps.weight"] for part in ("down", "gate_up")
    )
    np.testing.assert_array_equal(down.counts, gate_up.counts)


def test_importance_is_the_mean_and_flat_for_an_unseen_expert():
    imatrix = recording()
    np.testing.assert_array_equal(imatrix.importance(DENSE), np.full((1, 5), 2))
    importance = imatrix.importance(EXPERTS)
    assert importance.dtype == np.float32
    np.testing.assert_array_equal(importance[0], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(importance[1], np.ones(6))
    assert imatrix.importance("token_embd.weight") is None


def test_a_quantized_model_names_its_imatrix():
    metadata = quantize_metadata(recording(), "é" * 100)
    assert metadata == {
        "quantize.imatrix.file": Value("string", "é" * 63),
        "quantize.imatrix.dataset": Value("string", "a.txt"),
        "quantize.imatrix.entries_count": Value("u32", 2),
        "quantize.imatrix.chunks_count": Value("u32", 3),
    }
    assert list(quantize_metadata(Imatrix((), 0, 1, {}), "x")) == [
        "quantize.imatrix.file",
        "quantize.imatrix.entries_count",
    ]


def test_merging_adds_and_keeps_what_only_one_has():
    alone = Imatrix(("b.txt",), 1, 512, {"x": recording().entries[DENSE]})
    both = merge(merge(recording(), recording()), alone)
    assert both.datasets == ("a.txt", "a.txt", "b.txt")
    assert both.chunk_count == 7
    np.testing.assert_array_equal(both.entries[EXPERTS].counts, [8, 0, 4, 2])
    np.testing.assert_array_equal(both.importance(EXPERTS), recording().importance(EXPERTS))
    assert "x" in both.entries


def test_pruning_keeps_the_rows_of_the_experts_kept():
    pruned = select_experts(recording(), {1: [3, 0]})
    np.testing.assert_array_equal(pruned.entries[EXPERTS].counts, [1, 4])
    np.testing.assert_array_equal(
        pruned.importance(EXPERTS), recording().importance(EXPERTS)[[3, 0]]
    )
    assert pruned.entries[DENSE].counts == [7]
    assert_same(select_experts(recording(), {0: [0], 7: [5]}), recording())


def test_starved_experts_are_listed():
    assert starved_experts(recording(), 2) == [(EXPERTS, 1, 0), (EXPERTS, 3, 1)]


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FormatError, match="has 4 experts, asked to keep 4"):
        select_experts(recording(), {1: [0, 4]})
    with pytest.raises(FormatError, match="chunks of 512 and 256"):
        merge(recording(), Imatrix((), 0, 256, {}))
    other = Imatrix((), 0, 512, {EXPERTS: recording().entries[DENSE]})
    with pytest.raises(FormatError, match="different models"):
        merge(recording(), other)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "no entries"),
        ({"x.other": (1,)}, "neither"),
        ({"x.in_sum2": (4,)}, "no tensor 'x.counts'"),
        ({"x.in_sum2": (2, 4), "x.counts": (3, 1)}, "expected F32"),
        ({"x.in_sum2": (2, 4), "x.counts": (2,)}, "expected F32"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, tensors, message):
    path = tmp_path / "bad.gguf"
    metadata = {
        "general.type": Value("string", "imatrix"),
        "imatrix.datasets": Value("string", ()),
        "imatrix.chunk_count": Value("u32", 1),
        "imatrix.chunk_size": Value("u32", 1),
    }
    infos = [TensorInfo(name, "F32", shape) for name, shape in tensors.items()]
    zeros = [TensorChunk(info.name, np.zeros(info.nbytes, np.uint8)) for info in infos]
    write_gguf(path, metadata, infos, zeros)
    with pytest.raises(FormatError, match=message):
        read_imatrix(path)


def test_a_model_is_no_imatrix_and_numbers_must_be_sums(tmp_path):
    path = tmp_path / "bad.gguf"
    write_gguf(path, {"general.type": Value("string", "model")}, (), ())
    with pytest.raises(FormatError, match="'model', expected 'imatrix'"):
        read_imatrix(path)
    broken = Imatrix((), 0, 1, {"x": ImatrixEntry(np.float32([[-1]]), np.float32([1]))})
    write_imatrix(path, broken)
    with pytest.raises(FormatError, match="negative or not finite"):
        read_imatrix(path)
