"""The original as a GGUF: in its own precision, made once, remade when it is cut short."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_line import Line

from secateur.api.cache import list_cache
from secateur.api.original_gguf import find_original_gguf, gguf_of_original, lossless_type
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.errors import FormatError, RequestError
from secateur.formats.gguf.reader import read_gguf


def test_it_is_made_once_and_found_again(line: Line, tmp_path: Path) -> None:
    found = find_original_gguf(line.model, tmp_path)
    assert not found.made
    path = gguf_of_original(line.model, tmp_path)
    assert path == found.path
    assert path.stat().st_size == found.nbytes
    assert find_original_gguf(line.model, tmp_path).made
    before = path.stat().st_ino
    assert gguf_of_original(line.model, tmp_path).stat().st_ino == before
    path.write_bytes(path.read_bytes()[:-32])
    assert not find_original_gguf(line.model, tmp_path).made
    assert gguf_of_original(line.model, tmp_path).stat().st_size == found.nbytes


def test_of_two_that_need_it_at_once_one_waits(line: Line, tmp_path: Path) -> None:
    """Threads, whose locks are those of processes."""
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: gguf_of_original(line.model, tmp_path, workers=1), range(2)))
    assert made[0] == made[1] and find_original_gguf(line.model, tmp_path).made
    assert not list(tmp_path.rglob("*.lock"))


def test_nothing_of_the_weights_is_lost(
    line: Line, tiny: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    assert lossless_type(tiny("gemma4")) == "F32"
    checkpoint = open_checkpoint(line.model)
    assert lossless_type(checkpoint) == "BF16"
    kinds = {spec.dtype for spec in checkpoint.specs.values()}
    found = read_gguf(gguf_of_original(checkpoint, tmp_path))
    assert kinds <= {info.type for info in found.tensors.values()} <= {"BF16", "F32"}


def test_it_is_kept_in_the_cache_under_its_model(line: Line, run: object) -> None:
    assert run
    path = gguf_of_original(line.model)
    (entry,) = [file.entry for file in list_cache() if file.entry.path == path]
    assert (entry.what, entry.model) == ("original as GGUF", "tiny-moe")


def test_a_users_own_file_is_taken_and_checked(line: Line, tmp_path: Path) -> None:
    own = gguf_of_original(line.model, tmp_path)
    assert gguf_of_original("gemmule", given=own) == own
    with pytest.raises(RequestError, match=r"nowhere\.gguf is not there"):
        gguf_of_original("gemmule", given="nowhere.gguf")
    (tmp_path / "cut.gguf").write_bytes(own.read_bytes()[:1000])
    with pytest.raises(FormatError, match=r"cut\.gguf"):
        gguf_of_original("gemmule", given=tmp_path / "cut.gguf")
