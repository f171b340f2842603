"""The Ray engine by itself: files in pieces, lost workers, errors, a GPU for each actor."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType

import made_parts
import pytest
from ray_cluster import kill_a_worker, ray_nodes

from secateur.cluster import ray_engine
from secateur.cluster.base import Work
from secateur.cluster.parts_queue import ATTEMPTS, PartsQueue, Taken
from secateur.cluster.ray_engine import ray_cluster
from secateur.errors import CorpusError, EngineError


def test_a_part_whose_worker_was_lost_is_the_next_and_is_not_tried_for_ever() -> None:
    queue = PartsQueue("ab")
    first = queue.take()
    assert first == Taken("a", 1)
    for attempt in range(1, ATTEMPTS):
        assert queue.lost(Taken("a", attempt)) and queue.take() == Taken("a", attempt + 1)
    assert not queue.lost(Taken("a", ATTEMPTS))
    assert queue.take() == Taken("b", 1) and queue.take() is None and queue.is_empty
    queue.lost(Taken("b", 1))
    queue.stop()
    assert queue.take() is None and queue.is_empty


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "Ray cannot use the address nonsense"),
        ("127.0.0.1:1", r"no Ray cluster was found \(address 127.0.0.1:1\): start one with"),
        ("127.0.0.1:99999", "no Ray cluster was found"),
    ],
)
def test_an_address_without_a_cluster_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(EngineError, match=said), ray_cluster("cpu", 1):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_one_cluster_brings_files_follows_lost_workers_and_gives_each_its_gpu(
    only_cluster: None,
    tmp_path: Path,
) -> None:
    with ray_nodes(1, cores=2, gpus=2):
        _files_come_whole_though_a_worker_is_killed(tmp_path / "files")
        _a_part_that_kills_its_worker_is_an_error(tmp_path / "dies")
        _an_error_of_ours_ends_all_at_once(tmp_path / "error")
        _every_actor_has_a_gpu_of_its_own(tmp_path / "gpus")
        _workers_that_do_not_start_are_an_error(tmp_path / "starts")
        _it_is_said_once_that_there_is_no_room(tmp_path / "room")


def _files_come_whole_though_a_worker_is_killed(folder: Path) -> None:
    folder.mkdir()
    parts = {f"part{n}": n for n in range(4)}
    work = Work(made_parts.prepare, made_parts.write_large, str(folder), parts)
    made: list[int] = []
    with ray_cluster("cpu", 1) as workers:

        def kill(step: int) -> None:
            made.append(step)
            if len(made) == 1:
                kill_a_worker()

        workers.make(work, folder, kill)
    assert sum(made) == 4
    for name, n in parts.items():
        found = {path.relative_to(folder / name).as_posix(): path.read_bytes()
                 for path in (folder / name).rglob("*") if path.is_file()}  # fmt: skip
        assert found == {
            "large.bin": bytes([n]) * 50_000_000,
            "empty": b"",
            "inner/small.txt": str(n).encode(),
        }


def _a_part_that_kills_its_worker_is_an_error(folder: Path) -> None:
    folder.mkdir()
    work = Work(made_parts.prepare, made_parts.die, str(folder), {"part0": 0, "part1": 1})
    with (
        ray_cluster("cpu", 1) as workers,
        pytest.raises(EngineError, match=f"makes part1 was lost {ATTEMPTS} times"),
    ):
        workers.make(work, folder, lambda step: None)
    assert len([path for path in folder.iterdir() if path.is_file()]) == ATTEMPTS


def _an_error_of_ours_ends_all_at_once(folder: Path) -> None:
    folder.mkdir()
    begun = time.monotonic()
    work = Work(made_parts.prepare, made_parts.refuse, None, {"part0": 0, "part1": 1})
    with ray_cluster("cpu", 1) as workers, pytest.raises(CorpusError, match="row 7 is empty"):
        workers.make(work, folder, lambda step: None)
    assert time.monotonic() - begun < 500  # the other part sleeps for longer
    assert not list(folder.iterdir())


def _every_actor_has_a_gpu_of_its_own(folder: Path) -> None:
    """Ray schedules the GPUs that it was told of, and sets CUDA_VISIBLE_DEVICES; none is there."""
    folder.mkdir()
    parts = {f"part{n}": n for n in range(6)}
    with ray_cluster("auto", None) as workers:
        assert workers.device == "cuda"
        work = Work(made_parts.prepare, made_parts.note_place, str(folder), parts)
        workers.make(work, folder, lambda step: None)
    notes = [(folder / name / made_parts.NOTE).read_text().split() for name in parts]
    gpus = {process: gpu for process, gpu, _ in notes}
    assert len(gpus) == 2 and set(gpus.values()) == {"0", "1"}
    assert {threads for _, _, threads in notes} == {"1"}


def _workers_that_do_not_start_are_an_error(folder: Path) -> None:
    """As with another version of secateur there: a worker cannot load what it is given."""
    folder.mkdir()
    module = ModuleType("only_here")
    exec("def prepare(shared): return shared", vars(module))
    sys.modules["only_here"] = module
    try:
        work = Work(module.prepare, made_parts.refuse, None, {"part0": 0})
        with (
            ray_cluster("cpu", 1) as workers,
            pytest.raises(EngineError, match=f"did not start, {ATTEMPTS} times .*only_here"),
        ):
            workers.make(work, folder, lambda step: None)
    finally:
        del sys.modules["only_here"]


def _it_is_said_once_that_there_is_no_room(folder: Path) -> None:
    """While others have all cores; when they give them back, the parts are made."""
    import ray

    folder.mkdir()
    others = [ray.remote(made_parts.Idle).options(num_cpus=1).remote() for _ in range(2)]
    ray.get([one.wait.remote() for one in others])
    parts = {f"part{n}": n for n in range(2)}
    said: list[str] = []

    def free(sentence: str) -> None:
        said.append(sentence)
        for one in others:
            ray.kill(one)

    with ray_cluster("cpu", 1, free) as workers, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_engine, "_SILENCE", 2.0)
        work = Work(made_parts.prepare, made_parts.note_place, str(folder), parts)
        workers.make(work, folder, lambda step: None)
    assert len(said) == 1
    assert "a worker needs 1 core; free are 0 cores and 2 GPUs of 2 cores and 2 GPUs" in said[0]
