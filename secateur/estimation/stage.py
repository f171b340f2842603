"""An estimate: the stages of some work, each with its time, memory and disk. Data, no arithmetic.

Read this first; `rates.py` is what a probe measures, `work.py` what there is to do, and
`arithmetic.py` makes stages of the two.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from secateur.errors import RequestError
from secateur.system.sizes import show_bytes

SHORT = 20.0
"""Seconds of work for which nothing is probed, and nothing said before it unless asked for."""

PROBED, GUESSED = 1.3, 3.0
"""Factor that a time may be off, either way: after a probe, and from the size of the work alone."""


class Amount(NamedTuple):
    """How much of something: 61388 tokens, 0.52 TFLOP, 35e6 bytes."""

    number: float
    unit: str


@dataclass(frozen=True)
class Stage:
    """One stage of some work.

    `memory` is what the process takes at its peak, `disk` what the stage leaves or holds there, in
    bytes. `reports` are the beginnings of the names under which its Progress comes, in whatever
    case, by which what it took is found. `at_most`: the time is a bound, since answers may end
    early.
    """

    name: str
    work: tuple[Amount, ...]
    seconds: float
    memory: int
    disk: int = 0
    reports: tuple[str, ...] = ()
    at_most: bool = False

    def took(self, seconds: Mapping[str, float]) -> float | None:
        """Of what the stages of a Progress took, {name: seconds}, what this one did; None where
        nothing was heard of it."""
        beginnings = tuple(text.lower() for text in self.reports)
        mine = [took for name, took in seconds.items() if name.lower().startswith(beginnings)]
        return sum(mine) if mine else None


class Need(NamedTuple):
    """Bytes that something takes in a folder, and what to do where they are not free."""

    what: str
    folder: Path
    bytes: int
    remedy: str


@dataclass(frozen=True)
class Estimate:
    """All stages in order, and what they need of disks. `probed`: whether times were measured on
    this machine; otherwise they follow from the size of the work, and are rough."""

    stages: tuple[Stage, ...]
    needs: tuple[Need, ...]
    workers: int
    probed: bool
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory(self) -> int:
        """Bytes of memory at the peak of the stage that needs most."""
        return max((stage.memory for stage in self.stages), default=0)

    @property
    def disk(self) -> int:
        """Bytes of disk, of all that is needed there."""
        return sum(need.bytes for need in self.needs)

    @property
    def factor(self) -> float:
        """How much the time may be off, either way."""
        return PROBED if self.probed else GUESSED

    def check(self, free_memory: int) -> None:
        """Raise RequestError when memory or a disk cannot suffice, with what would help.

        A stage's memory is estimated, so it is refused only when it misses by a quarter.
        """
        for stage in self.stages:
            if stage.memory > 1.25 * free_memory:
                raise RequestError(
                    f"the stage {stage.name!r} takes about {show_bytes(stage.memory)} of memory, "
                    f"but {show_bytes(free_memory)} are free: use fewer workers or a smaller "
                    "reroute_tokens, or a larger machine"
                )
        for free, needs in _by_disk(self.needs):
            wanted = sum(need.bytes for need in needs)
            if wanted > free:
                largest = max(needs, key=lambda need: need.bytes)
                parts = ", ".join(f"{need.what} {show_bytes(need.bytes)}" for need in needs)
                raise RequestError(
                    f"the disk of {largest.folder} has {show_bytes(free)} free, but "
                    f"{show_bytes(wanted)} are needed ({parts}): {largest.remedy}"
                )

    def to_json(self, took: Mapping[str, float] | None = None) -> dict[str, Any]:
        """As JSON; beside what each stage took, of `took` {stage of the Progress: seconds}."""
        stages = [
            {
                "stage": stage.name,
                "work": {amount.unit: amount.number for amount in stage.work},
                "estimated_seconds": round(stage.seconds, 3),
                "at_most": stage.at_most,
                "memory_bytes": stage.memory,
                "disk_bytes": stage.disk,
            }
            for stage in self.stages
        ]
        for entry, stage in zip(stages, self.stages, strict=True):
            if (seconds := stage.took(took or {})) is not None:
                entry["took_seconds"] = round(seconds, 3)
        return {
            "stages": stages,
            "estimated_seconds": round(self.seconds, 3),
            "factor": self.factor,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "disks": [
                {"what": n.what, "folder": str(n.folder), "bytes": n.bytes} for n in self.needs
            ],
            "workers": self.workers,
            "probed": self.probed,
            "notes": list(self.notes),
        }


def _by_disk(needs: tuple[Need, ...]) -> Iterator[tuple[int, list[Need]]]:
    """(bytes free on a disk, what is needed there)"""
    disks: defaultdict[int, list[Need]] = defaultdict(list)
    folders: dict[int, Path] = {}
    for need in needs:
        device, there = _disk_of(need.folder)
        disks[device].append(need)
        folders[device] = there
    for device, wanted in disks.items():
        yield shutil.disk_usage(folders[device]).free, wanted


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders, which may not be there yet, are on one disk."""
    return _disk_of(one)[0] == _disk_of(other)[0]


def _disk_of(folder: Path) -> tuple[int, Path]:
    """(the number of its disk, the nearest folder above that is there)"""
    path = Path(os.path.abspath(folder))
    there = next(one for one in (path, *path.parents) if one.is_dir())
    return there.stat().st_dev, there
