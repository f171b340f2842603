"""Of a repository on the hub is fetched what its index names, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, REPOSITORY, hub_serving
from tiny_line import Run
from tiny_models import save_tiny

import secateur
from secateur import Calibration, Formats, Pruning, read_plan
from secateur.api.requests import Job
from secateur.checkpoint import identity
from secateur.checkpoint.reader import INDEX, SINGLE, open_checkpoint, open_shape
from secateur.errors import CheckpointError
from secateur.release.manifest import read_manifest


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A repository with shards, and with all that publishers put next to them."""
    folder = save_tiny("mixtral", tmp_path / "served", shard_size="40KB")
    (folder / "original").mkdir()
    for name in ("original/model.safetensors", "original/params.json", "original/tokenizer.json",
                 "consolidated.safetensors", "consolidated.00.pth", "pytorch_model.bin",
                 "model.fp16.safetensors", "modeling_tiny.py", "onnx/model.onnx",
                 "additional_chat_templates/tools.jinja", "LICENSE", "README.md"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps({"file": name}))
    return folder


@pytest.fixture
def fetched(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    with hub_serving(served, tmp_path / "hub", monkeypatch) as asked:
        yield asked


SMALL = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
         "generation_config.json", "additional_chat_templates/tools.jinja", "LICENSE",
         "README.md"}  # fmt: skip


def shards_of(folder: Path) -> set[str]:
    return set(json.loads((folder / INDEX).read_text())["weight_map"].values())


def test_the_shards_of_the_index_and_the_small_files(served: Path, fetched: list[str]) -> None:
    checkpoint = open_checkpoint(REPOSITORY)
    assert (checkpoint.source, checkpoint.revision) == (REPOSITORY, COMMIT)
    assert set(fetched) == SMALL | {INDEX} | shards_of(served)
    assert len(fetched) == len(set(fetched))
    assert {p.name for p in checkpoint.shards} == shards_of(served)
    fetched.clear()
    again = open_checkpoint(REPOSITORY, COMMIT)
    assert fetched == []
    assert again.path == checkpoint.path


def test_a_single_file_needs_no_index(served: Path, fetched: list[str], tmp_path: Path) -> None:
    for name in (*shards_of(served), INDEX):
        (served / name).unlink()
    shutil.copy(save_tiny("mixtral", tmp_path / "one") / SINGLE, served)
    open_checkpoint(REPOSITORY)
    assert set(fetched) == SMALL | {SINGLE}


def test_two_sets_of_weights_are_refused_before_either_is_fetched(
    served: Path, fetched: list[str]
) -> None:
    (served / SINGLE).write_bytes(b"another model")
    with pytest.raises(CheckpointError, match="two sets of weights"):
        open_checkpoint(REPOSITORY)
    assert set(fetched) == SMALL | {INDEX}


def test_a_config_is_enough_until_the_weights_are_there(
    served: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_shape(REPOSITORY).shape_only
    assert not {name for name in fetched if "safetensors" in name} - {INDEX}
    whole = open_checkpoint(REPOSITORY)
    fetched.clear()
    assert not open_shape(REPOSITORY).shape_only
    assert fetched == []
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_shape(REPOSITORY).specs == open_checkpoint(REPOSITORY).specs == whole.specs


def test_the_hubs_hashes_are_the_identity(
    served: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(REPOSITORY)
    local = open_checkpoint(served).identity()

    def unexpected(*_: object) -> str:
        raise AssertionError("read")

    monkeypatch.setattr(identity, "_hash", unexpected)
    assert checkpoint.identity() == local


def test_a_revision_of_what_is_here_is_refused(served: Path, run: Run, tmp_path: Path) -> None:
    for ran in (
        run("inspect", served, revision=COMMIT),
        run("inspect", served / "config.json", revision=COMMIT),
        run("inspect", "gemmule", revision="main"),
        run("synth", served / "config.json", revision=COMMIT, out=tmp_path / "out"),
        run("family", "draft", served, revision=COMMIT),
        run("calibrate", served, revision=COMMIT, corpus="gemmule", out=tmp_path / "out"),
    ):
        assert ran.code == 2
        assert "is on this machine, where there is one state of it" in ran.said[-1]
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    ran = run("audit", tmp_path / "a.gguf", revision=COMMIT)
    assert ran.code == 2 and "is not on the hub: leave the revision out" in ran.said[-1]


@pytest.mark.slow
def test_a_copy_that_a_plan_or_job_knows_is_recorded_as_the_commit(
    served: Path, fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content is compared, so that it is that commit; without that the revision is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"input_ids": list(range(4, 40))}) + "\n")
    job = Job(
        model=REPOSITORY,
        calibration=Calibration(rows=tmp_path / "rows.jsonl", reroute_tokens=0),
        pruning=Pruning(drop=0.25, criterion="random"),
        formats=Formats(to="safetensors"),
        measuring=None,
    )
    secateur.run(job, tmp_path / "first")
    resolved = tmp_path / "first" / "job.yaml"
    assert COMMIT in resolved.read_text()
    secateur.run(resolved, tmp_path / "copy", set=[f"model={served}"])
    with pytest.raises(CheckpointError, match=f"revision {COMMIT}: .* is on this machine"):
        secateur.run(resolved, tmp_path / "any", set=[f"model={served}", "content=null"])
    again = tmp_path / "copy" / "job.yaml"
    assert COMMIT in again.read_text()
    secateur.run(again, tmp_path / "again")
    plan = read_plan(tmp_path / "first" / "plan.json")
    secateur.apply(plan, tmp_path / "applied", model=served)
    for name in ("copy", "again", "applied"):
        made = read_manifest(tmp_path / name)
        first = read_manifest(tmp_path / "first")
        assert made["model"]["revision"] == COMMIT
        assert made["origin"]["steps"][-1]["revision"] == COMMIT
        assert made["files"][SINGLE] == first["files"][SINGLE]


@pytest.mark.parametrize("name", [INDEX, SINGLE, "config.json"])
def test_a_repository_without_a_file(name: str, served: Path, fetched: list[str]) -> None:
    if name == SINGLE:
        for shard in (*shards_of(served), INDEX):
            (served / shard).unlink()
    else:
        (served / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        open_checkpoint(REPOSITORY)


def test_what_the_hub_refuses_is_one_sentence(
    served: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="owner/other is not on the hub, or private"):
        open_checkpoint("owner/other")
    with pytest.raises(CheckpointError, match="is no hub id"):
        open_checkpoint("owner/--")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="owner/name is not in the hub's cache as a whole"):
        open_checkpoint(REPOSITORY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="the hub cannot be reached: connect"):
        open_checkpoint(REPOSITORY)
