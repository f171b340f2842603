"""A local Ray cluster for slow tests, and accidents in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secateur import Running

RAY_STORE = 80 << 20
"""Bytes of a node's object store: Ray would take 30 % of the memory."""


@contextmanager
def ray_nodes(nodes: int, cores: int = 1, gpus: int = 0) -> Iterator[Any]:
    """A local Ray cluster of some nodes, this process connected to it. Ray believes what it is told
    about GPUs: it schedules them, and sets CUDA_VISIBLE_DEVICES."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": cores, "num_gpus": gpus, "object_store_memory": RAY_STORE}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            made.add_node(**node)
        # Ray tells workers where this process's script is, not where pytest found the tests.
        paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))
        ray.init(
            address=made.address,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, paths))}},
        )
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def on_ray(workers: int, parts: int = 3) -> Running:
    """Work in parts by a Ray cluster, whose workers have so many cores each."""
    return Running(workers, "ray", parts)


def kill_a_worker() -> int:
    """SIGKILL for a process of ours that makes a part; its number."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, ProcessLookupError):  # one that has just ended
            if "ray::_Maker" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                return int(process.pid)
    raise AssertionError("no worker is running")
