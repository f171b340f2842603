"""The importance matrix: llama.cpp's file, its conventions, and pruning it with the experts."""

import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from secateur.errors import FormatError
from secateur.formats.gguf.container import TensorInfo, Value
from secateur.formats.gguf.writer import TensorChunk, write_gguf
from secateur.formats.imatrix.coverage import measure_coverage
from secateur.formats.imatrix.dat_file import count_in_tokens, read_dat, split_stacks, write_dat
from secateur.formats.imatrix.file import open_imatrix, save_imatrix
from secateur.formats.imatrix.matrix import (
    Imatrix,
    ImatrixEntry,
    make_quantize_metadata,
    merge,
    read_imatrix,
    select_experts,
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
    np.testing.assert_array_equal(imatrix.entries[DENSE].means(), np.full((1, 5), 2))
    importance = imatrix.entries[EXPERTS].means()
    assert importance.dtype == np.float32
    np.testing.assert_array_equal(importance[0], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(importance[1], np.ones(6))


def test_a_quantized_model_names_its_imatrix():
    metadata = make_quantize_metadata(recording(), "é" * 100)
    assert metadata == {
        "quantize.imatrix.file": Value("string", "é" * 63),
        "quantize.imatrix.dataset": Value("string", "a.txt"),
        "quantize.imatrix.entries_count": Value("u32", 2),
        "quantize.imatrix.chunks_count": Value("u32", 3),
    }
    assert list(make_quantize_metadata(Imatrix((), 0, 1, {}), "x")) == [
        "quantize.imatrix.file",
        "quantize.imatrix.entries_count",
    ]


def test_merging_adds_and_keeps_what_only_one_has():
    alone = Imatrix(("b.txt",), 1, 512, {"x": recording().entries[DENSE]})
    both = merge(merge(recording(), recording()), alone)
    assert both.datasets == ("a.txt", "a.txt", "b.txt")
    assert both.chunk_count == 7
    np.testing.assert_array_equal(both.entries[EXPERTS].counts, [8, 0, 4, 2])
    np.testing.assert_array_equal(
        both.entries[EXPERTS].means(), recording().entries[EXPERTS].means()
    )
    assert "x" in both.entries


def test_pruning_keeps_the_rows_of_the_experts_kept():
    pruned = select_experts(recording(), {1: [3, 0]})
    np.testing.assert_array_equal(pruned.entries[EXPERTS].counts, [1, 4])
    np.testing.assert_array_equal(
        pruned.entries[EXPERTS].means(), recording().entries[EXPERTS].means()[[3, 0]]
    )
    assert pruned.entries[DENSE].counts == [7]
    assert_same(select_experts(recording(), {0: [0], 7: [5]}), recording())


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["llama_imatrix", "llama_imatrix_unseen"])
def test_the_dat_form_is_written_as_llama_imatrix_does(name, tmp_path):
    """The second file is of a matrix in which one expert of layer 1 had no data."""
    imatrix = read_imatrix(GOLDEN / "llama_imatrix.gguf")
    if name.endswith("unseen"):
        imatrix = without(imatrix, 1, 2)
    assert save_imatrix(tmp_path / "x.dat", imatrix) == (tmp_path / "x.dat").stat().st_size
    assert (tmp_path / "x.dat").read_bytes() == (GOLDEN / f"{name}.dat").read_bytes()


def without(imatrix, layer, expert):
    """The imatrix as if the expert had never been used."""
    entries = dict(imatrix.entries)
    for name, entry in entries.items():
        if name.startswith(f"blk.{layer}.") and entry.counts.size > 1:
            sums, counts = entry.in_sum2.copy(), entry.counts.copy()
            sums[expert], counts[expert] = 0, 0
            entries[name] = ImatrixEntry(sums, counts)
    return replace(imatrix, entries=entries)


def test_a_dat_weighs_as_the_gguf_it_came_from():
    """Means survive to a rounding or two of float32; what was flat is flat exactly."""
    unseen = without(read_imatrix(GOLDEN / "llama_imatrix.gguf"), 1, 2)
    dat = open_imatrix(GOLDEN / "llama_imatrix_unseen.dat")
    assert (dat.datasets, dat.chunk_count, dat.chunk_size) == (("a.txt",), 8, 0)
    assert set(dat.entries) == set(unseen.entries)
    for name in unseen.entries:
        np.testing.assert_allclose(
            dat.entries[name].means(), unseen.entries[name].means(), rtol=3e-7
        )
    down = "blk.1.ffn_down_exps.weight"
    assert dat.entries[down].counts.tolist() == [5, 5, 0, 5]
    np.testing.assert_array_equal(dat.entries[down].means()[2], np.ones(32))


def test_a_dat_as_gguf_says_512_tokens_a_chunk_and_means_the_same(tmp_path):
    dat = open_imatrix(GOLDEN / "llama_imatrix_unseen.dat")
    save_imatrix(tmp_path / "x.gguf", dat)
    back = open_imatrix(tmp_path / "x.gguf")
    assert (back.chunk_size, back.chunk_count) == (512, 8)
    for name in dat.entries:
        np.testing.assert_array_equal(back.entries[name].means(), dat.entries[name].means())
    # Merged, each file counts as its chunks, whatever they were called.
    np.testing.assert_array_equal(
        merge(back, count_in_tokens(dat)).entries[DENSE.replace("0", "1")].means(),
        dat.entries[DENSE.replace("0", "1")].means(),
    )


def test_a_flat_stack_is_split_by_its_router_or_by_number():
    flat = read_dat(GOLDEN / "llama_imatrix.dat")
    stack = "blk.0.ffn_down_exps.weight"
    assert flat.entries[stack].in_sum2.shape == (1, 128)
    assert split_stacks(flat).entries[stack].in_sum2.shape == (4, 32)
    alone = replace(flat, entries={stack: flat.entries[stack]})
    with pytest.raises(FormatError, match="--experts"):
        split_stacks(alone)
    assert split_stacks(alone, 8).entries[stack].in_sum2.shape == (8, 16)
    with pytest.raises(FormatError, match="128 values, which 5 experts do not divide"):
        split_stacks(alone, 5)


def dat_bytes(entries=1, name=b"x", chunks=1, values=(1.0,), tail=b""):
    body = struct.pack("<i", len(name)) + name + struct.pack("<ii", chunks, len(values))
    return struct.pack("<i", entries) + body + struct.pack(f"<{len(values)}f", *values) + tail


def test_the_end_of_a_dat_may_be_missing(tmp_path):
    (tmp_path / "x").write_bytes(dat_bytes(chunks=2, values=(4.0, 6.0)))
    imatrix = open_imatrix(tmp_path / "x")
    assert (imatrix.datasets, imatrix.chunk_count) == ((), 0)
    np.testing.assert_array_equal(imatrix.entries["x"].means(), [[2, 3]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "needs 4 bytes, 0 are left"),
        (b"GGUF", "the version"),
        (b"# a text file", "is no importance matrix"),
        (dat_bytes(entries=0), "has 0 entries"),
        (dat_bytes(entries=2), "cut short"),
        (dat_bytes(name=b"\xff"), "not UTF-8"),
        (dat_bytes(name=b""), "empty or used before"),
        (dat_bytes(chunks=-1), "1 value of -1 chunks"),
        (dat_bytes(values=()), "0 values"),
        (dat_bytes(values=(-1.0,)), "negative or not finite"),
        (dat_bytes(values=(float("nan"),)), "negative or not finite"),
        (dat_bytes()[:-1], "cut short"),
        (dat_bytes(tail=struct.pack("<ii", 3, 0) + b"more"), "4 bytes follow"),
    ],
)
def test_a_damaged_dat_is_refused(tmp_path, data, message):
    (tmp_path / "x.dat").write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        open_imatrix(tmp_path / "x.dat")
    assert "\n" not in str(caught.value)
    assert "x.dat" in str(caught.value)


def test_nothing_is_no_dat(tmp_path):
    empty = Imatrix((), 0, 1, {"x": ImatrixEntry(np.zeros((1, 2), np.float32), np.float32([0]))})
    with pytest.raises(FormatError, match="no entry has any data"):
        write_dat(tmp_path / "x.dat", empty)
    assert not list(tmp_path.iterdir())


def test_coverage_names_experts_without_data_and_with_little():
    found = measure_coverage(recording(), 2)
    assert (found.tokens, found.counted, found.entries) == (3 * 512, True, 2)
    (layer,) = found.layers
    assert (layer.layer, layer.experts, layer.least, layer.median) == (1, 4, 0, 1)
    assert (found.unseen, found.few) == (((1, 1),), ((1, 3),))
    assert "1 of 4 experts have no data: 1:1" in found.sentences()
    assert "1 of 4 experts have fewer than 2 tokens: 1:3" in found.sentences()
    dat = measure_coverage(open_imatrix(GOLDEN / "llama_imatrix_unseen.dat"), 1000)
    assert (dat.unseen, dat.few, dat.counted) == (((1, 2),), (), False)
    assert (
        "all 8 experts have at least 400 tokens"
        in measure_coverage(read_imatrix(GOLDEN / "llama_imatrix.gguf"), 400).sentences()
    )


def test_the_command_shows_merges_slices_and_converts(run, tmp_path):
    gguf_file, dat = GOLDEN / "llama_imatrix.gguf", GOLDEN / "llama_imatrix_unseen.dat"
    assert "slice" in run("imatrix").out
    shown = run("imatrix", "show", dat, json=True).json
    assert [layer["unseen"] for layer in shown["layers"]] == [[], [2]]
    assert "0:1, 1:0" in run("imatrix", "show", gguf_file, least=500).out
    assert run("imatrix", "convert", gguf_file, out=tmp_path / "x.dat").code == 0
    assert (tmp_path / "x.dat").read_bytes() == (GOLDEN / "llama_imatrix.dat").read_bytes()
    # A .dat joins a GGUF at the GGUF's chunk size.
    merged = run("imatrix", "merge", gguf_file, dat, out=tmp_path / "both", json=True).json
    assert merged["chunks"] == 16
    both = open_imatrix(tmp_path / "both")
    assert both.entries["blk.1.ffn_down_exps.weight"].counts.tolist() == [
        476 + 640, 543 + 640, 518, 511 + 640,
    ]  # fmt: skip
    drops = tmp_path / "drops.json"
    drops.write_text('{"layers": {"0": {"drop": [0]}, "1": {"keep": [0, 1, 3]}}}')
    assert run("imatrix", "slice", dat, drop_map=drops, out=tmp_path / "s.dat").code == 0
    sliced = open_imatrix(tmp_path / "s.dat")
    whole = open_imatrix(dat)
    for layer, kept in enumerate(([1, 2, 3], [0, 1, 3])):
        name = f"blk.{layer}.ffn_down_exps.weight"
        np.testing.assert_array_equal(
            sliced.entries[name].means(), whole.entries[name].means()[kept]
        )
    wrong = run("imatrix", "slice", gguf_file, out=tmp_path / "no.gguf")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "drop_map" in wrong.err
    assert not (tmp_path / "no.gguf").exists()


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
    broken = Imatrix((), 0, 1, {"x": ImatrixEntry(np.float32([[1]]), np.float32([3e38]))})
    write_imatrix(path, broken)
    with pytest.raises(FormatError, match="x counts 3e[+]38 tokens"):  # found by fuzzing
        read_imatrix(path)
