"""A GGUF of the model for llama.cpp and Ollama, as an output format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.families.schema import Family
from secateur.formats.gguf.naming import MMPROJ
from secateur.formats.gguf.split import part_name
from secateur.outputs.base import Artefact, Decision, DecisionContext, OutputFormat, WriteJob
from secateur.outputs.gguf.layout import (
    GgufBase,
    GgufLayout,
    gguf_base,
    gguf_layout,
    lint_context,
    planned_tensors,
    typed_layout,
)
from secateur.outputs.gguf.mmproj import parts_left_out
from secateur.outputs.gguf.notes import (
    fallback_notes,
    importance_notes,
    refuse_without_importance,
    rounding_notes,
    tokenizer_notes,
)
from secateur.outputs.gguf.padding import describe_padding
from secateur.outputs.gguf.tokenizer_keys import tokenizer_keys
from secateur.planning.document import IMATRIX, NEEDS_IMATRIX, Plan
from secateur.planning.edits import edits_of
from secateur.planning.imatrix_policy import FILE
from secateur.planning.rounding import ROUNDING
from secateur.recipes.lint import rule_notes
from secateur.recipes.recipe import Recipe, recipe_of_facts
from secateur.system.continued_file import reusable

SPLIT = "split_max_size"
"""In a plan's `formats`: bytes of tensors in a file of a GGUF at most, where it is cut."""

TOWER = "mmproj"
"""The format of the tower's own GGUF (mmproj_format.py)."""

_NO_MODEL = (FILE, MMPROJ)
"""How the names of GGUF files begin that are not models."""


class GgufFormat(OutputFormat[GgufLayout]):
    """Text models, one file (or several parts) for each recipe, all written in one pass."""

    name = "gguf"
    example = "types Q4_K_M"
    llama_quantize = True

    def supports(self, family: Family) -> bool:
        return family.gguf is not None

    def decide(
        self, context: DecisionContext, recipes: Sequence[Recipe | None]
    ) -> Sequence[Decision[GgufLayout]]:
        checkpoint = context.checkpoint
        tokenizer = tokenizer_keys(checkpoint, context.assumptions.tokenizer)
        base = gguf_base(checkpoint, context.keep, tokenizer)
        shared = [
            *tokenizer_notes(tokenizer),
            *parts_left_out(checkpoint, TOWER in context.formats),
        ]
        found = [_decide(base, recipe, context) for recipe in recipes if recipe is not None]
        return [replace(found[0], notes=(*shared, *found[0].notes)), *found[1:]]

    def resolve(self, plan: Plan, format_id: str, checkpoint: Checkpoint) -> Decision[GgufLayout]:
        facts = plan.recipes[format_id]
        recipe = recipe_of_facts(format_id, facts)
        layout = gguf_layout(
            checkpoint,
            plan.keep,
            recipe,
            imatrix=plan.selection.get(IMATRIX),
            chosen={tensor.name: tensor.type for tensor in plan.of(format_id)},
            split=facts.get(SPLIT),
        ).rounded_with(plan.selection.get(ROUNDING, {}).get("gram"))
        if not plan.selection.get(IMATRIX):
            refuse_without_importance(format_id, layout)
        tensors = planned_tensors(checkpoint, plan.keep, layout, format_id)
        if format_id in edits_of(plan).formats:
            facts = {**facts, NEEDS_IMATRIX: bool(layout.needing_importance)}
        return Decision(format_id, layout, tensors, layout.files, facts)

    def reusable(self, files: Mapping[str, int], folder: Path) -> frozenset[Path]:
        return reusable(files, folder)

    def write(self, decisions: Sequence[Decision[Any]], job: WriteJob) -> dict[str, str]:
        from secateur.outputs.gguf.write import write_ggufs

        layouts = [decision.layout.made_by(job.plan_sha256) for decision in decisions]
        return write_ggufs(layouts, job)

    def artefacts(self, folder: Path) -> list[Path]:
        """The models; the first part of a split one stands for all, and a later one without it
        is named, to be refused."""
        names = {path.name for path in folder.glob("*.gguf")}
        models = {name for name in names if not name.startswith(_NO_MODEL)}
        return [folder / name for name in sorted(models) if not _follows_another(name, models)]

    def recognises(self, path: Path) -> bool:
        return path.suffix == ".gguf"

    def open(self, path: Path, original: Checkpoint, *, workers: int = 1) -> Artefact:
        from secateur.outputs.gguf.weights import open_weights

        source, identity, files = open_weights(path, original, workers)
        return Artefact(path, path.name, source, identity, files, runs_in_llama_cpp=True)


def _decide(base: GgufBase, recipe: Recipe, context: DecisionContext) -> Decision[GgufLayout]:
    checkpoint, format_id = base.checkpoint, recipe.format
    gram = context.gram
    layout = _type_tensors(base, recipe, context)
    layout = layout.rounded_with(gram.description.kind if gram else None)
    tensors = planned_tensors(checkpoint, context.keep, layout, format_id)
    notes = [
        *fallback_notes(format_id, tensors),
        *importance_notes(recipe, layout, context.importance, checkpoint.shape_only),
        *rounding_notes(format_id, layout, checkpoint.family, gram),
        *rule_notes(recipe, lint_context(base), context.layer_importance),
    ]
    if recipe.pad:
        plain = _bytes_without_padding(base, recipe, context)
        notes.append(describe_padding(format_id, layout.widths, layout.nbytes, plain))
    facts = {
        **recipe.facts(),
        NEEDS_IMATRIX: recipe.imatrix or bool(layout.needing_importance),
        **({} if context.split is None else {SPLIT: context.split}),
    }
    return Decision(format_id, layout, tensors, layout.files, facts, tuple(notes))


def _type_tensors(base: GgufBase, recipe: Recipe, context: DecisionContext) -> GgufLayout:
    """The GGUF of a recipe; from a config alone as with a matrix, where it cannot do without."""
    facts = context.importance.facts if context.importance else None
    shape_only = base.checkpoint.shape_only

    def layout(assume_imatrix: bool) -> GgufLayout:
        return typed_layout(
            base,
            recipe,
            imatrix=facts,
            layer_importance=context.layer_importance,
            split=context.split,
            assume_imatrix=assume_imatrix,
        )

    decided = layout(context.assumptions.imatrix and shape_only)
    if facts is None and shape_only and (recipe.imatrix or decided.needing_importance):
        return layout(True)
    return decided


def _bytes_without_padding(base: GgufBase, recipe: Recipe, context: DecisionContext) -> int | None:
    """Bytes of the tensors if rows fell back instead; None where types have no fallback."""
    try:
        return _type_tensors(base, replace(recipe, pad=False), context).nbytes
    except PlanError:  # with padding the recipe could be made, so that it is only this
        return None


def _follows_another(name: str, others: set[str]) -> bool:
    """Whether it is a part of a split GGUF whose first part is there."""
    part = part_name(name)
    return part is not None and part.number > 1 and part._replace(number=1).file in others
