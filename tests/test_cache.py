"""The cache folder: what is in it, that damage is seen, and removing it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_line import Line, Run

from secateur import Measuring, measure
from secateur.api.cache import Cleaning, choose_to_clean, clean_cache, list_cache
from secateur.checkpoint.reader import open_checkpoint
from secateur.errors import InputError, RequestError
from secateur.system.array_file import check_arrays, read_arrays, write_arrays
from secateur.system.cache import WEIGHT_HASHES, model_folder
from secateur.system.resources import cache_folder


@pytest.fixture
def cache(made: Path, line: Line, run: Run) -> Path:  # noqa: ARG001 - `run` gives a cache of its own
    """The folder that measuring one file fills."""
    file = made / "tiny-moe-6e-Q8_0.gguf"
    measure(file, line.model, Measuring(prompts=line.prompts, answer_tokens=4))
    (cache_folder() / WEIGHT_HASHES).write_text("{}")
    return model_folder(open_checkpoint(line.model).identity())


def test_all_that_measuring_keeps_is_listed(cache: Path, run: Run) -> None:
    found = run("cache", "list", json=True).json
    assert found["folder"] == str(cache.parent)
    kinds = {entry["what"]: entry for entry in found["files"]}
    assert kinds.keys() == {"answers", "probabilities", "scores", "weight hashes"}
    for kind in ("answers", "probabilities", "scores"):
        assert kinds[kind]["model"] == "tiny-moe" and kinds[kind]["identity"] == cache.name
        assert kinds[kind]["bytes"] == Path(kinds[kind]["file"]).stat().st_size
        assert kinds[kind]["damage"] is None
    assert kinds["answers"]["made_by"] == "prompts.jsonl, 4 tokens, temperature 1.0"
    lines = run("cache", "list").out.splitlines()
    assert lines[-1].startswith(f"{cache.parent}: 5 files, ")
    assert any(text.startswith(f"tiny-moe ({cache.name}): 4 files") for text in lines)


def test_damage_is_seen_and_such_files_can_be_removed(cache: Path, line: Line, run: Run) -> None:
    for path in (next(cache.glob("teacher-*")), next(cache.glob("answers-*"))):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    damaged = {file.entry.what for file in list_cache() if file.damage}
    assert damaged == {"probabilities", "answers"}
    assert "damaged: " in run("cache", "list").out
    with pytest.raises(InputError):
        file = next(line.model.glob("*.safetensors")).parent
        measure(file, line.model, Measuring(prompts=line.prompts, answer_tokens=4))
    done = run("cache", "clean", "--damaged", "--yes")
    assert done.code == 0 and done.out.startswith("removed 2 files")
    assert {path.name.split("-")[0] for path in cache.iterdir()} == {"scores", "model.json"}


def test_cleaning_by_age_and_model_and_everything(cache: Path, run: Run) -> None:
    old = next(cache.glob("scores-*"))
    long_ago = time.time() - 40 * 86400
    os.utime(old, (long_ago, long_ago))
    chosen = choose_to_clean(Cleaning(older_than=30 * 86400))
    assert [file.entry.path for file in chosen] == [old]
    dry = run("cache", "clean", "--older-than", "30d", "--dry-run", json=True)
    assert len(dry.json["removed"]) == 1 and dry.json["dry_run"] and old.exists()
    assert run("cache", "clean", "--older-than", "30d", "--yes").out.startswith("removed 1 file,")
    assert not old.exists()
    assert len(choose_to_clean(Cleaning(model="tiny-moe"))) == 3
    assert len(choose_to_clean(Cleaning(model=cache.name[:8]))) == 3
    run("cache", "clean", "--model", "tiny-moe", "--yes")
    assert not cache.exists() and (cache.parent / WEIGHT_HASHES).exists()
    assert run("cache", "clean", "--all", "-y").code == 0
    assert list_cache() == ()


def test_it_asks_first_and_without_a_terminal_it_refuses(cache: Path, run: Run) -> None:
    refused = run("cache", "clean", "--all")
    assert refused.code == 2 and "say --yes" in refused.err and "5 files" in refused.err
    assert len(list_cache()) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to remove"),
        (("--all", "--damaged"), "say what to remove"),
        (("--older-than", "soon"), "expected minutes, hours, days or weeks"),
        (("--model", "nobody"), "has nothing of 'nobody'"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: tuple[str, ...], said: str, run: Run) -> None:
    found = run("cache", "clean", *words, "--yes")
    assert found.code == 2 and said in found.err


@contextmanager
def user_of(folder: Path) -> Iterator[None]:
    """Another process that uses a folder."""
    code = (
        "import sys, pathlib\nfrom secateur.system.folder_lock import in_use\n"
        f"with in_use(pathlib.Path({str(folder)!r})):\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"in\n"
        yield
        process.stdin.close()


def test_what_another_process_uses_is_left_alone_and_named(cache: Path, run: Run) -> None:
    with user_of(cache):
        found = run("cache", "clean", "--all", "--yes", json=True)
        assert found.json["in_use"] == ["tiny-moe"]
        assert "in use by another process, left alone: tiny-moe" in found.err
        assert [entry["what"] for entry in found.json["removed"]] == ["weight hashes"]
        assert len(list(cache.iterdir())) == 5
    removed, busy = clean_cache(choose_to_clean(Cleaning(everything=True)))
    assert len(removed) == 4 and busy == () and not cache.exists()


def test_a_changed_bit_of_kept_arrays_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "arrays"
    write_arrays(path, {"a": np.arange(300.0)}, {"format": "x 1", "provenance": '{"k": 1}'})
    assert check_arrays(path) == {"k": 1}
    arrays, head = read_arrays(path, "x 1", ("a",))
    assert arrays["a"][299] == 299.0 and head == {"format": "x 1", "provenance": {"k": 1}}
    whole = path.read_bytes()
    for place in (len(whole) - 1, len(whole) - 1200, whole.index(b'{\\"k')):
        data = bytearray(whole)
        data[place] ^= 4
        path.write_bytes(data)
        with pytest.raises(InputError, match="cache clean --damaged"):
            check_arrays(path)


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3"])
def test_weights_in_the_place_of_kept_arrays_are_one_sentence(tmp_path: Path, kind: str) -> None:
    head = json.dumps({"a": {"dtype": kind, "shape": [0], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "arrays").write_bytes(len(head).to_bytes(8, "little") + head)
    with pytest.raises(InputError, match="numbers of a type that this file has not: make it again"):
        check_arrays(tmp_path / "arrays")


def test_a_request_needs_one_reason() -> None:
    with pytest.raises(RequestError, match="expected 0 or more"):
        Cleaning(older_than=-1)
