"""The GGUF of a vision tower as an output format: it goes with the GGUF of the text model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.families.schema import Family
from secateur.outputs.base import Decision, DecisionContext, OutputFormat, WriteJob
from secateur.outputs.gguf.format import TOWER, GgufFormat
from secateur.outputs.gguf.layout import GgufLayout, planned_tensors
from secateur.outputs.gguf.mmproj import mmproj_layout
from secateur.outputs.gguf.notes import fallback_notes
from secateur.planning.document import Plan
from secateur.recipes.recipe import Recipe, recipe_of_facts

_GGUF = GgufFormat()


class MmprojFormat(OutputFormat[GgufLayout]):
    """Written by `--mmproj`, in the same pass as the model's GGUF files."""

    name = TOWER
    example = "mmproj F16"
    goes_with = "gguf"

    @property
    def written_with(self) -> str:
        return _GGUF.name

    def supports(self, family: Family) -> bool:
        return family.mmproj is not None

    def decide(
        self, context: DecisionContext, recipes: Sequence[Recipe | None]
    ) -> Sequence[Decision[GgufLayout]]:
        checkpoint, found = context.checkpoint, []
        kept = len(next(iter(context.keep.values())))
        for recipe in recipes:
            assert recipe is not None  # the tower's outputs are recipes (mmproj.tower_recipe)
            layout = mmproj_layout(checkpoint, kept, recipe)
            tensors = planned_tensors(checkpoint, context.keep, layout, recipe.format)
            notes = tuple(fallback_notes(recipe.format, tensors))
            found.append(
                Decision(recipe.format, layout, tensors, layout.files, recipe.facts(), notes)
            )
        return found

    def resolve(self, plan: Plan, format_id: str, checkpoint: Checkpoint) -> Decision[GgufLayout]:
        facts = plan.recipes[format_id]
        chosen = {tensor.name: tensor.type for tensor in plan.of(format_id)}
        layout = mmproj_layout(
            checkpoint, plan.experts, recipe_of_facts(format_id, facts), chosen=chosen
        )
        tensors = planned_tensors(checkpoint, plan.keep, layout, format_id)
        return Decision(format_id, layout, tensors, layout.files, facts)

    def reusable(self, files: Mapping[str, int], folder: Path) -> frozenset[Path]:
        return _GGUF.reusable(files, folder)

    def write(self, decisions: Sequence[Decision[Any]], job: WriteJob) -> dict[str, str]:
        return _GGUF.write(decisions, job)
