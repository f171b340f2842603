"""What is told of one run and not of its result: the command, how long it took, on what machine.

It lies in run.json and is shown by report.md. The same inputs give other times, so these two files
are in no manifest, and everything else of an output stays the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secateur import __version__
from secateur.errors import OutputError
from secateur.release.manifest import RUN, versions
from secateur.system.atomic import write_text
from secateur.system.machine import describe_machine
from secateur.system.stopwatch import Stopwatch
from secateur.system.text_files import read_json


@dataclass(frozen=True)
class RunRecord:
    """One run. `command` is empty for one from Python; `ended` is in UTC; `stages` {stage: seconds}
    has what this run did itself, and nothing that was there from an interrupted one. `estimate` is
    what was expected, where it was."""

    command: str
    ended: str
    seconds: float
    stages: Mapping[str, float]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    estimate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by what was worked on: `a.gguf: layers` and `a.gguf: logits` are a.gguf's."""
        found: dict[str, float] = {}
        for stage, seconds in self.stages.items():
            name = stage.partition(": ")[0]
            found[name] = found.get(name, 0.0) + seconds
        return found


def add_run(folder: Path, stopwatch: Stopwatch) -> tuple[RunRecord, ...]:
    """Write a run into the run.json of an output, after the earlier ones; returns all.

    A run of the same command takes the place of the earlier one. Raises WriteError.
    """
    stages = stopwatch.seconds
    run = RunRecord(
        command=stopwatch.command,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(stopwatch.total, 3),
        stages={stage: round(seconds, 3) for stage, seconds in stages.items()},
        machine=describe_machine(),
        versions={"secateur": __version__, **versions()},
        estimate={} if stopwatch.estimate is None else stopwatch.estimate.to_json(stages),
    )
    runs = (*(old for old in read_runs(folder) if old.command != run.command), run)
    document = {"runs": [asdict(entry) for entry in runs]}
    write_text(folder / RUN, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return runs


def read_runs(folder: Path) -> tuple[RunRecord, ...]:
    """The runs of an output, none where run.json is missing or is no longer what we wrote."""
    path = folder / RUN
    if not path.is_file():
        return ()
    try:
        found = read_json(path, "the runs that made an output", OutputError)
        return tuple(RunRecord(**entry) for entry in found["runs"])
    except (OutputError, TypeError, KeyError):
        return ()
