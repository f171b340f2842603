"""Every engine, by the word for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from secateur.cluster.base import Engine, here
from secateur.cluster.ray_engine import ray_cluster

EngineName = Literal["here", "ray"]
ENGINES: Mapping[str, Engine] = {"here": here, "ray": ray_cluster}
