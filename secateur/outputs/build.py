"""Making a plan: from the experts kept and the outputs wanted to every output tensor.

Everything is known from headers: names, shapes, exact sizes of the files. No weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.formats.imatrix.file import ImatrixFile
from secateur.outputs.base import (
    DEFAULT_ASSUMPTIONS,
    Decision,
    DecisionContext,
    Output,
    OutputFormat,
    PlanningAssumptions,
)
from secateur.outputs.feedback import describe_few
from secateur.outputs.file_notes import file_notes
from secateur.outputs.registry import FORMATS, format_id_of, format_of, planned_format
from secateur.planning.document import FORMATS_IN_MEMORY, IMATRIX, IMATRIX_FROM, Plan
from secateur.planning.edits import STATISTICS, decided_now
from secateur.planning.imatrix_policy import Importance, importance_of
from secateur.planning.memory import context_memory
from secateur.planning.rounding import rounding_facts
from secateur.planning.unseen_experts import Policy
from secateur.pruning.choose import Choice
from secateur.recipes.recipe import Recipe
from secateur.statistics.gram_file import GramFile
from secateur.statistics.identity import statistics_sha256
from secateur.statistics.statistics import Statistics


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made with, besides the model and the choice of experts.

    `imatrix`, else `statistics`, gives the importance matrix when the plan is applied;
    `unseen_experts` is for experts that have no data in it. `layer_importance` [layers] is for
    recipes with tiers; `split` cuts GGUF files of more bytes of tensors. `gram` is what levels are
    chosen with; None: each is the nearest.
    """

    statistics: Statistics | None = None
    imatrix: ImatrixFile | None = None
    unseen_experts: Policy = "uniform"
    layer_importance: Sequence[float] | None = None
    split: int | None = None
    assumptions: PlanningAssumptions = DEFAULT_ASSUMPTIONS
    gram: GramFile | None = None


NO_INPUTS = PlanInputs()


def make_plan(
    checkpoint: Checkpoint,
    choice: Choice,
    outputs: Sequence[Output],
    inputs: PlanInputs = NO_INPUTS,
) -> Plan:
    """The plan for a choice of experts and outputs.

    Raises PlanError for a recipe or a matrix that does not fit the model, or no output at all.
    """
    if not outputs:
        raise PlanError("the plan writes nothing: name a format with --to or a type with --types")
    wanted: dict[str, Output] = {}
    for output in outputs:
        wanted.setdefault(format_id_of(output), output)
    formats = {format_id: format_of(output) for format_id, output in wanted.items()}
    with_matrix = any(found.llama_quantize for found in formats.values())
    importance = _importance(checkpoint, choice, inputs) if with_matrix else None
    context = DecisionContext(
        checkpoint,
        choice.keep,
        importance,
        inputs.layer_importance,
        inputs.split,
        inputs.assumptions,
        frozenset(found.name for found in formats.values()),
        inputs.gram,
    )
    decisions = _decide(context, wanted)
    if not any(_is_rounded(found, formats[found.format_id]) for found in decisions):
        inputs = replace(inputs, gram=None)
    files = {decision.format_id: decision.files for decision in decisions}
    _check_file_names(files)
    plan = Plan(
        model=checkpoint.facts(),
        selection=_selection(choice, inputs, importance),
        keep=dict(choice.keep),
        tensors=tuple(tensor for decision in decisions for tensor in decision.tensors),
        files=files,
        recipes={d.format_id: d.facts for d in decisions if d.facts is not None},
        notes=(
            *checkpoint.notes,
            *choice.notes,
            *(importance.notes if importance else ()),
            *(describe_few(inputs.gram, checkpoint, choice.keep) if inputs.gram else ()),
            *(note for decision in decisions for note in decision.notes),
            *file_notes(files),
        ),
        memory=memory_of(checkpoint, formats, inputs.assumptions.context),
    )
    return replace(plan, decided=decided_now(plan))


def resolve(plan: Plan, checkpoint: Checkpoint) -> dict[str, Decision[Any]]:
    """{format id: the decision that the plan's own choices lead to}, in the plan's order.

    Raises PlanError for choices that cannot be.
    """
    return {
        format_id: planned_format(plan, format_id).resolve(plan, format_id, checkpoint)
        for format_id in plan.formats
    }


def _decide(context: DecisionContext, wanted: Mapping[str, Output]) -> list[Decision[Any]]:
    """The decisions, in the order asked for; each format makes all of its own at once."""
    made: dict[str, Decision[Any]] = {}
    for known in FORMATS.values():
        mine = [output for output in wanted.values() if format_of(output) is known]
        recipes = [output if isinstance(output, Recipe) else None for output in mine]
        if recipes:
            made |= {found.format_id: found for found in known.decide(context, recipes)}
    return [made[format_id] for format_id in wanted]


def _is_rounded(decision: Decision[Any], output_format: OutputFormat[Any]) -> bool:
    """Whether an output holds numbers in fewer than 16 bits that a Gram matrix may be of: what
    belongs to another output, a tower, has none."""
    if decision.facts is None or output_format.goes_with is not None:
        return False
    return any(tensor.bytes < 2 * math.prod(tensor.shape) for tensor in decision.tensors)


def _check_file_names(files: Mapping[str, Mapping[str, object]]) -> None:
    """Raise PlanError for two outputs that would be one file, also where disks know no case."""
    owner: dict[str, str] = {}
    for format_id, names in files.items():
        for name in names:
            other = owner.setdefault(name.casefold(), format_id)
            if other != format_id:
                raise PlanError(
                    f"{other} and {format_id} would both be written as {name}: give one of the two "
                    "recipes another name"
                )


def _importance(checkpoint: Checkpoint, choice: Choice, inputs: PlanInputs) -> Importance | None:
    return importance_of(
        checkpoint, choice.keep, inputs.statistics, inputs.imatrix, inputs.unseen_experts
    )


def _selection(choice: Choice, inputs: PlanInputs, importance: Importance | None) -> dict[str, Any]:
    """How the experts were chosen, and what the importance matrix is made of."""
    found = {
        **choice.selection,
        IMATRIX: importance.facts if importance else None,
        IMATRIX_FROM: importance.origin if importance else None,
        **rounding_facts(inputs.gram),
    }
    if inputs.statistics is not None:
        found[STATISTICS] = statistics_sha256(inputs.statistics)
    return found


def memory_of(
    checkpoint: Checkpoint, formats: Mapping[str, OutputFormat[Any]], context: int | None
) -> dict[str, Any]:
    """A plan's `memory`: what llama.cpp needs besides the weights for so many tokens of context;
    empty where it runs none of the formats. Raises as `context_memory` does."""
    format_ids = [format_id for format_id, found in formats.items() if found.llama_quantize]
    if not format_ids:
        return {}
    memory = context_memory(checkpoint, context)
    return {**memory.to_json(), FORMATS_IN_MEMORY: format_ids}
