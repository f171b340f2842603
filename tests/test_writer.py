"""The writer: sizes predicted to the byte, files that safetensors reads, the same bytes always."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FORMS, save_tiny

from secateur.checkpoint import writer
from secateur.checkpoint.byte_ranges import Piece, SlicedTensor, joined, whole
from secateur.checkpoint.headers import read_header
from secateur.checkpoint.nonfinite import first_forbidden, refuse_forbidden
from secateur.checkpoint.reader import INDEX, SINGLE, Checkpoint, open_checkpoint
from secateur.checkpoint.tensors import STORAGE, NamedTensor, to_float32
from secateur.checkpoint.writer import lay_out, write_shards
from secateur.errors import CheckpointError, NumericError
from secateur.pruning.expert_slices import select_experts

TINY = Callable[[str], Checkpoint]


def everything(checkpoint: Checkpoint) -> list[SlicedTensor]:
    return [whole(spec, "infinite") for spec in checkpoint.specs.values()]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("limit", [10_000, 10**9])
def test_sizes_and_hashes_are_those_of_the_files(
    form: str, limit: int, tiny: TINY, tmp_path: Path
) -> None:
    checkpoint = tiny(form)
    layout = lay_out(everything(checkpoint), limit)
    hashes = write_shards(tmp_path, layout)
    files = {path.name: path for path in tmp_path.iterdir()}
    assert {name: path.stat().st_size for name, path in files.items()} == layout.files
    assert {name: sha256(path) for name, path in files.items()} == hashes
    assert sum(layout.files.values()) == layout.nbytes
    assert (INDEX in files) == (limit == 10_000)
    assert (SINGLE in files) == (limit == 10**9)


@pytest.mark.parametrize("limit", [10_000, 10**9])
def test_safetensors_reads_the_same_tensors(limit: int, tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny("gemma4_wrapper")
    write_shards(tmp_path, lay_out(everything(checkpoint), limit))
    got = {}
    for path in tmp_path.glob("*.safetensors"):
        got |= safetensors.numpy.load_file(path)
    assert set(got) == set(checkpoint.specs)
    for name, array in got.items():
        assert array.tobytes() == checkpoint.read(name).array.tobytes()
        assert array.shape == checkpoint.specs[name].shape


def test_two_runs_give_identical_bytes(tmp_path: Path) -> None:
    # Once from one shard, once from many: where the bytes came from must not show.
    hashes = []
    for run, size in enumerate(("5GB", "20KB")):
        source = open_checkpoint(save_tiny("gemma4", tmp_path / f"in{run}", shard_size=size))
        keep = {layer: [0, 2, 3, 7] for layer in source.moe_layers}
        (tmp_path / f"out{run}").mkdir()
        layout = lay_out(select_experts(source, keep), 50_000)
        hashes.append(write_shards(tmp_path / f"out{run}", layout))
    assert hashes[0] == hashes[1]


def test_bf16_checkpoints_are_carried_bit_for_bit(tmp_path: Path) -> None:
    import torch

    source = open_checkpoint(save_tiny("gpt_oss", tmp_path / "in", dtype=torch.bfloat16))
    (tmp_path / "out").mkdir()
    write_shards(tmp_path / "out", lay_out(everything(source)))
    copied = read_header(tmp_path / "out" / SINGLE)
    assert {spec.dtype for spec in copied.values()} == {"BF16"}
    for name, spec in copied.items():
        data = spec.path.read_bytes()[spec.offset : spec.offset + spec.nbytes]
        assert data == source.read(name).array.tobytes()


def test_the_index_is_as_transformers_writes_it(tiny: TINY, tmp_path: Path) -> None:
    theirs = save_tiny("gemma4", tmp_path / "theirs", shard_size="40KB")
    source = open_checkpoint(theirs)
    (tmp_path / "ours").mkdir()
    write_shards(tmp_path / "ours", lay_out(everything(source), 40_000))
    expected = json.loads((theirs / INDEX).read_text())
    got = json.loads((tmp_path / "ours" / INDEX).read_text())
    assert got["metadata"]["total_size"] == expected["metadata"]["total_size"]
    assert set(got["weight_map"]) == set(expected["weight_map"])


def test_layers_are_in_natural_order_and_aligned() -> None:
    def tensor(name: str, dtype: str, elements: int) -> SlicedTensor:
        nbytes = elements * STORAGE[dtype].itemsize
        return SlicedTensor(name, dtype, (elements,), (Piece(Path("x"), 0, nbytes),))

    tensors = [
        tensor("layers.10.b", "BF16", 3),
        tensor("layers.9.b", "BF16", 5),
        tensor("layers.9.a", "F32", 1),
        tensor("layers.9.c", "U8", 7),
    ]
    (shard,) = lay_out(tensors).shards
    assert [t.name for t in shard.tensors] == [
        "layers.9.a",
        "layers.9.b",
        "layers.10.b",
        "layers.9.c",
    ]
    assert lay_out(reversed(tensors)).shards == (shard,)
    shards = lay_out(tensors, shard_limit=14).shards
    assert [shard.name for shard in shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(STORAGE)), st.lists(st.integers(0, 5), max_size=3)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 64),
    st.integers(8, 64),
)
def test_any_shapes_and_any_buffer_give_the_file_that_was_promised(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: list[tuple[str, list[int]]],
    limit: int,
    buffer: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = folder / "source"
    generator = np.random.default_rng(0)
    data = b""
    described = []
    for number, (dtype, shape) in enumerate(tensors):
        nbytes = int(np.prod(shape, dtype=int)) * STORAGE[dtype].itemsize
        # Every tensor in two pieces, the later one first in the file.
        cut = nbytes // 2 // 8 * 8
        pieces = joined(
            [Piece(source, len(data) + nbytes - cut, cut), Piece(source, len(data), nbytes - cut)]
        )
        described.append(SlicedTensor(f"t.{number}", dtype, tuple(shape), pieces, "any"))
        data += generator.bytes(nbytes)
    source.write_bytes(data)
    layout = lay_out(described, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_BUFFER", buffer // 8 * 8)
        (folder / "out").mkdir()
        hashes = write_shards(folder / "out", layout)
    seen = {}
    for shard in layout.shards:
        path = folder / "out" / shard.name
        assert path.stat().st_size == shard.nbytes
        assert hashes[shard.name] == sha256(path)
        seen |= read_header(path)
    for tensor in described:
        spec = seen[tensor.name]
        got = spec.path.read_bytes()[spec.offset : spec.offset + spec.nbytes]
        assert got == b"".join(data[p.offset : p.offset + p.nbytes] for p in tensor.pieces)
        assert spec.offset % STORAGE[spec.dtype].itemsize == 0


def test_progress_reports_every_byte_of_tensor_data(tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny("mixtral")
    calls: list[tuple[str, int, int, str]] = []
    write_shards(tmp_path, lay_out(everything(checkpoint)), lambda *call: calls.append(call))
    assert calls[-1] == ("write safetensors", checkpoint.nbytes, checkpoint.nbytes, "bytes")
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)


def test_a_name_given_twice_is_refused(tiny: TINY) -> None:
    tensors = everything(tiny("mixtral"))
    with pytest.raises(CheckpointError, match="'lm_head.weight' would be written twice"):
        lay_out([*tensors, tensors[0]])


def test_pieces_that_do_not_add_up_are_refused(tiny: TINY) -> None:
    tensor = everything(tiny("mixtral"))[0]
    wrong = SlicedTensor(tensor.name, tensor.dtype, (3,), tensor.pieces)
    with pytest.raises(CheckpointError, match=r"F32 \[3\] takes 12"):
        lay_out([wrong])


def _bits(dtype: str, value: float) -> bytes:
    if dtype == "BF16":
        return np.float32(value).tobytes()[2:]
    return np.array(value, STORAGE[dtype]).tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@given(size=st.integers(1, 700_000), place=st.integers(0, 699_999), sign=st.sampled_from([1, -1]))
@settings(max_examples=5, deadline=None)
def test_one_forbidden_number_among_many_is_found(
    dtype: str, value: float, size: int, place: int, sign: int
) -> None:
    place %= size
    data = bytearray(_bits(dtype, sign * 1e4) * size)
    assert first_forbidden(dtype, memoryview(data)) is None
    width = STORAGE[dtype].itemsize
    data[place * width : (place + 1) * width] = _bits(dtype, value)
    infinite = bool(np.isinf(value))
    assert first_forbidden(dtype, memoryview(data)) == place
    assert first_forbidden(dtype, memoryview(data), "infinite") == (None if infinite else place)
    assert first_forbidden(dtype, memoryview(data), "any") is None
    what = "infinity" if infinite else "NaN"
    with pytest.raises(CheckpointError, match=f"'w' holds {what} at element {place + 10} "):
        refuse_forbidden("w", dtype, memoryview(data), start=10)


def test_a_number_of_64_bits_that_32_cannot_hold_is_refused() -> None:
    fits = NamedTensor("w", "F64", np.array([1e38, -np.inf, 1e-300]))
    assert to_float32(fits).tolist() == [float(np.float32(1e38)), -np.inf, 0]
    with pytest.raises(NumericError, match="tensor 'w' holds a number that is too large for 32"):
        to_float32(fits._replace(array=np.array([1e300, -np.inf])))


def test_every_pattern_of_16_and_8_bits_is_judged_as_arithmetic_judges_it() -> None:
    import torch

    def view(bits: torch.Tensor) -> memoryview:
        return memoryview(bits.numpy().tobytes())

    types = {
        "F16": (torch.uint16, torch.float16),
        "BF16": (torch.uint16, torch.bfloat16),
        "F8_E4M3": (torch.uint8, torch.float8_e4m3fn),
        "F8_E5M2": (torch.uint8, torch.float8_e5m2),
    }
    for dtype, (bits, kind) in types.items():
        patterns = torch.arange(2 ** (8 * bits.itemsize)).to(bits)
        numbers = patterns.view(kind).float()
        fine = {"finite": torch.isfinite(numbers), "infinite": ~torch.isnan(numbers)}
        for allowed, good in fine.items():
            assert first_forbidden(dtype, view(patterns[good]), allowed) is None
            for pattern in patterns[~good]:
                assert first_forbidden(dtype, view(pattern), allowed) == 0


def test_integers_are_always_allowed() -> None:
    assert first_forbidden("U16", memoryview(b"\xff" * 64)) is None
