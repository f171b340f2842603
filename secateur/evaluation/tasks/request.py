"""Which tasks are asked, how many of their questions, and by what protocol: a part of a request."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.errors import RequestError
from secateur.system.settings import check_least

LIMIT = 100
"""Questions of a built-in suite, where nothing is said: they have no natural end."""


@dataclass(frozen=True)
class Tasks:
    """What to ask.

    `names` are built-in suites (tasks.suites.registry), files of tasks for lm-eval (`./mine.yaml`),
    and names of lm-eval's own tasks, whose data come from the hub. `limit` takes so many questions
    of each (default: what the protocol says, else all; of a built-in suite 100). `seed` decides
    which questions a built-in suite makes. `protocol` is the name or file of one
    (asking.protocol): sampler, thinking, limits, second pass.
    """

    names: tuple[str, ...]
    protocol: str = "default"
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.names:
            raise RequestError("tasks has no names: name at least one, such as reasoning")
        if doubled := next((one for one in self.names if self.names.count(one) > 1), None):
            raise RequestError(f"tasks has {doubled} twice: name it once")
        check_least("limit", self.limit, 1, RequestError)
        check_least("seed", self.seed, 0, RequestError)
