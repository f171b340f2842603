"""Making a plan: from the experts that stay and the formats wanted to every tensor's fate.

Everything is known from headers: names, shapes, exact sizes of the files. No weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.writer import Layout, lay_out
from secateur.errors import PlanError
from secateur.outputs.file_notes import file_notes
from secateur.outputs.gguf.layout import (
    GgufBase,
    GgufLayout,
    gguf_base,
    gguf_layout,
    lint_context,
    plan_gguf,
    typed_layout,
)
from secateur.outputs.gguf.mmproj import left_out, mmproj_layout
from secateur.outputs.gguf.padding import sentence
from secateur.outputs.gguf.tokenizer_keys import tokenizer_keys
from secateur.outputs.mlx.layout import MlxLayout, mlx_layout, plan_mlx
from secateur.planning.document import (
    IMATRIX,
    IMATRIX_FROM,
    NEEDS_IMATRIX,
    SAFETENSORS,
    Plan,
    PlannedTensor,
)
from secateur.planning.imatrix_policy import ImatrixFile, Importance, check_shapes, importance_of
from secateur.planning.memory import context_memory
from secateur.planning.unseen_experts import Policy, needy
from secateur.pruning.choose import Choice
from secateur.pruning.expert_slices import select_experts
from secateur.pruning.selection import Keep
from secateur.recipes.lint import rule_notes
from secateur.recipes.recipe import Recipe, recipe_of_facts
from secateur.statistics.statistics import Statistics

SPLIT = "split_max_size"
"""In a plan's `formats`: bytes of tensors in a file of a GGUF at most, where it is cut."""

Output = Recipe | Literal["safetensors"]
"""What to write: the pruned checkpoint, or a file by a recipe."""


@dataclass(frozen=True)
class PlanningAssumptions:
    """What a plan is told of things that are not the model's.

    `tokenizer` is a folder or a GGUF, for a config alone; `context` the tokens to count memory
    for; `imatrix` plans a config's files as if there were an importance matrix. Without `fetch`
    no weights are fetched for a hub id that is not in the cache: its config will do.
    """

    tokenizer: Path | None = None
    context: int | None = None
    imatrix: bool = False
    fetch: bool = True


DEFAULT_ASSUMPTIONS = PlanningAssumptions()


def make_plan(  # noqa: PLR0913 - keywords, each of another kind
    checkpoint: Checkpoint,
    choice: Choice,
    outputs: Sequence[Output],
    statistics: Statistics | None = None,
    *,
    imatrix: ImatrixFile | None = None,
    unseen_experts: Policy = "uniform",
    layer_importance: Sequence[float] | None = None,
    split: int | None = None,
    assumptions: PlanningAssumptions = DEFAULT_ASSUMPTIONS,
) -> Plan:
    """The plan for a choice of experts and outputs.

    `imatrix`, else `statistics`, will give the importance matrix when the plan is applied: with
    one, llama.cpp chooses some types differently; `unseen_experts` is for experts that have no
    data in it. `layer_importance` [layers] is for recipes with tiers; `split` cuts GGUF
    files (GgufLayout).
    Raises PlanError for a recipe or a
    matrix that does not fit the model, or no output at all.
    """
    if not outputs:
        raise PlanError("the plan writes nothing: name a format with --to or a type with --types")
    tensors: list[PlannedTensor] = []
    files: dict[str, Mapping[str, int | None]] = {}
    notes = [*checkpoint.notes, *choice.notes]
    weighed, base, memory = None, None, None
    if any(is_gguf(output) for output in outputs):
        memory = context_memory(checkpoint, assumptions.context).to_json()
        base = gguf_base(checkpoint, choice.keep, tokenizer_keys(checkpoint, assumptions.tokenizer))
        notes += _header_notes(base)
        notes += left_out(checkpoint, any(is_tower(output) for output in outputs))
        weighed = importance_of(checkpoint, choice.keep, statistics, imatrix, unseen_experts)
        notes += weighed.notes if weighed else ()
    recipes: dict[str, Mapping[str, Any]] = {}
    for output in outputs:
        form = SAFETENSORS if isinstance(output, str) else output.format
        if form in files:
            continue
        sizes: Mapping[str, int | None]
        if isinstance(output, str):
            planned, sizes = plan_safetensors(checkpoint, choice.keep)
        elif output.to == "mlx":
            model = mlx_layout(checkpoint, choice.keep, output, layer_importance=layer_importance)
            planned, sizes = plan_mlx(checkpoint, choice.keep, model, output)
            notes.append(f"{form}: {model.bits_per_weight:.3f} bits per weight as mlx-lm counts")
            recipes[form] = output.facts()
        elif output.to == "mmproj":
            tower = mmproj_layout(checkpoint, _kept(choice.keep), output)
            planned, sizes = plan_gguf(checkpoint, choice.keep, tower, output)
            notes += _fallback_notes(output, planned)
            recipes[form] = output.facts()
        else:
            assert base is not None  # it was made above, for outputs such as this
            decided = _typed(base, output, weighed, layer_importance, split, assumptions)
            planned, sizes = plan_gguf(checkpoint, choice.keep, decided, output)
            notes += _gguf_notes(output, planned, decided, weighed, checkpoint.shape_only)
            notes += rule_notes(output, lint_context(base), layer_importance)
            if output.pad:
                plain = _without_padding(base, output, weighed, layer_importance, assumptions)
                notes.append(sentence(form, decided.widths, decided.nbytes, plain))
            recipes[form] = {
                **output.facts(),
                NEEDS_IMATRIX: output.imatrix or _needs_imatrix(decided),
                **({} if split is None else {SPLIT: split}),
            }
        tensors += planned
        files[form] = sizes
    notes += file_notes(files)
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
        memory or {},
    )


def _without_padding(
    base: GgufBase,
    recipe: Recipe,
    weighed: Importance | None,
    layer_importance: Sequence[float] | None,
    assumptions: PlanningAssumptions,
) -> int | None:
    """Bytes of the tensors if rows fell back instead; None where types have no fallback."""
    plain = replace(recipe, pad=False)
    try:
        return _typed(base, plain, weighed, layer_importance, None, assumptions).nbytes
    except PlanError:  # with padding the recipe could be made, so that it is only this
        return None


def _typed(
    base: GgufBase,
    recipe: Recipe,
    weighed: Importance | None,
    layer_importance: Sequence[float] | None,
    split: int | None,
    assumptions: PlanningAssumptions,
) -> GgufLayout:
    """The GGUF of a recipe; from a config alone as with a matrix, where it cannot do without."""
    facts = weighed.facts if weighed else None
    decided = typed_layout(
        base, recipe, imatrix=facts, layer_importance=layer_importance, split=split,
        assume_imatrix=assumptions.imatrix and base.checkpoint.shape_only,
    )  # fmt: skip
    if facts is None and base.checkpoint.shape_only and (recipe.imatrix or _needs_imatrix(decided)):
        return typed_layout(
            base, recipe, layer_importance=layer_importance, split=split, assume_imatrix=True
        )
    return decided


def _needs_imatrix(decided: GgufLayout) -> bool:
    return any(choice.needs_importance for choice in decided.choices)


def resolve_again(plan: Plan, checkpoint: Checkpoint) -> Plan:
    """The plan that a plan's own decisions (experts kept, types) lead to, for checking it."""
    choice = Choice(plan.keep, {}, ())
    tensors: list[PlannedTensor] = []
    files: dict[str, Mapping[str, int | None]] = {}
    for form in plan.formats:
        sizes: Mapping[str, int | None]
        if form == SAFETENSORS:
            planned, sizes = plan_safetensors(checkpoint, choice.keep)
        elif (recipe := planned_recipe(plan, form)).to == "mlx":
            model = planned_mlx(plan, form, checkpoint)
            planned, sizes = plan_mlx(checkpoint, choice.keep, model, recipe)
        else:
            decided = planned_gguf(plan, form, checkpoint)
            planned, sizes = plan_gguf(checkpoint, choice.keep, decided, recipe)
        tensors += planned
        files[form] = sizes
    return replace(plan, tensors=tuple(tensors), files=files)


def planned_gguf(plan: Plan, form: str, checkpoint: Checkpoint) -> GgufLayout:
    """The GGUF of a plan, of the model or its tower, its types taken from the plan's tensors.

    Raises PlanError for a format without a recipe.
    """
    recipe = planned_recipe(plan, form)
    chosen = {tensor.name: tensor.type for tensor in plan.of(form)}
    if is_tower(recipe):
        return mmproj_layout(checkpoint, _kept(plan.keep), recipe, chosen=chosen)
    return gguf_layout(
        checkpoint,
        plan.keep,
        recipe,
        imatrix=plan.selection.get(IMATRIX),
        chosen=chosen,
        split=plan.recipes[form].get(SPLIT),
    )


def planned_mlx(plan: Plan, form: str, checkpoint: Checkpoint) -> MlxLayout:
    """The MLX model of a plan, its types taken from the plan's tensors.

    Raises PlanError for a format without a recipe.
    """
    chosen = {tensor.name: tensor.type for tensor in plan.of(form)}
    return mlx_layout(checkpoint, plan.keep, planned_recipe(plan, form), chosen=chosen)


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


def is_tower(output: Output) -> bool:
    """Whether the output is the GGUF of a tower beside the text model."""
    return isinstance(output, Recipe) and output.to == "mmproj"


def _kept(keep: Keep) -> int:
    return len(next(iter(keep.values())))


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


def _header_notes(base: GgufBase) -> list[str]:
    if base.tokenizer.nbytes is not None:
        return [*base.tokenizer.notes]
    return [
        "there is no tokenizer beside the config: bytes of tensors are exact, the size of GGUF "
        "files is not known (name a folder with tokenizer.json, or a GGUF, with --tokenizer)"
    ]


def _gguf_notes(
    recipe: Recipe,
    planned: Sequence[PlannedTensor],
    decided: GgufLayout,
    importance: Importance | None,
    shape_only: bool,
) -> list[str]:
    """Fallbacks, and what the types need."""
    notes, form = _fallback_notes(recipe, planned), recipe.format
    needing = [choice.name for choice in decided.choices if choice.needs_importance]
    if importance is None and shape_only and (recipe.imatrix or needing):
        return [
            *notes,
            f"{form}: needs an importance matrix, and is planned as with one; the keys that name "
            "the matrix (under 1 kB) are not in its size",
        ]
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
    check_shapes(importance, decided.tensors)
    entries = importance.imatrix.entries
    if lacking := [name for name in needing if name not in entries]:
        raise PlanError(
            f"{form}: the importance matrix has no entry for {len(lacking)} tensors that need one "
            f"(first: {lacking[0]}): record it again, or choose a larger type"
        )
    return notes + needy(
        form, decided.choices, importance.unseen, importance.origin["unseen_experts"]
    )


def _fallback_notes(recipe: Recipe, planned: Sequence[PlannedTensor]) -> list[str]:
    """Fallbacks as one sentence; none without any."""
    fallen = [tensor for tensor in planned if tensor.fallback_from]
    if not fallen:
        return []
    kinds = sorted({f"{t.fallback_from} to {t.type}" for t in fallen})
    total = sum(tensor.bytes for tensor in planned)
    share = sum(tensor.bytes for tensor in fallen) / total
    return [
        f"{recipe.format}: {len(fallen)} of {len(planned)} tensors ({share:.0%} of the bytes) have "
        f"rows that the type's blocks do not divide, and fall back ({', '.join(kinds)})"
    ]


def _sources(checkpoint: Checkpoint, keep: Keep) -> dict[str, str]:
    """Output name -> source name; they differ where per-expert names are renumbered."""
    sources = {}
    for name, place in checkpoint.matches.items():
        if place.expert is None or place.layer is None:
            sources[name] = name
        elif place.expert in keep[place.layer]:
            match = place.row.pattern.fullmatch(name)
            assert match is not None  # the place was found with this very pattern
            start, end = match.span("expert")
            number = keep[place.layer].index(place.expert)
            sources[f"{name[:start]}{number}{name[end:]}"] = name
    return sources
