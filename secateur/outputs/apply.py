"""Applying a plan: all files of an output, into a folder that the caller makes whole or absent."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secateur import __version__
from secateur.checkpoint.reader import Checkpoint
from secateur.cluster.running import Running, running_with
from secateur.errors import PlanError, WriteError
from secateur.formats.imatrix.file import save_imatrix
from secateur.outputs.base import Decision, WriteJob
from secateur.outputs.build import memory_of, resolve
from secateur.outputs.companions import write_companions
from secateur.outputs.feedback import ON_CORES, Chooser, Feedback
from secateur.outputs.identity import content_key
from secateur.outputs.registry import planned_format
from secateur.outputs.write_parts import (
    PARTS_FOLDER,
    keep_parts,
    share_plan,
    write_decisions,
    write_in_parts,
)
from secateur.planning.checks import PlanSources, check_sources, planned_importance
from secateur.planning.document import CONTEXT_IN_MEMORY, Plan, published, to_json
from secateur.planning.edits import settle, settle_importance
from secateur.planning.imatrix_policy import FILE, Importance
from secateur.planning.rounding import planned_gram
from secateur.statistics.gram_file import GramFile
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import write_text
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cores

PLAN = "plan.json"


@dataclass(frozen=True)
class CheckedPlan:
    """A plan that can be written: it fits its sources, and its numbers follow from its choices."""

    plan: Plan
    checkpoint: Checkpoint
    statistics: Statistics | None
    importance: Importance | None
    gram: GramFile | None
    decisions: Mapping[str, Decision[Any]]

    def key(self, chooser: Chooser = ON_CORES) -> str:
        """A hash of all that decides the bytes of the output, for the name of its work folder."""
        imatrix = self.importance.imatrix if self.importance else None
        chosen_on = None if chooser.name == ON_CORES.name else chooser.name
        content = content_key(self.checkpoint, imatrix, chosen_on)
        decides = f"{__version__} {self.plan.sha256()} {content}"
        return hashlib.sha256(decides.encode()).hexdigest()[:16]


def check_plan(plan: Plan, sources: PlanSources) -> CheckedPlan:
    """Check a plan, hand-edited or not, against what it is written from; writes nothing.

    Numbers that follow from an edit (bytes, files, memory) are computed again, and noted in the
    plan. Raises PlanError for a plan of another checkpoint, other statistics or another importance
    matrix, and for choices that cannot be; StatisticsError for statistics of another model.
    """
    check_sources(plan, sources)
    importance = planned_importance(plan, sources)
    plan = settle_importance(plan, importance)
    decisions = resolve(plan, sources.checkpoint)
    right = replace(
        plan,
        tensors=tuple(tensor for decision in decisions.values() for tensor in decision.tensors),
        files={format_id: dict(decision.files) for format_id, decision in decisions.items()},
        recipes={f: decision.facts for f, decision in decisions.items() if decision.facts},
        memory=_memory_now(plan, sources.checkpoint),
    )
    plan = settle(plan, right)
    gram = planned_gram(plan, sources.gram)
    return CheckedPlan(plan, sources.checkpoint, sources.statistics, importance, gram, decisions)


def write_output(
    checked: CheckedPlan,
    folder: Path,
    *,
    workers: int | Running = 1,
    chooser: Chooser = ON_CORES,
    progress: Progress = no_progress,
) -> dict[str, str]:
    """Write all files of a plan into `folder`; returns file -> sha256 where known.

    What an interrupted run left there is used as the formats can (`OutputFormat.reusable`), and
    all else in `folder` is removed. In parts, where `workers` says so (outputs.write_parts): then
    what is used is the parts that were made, and codes are chosen on cores. Raises WriteError,
    before it starts, when the disk has not enough room. Peak memory: that of the formats' `write`.
    """
    plan, checkpoint, running = checked.plan, checked.checkpoint, running_with(workers)
    _make_room(plan, folder, running)
    hashes = write_companions(plan, checkpoint, folder)
    write_text(folder / PLAN, to_json(published(plan)))
    if checked.importance is not None:
        save_imatrix(folder / FILE, checked.importance.imatrix)
    gram = checked.gram
    imatrix = checked.importance.imatrix if checked.importance else None
    if running.in_parts:
        shared = share_plan(plan, checkpoint, imatrix, gram)
        return hashes | write_in_parts(shared, folder, running, progress)
    threads = running.workers or cores()
    job = WriteJob(
        checkpoint,
        plan.keep,
        folder,
        plan.sha256(),
        imatrix,
        Feedback(gram, checkpoint.family, plan.keep, chooser, threads) if gram else None,
        workers=threads,
        progress=progress,
    )
    return hashes | write_decisions(plan, checked.decisions, job)


def _memory_now(plan: Plan, checkpoint: Checkpoint) -> dict[str, Any]:
    """What the plan's `memory` has to say, for the context that it names."""
    context = plan.memory.get(CONTEXT_IN_MEMORY)
    if context is not None and type(context) is not int:
        raise PlanError(
            f"the plan's memory.context is {json.dumps(context)}, expected a number of tokens: "
            "correct it, or plan again"
        )
    formats = {format_id: planned_format(plan, format_id) for format_id in plan.formats}
    return memory_of(checkpoint, formats, context)


def _make_room(plan: Plan, folder: Path, running: Running) -> None:
    """Remove what an interrupted run left half done, and check that the rest fits the disk.

    What it left is parts, or (without) files in their places.
    """
    sizes: dict[str, int] = {}
    reusable: set[Path] = set()
    for format_id in plan.formats:
        files = plan.sizes(format_id)
        sizes |= files
        if not running.in_parts:
            reusable |= planned_format(plan, format_id).reusable(files, folder)
    homes = {(folder / name).parent for name in sizes}
    _remove_others(folder, reusable, homes, folder / PARTS_FOLDER if running.in_parts else None)
    planned = {folder / name: nbytes for name, nbytes in sizes.items()}
    needed = sum(nbytes for path, nbytes in planned.items() if path not in reusable)
    needed -= sum(path.stat().st_size for path in reusable - planned.keys())
    needed -= keep_parts(plan, folder, running.parts)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise WriteError(
            f"{folder} has {free} bytes free, but the output takes {needed}: "
            "make room or choose another disk"
        )


def _remove_others(
    folder: Path, reusable: set[Path], homes: Iterable[Path], parts: Path | None
) -> None:
    """Remove everything in the output's folders (`homes`) that is not reusable, but not `parts`."""
    kept = {*homes, folder}
    for home in kept:
        for path in list(home.iterdir()) if home.is_dir() else ():
            if path.is_dir():
                if path not in kept and path != parts:
                    shutil.rmtree(path)
            elif path not in reusable:
                path.unlink()
