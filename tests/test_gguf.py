"""GGUF files: sizes known beforehand, written as gguf-py reads them, refused when damaged."""

import struct
from pathlib import Path

import gemma4_facts
import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import FormatError, WriteError
from secateur.formats.gguf.container import TensorInfo, Value, file_bytes, header_bytes
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.writer import TensorChunk, write_gguf

METADATA = {
    "general.architecture": Value("string", "tiny"),
    "a.u8": Value("u8", 200),
    "a.i8": Value("i8", -3),
    "a.u16": Value("u16", 65535),
    "a.i16": Value("i16", -32768),
    "a.u32": Value("u32", 2**32 - 1),
    "a.i32": Value("i32", -1),
    "a.f32": Value("f32", 0.5),
    "a.bool": Value("bool", True),
    "a.u64": Value("u64", 2**64 - 1),
    "a.i64": Value("i64", -(2**63)),
    "a.f64": Value("f64", 0.1),
    "b.words": Value("string", ("▁the", "", "<0x0A>")),
    "b.numbers": Value("i32", (1, -2, 3)),
    "b.flags": Value("bool", (True, False)),
    "b.none": Value("f32", ()),
}
INFOS = (
    TensorInfo("blk.0.ffn_down_exps.weight", "Q8_0", (3, 2, 64)),
    TensorInfo("blk.0.scale", "F32", (3,)),
    TensorInfo("token_embd.weight", "F16", (5, 7)),
)


def chunks(infos=INFOS, rows=1):
    """Deterministic bytes for each tensor, cut into pieces."""
    for number, info in enumerate(infos):
        data = (np.arange(info.nbytes) * 7 + number).astype(np.uint8)
        for piece in np.array_split(data, rows):
            yield TensorChunk(info.name, piece)


def written(tmp_path, metadata=METADATA, infos=INFOS):
    path = tmp_path / "a.gguf"
    write_gguf(path, metadata, infos, chunks(infos))
    return path


def test_the_size_is_known_before_the_data(tmp_path):
    path = written(tmp_path)
    assert path.stat().st_size == file_bytes(METADATA, INFOS)
    assert read_gguf(path).data_offset == header_bytes(METADATA, INFOS)


def test_what_was_written_is_read_back(tmp_path):
    file = read_gguf(written(tmp_path))
    assert file.metadata == METADATA
    assert list(file.metadata) == list(METADATA)
    assert tuple(file.tensors.values()) == INFOS
    for chunk in chunks():
        np.testing.assert_array_equal(file.data(chunk.name), chunk.data)


def test_gguf_py_reads_it(tmp_path):
    reader = gguf.GGUFReader(written(tmp_path))
    for key, value in METADATA.items():
        got = reader.fields[key].contents()
        assert got == (list(value.value) if isinstance(value.value, tuple) else value.value)
    for info, tensor in zip(INFOS, reader.tensors, strict=True):
        assert (tensor.name, tensor.tensor_type.name) == (info.name, info.type)
        assert tuple(tensor.shape) == info.shape[::-1]
        np.testing.assert_array_equal(
            tensor.data.view(np.uint8).ravel(), (read_gguf(reader_path(reader)).data(info.name))
        )


def reader_path(reader):
    return Path(reader.data.filename)


def test_we_read_what_gguf_py_writes(tmp_path):
    path = tmp_path / "b.gguf"
    writer = gguf.GGUFWriter(path, "tiny")
    writer.add_uint32("tiny.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "ä"])
    writer.add_array("tiny.pattern", [True, False])
    writer.add_float32("tiny.eps", 1e-6)
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("x", array)
    writer.add_tensor("y", array.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(path)
    assert file.metadata["tokenizer.ggml.tokens"] == Value("string", ("a", "ä"))
    assert file.metadata["tiny.pattern"] == Value("bool", (True, False))
    assert file.tensor("x") == TensorInfo("x", "F32", (3, 4))
    np.testing.assert_array_equal(file.data("x").view(np.float32).reshape(3, 4), array)


def test_a_vocabulary_of_the_real_size_is_read_and_written_back_to_the_byte(tmp_path, real):
    source = real / "vocabulary.gguf"
    assert source.stat().st_size == gemma4_facts.FILE_BYTES
    file = read_gguf(source)
    tokens = file.metadata["tokenizer.ggml.tokens"].value
    assert len(tokens) == 262144 and tokens[105] == "<|turn>"
    assert file.tensors == {}
    copy = tmp_path / "copy.gguf"
    write_gguf(copy, file.metadata, (), ())
    assert copy.read_bytes() == source.read_bytes()


def test_the_bytes_do_not_depend_on_the_cutting_of_chunks(tmp_path):
    one = written(tmp_path).read_bytes()
    write_gguf(tmp_path / "c.gguf", METADATA, INFOS, chunks(rows=5))
    assert (tmp_path / "c.gguf").read_bytes() == one


def test_another_alignment_is_kept(tmp_path):
    metadata = {"general.alignment": Value("u32", 128)}
    file = read_gguf(written(tmp_path, metadata))
    assert file.alignment == 128
    assert all(offset % 128 == 0 for offset in file.offsets.values())


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (lambda: list(chunks())[:-1], "expected 70 more bytes of 'token_embd.weight'.*got the end"),
        (lambda: list(chunks())[1:], "got 12 of 'blk.0.scale'"),
        (lambda: [*chunks(), TensorChunk("more", np.zeros(4, np.uint8))], "after the last tensor"),
        (
            lambda: [TensorChunk(INFOS[0].name, np.zeros(500, np.uint8))],
            "expected 408 more bytes.*got 500",
        ),
    ],
)
def test_a_stream_that_does_not_fit_the_infos_leaves_nothing(tmp_path, stream, message):
    (tmp_path / "a.gguf").write_bytes(b"old")
    with pytest.raises(FormatError, match=message):
        write_gguf(tmp_path / "a.gguf", METADATA, INFOS, stream())
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]
    assert (tmp_path / "a.gguf").read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_a_write_error(tmp_path):
    with pytest.raises(WriteError, match="cannot write"):
        write_gguf(tmp_path / "no/a.gguf", METADATA, INFOS, chunks())


@pytest.mark.parametrize(
    ("metadata", "infos", "message"),
    [
        ({"k": Value("u8", 256)}, (), "256 does not fit into u8"),
        ({"k": Value("u8", True)}, (), "True is no u8"),
        ({"k": Value("i32", (1, "x"))}, (), "'x' is no i32"),
        ({"k": Value("bool", 1)}, (), "1 is no bool"),
        ({"k": Value("f32", 1e300)}, (), "does not fit into f32"),
        ({"k": Value("u128", 1)}, (), "unknown kind 'u128'"),
        ({"": Value("u8", 1)}, (), "key is empty"),
        ({"general.alignment": Value("u32", 24)}, INFOS, "power of two"),
        ({}, (INFOS[0], INFOS[0]), "occurs twice"),
        ({}, (TensorInfo("x" * 64, "F32", (1,)),), "over 63 bytes"),
        ({}, (TensorInfo("x", "F32", (1, 1, 1, 1, 1)),), "1 to 4 axes"),
        ({}, (TensorInfo("x", "F32", ()),), "1 to 4 axes"),
        ({}, (TensorInfo("x", "F32", (3, 0)),), "at least one element"),
        ({}, (TensorInfo("x", "Q4_K", (3, 704)),), "tensor x.*704"),
    ],
)
def test_what_llama_cpp_would_refuse_is_not_written(metadata, infos, message):
    with pytest.raises(FormatError, match=message):
        header_bytes(metadata, infos)


def broken(tmp_path, raw):
    path = tmp_path / "broken.gguf"
    path.write_bytes(raw)
    return path


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_is_a_format_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    raw = written(folder).read_bytes()
    last = INFOS[-1].nbytes
    end = file_bytes(METADATA, INFOS) - (32 - last % 32) % 32
    cut = data.draw(st.integers(0, end - 1))
    with pytest.raises(FormatError):
        read_gguf(broken(folder, raw[:cut]))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_header_is_a_format_error_or_another_header(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    raw = bytearray(written(folder).read_bytes())
    header = header_bytes(METADATA, INFOS)
    at = data.draw(st.integers(0, header - 8))
    raw[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    try:
        file = read_gguf(broken(folder, bytes(raw)))
    except FormatError as error:
        assert "broken.gguf: " in str(error)
    else:
        assert len(file.tensors) == 3


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(40), "not GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 2, 0, 0), "version 2, expected 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0), "list of 4611686018427387904 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62), "list of 4611686018427387904 keys"),
        (
            b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**60) + bytes(8),
            "array k of 1152921504606846976 strings",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1) + bytes(8),
            "unknown kind 9",
        ),
        (b"GGUF" + struct.pack("<IQQQ1sIB", 3, 0, 1, 1, b"k", 7, 2) + bytes(8), "neither 0 nor 1"),
        (b"GGUF" + struct.pack("<IQQQ1sIQ1s", 3, 0, 1, 1, b"k", 8, 1, b"\xff"), "not UTF-8"),
    ],
)
def test_an_absurd_header_is_refused(tmp_path, raw, message):
    with pytest.raises(FormatError, match=message):
        read_gguf(broken(tmp_path, raw))


def test_tensors_that_overlap_or_trail_are_refused(tmp_path):
    raw = written(tmp_path, {}).read_bytes()
    at = raw.index(struct.pack("<IQ", 0, 416))  # type F32 and offset of the second tensor
    overlapping = raw[: at + 4] + struct.pack("<Q", 0) + raw[at + 12 :]
    with pytest.raises(FormatError, match=r"blk\.0\.scale.*overlap or leave a gap"):
        read_gguf(broken(tmp_path, overlapping))
    with pytest.raises(FormatError, match="after its last tensor"):
        read_gguf(broken(tmp_path, raw + b"x"))


def test_unknown_keys_tensors_and_missing_files_are_named(tmp_path):
    file = read_gguf(written(tmp_path))
    assert file.value("a.u8") == 200
    with pytest.raises(FormatError, match="no key 'nothing'"):
        file.value("nothing")
    with pytest.raises(FormatError, match="no tensor 'nothing' among its 3"):
        file.data("nothing")
    with pytest.raises(FormatError, match=r"none\.gguf: cannot be read"):
        read_gguf(tmp_path / "none.gguf")
