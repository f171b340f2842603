"""Calibration in parts, here and on a Ray cluster: the bytes of one pass, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_cluster import RAY_STORE, kill_a_worker, on_ray, ray_nodes

import secateur
from secateur import Calibration, Running
from secateur.api import calibrate as calibrate_api
from secateur.api.calibrate_parts import OpenInputs
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.shared_model import SharedModel
from secateur.cluster.ray_engine import Place, find_places
from secateur.errors import CheckpointError, EngineError, RequestError
from secateur.statistics.gram_file import gram_path
from secateur.statistics.sample_file import sample_path
from secateur.system import workdir

PARTS = 3


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of random tokens, enough for some groups of documents."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    draw = np.random.default_rng(0)
    ids = [draw.integers(4, 56, draw.integers(40, 64)).tolist() for _ in range(700)]
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], Checkpoint]) -> Path:
    """The tiny model, in bfloat16 or float32 as it comes: read only."""
    return tiny("gemma4").path


def request(rows: Path, **more: Any) -> Calibration:
    return Calibration(rows=rows, reroute_tokens=500, gram="shared", device="cpu", **more)


@pytest.fixture(scope="module")
def whole(rows: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The statistics of one pass."""
    out = tmp_path_factory.mktemp("whole") / "stats"
    secateur.calibrate(model, out, request(rows, keep_sample=True), workers=1)
    return out


def same(left: Path, right: Path) -> bool:
    """Whether two statistics, their samples and Gram matrices are the same bytes."""
    return all(
        beside(left).read_bytes() == beside(right).read_bytes()
        for beside in (lambda path: path, sample_path, gram_path)
    )


def test_parts_here_give_the_bytes_of_one_pass(
    rows: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    out = tmp_path / "stats"
    asked = request(rows, keep_sample=True)
    running = Running(1, parts=PARTS)
    secateur.calibrate(model, out, asked, workers=running, on_message=said.append)
    assert same(out, whole)
    assert "calibrating in 3 parts, 0 of them made before" in said
    assert not list(tmp_path.glob(f"*{workdir.SUFFIX}"))


def test_parts_that_are_made_are_not_made_again(
    rows: Path, model: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = calibrate_api.make_part

    def stop_at_the_last(inputs: OpenInputs, part: str, folder: Path, threads: int) -> None:
        if part == "3/3" and len(made) == 2:
            made.append("stopped")
            raise KeyboardInterrupt
        made.append(part)
        real(inputs, part, folder, threads)

    monkeypatch.setattr(calibrate_api, "make_part", stop_at_the_last)
    out = tmp_path / "stats"
    asked, running = request(rows, keep_sample=True), Running(1, parts=PARTS)
    with pytest.raises(KeyboardInterrupt):
        secateur.calibrate(model, out, asked, workers=running)
    assert not out.exists()
    secateur.calibrate(model, out, asked, workers=running)
    assert made == ["1/3", "2/3", "stopped", "3/3"]
    assert same(out, whole)
    assert not list(tmp_path.glob(f"*{workdir.SUFFIX}"))


def test_what_contradicts_itself_is_refused(rows: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="engine 'slurm': expected one of here, ray"):
        Running(engine="slurm")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="shard makes one part by hand"):
        asked = request(rows, shard="1/3")
        secateur.calibrate(model, tmp_path / "out", asked, workers=Running(parts=3))
    with pytest.raises(RequestError, match="parts"):
        Running(parts=0)


def test_a_machine_with_another_model_is_refused(
    model: Path, tiny: Callable[[str], Checkpoint]
) -> None:
    family = tiny("gemma4").family
    with pytest.raises(CheckpointError, match="is another model on this machine"):
        SharedModel(str(model), None, family, "0" * 64).open()


def test_places_are_equal_so_that_a_lost_one_may_be_anywhere() -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 24.0, "GPU": 4.0}, {"CPU": 4.0}, {"memory": 1e9}]
    assert find_places(nodes, None, gpus=1) == (Place(4, 1),) * 6
    assert find_places(nodes, None, gpus=0) == (Place(4, 0),) * 9
    assert find_places(nodes, 2, gpus=0) == (Place(2, 0),) * 18
    # More threads than a machine has cores would be waited for without end.
    assert find_places(nodes, 64, gpus=0) == find_places(nodes, None, gpus=0)
    # Several GPUs are of one machine, with the cores that belong to them.
    assert find_places(nodes, None, gpus=2) == (Place(8, 2),) * 3
    with pytest.raises(RequestError, match="no machine of the Ray cluster has 5 GPUs to give"):
        find_places(nodes, None, gpus=5)
    with pytest.raises(RequestError, match="no machine of the Ray cluster has a GPU"):
        find_places(nodes[2:], None, gpus=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_ray_gives_the_bytes_of_one_pass_on_one_two_and_two_nodes_and_after_a_kill(
    only_cluster: None, rows: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    asked = request(rows, keep_sample=True)
    with ray_nodes(1, cores=2) as made:
        secateur.calibrate(model, tmp_path / "two", asked, workers=on_ray(1))
        secateur.calibrate(model, tmp_path / "one", asked, workers=on_ray(2))
        assert same(tmp_path / "one", whole) and same(tmp_path / "two", whole)
        made.add_node(num_cpus=2, object_store_memory=RAY_STORE)
        _calibrate_and_kill_a_worker(model, tmp_path / "killed", asked)
        assert same(tmp_path / "killed", whole)


def _calibrate_and_kill_a_worker(model: Path, out: Path, asked: Calibration) -> None:
    """With SIGKILL for a worker as soon as the first part is there."""
    killed: list[int] = []

    def kill(stage: str, done: int, total: int, unit: str) -> None:
        if stage == "calibrate" and unit == "parts" and done and not killed:
            killed.append(kill_a_worker())

    secateur.calibrate(model, out, asked, workers=on_ray(2), progress=kill)
    assert killed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_without_a_cluster_it_says_how_to_start_one(
    only_cluster: None,
    rows: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(EngineError, match="no Ray cluster was found .*: start one with `ray start"):
        secateur.calibrate(model, tmp_path / "out", request(rows), workers=on_ray(1))
