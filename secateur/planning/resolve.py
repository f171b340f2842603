"""Making a plan: from the experts that stay and the formats wanted to every tensor's fate.

Everything is known from headers: names, shapes, exact sizes of the files. No weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from secateur.calibration.statistics import Statistics
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.writer import Layout, lay_out
from secateur.errors import PlanError
from secateur.planning.choose import Choice
from secateur.planning.experts import select_experts
from secateur.planning.gguf_form import GgufForm, gguf_form, plan_gguf
from secateur.planning.importance import ImatrixFile, Importance, check_shapes, importance_of
from secateur.planning.plan import IMATRIX, IMATRIX_FROM, SAFETENSORS, Plan, PlannedTensor
from secateur.planning.recipe import Recipe, recipe_of_facts
from secateur.planning.selection import Keep
from secateur.planning.uncovered import Policy, needy

SPLIT = "split_max_size"
"""In a plan's `formats`: bytes of tensors in a file of a GGUF at most, where it is cut."""

Output = Recipe | Literal["safetensors"]
"""What to write: the pruned checkpoint, or a file by a recipe."""


def make_plan(
    checkpoint: Checkpoint,
    choice: Choice,
    outputs: Sequence[Output],
    statistics: Statistics | None = None,
    *,
    imatrix: ImatrixFile | None = None,
    uncovered: Policy = "flat",
    layer_importance: Sequence[float] | None = None,
    split: int | None = None,
) -> Plan:
    """The plan for a choice of experts and outputs.

    `imatrix`, else `statistics`, will give the importance matrix when the plan is applied: with
    one, llama.cpp chooses some types differently; `uncovered` is for experts that have no data in
    it. `layer_importance` [layers] is for recipes with tiers. Raises PlanError for a recipe or a
    matrix that does not fit the model, or no output at all.
    """
    if not outputs:
        raise PlanError("the plan writes nothing: name a format with --to or a type with --types")
    tensors: list[PlannedTensor] = []
    files: dict[str, Mapping[str, int]] = {}
    notes = list(choice.notes)
    weighed = None
    if any(is_gguf(output) for output in outputs):
        weighed = importance_of(checkpoint, choice.keep, statistics, imatrix, uncovered)
        notes += weighed.notes if weighed else ()
    recipes: dict[str, Mapping[str, Any]] = {}
    for output in outputs:
        form = SAFETENSORS if isinstance(output, str) else output.format
        if form in files:
            continue
        if isinstance(output, str):
            planned, sizes = plan_safetensors(checkpoint, choice.keep)
        else:
            decided = gguf_form(
                checkpoint,
                choice.keep,
                output,
                imatrix=weighed.facts if weighed else None,
                layer_importance=layer_importance,
                split=split,
            )
            planned, sizes = plan_gguf(checkpoint, choice.keep, decided, output)
            notes += _gguf_notes(output, planned, decided, weighed)
            recipes[form] = {**output.facts(), **({} if split is None else {SPLIT: split})}
        tensors += planned
        files[form] = sizes
    selection = {
        **choice.selection,
        IMATRIX: weighed.facts if weighed else None,
        IMATRIX_FROM: weighed.origin if weighed else None,
    }
    return Plan(
        checkpoint.facts(),
        selection,
        dict(choice.keep),
        tuple(tensors),
        files,
        recipes,
        tuple(notes),
    )


def resolve_again(plan: Plan, checkpoint: Checkpoint) -> Plan:
    """The plan that a plan's own decisions (experts kept, types) lead to, for checking it."""
    choice = Choice(plan.keep, {}, ())
    tensors: list[PlannedTensor] = []
    files: dict[str, Mapping[str, int]] = {}
    for form in plan.formats:
        if form == SAFETENSORS:
            planned, sizes = plan_safetensors(checkpoint, choice.keep)
        else:
            decided = planned_gguf(plan, form, checkpoint)
            recipe = planned_recipe(plan, form)
            planned, sizes = plan_gguf(checkpoint, choice.keep, decided, recipe)
        tensors += planned
        files[form] = sizes
    return replace(plan, tensors=tuple(tensors), files=files)


def planned_gguf(plan: Plan, form: str, checkpoint: Checkpoint) -> GgufForm:
    """The GGUF of a plan, its types taken from the plan's tensors.

    Raises PlanError for a format without a recipe.
    """
    return gguf_form(
        checkpoint,
        plan.keep,
        planned_recipe(plan, form),
        imatrix=plan.selection.get(IMATRIX),
        chosen={tensor.name: tensor.type for tensor in plan.of(form)},
        split=plan.recipes[form].get(SPLIT),
    )


def planned_recipe(plan: Plan, form: str) -> Recipe:
    """The recipe of a plan's format, by its facts: no rules, for the tensors say their types.

    Raises PlanError for a format that the plan says nothing about.
    """
    if form not in plan.recipes:
        raise PlanError(f"unknown format {form!r} in the plan: plan again")
    return recipe_of_facts(form, plan.recipes[form])


def is_gguf(output: Output) -> bool:
    """Whether the output is quantized with llama.cpp's importance matrix."""
    return isinstance(output, Recipe) and output.to == "gguf"


def safetensors_layout(checkpoint: Checkpoint, keep: Keep) -> Layout:
    """The shards of the pruned checkpoint, to the byte."""
    return lay_out(select_experts(checkpoint, keep))


def plan_safetensors(
    checkpoint: Checkpoint, keep: Keep
) -> tuple[tuple[PlannedTensor, ...], dict[str, int]]:
    """(tensors, {file: bytes}) of the pruned checkpoint."""
    layout = safetensors_layout(checkpoint, keep)
    sources = _sources(checkpoint, keep)
    tensors = []
    for shard in layout.shards:
        for tensor in shard.tensors:
            source = sources[tensor.name]
            same = checkpoint.specs[source].shape == tensor.shape
            tensors.append(
                PlannedTensor(
                    format=SAFETENSORS,
                    name=tensor.name,
                    action="copy" if same else "select",
                    sources=(source,),
                    type=tensor.dtype,
                    shape=tensor.shape,
                    bytes=tensor.nbytes,
                )
            )
    return tuple(tensors), dict(layout.files)


def _gguf_notes(
    recipe: Recipe,
    planned: Sequence[PlannedTensor],
    decided: GgufForm,
    importance: Importance | None,
) -> list[str]:
    """Fallbacks as one sentence, and what the types need."""
    notes, form = [], recipe.format
    fallen = [tensor for tensor in planned if tensor.fallback_from]
    if fallen:
        kinds = sorted({f"{t.fallback_from} to {t.type}" for t in fallen})
        total = sum(tensor.bytes for tensor in planned)
        share = sum(tensor.bytes for tensor in fallen) / total
        notes.append(
            f"{form}: {len(fallen)} of {len(planned)} tensors ({share:.0%} of the bytes) have rows "
            f"that the type's blocks do not divide, and fall back ({', '.join(kinds)})"
        )
    needing = [choice.name for choice in decided.choices if choice.needs_importance]
    if importance is None and (recipe.imatrix or needing):
        who = (
            f"{len(needing)} tensors (first: {needing[0]}) need" if needing else "the recipe needs"
        )
        raise PlanError(
            f"{form}: {who} an importance matrix: calibrate and name the statistics with --stats, "
            "or name a matrix with --imatrix"
        )
    if importance is None:
        return notes
    check_shapes(importance, [tensor.info for tensor in decided.tensors])
    entries = importance.imatrix.entries
    if lacking := [name for name in needing if name not in entries]:
        raise PlanError(
            f"{form}: the importance matrix has no entry for {len(lacking)} tensors that need one "
            f"(first: {lacking[0]}): record it again, or choose a larger type"
        )
    return notes + needy(form, decided.choices, importance.unseen, importance.origin["uncovered"])


def _sources(checkpoint: Checkpoint, keep: Keep) -> dict[str, str]:
    """Output name -> source name; they differ where per-expert names are renumbered."""
    sources = {}
    for name, place in checkpoint.places.items():
        if place.expert is None or place.layer is None:
            sources[name] = name
        elif place.expert in keep[place.layer]:
            match = place.row.pattern.fullmatch(name)
            assert match is not None  # the place was found with this very pattern
            start, end = match.span("expert")
            number = keep[place.layer].index(place.expert)
            sources[f"{name[:start]}{number}{name[end:]}"] = name
    return sources
