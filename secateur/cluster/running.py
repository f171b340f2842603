"""How work is run: by how many threads, in how many parts, and by whom."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.cluster.registry import ENGINES, EngineName
from secateur.errors import RequestError
from secateur.system.settings import check_least

PARTS = 64
"""As many parts as work is cut into, where there is enough of it: few enough that each is long
against reading the model once, many enough that a lost one costs little."""


@dataclass(frozen=True)
class Running:
    """How work is run. Decides no byte of what it makes.

    `workers`: threads (default: all cores; with an engine, those of each of its workers). `engine`
    makes the parts (cluster.registry), and `parts` is their number: with an engine other than
    "here", or a number of parts, a corpus is calibrated on, answers are measured and a plan's
    outputs are written in parts, each of them kept once it is made.
    """

    workers: int | None = None
    engine: EngineName = "here"
    parts: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise RequestError(f"engine {self.engine!r}: expected one of {', '.join(ENGINES)}")
        check_least("workers", self.workers, 1, RequestError)
        check_least("parts", self.parts, 1, RequestError)

    @property
    def in_parts(self) -> bool:
        """Whether work is done in parts."""
        return self.engine != "here" or self.parts is not None

    @property
    def threads(self) -> int | None:
        """Threads of this process for what is not done in parts: `workers` are an engine's."""
        return self.workers if self.engine == "here" else None


def running_with(workers: int | Running | None) -> Running:
    """What callers give as `workers`: a number of threads (None: all cores), or all of it."""
    return workers if isinstance(workers, Running) else Running(workers)
