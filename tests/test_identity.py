"""What tells one model from another sees every byte, and reads no more than it has to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_models import save_tiny

from secateur.checkpoint import identity
from secateur.checkpoint.identity import file_hashes
from secateur.checkpoint.reader import INDEX, SINGLE, Checkpoint, open_checkpoint
from secateur.system.cache import WEIGHT_HASHES as STORE
from secateur.system.resources import cache_folder

TINY = Callable[[str], Checkpoint]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def model(tiny: TINY, tmp_path: Path) -> Path:
    """A copy of a tiny model, whose files have not changed for an hour."""
    folder = Path(shutil.copytree(tiny("gemma4").path, tmp_path / "model"))
    settle(folder)
    return folder


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are remembered however young the file is."""
    monkeypatch.setattr(identity, "_SETTLED", -(1 << 62))


def settle(folder: Path) -> None:
    for path in folder.iterdir():
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - 3600 * 10**9))


def read_by(files: list[Path]) -> dict[Path, int]:
    """Bytes that hashing had to read, by file: 0 when nothing was."""
    reported: list[tuple[str, int, int, str]] = []
    file_hashes(files, lambda *words: reported.append(words))
    assert all(stage == "hash weights" and unit == "bytes" for stage, _, _, unit in reported)
    assert all(done <= total for _, done, total, _ in reported)
    return {files[0]: reported[-1][1] if reported else 0}


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_one_bit_anywhere_changes_it(model: Path, settled: None) -> None:
    before = open_checkpoint(model)
    seen = {before.identity()}
    stack = before.specs["model.layers.1.experts.down_proj"]
    for offset in (0, stack.nbytes // 2, stack.nbytes - 1):
        flip(model / SINGLE, stack.offset + offset)
        seen.add(open_checkpoint(model).identity())
        flip(model / SINGLE, stack.offset + offset)
    assert len(seen) == 4
    assert open_checkpoint(model).identity() == before.identity()


def test_another_config_changes_it_and_another_layout_of_it_does_not(model: Path) -> None:
    before = open_checkpoint(model).identity()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    assert open_checkpoint(model).identity() == before
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    assert open_checkpoint(model).identity() != before


def test_place_names_and_index_do_not_count(tmp_path: Path) -> None:
    one = save_tiny("mixtral", tmp_path / "one", shard_size="40KB")
    other = Path(shutil.copytree(one, tmp_path / "two"))
    index = json.loads((other / INDEX).read_text())
    shards = sorted(set(index["weight_map"].values()))
    renamed = {shard: f"part-{number}.safetensors" for number, shard in enumerate(reversed(shards))}
    for shard, name in renamed.items():
        (other / shard).rename(other / name)
    names = {tensor: renamed[shard] for tensor, shard in reversed(index["weight_map"].items())}
    (other / INDEX).write_text(json.dumps({"weight_map": names, "metadata": {}}))
    (other / "tokenizer.json").unlink()
    assert len(shards) > 2
    assert open_checkpoint(one).identity() == open_checkpoint(other).identity()


def test_two_fine_tunes_differ(tiny: TINY, tmp_path: Path) -> None:
    other = open_checkpoint(save_tiny("gemma4", tmp_path / "model", seed=1))
    assert tiny("gemma4").identity() != other.identity()


def test_a_remembered_hash_is_not_read_again(model: Path, cache: Path, settled: None) -> None:
    files = [model / SINGLE]
    size = files[0].stat().st_size
    assert read_by(files) == {files[0]: size}
    assert str(model / SINGLE) in json.loads((cache / STORE).read_text())
    assert read_by(files) == {files[0]: 0}
    link = model / "link.safetensors"
    link.symlink_to(files[0])
    assert read_by([link]) == {link: 0}
    os.utime(files[0])
    assert read_by(files) == {files[0]: size}
    assert read_by(files) == {files[0]: 0}
    # As rsync and tar do: other bytes, the same length, name and time of change.
    stamp = files[0].stat()
    flip(files[0], size - 1)
    os.utime(files[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert read_by(files) == {files[0]: size}
    files[0].write_bytes(files[0].read_bytes() + b"more")
    assert read_by(files) == {files[0]: size + 4}


def test_touching_a_file_changes_nothing(model: Path, settled: None) -> None:
    before = open_checkpoint(model).identity()
    os.utime(model / SINGLE)
    assert open_checkpoint(model).identity() == before


def test_a_file_that_has_just_changed_is_not_remembered(model: Path, cache: Path) -> None:
    os.utime(model / SINGLE)
    open_checkpoint(model).identity()
    assert not (cache / STORE).exists()


def test_a_file_of_the_future_is_remembered_when_it_did_not_change_while_it_was_read(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was set back after it was written."""
    file = model / SINGLE
    later = file.stat().st_mtime_ns + 86400 * 10**9
    os.utime(file, ns=(later, later))
    size = file.stat().st_size
    assert read_by([file]) == {file: size}
    assert not (cache / STORE).exists()
    monkeypatch.setattr(identity, "_SETTLED", 1)  # as if reading had taken longer than that
    assert read_by([file]) == {file: size}
    assert read_by([file]) == {file: 0}


def test_hashes_of_files_that_are_gone_are_forgotten(
    model: Path, cache: Path, settled: None
) -> None:
    gone = model / "gone.safetensors"
    gone.write_bytes(b"weights")
    file_hashes([gone])
    assert str(gone) in json.loads((cache / STORE).read_text())
    gone.unlink()
    file_hashes([model / SINGLE])
    assert list(json.loads((cache / STORE).read_text())) == [str(model / SINGLE)]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"/a": 1}', '{"/a": [[1, 2], 3]}', "\x00", "[" * 9]
)
def test_a_damaged_store_is_made_anew(text: str, model: Path, cache: Path, settled: None) -> None:
    cache.mkdir(parents=True)
    (cache / STORE).write_text(text)
    expected = hashlib.sha256((model / SINGLE).read_bytes()).hexdigest()
    assert file_hashes([model / SINGLE]) == {model / SINGLE: expected}
    assert read_by([model / SINGLE]) == {model / SINGLE: 0}


def test_a_cache_that_cannot_be_written(model: Path, cache: Path, settled: None) -> None:
    expected = hashlib.sha256((model / SINGLE).read_bytes()).hexdigest()
    cache.parent.write_text("a file where the folder would be")
    assert file_hashes([model / SINGLE]) == {model / SINGLE: expected}


def test_without_a_home_it_is_computed(model: Path, settled: None) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from secateur.checkpoint.identity import file_hashes\n"
        "print(*file_hashes([Path(sys.argv[1])]).values())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    # /proc takes no new folders, whoever asks.
    for extra in ({"HOME": "/proc/nowhere"}, {"XDG_CACHE_HOME": "/proc/nowhere"}):
        result = subprocess.run(
            [sys.executable, "-c", code, str(model / SINGLE)],
            capture_output=True,
            text=True,
            env=environment | extra,
            check=True,
            cwd=Path(__file__).parents[1],
        )
        assert result.stdout.strip() == hashlib.sha256((model / SINGLE).read_bytes()).hexdigest()


def test_several_at_once_agree(model: Path, cache: Path, settled: None) -> None:
    files = [model / f"{number}.safetensors" for number in range(6)]
    for path in files:
        path.write_bytes(os.urandom(3 << 20))
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda path: file_hashes([path], workers=2)[path], files))
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert set(json.loads((cache / STORE).read_text())) <= {str(path) for path in files}
    assert list(cache.iterdir()) == [cache / STORE]


@pytest.fixture
def snapshot(model: Path, tmp_path: Path) -> Path:
    """The same model as the hub's cache keeps it."""
    repository = tmp_path / "hub" / "models--owner--tiny"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in model.iterdir():
        data = path.read_bytes()
        large = path.suffix == ".safetensors"
        name = (hashlib.sha256 if large else hashlib.sha1)(data).hexdigest()
        (repository / "blobs" / name).write_bytes(data)
        (folder / path.name).symlink_to(f"../../blobs/{name}")
    return folder


def test_a_file_of_the_hubs_cache_need_not_be_read(
    model: Path, snapshot: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = open_checkpoint(model).identity()
    checkpoint = open_checkpoint(snapshot)

    def unexpected(*_: object) -> str:
        raise AssertionError("read")

    monkeypatch.setattr(identity, "_hash", unexpected)
    assert checkpoint.identity() == local
    monkeypatch.chdir(snapshot)
    assert open_checkpoint(".").identity() == local


def test_other_links_are_read(model: Path, snapshot: Path, tmp_path: Path) -> None:
    truth = hashlib.sha256((model / SINGLE).read_bytes()).hexdigest()
    for folder, name in (
        (tmp_path / "blobs", "a" * 64),  # not in a snapshot
        (snapshot.parent.parent / "blobs", "a" * 40),  # not a sha256
        (snapshot.parent, "b" * 64),  # not a blob
    ):
        folder.mkdir(exist_ok=True)
        shutil.copy(model / SINGLE, folder / name)
        (snapshot / SINGLE).unlink()
        (snapshot / SINGLE).symlink_to(folder / name)
        assert file_hashes([snapshot / SINGLE]) == {snapshot / SINGLE: truth}


def test_it_is_computed_once_an_open_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    original = identity.file_hashes
    monkeypatch.setattr(
        identity, "file_hashes", lambda *words: (calls.append(words), original(*words))[1]
    )
    checkpoint = open_checkpoint(model)
    assert checkpoint.identity() == checkpoint.identity() == checkpoint.facts()["identity"]
    assert len(calls) == 1


def test_what_was_hashed_before_an_error_is_kept(model: Path, cache: Path, settled: None) -> None:
    def stop(stage: str, done: int, total: int, unit: str) -> None:
        if done > first:
            raise KeyboardInterrupt

    small, large = model / "a.safetensors", model / "b.safetensors"
    small.write_bytes(b"small")
    large.write_bytes(os.urandom(4 << 20))
    first = small.stat().st_size
    with pytest.raises(KeyboardInterrupt):
        file_hashes([small, large], stop, workers=1)
    assert list(json.loads((cache / STORE).read_text())) == [str(small)]
