"""The hub, without a network: a cache folder made by hand, and what is not in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import save_tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_OPEN = """
import json, sys
from secateur.checkpoint.reader import open_checkpoint
from secateur.errors import SecateurError
try:
    checkpoint = open_checkpoint(*sys.argv[1:])
except SecateurError as error:
    print(json.dumps([type(error).__name__, error.exit_code, str(error)]))
else:
    print(json.dumps([checkpoint.source, checkpoint.revision, str(checkpoint.path)]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache that holds owner/tiny at one commit, and half of owner/half."""
    hub = tmp_path_factory.mktemp("hub")
    for name in ("tiny", "half"):
        repository = hub / f"models--owner--{name}"
        save_tiny("mixtral", repository / "snapshots" / COMMIT, shard_size="40KB")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        (repository / "blobs").mkdir()
    shards = sorted((hub / "models--owner--half" / "snapshots" / COMMIT).glob("*.safetensors"))
    shards[1].unlink()
    return hub


def opened(cache: Path, *arguments: str) -> list[object]:
    # huggingface_hub reads its settings when it is imported: hence a process of its own.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", _OPEN, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    answer: list[object] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("revision", [[], ["main"], [COMMIT]])
def test_a_cached_model_opens_and_its_commit_is_recorded(cache: Path, revision: list[str]) -> None:
    source, got, path = opened(cache, "owner/tiny", *revision)
    assert (source, got) == ("owner/tiny", COMMIT)
    assert path == str(cache / "models--owner--tiny" / "snapshots" / COMMIT)


@pytest.mark.parametrize(
    "arguments", [["owner/other"], ["owner/tiny", "v2"], ["owner/bad name"], ["owner/half"]]
)
def test_what_is_not_in_the_cache_is_one_line(cache: Path, arguments: list[str]) -> None:
    kind, code, message = opened(cache, *arguments)
    assert (kind, code) == ("CheckpointError", 2)
    assert "\n" not in str(message)
    assert arguments[0].split("/")[1] in str(message)


def test_a_local_folder_wins_over_the_hub(cache: Path, tmp_path: Path) -> None:
    local = tmp_path / "owner" / "tiny"
    shutil.copytree(cache / "models--owner--tiny" / "snapshots" / COMMIT, local)
    source, revision, path = opened(cache, str(local))
    assert (source, revision, path) == (str(local), None, str(local))
