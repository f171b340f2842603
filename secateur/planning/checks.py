"""Whether a plan fits what it is to be written from: the checkpoint, statistics, a matrix.

Pure: everything is given, nothing is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.checkpoint.reader import FAMILY_FILE, SHAPE_ONLY, Checkpoint
from secateur.errors import PlanError, StatisticsError
from secateur.formats.imatrix.file import ImatrixFile
from secateur.planning.document import IMATRIX, IMATRIX_FROM, Plan
from secateur.planning.edits import STATISTICS, edits_of
from secateur.planning.imatrix_policy import Importance, importance_of
from secateur.pruning.criteria.registry import CRITERIA
from secateur.pruning.expert_slices import check_keep
from secateur.statistics.gram_file import GramFile
from secateur.statistics.identity import statistics_sha256
from secateur.statistics.statistics import Statistics

_IDENTIFYING = ("family", "layers", "experts", "top_k", "identity")
"""The facts of a checkpoint by which it is recognised."""


@dataclass(frozen=True)
class PlanSources:
    """What an output is written from: the checkpoint, the statistics or the file behind its
    importance matrix, and the Gram matrices next to the statistics."""

    checkpoint: Checkpoint
    statistics: Statistics | None = None
    imatrix: ImatrixFile | None = None
    gram: GramFile | None = None


def check_sources(plan: Plan, sources: PlanSources) -> None:
    """Raise PlanError or StatisticsError unless a plan was made with these sources."""
    check_model(plan.model, sources.checkpoint)
    if edits_of(plan).selection:  # as it was made, it may name a criterion of the user's own
        check_criterion(plan.selection)
    check_keep(sources.checkpoint, plan.keep)
    expected = plan.selection.get(STATISTICS)
    if sources.statistics is None:
        return
    check_statistics(sources.statistics, sources.checkpoint)
    if expected is None:
        raise PlanError("the plan was made without statistics: leave out --stats")
    if (got := statistics_sha256(sources.statistics)) != expected:
        raise PlanError(
            f"the plan was made with the statistics of sha256 {expected}, but those given have "
            f"{got}: name the plan's own with --stats, or plan again"
        )


def check_criterion(selection: Mapping[str, Any]) -> None:
    """Raise PlanError for a criterion that there is not."""
    criterion = selection.get("criterion")
    if criterion is not None and criterion not in tuple(CRITERIA):
        raise PlanError(
            f"the plan's experts were selected by the unknown criterion {criterion!r}: it has to "
            f"be one of {', '.join(CRITERIA)}"
        )


def refuse_shape(model: Mapping[str, Any]) -> None:
    """Raise PlanError for a plan that was made from a config alone."""
    if model.get(SHAPE_ONLY):
        raise PlanError(
            f"the plan was made from a config alone ({model.get('source')}), which decides sizes "
            "and not experts: plan again with the model and its statistics"
        )


def check_model(model: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raise PlanError unless a plan was made for this very checkpoint, and its weights."""
    refuse_shape(model)
    facts = checkpoint.facts()
    for what in _IDENTIFYING:
        if model.get(what) != facts[what]:
            raise PlanError(
                f"the plan is for {model.get('source')} ({what} {model.get(what)!r}), but "
                f"{checkpoint.source} has {what} {facts[what]!r}: plan again for this checkpoint"
            )
    if model.get(FAMILY_FILE) != facts.get(FAMILY_FILE):
        raise PlanError(
            f"the plan was made with {_describe(model.get(FAMILY_FILE))}, but the model was opened "
            f"with {_describe(facts.get(FAMILY_FILE))}: give the plan's with --family, or plan "
            "again"
        )


def _describe(file: Any) -> str:
    """The user's family file among a checkpoint's facts, for people."""
    if not isinstance(file, dict):
        return "a family that ships with secateur"
    return f"the family file {file.get('name')} (sha256 {file.get('sha256')})"


def check_statistics(statistics: Statistics, checkpoint: Checkpoint) -> None:
    """Raise StatisticsError unless statistics were made on this very checkpoint."""
    facts = checkpoint.facts()
    for what in _IDENTIFYING:
        if statistics.model.get(what) != facts[what]:
            raise StatisticsError(
                f"the statistics are of {statistics.model.get('source')} ({what} "
                f"{statistics.model.get(what)!r}), but {checkpoint.source} has {what} "
                f"{facts[what]!r}: calibrate this checkpoint"
            )


def planned_importance(plan: Plan, sources: PlanSources) -> Importance | None:
    """The importance matrix that a plan quantizes with; None if it uses none.

    Raises PlanError when its source is missing, or is not the one that the plan was made with.
    """
    facts, origin = plan.selection.get(IMATRIX), plan.selection.get(IMATRIX_FROM) or {}
    if not facts:
        return None
    file = sources.imatrix
    if origin.get("from") == "file":
        if file is None or file.sha256 != origin.get("sha256"):
            other = f", not that of {file.sha256}" if file else ""
            raise PlanError(
                "the plan quantizes with the importance matrix of sha256 "
                f"{origin.get('sha256')}{other}: name it with --imatrix"
            )
    elif sources.statistics is None:
        raise PlanError(
            "the plan quantizes with an importance matrix, which is made from the statistics: "
            "name them with --stats"
        )
    else:
        file = None
    policy = origin.get("unseen_experts", "uniform")
    return importance_of(sources.checkpoint, plan.keep, sources.statistics, file, policy)
