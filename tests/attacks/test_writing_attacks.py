"""What can go wrong while writing: weights that are no numbers, disks that are full."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_models import save_tiny

from secateur.checkpoint import writer
from secateur.checkpoint.byte_ranges import whole
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.checkpoint.writer import Layout, lay_out, write_shards
from secateur.errors import CheckpointError, ReadError, SecateurError, WriteError
from secateur.pruning.expert_slices import select_experts
from secateur.system import flushed_file as output_file
from secateur.system.workdir import complete_or_absent

TINY = Callable[[str], Checkpoint]
Usage = namedtuple("Usage", "total used free")


def layout_of(checkpoint: Checkpoint) -> Layout:
    keep = {layer: [0, 1, 4, 5] for layer in checkpoint.moe_layers}
    return lay_out(select_experts(checkpoint, keep), 60_000)


def fails(folder: Path, layout: Layout, kind: type[SecateurError]) -> str:
    """The message with which writing fails; and nothing is left behind."""
    before = sorted(folder.iterdir())
    with pytest.raises(kind) as caught, complete_or_absent(folder / "out") as out:
        write_shards(out, layout)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert sorted(folder.iterdir()) == before
    return str(caught.value)


def poison(checkpoint: Checkpoint, name: str, index: int, value: float) -> None:
    spec = checkpoint.specs[name]
    array = np.memmap(spec.path, np.float32, "r+", spec.offset, spec.shape)
    array.reshape(-1)[index] = value
    array.flush()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model.layers.1.router.proj.weight", 3),
        ("model.layers.2.experts.down_proj", 4 * 512 + 7),
        ("model.norm.weight", 31),
    ],
)
def test_weights_that_are_no_numbers(name: str, index: int, value: float, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny("gemma4", tmp_path / "in"))
    poison(checkpoint, name, index, value)
    (tmp_path / "to").mkdir()
    message = fails(tmp_path / "to", layout_of(checkpoint), CheckpointError)
    assert CheckpointError.exit_code == 2
    assert repr(name) in message
    # The third kept expert is number 4 of the source: the element is counted in the output.
    place = 2 * 512 + 7 if "down_proj" in name else index
    assert f"{'NaN' if np.isnan(value) else 'infinity'} at element {place} " in message


def test_a_dropped_expert_may_hold_anything(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny("gemma4", tmp_path / "in"))
    poison(checkpoint, "model.layers.2.experts.down_proj", 3 * 512, np.nan)
    write_shards(tmp_path, layout_of(checkpoint))
    written = {
        name: array
        for shard in tmp_path.glob("*.safetensors")
        for name, array in load_file(shard).items()
    }
    assert len(written["model.layers.2.experts.down_proj"]) == 4
    assert all(np.isfinite(array).all() for array in written.values())


def test_carried_parts_may_have_infinite_bounds_but_no_nan(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny("gemma4_wrapper", tmp_path / "in"))
    name = "model.vision_tower.encoder.layers.0.mlp.up_proj.input_min"
    assert np.isinf(checkpoint.read(name).array).all()
    (tmp_path / "fine").mkdir()
    write_shards(tmp_path / "fine", layout_of(checkpoint))
    poison(checkpoint, name, 0, np.nan)
    (tmp_path / "to").mkdir()
    assert "holds NaN at element 0" in fails(
        tmp_path / "to", layout_of(checkpoint), CheckpointError
    )


def test_a_source_that_shrinks_while_it_is_copied(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny("gemma4", tmp_path / "in"))
    layout = layout_of(checkpoint)
    path = next(iter(checkpoint.specs.values())).path
    os.truncate(path, path.stat().st_size // 2)
    (tmp_path / "to").mkdir()
    message = fails(tmp_path / "to", layout, CheckpointError)
    assert f"{path} ends at byte" in message


def test_a_source_that_disappears(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny("gemma4", tmp_path / "in"))
    layout = layout_of(checkpoint)
    path = next(iter(checkpoint.specs.values())).path
    path.unlink()
    (tmp_path / "to").mkdir()
    assert str(path) in fails(tmp_path / "to", layout, ReadError)


def test_too_little_room_is_said_before_anything_is_written(
    tiny: TINY, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(tiny("gemma4"))
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: Usage(10, 0, layout.nbytes - 1))
    monkeypatch.setattr(writer, "_write_all", None)
    message = fails(tmp_path, layout, WriteError)
    assert f"{layout.nbytes - 1} bytes free, but the output takes {layout.nbytes}" in message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_in_the_middle(
    number: int, tiny: TINY, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(tiny("gemma4"))
    real, written = os.write, [0]

    def write(descriptor: int, data: memoryview) -> int:
        written[0] += len(data)
        if written[0] > layout.nbytes // 2:
            raise OSError(number, os.strerror(number))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    message = fails(tmp_path, layout, WriteError)
    assert os.strerror(number) in message
    assert "model-0000" in message
    assert " are free" in message


def test_a_flush_that_fails(tiny: TINY, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fdatasync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(output_file, "FLUSH", 10_000)
    monkeypatch.setattr(output_file.os, "fdatasync", fdatasync)
    assert "Input/output error" in fails(tmp_path, layout_of(tiny("gemma4")), WriteError)


def test_a_file_larger_than_the_system_allows(tiny: TINY, tmp_path: Path) -> None:
    layout = layout_of(tiny("gemma4"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        message = fails(tmp_path, layout, WriteError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.strerror(errno.EFBIG) in message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 KiB, where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(
    small_disk: Path, tiny: TINY, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(tiny("gemma4"))
    assert "bytes free, but the output takes" in fails(small_disk, layout, WriteError)
    # Another process may take the room between the check and the writing.
    real = shutil.disk_usage
    calls = iter([Usage(0, 0, 10**9)])
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: next(calls, None) or real(path))
    assert os.strerror(errno.ENOSPC) in fails(small_disk, layout, WriteError)


def test_an_interrupt_stops_all_shards(tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny("gemma4")
    layout = lay_out((whole(spec) for spec in checkpoint.specs.values()), 1)
    told: list[int] = []

    def interrupted(stage: str, done: int, total: int, unit: str) -> None:
        told.append(done)
        if len(told) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), complete_or_absent(tmp_path / "out") as out:
        write_shards(out, layout, interrupted)
    assert len(told) < len(layout.shards) // 2
    assert list(tmp_path.iterdir()) == []
