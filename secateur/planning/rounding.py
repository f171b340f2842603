"""How weights are rounded to the levels of their types, as a plan decides it.

`nearest` takes the nearest level, as llama-quantize and mlx_lm.convert do. `feedback` chooses each
level so that it makes up for the errors before it in the row (rounding.factor), and the scale of
each group to suit, with the Gram matrices that a calibration wrote next to its statistics.
"""

from __future__ import annotations

from typing import Any, Literal

from secateur.errors import PlanError
from secateur.planning.document import Plan
from secateur.statistics.gram_file import GramFile

Rounding = Literal["nearest", "feedback"]

ROUNDING = "rounding"
"""In a plan's `selection`: the facts of rounding with feedback; absent where it is to nearest."""


def decide_rounding(wanted: Rounding | None, gram: GramFile | None) -> GramFile | None:
    """The Gram matrices to round with; None for nearest. None asks for feedback where there are
    Gram matrices: at the same size it was nearer to the model in every type (docs/log.md).

    Raises PlanError for feedback without Gram matrices.
    """
    if wanted == "nearest":
        return None
    if gram is None and wanted == "feedback":
        raise PlanError(
            "rounding with feedback needs the Gram matrices next to the statistics: calibrate with "
            "--gram own, and name the statistics"
        )
    return gram


def rounding_facts(gram: GramFile | None) -> dict[str, Any]:
    """What a plan's `selection` says of it."""
    if gram is None:
        return {}
    described = gram.description
    return {ROUNDING: {"method": "feedback", "gram": described.kind, "sha256": described.sha256}}


def planned_gram(plan: Plan, gram: GramFile | None) -> GramFile | None:
    """The Gram matrices that a plan rounds with; None for nearest.

    Raises PlanError when they are missing, or are not those that the plan was made with.
    """
    facts = plan.selection.get(ROUNDING)
    if facts is None:
        return None
    if gram is None or gram.description.sha256 != facts.get("sha256"):
        found = f", but {gram.path} has {gram.description.sha256}" if gram else ""
        raise PlanError(
            f"the plan rounds with the Gram matrices of sha256 {facts.get('sha256')}{found}: give "
            "the statistics that they lie next to with --stats"
        )
    return gram
