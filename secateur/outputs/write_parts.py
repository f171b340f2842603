"""Writing the outputs of a plan in parts, each of them one output or several: the same bytes as in
one go, whoever writes them.

Outputs that are written in one part share one pass over the weights; in parts of their own they are
written side by side, where there are machines for that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.shared_model import SharedModel, share_model
from secateur.cluster.base import Work
from secateur.cluster.registry import ENGINES
from secateur.cluster.running import Running
from secateur.errors import StatisticsError
from secateur.formats.imatrix.matrix import Imatrix
from secateur.outputs.base import Decision, WriteJob
from secateur.outputs.build import resolve
from secateur.outputs.feedback import Feedback
from secateur.outputs.registry import FORMATS, planned_format
from secateur.planning.document import Plan
from secateur.statistics.gram_file import GramFile
from secateur.system.atomic import write_text
from secateur.system.progress import Counter, Progress
from secateur.system.strict_json import loads

PARTS_FOLDER = ".parts"
"""In the folder that an output is made in: the parts that are written."""
_FILES, _CONTENT = "files", "content.json"
"""Of a part: its files as they will lie in the output, and their names with the sha256 of each that
has one."""


@dataclass(frozen=True)
class SharedGram:
    """Gram matrices as other machines find them: under the same path, and the same."""

    path: Path
    sha256: str

    def open(self) -> GramFile:
        """Raises StatisticsError where they are not there, or others."""
        if not self.path.is_file():
            raise StatisticsError(
                f"{self.path} is not there on this machine: put the statistics with their Gram "
                "matrices on a disk that all machines see, or copy them to the same path on each"
            )
        found = GramFile(self.path)
        if found.description.sha256 != self.sha256:
            raise StatisticsError(
                f"{self.path} holds other Gram matrices on this machine: copy the same file to "
                "every machine"
            )
        return found


@dataclass(frozen=True)
class SharedPlan:
    """What all parts have in common, as it is sent to other machines."""

    model: SharedModel
    plan: Plan = field(repr=False)
    imatrix: Imatrix | None = field(repr=False)
    gram: SharedGram | None


@dataclass(frozen=True)
class OpenPlan:
    """The same with all that is written from opened."""

    shared: SharedPlan
    checkpoint: Checkpoint
    gram: GramFile | None
    decisions: Mapping[str, Decision[Any]]


def share_plan(
    plan: Plan, checkpoint: Checkpoint, imatrix: Imatrix | None, gram: GramFile | None
) -> SharedPlan:
    """A plan that was checked, with what it is written from."""
    shared = SharedGram(gram.path.absolute(), gram.description.sha256) if gram else None
    return SharedPlan(share_model(checkpoint), plan, imatrix, shared)


def open_plan(shared: SharedPlan) -> OpenPlan:
    """Raises CheckpointError, StatisticsError for what is not there, or another one."""
    checkpoint = shared.model.open()
    gram = shared.gram.open() if shared.gram else None
    return OpenPlan(shared, checkpoint, gram, resolve(shared.plan, checkpoint))


def write_part(inputs: OpenPlan, format_ids: Sequence[str], folder: Path, threads: int) -> None:
    """Write some of a plan's outputs."""
    files = folder / _FILES
    files.mkdir(exist_ok=True)
    decisions = {format_id: inputs.decisions[format_id] for format_id in format_ids}
    feedback = None
    if inputs.gram is not None:
        feedback = Feedback(
            inputs.gram, inputs.checkpoint.family, inputs.shared.plan.keep, workers=threads
        )
    job = WriteJob(
        inputs.checkpoint, inputs.shared.plan.keep, files, inputs.shared.plan.sha256(),
        inputs.shared.imatrix, feedback, workers=threads,
    )  # fmt: skip
    hashes = write_decisions(inputs.shared.plan, decisions, job)
    content = {name: hashes.get(name) for name in _names(files)}
    write_text(folder / _CONTENT, json.dumps(content, sort_keys=True))


def write_decisions(
    plan: Plan, decisions: Mapping[str, Decision[Any]], job: WriteJob
) -> dict[str, str]:
    """Write outputs, those of one writer in one pass over the weights; {file: sha256} where
    known."""
    groups: dict[str, list[Decision[Any]]] = {}
    for format_id, decision in decisions.items():
        groups.setdefault(planned_format(plan, format_id).written_with, []).append(decision)
    hashes: dict[str, str] = {}
    for writer, some in groups.items():
        hashes |= FORMATS[writer].write(some, job)
    return hashes


def write_in_parts(
    shared: SharedPlan, folder: Path, running: Running, progress: Progress
) -> dict[str, str]:
    """Write all outputs of a plan into `folder`; {file: sha256} where known.

    Parts that an earlier run made are in PARTS_FOLDER and are not made again.
    """
    home = folder / PARTS_FOLDER
    home.mkdir(exist_ok=True)
    parts = dict(divide_outputs(shared.plan, running.parts))
    left = {name: ids for name, ids in parts.items() if not _is_whole(home / name)}
    count = Counter(progress, "write", len(parts), "parts", before=len(parts) - len(left))
    engine = ENGINES[running.engine](
        "cpu", running.workers, lambda sentence: progress(sentence, 1, 1, "")
    )
    with engine as workers:
        workers.make(Work(open_plan, write_part, shared, left), home, count)
    content: dict[str, str | None] = {}
    for name in parts:
        content |= _read_content(home / name)
        for file in _names(home / name / _FILES):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (home / name / _FILES / file).replace(folder / file)
    shutil.rmtree(home)
    return {file: sha256 for file, sha256 in content.items() if sha256 is not None}


def keep_parts(plan: Plan, folder: Path, parts: int | None) -> int:
    """Bytes of the parts that an earlier run left in the folder of an output, once those of another
    division are removed."""
    home = folder / PARTS_FOLDER
    names = {name for name, _ in divide_outputs(plan, parts)}
    for path in list(home.iterdir()) if home.is_dir() else ():
        if path.name.partition(".")[0] not in names:  # one that is not whole has a suffix
            shutil.rmtree(path)
    files = (path for path in (folder / PARTS_FOLDER).rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files)


def divide_outputs(plan: Plan, parts: int | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, outputs) of every part: one output each, or as many parts as asked for, in which those
    of one writer are together."""
    ids = sorted(plan.formats, key=lambda one: planned_format(plan, one).written_with)
    count = min(parts or len(ids), len(ids))
    for number in range(count):
        some = ids[number * len(ids) // count : (number + 1) * len(ids) // count]
        yield f"{number + 1}-of-{count}", tuple(some)


def _is_whole(part: Path) -> bool:
    """Whether a part is there; one of which some files were moved is removed."""
    if not part.exists():
        return False
    whole = _names(part / _FILES) == sorted(_read_content(part))
    if not whole:
        shutil.rmtree(part)
    return whole


def _read_content(part: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = loads((part / _CONTENT).read_text("utf-8"))
    return found


def _names(files: Path) -> list[str]:
    """The files below a folder, relative to it, sorted."""
    paths = (path for path in files.rglob("*") if path.is_file())
    return sorted(path.relative_to(files).as_posix() for path in paths)
