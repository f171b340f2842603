"""Parts on the machines of a Ray cluster (ray.io). Scheduling, retries and transport are Ray's.

An actor is a process that has a GPU, or as many cores as the smallest machine has, so that it can
start again on any machine of the cluster when its own is lost. What it makes comes back through
Ray's object store: machines need no common disk, but the same version of secateur, and the model.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.cluster.base import Work, Workers
from secateur.errors import EngineError, RequestError, SecateurError
from secateur.system.atomic import write_bytes
from secateur.system.device_names import read_device
from secateur.system.workdir import complete_or_absent

Files = Mapping[str, NDArray[np.uint8]]
"""The files of a part, by their names in its folder."""


@dataclass(frozen=True)
class Place:
    """What an actor has: its cores, and its GPUs (one, or none)."""

    cores: int
    gpus: int


@dataclass(frozen=True)
class RayWorkers:
    """An actor for each of the places."""

    device: str
    places: tuple[Place, ...]

    def make(self, work: Work, folder: Path, count: Callable[[int], None]) -> None:
        """As `Workers.make`. Raises EngineError when an actor fails for a reason of its own."""
        import ray
        from ray.exceptions import RayError, RayTaskError
        from ray.util import ActorPool

        shared = ray.put(work.shared)
        some = self.places[: max(1, len(work.parts))]
        actors = [_start(place, work, shared) for place in some]
        pool = ActorPool(actors)
        try:
            for part in work.parts.items():
                pool.submit(lambda actor, part: actor.make.remote(*part), part)
            while pool.has_next():
                name, files = pool.get_next_unordered()
                _keep(files, folder / name)
                count(1)
                # An actor without work makes room for one whose machine was lost.
                while (idle := pool.pop_idle()) is not None:
                    ray.kill(idle)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, SecateurError):
                raise cause from None
            raise EngineError(f"a worker of the Ray cluster failed: {cause}") from None
        except RayError as error:
            raise EngineError(f"the Ray cluster failed: {error}") from None
        finally:
            for actor in actors:
                ray.kill(actor)


@contextmanager
def ray_cluster(device: str = "auto", threads: int | None = None) -> Iterator[Workers]:
    """The engine: the cluster at RAY_ADDRESS, or the one that runs on this machine.

    With `auto` the workers are its GPUs where it has any, else its cores. Raises RequestError when
    ray is not installed, or the cluster has no such device, EngineError when no cluster is found.
    """
    try:
        import ray
    except ImportError:
        raise RequestError(
            "engine ray: ray is not installed: pip install 'secateur[ray]'"
        ) from None
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(
                address=os.environ.get("RAY_ADDRESS", "auto"),
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except ConnectionError:
            raise EngineError(
                "no Ray cluster was found: start one with `ray start --head`, let other machines "
                "join with `ray start --address HOST:6379`, or set RAY_ADDRESS"
            ) from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kind = read_device(device).kind
        if kind == "auto":
            kind = "cuda" if any(node.get("GPU", 0) >= 1 for node in nodes) else "cpu"
        yield RayWorkers(kind, find_places(nodes, threads, gpus=kind == "cuda"))
    finally:
        if ours:
            ray.shutdown()


def find_places(
    nodes: list[Mapping[str, float]], threads: int | None, *, gpus: bool
) -> tuple[Place, ...]:
    """Equal places on machines with these resources (Ray's CPU and GPU): one for each GPU, else one
    for as many cores as the smallest machine has (or `threads`). Raises RequestError for none."""
    some = [node for node in nodes if node.get("CPU", 0) >= 1 and node.get("GPU", 0) >= gpus]
    if not some:
        what = "a GPU" if gpus else "a core"
        raise RequestError(
            f"no machine of the Ray cluster has {what} to give: see `ray status`, or choose "
            "another --device"
        )
    if gpus:
        each = int(min(node["CPU"] // node["GPU"] for node in some))
        count = int(sum(node["GPU"] for node in some))
        return (Place(min(threads or each, each) or 1, 1),) * count
    each = int(min(threads or node["CPU"] for node in some))
    return (Place(each, 0),) * int(sum(max(1, node["CPU"] // each) for node in some))


class _Maker:
    """What runs in an actor."""

    def __init__(self, work: Work, shared: Any, threads: int) -> None:
        from secateur.system.allocator import return_large_blocks

        return_large_blocks()
        self._work, self._shared, self._threads = work, shared, threads
        self._prepared: Any = None

    def make(self, name: str, part: Any) -> tuple[str, Files]:
        """A part's files."""
        if self._prepared is None:
            self._prepared = self._work.prepare(self._shared)
        with tempfile.TemporaryDirectory(prefix="secateur-part-") as folder:
            self._work.make(self._prepared, part, Path(folder), self._threads)
            paths = [path for path in Path(folder).rglob("*") if path.is_file()]
            return name, {
                path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in paths
            }


def _start(place: Place, work: Work, shared: Any) -> Any:
    import ray

    options = {
        "num_cpus": place.cores,
        "num_gpus": place.gpus,
        "max_restarts": -1,
        "max_task_retries": -1,
        "scheduling_strategy": "SPREAD",
    }
    functions = Work(work.prepare, work.make, None, {})
    return ray.remote(_Maker).options(**options).remote(functions, shared, place.cores)


def _keep(files: Files, folder: Path) -> None:
    with complete_or_absent(folder) as made:
        for name, data in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(made / name, data.data)
