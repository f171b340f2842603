"""Parts on the machines of a Ray cluster (ray.io): Ray starts workers where there is room for them,
and brings what they make here.

An actor is a process that has a GPU (or several, which share the layers), or as many cores as the
smallest machine has, so that another can start on any machine of the cluster when its own is lost.
What it makes comes back through Ray's object store, some megabytes at a time: machines need no
common disk, but the same version of secateur, and the model.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.cluster.base import Work, Workers
from secateur.cluster.parts_queue import ATTEMPTS, PartsQueue
from secateur.errors import EngineError, RequestError, SecateurError
from secateur.system.atomic import append_bytes
from secateur.system.device_names import first_gpus, read_device
from secateur.system.workdir import complete_or_absent

_PIECE = 16 << 20
"""Bytes of a file that are sent at a time."""
_AHEAD = 4
"""Pieces that a worker sends before they are fetched."""
_PATIENCE = 1.0
"""Seconds between two looks at whether a worker has been given a machine."""
_SILENCE = 10.0
"""Seconds after which it is said that there is no room for any worker."""

_GREETING = 10.0
"""Seconds in which a cluster has to answer."""

Piece = tuple[str, NDArray[np.uint8]]
"""Bytes to append to a file of a part, by its name."""


@dataclass(frozen=True)
class Place:
    """What an actor has: its cores, and its GPUs."""

    cores: int
    gpus: int

    def __str__(self) -> str:
        return _name_resources({"CPU": self.cores, "GPU": self.gpus})


@dataclass(frozen=True)
class RayWorkers:
    """An actor for each of the places; `say` is told when there is no room for any."""

    device: str
    places: tuple[Place, ...]
    say: Callable[[str], None] = lambda sentence: None

    def make(self, work: Work, folder: Path, count: Callable[[int], None]) -> None:
        """As `Workers.make`. Raises EngineError when an actor fails for a reason of its own, and
        for a part whose worker is lost again and again."""
        import ray
        from ray.exceptions import RayError

        if not work.parts:
            return
        queue = PartsQueue(work.parts)
        try:
            waiting = _Waiting(self.say)
            run = _Run(work, ray.put(work.shared), folder, queue, count, waiting)
            some = self.places[: len(work.parts)]
            with ThreadPoolExecutor(len(some), thread_name_prefix="ray-worker") as pool:
                try:
                    threads = [pool.submit(run.serve, place) for place in some]
                    for ended in wait(threads, return_when=FIRST_EXCEPTION).done:
                        ended.result()
                finally:
                    run.stop()
        except RayError as error:
            raise EngineError(f"the Ray cluster failed: {_in_a_line(error)}") from None


@contextmanager
def ray_cluster(
    device: str = "auto",
    threads: int | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Iterator[Workers]:
    """The engine: the cluster at RAY_ADDRESS, or the one that runs on this machine.

    With `auto` the workers are its GPUs where it has any, else its cores; with several GPUs named,
    each worker has as many of them. Raises RequestError when ray is not installed, or the cluster
    has no such device, EngineError when no cluster is found.
    """
    try:
        import ray
    except ImportError:
        raise RequestError(
            "engine ray: ray is not installed: pip install 'secateur[ray]'"
        ) from None
    ours = not ray.is_initialized()
    if ours:
        address = os.environ.get("RAY_ADDRESS") or "auto"
        try:
            _knock(address)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError:
            raise EngineError(
                f"no Ray cluster was found (address {address}): start one with `ray start --head`, "
                "let other machines join with `ray start --address HOST:6379`, or set RAY_ADDRESS"
            ) from None
        except (ValueError, RuntimeError) as error:  # of its own, or of its client
            raise EngineError(
                f"Ray cannot use the address {address} (RAY_ADDRESS): {_in_a_line(error)}"
            ) from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kind, numbers = read_device(device)
        if kind == "auto":
            kind = "cuda" if any(node.get("GPU", 0) >= 1 for node in nodes) else "cpu"
        gpus = len(numbers) if kind == "cuda" else 0
        # Ray lets a worker see its own GPUs alone, counted from 0.
        places = find_places(nodes, threads, gpus=gpus)
        yield RayWorkers(first_gpus(gpus) if gpus else kind, places, say)
    finally:
        if ours:
            ray.shutdown()


def _in_a_line(error: BaseException) -> str:
    """What an error says, which may be pages with Ray; its name where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _knock(address: str) -> None:
    """Raise ConnectionError where nobody listens at HOST:PORT: Ray would wait for many minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), _GREETING).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(str(error)) from None


def find_places(
    nodes: list[Mapping[str, float]], threads: int | None, *, gpus: int
) -> tuple[Place, ...]:
    """Equal places on machines with these resources (Ray's CPU and GPU): one for every `gpus` GPUs
    of a machine, or where that is 0, one for as many cores as the smallest machine has (or
    `threads`, if these are fewer: on more no machine could start a worker). Raises RequestError
    for none."""
    some = [node for node in nodes if node.get("CPU", 0) >= 1 and node.get("GPU", 0) >= gpus]
    if not some:
        what = f"{gpus} GPUs" if gpus > 1 else "a GPU" if gpus else "a core"
        raise RequestError(
            f"no machine of the Ray cluster has {what} to give: see `ray status`, or choose "
            "another --device"
        )
    if gpus:
        each = int(min(gpus * node["CPU"] // node["GPU"] for node in some))
        count = int(sum(node["GPU"] // gpus for node in some))
        return (Place(min(threads or each, each) or 1, gpus),) * count
    smallest = int(min(node["CPU"] for node in some))
    each = min(threads or smallest, smallest)
    return (Place(each, 0),) * int(sum(node["CPU"] // each for node in some))


def _name_resources(amounts: Mapping[str, float]) -> str:
    """What Ray counts, in words: "4 cores and 1 GPU"; GPUs where there are any."""
    words = []
    for name, one in (("CPU", "core"), ("GPU", "GPU")):
        if name == "CPU" or amounts.get(name):
            amount = amounts.get(name, 0)
            words.append(f"{amount:g} {one}{'' if amount == 1 else 's'}")
    return " and ".join(words)


@dataclass
class _Waiting:
    """Says once that there has been no room for any worker for some time."""

    say: Callable[[str], None]
    begun: float = field(default_factory=time.monotonic)
    ended: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def end(self) -> None:
        """There is a worker, or it was said."""
        self.ended = True

    def look(self, place: Place) -> None:
        """Called by all who wait for a worker at `place`."""
        import ray

        with self.lock:
            if self.ended or time.monotonic() - self.begun < _SILENCE:
                return
            self.end()
        there, free = ray.cluster_resources(), ray.available_resources()
        self.say(
            f"waiting for room on the Ray cluster: a worker needs {place}; free are "
            f"{_name_resources(free)} of {_name_resources(there)}, maybe on several machines "
            "(`ray status` says who has the others)"
        )


@dataclass(frozen=True)
class _Run:
    """Making the parts of one work: a thread here for every place, which fetches what its actor
    makes."""

    work: Work
    shared: Any
    folder: Path
    queue: PartsQueue
    count: Callable[[int], None]
    waiting: _Waiting
    actors: set[Any] = field(default_factory=set)

    def stop(self) -> None:
        """Let no part be begun, and end those that are being made."""
        import ray

        self.queue.stop()
        for actor in list(self.actors):
            ray.kill(actor)

    def serve(self, place: Place) -> None:
        """Have parts made at a place until none waits. A worker that is lost is followed by
        another, wherever there is room for one. Raises what making a part raises, and EngineError
        when one worker after another ends before it can work."""
        import ray
        from ray.exceptions import RayActorError

        starts = 0
        while not self.queue.is_empty:
            actor = _start(place, self.work, self.shared)
            self.actors.add(actor)
            try:
                ready = actor.ready.remote()
                while not ray.wait([ready], timeout=_PATIENCE)[0]:
                    if self.queue.is_empty:
                        return
                    self.waiting.look(place)
                self.waiting.end()
                starts += 1
                ray.get(ready)
                starts = 0
                self._make_parts(actor)
            except RayActorError as error:
                if starts < ATTEMPTS:
                    continue
                self.queue.stop()
                raise EngineError(
                    f"a worker of the Ray cluster did not start, {ATTEMPTS} times (is the same "
                    f"version of secateur on every machine?): {str(error).splitlines()[-1].strip()}"
                ) from None
            except BaseException:
                self.queue.stop()
                raise
            finally:
                self.actors.discard(actor)
                ray.kill(actor)

    def _make_parts(self, actor: Any) -> None:
        """Raises RayActorError when the actor is lost; its part waits again."""
        from ray.exceptions import RayActorError, RayTaskError

        while (taken := self.queue.take()) is not None:
            try:
                self._fetch(actor, taken.name)
            except RayActorError:
                if not self.queue.lost(taken):
                    raise EngineError(
                        f"the worker that makes {taken.name} was lost {ATTEMPTS} times: see Ray's "
                        "logs (often too little memory: fewer workers for a machine, more parts)"
                    ) from None
                raise
            except RayTaskError as error:
                if isinstance(error.cause, SecateurError):
                    raise error.cause from None
                raise EngineError(
                    f"a worker of the Ray cluster failed: {_in_a_line(error.cause)}"
                ) from None
            self.count(1)

    def _fetch(self, actor: Any, name: str) -> None:
        import ray

        streamed = actor.make.options(
            num_returns="streaming", _generator_backpressure_num_objects=_AHEAD
        )
        with complete_or_absent(self.folder / name) as made:
            for reference in streamed.remote(name, self.work.parts[name]):
                file, data = ray.get(reference)
                append_bytes(made / file, data.data)


class _Maker:
    """What runs in an actor."""

    def __init__(self, work: Work, shared: Any, threads: int) -> None:
        from secateur.system.allocator import return_large_blocks

        return_large_blocks()
        self._work, self._shared, self._threads = work, shared, threads
        self._prepared: Any = None

    def ready(self) -> None:
        """Return when it can work."""

    def make(self, name: str, part: Any) -> Iterator[Piece]:
        """A part's files, piece by piece."""
        if self._prepared is None:
            self._prepared = self._work.prepare(self._shared)
        with tempfile.TemporaryDirectory(prefix="secateur-part-") as folder:
            self._work.make(self._prepared, part, Path(folder), self._threads)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    yield from _pieces(path, path.relative_to(folder).as_posix())


def _pieces(path: Path, name: str) -> Iterator[Piece]:
    """At least one, so that an empty file is there, too."""
    with path.open("rb") as file:
        data = file.read(_PIECE)
        while True:
            yield name, np.frombuffer(data, np.uint8)
            data = file.read(_PIECE)
            if not data:
                return


def _start(place: Place, work: Work, shared: Any) -> Any:
    import ray

    options = {
        "num_cpus": place.cores,
        "num_gpus": place.gpus,
        "scheduling_strategy": "SPREAD",
    }
    functions = Work(work.prepare, work.make, None, {})
    return ray.remote(_Maker).options(**options).remote(functions, shared, place.cores)
