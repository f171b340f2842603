"""A folder for mlx-lm as an output format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.checkpoint.headers import framework_of
from secateur.checkpoint.hub import CONFIG
from secateur.checkpoint.reader import Checkpoint, read_config, read_specs
from secateur.families.schema import Family
from secateur.formats.mlx.tensors import is_tied
from secateur.outputs.base import Artefact, Decision, DecisionContext, OutputFormat, WriteJob
from secateur.outputs.feedback import describe_feedback, observed_input
from secateur.outputs.mlx.layout import MlxLayout, mlx_layout, planned_tensors
from secateur.outputs.model_folder import check_family, weight_files
from secateur.planning.document import Plan
from secateur.pruning.selection import Keep
from secateur.recipes.recipe import Recipe, recipe_of_facts
from secateur.system.continued_file import reusable


class MlxFormat(OutputFormat[MlxLayout]):
    """Each model in a folder of its own in the output, with its config and tokenizer."""

    name = "mlx"
    example = "types mlx-mixed-4-8"

    def supports(self, family: Family) -> bool:
        return family.mlx is not None

    def decide(
        self, context: DecisionContext, recipes: Sequence[Recipe | None]
    ) -> Sequence[Decision[MlxLayout]]:
        found = []
        for recipe in recipes:
            assert recipe is not None  # an MLX output is made by a recipe
            layout = mlx_layout(
                context.checkpoint,
                context.keep,
                recipe,
                layer_importance=context.layer_importance,
            )
            note = f"{recipe.format}: {layout.bits_per_weight:.3f} bits per weight as mlx-lm counts"
            decision = _decision(context.checkpoint, context.keep, layout, recipe.format)
            notes = (
                note,
                *_head_notes(context.checkpoint, recipe.format),
                *_rounding_notes(layout, context, recipe.format),
            )
            found.append(replace(decision, facts=recipe.facts(), notes=notes))
        return found

    def resolve(self, plan: Plan, format_id: str, checkpoint: Checkpoint) -> Decision[MlxLayout]:
        facts = plan.recipes[format_id]
        chosen = {tensor.name: tensor.type for tensor in plan.of(format_id)}
        recipe = recipe_of_facts(format_id, facts)
        layout = mlx_layout(checkpoint, plan.keep, recipe, chosen=chosen)
        return replace(_decision(checkpoint, plan.keep, layout, format_id), facts=facts)

    def reusable(self, files: Mapping[str, int], folder: Path) -> frozenset[Path]:
        """Shards; the small files are written again."""
        shards = {name: size for name, size in files.items() if name.endswith(".safetensors")}
        return reusable(shards, folder)

    def write(self, decisions: Sequence[Decision[Any]], job: WriteJob) -> dict[str, str]:
        from secateur.outputs.mlx.write import write_mlx

        hashes: dict[str, str] = {}
        for decision in decisions:
            hashes |= write_mlx(
                decision.layout,
                job.checkpoint,
                job.keep,
                job.folder,
                feedback=job.feedback,
                edits=job.edits,
                workers=job.workers,
                progress=job.progress,
            )
        return hashes

    def artefacts(self, folder: Path) -> list[Path]:
        return sorted(path.parent for path in folder.glob(f"{self.name}-*/{CONFIG}"))

    def recognises(self, path: Path) -> bool:
        """A model folder that its config or its shards say is mlx-lm's.

        Raises CheckpointError for a folder without a config, or shards that are damaged.
        """
        if not path.is_dir():
            return False
        if "quantization" in read_config(path):
            return True
        specs = read_specs(path)
        return bool(specs) and framework_of(next(iter(specs.values())).path) == "mlx"

    def open(self, path: Path, original: Checkpoint, *, workers: int = 1) -> Artefact:
        from secateur.outputs.mlx.weights import MlxWeights

        model = MlxWeights(path, original.family)
        check_family(path, model.family, original)
        files = weight_files(path)
        return Artefact(path, path.name, model, model.identity(), files, runs_in_mlx_lm=True)


def _head_notes(checkpoint: Checkpoint, format_id: str) -> list[str]:
    """Of a head that is there though config.json ties it: the other formats hold and use it."""
    heads = [name for name, place in checkpoint.matches.items() if place.role == "head"]
    if not heads or not is_tied(checkpoint.family, checkpoint.config):
        return []
    return [
        f"{format_id}: {heads[0]} is left out, for config.json ties it to the embedding, which "
        "mlx-lm takes in its place; if the two differ, set tie_word_embeddings to false"
    ]


def _rounding_notes(layout: MlxLayout, context: DecisionContext, format_id: str) -> list[str]:
    """In how many tensors levels are chosen with feedback, and the first of those without."""
    gram, family = context.gram, context.checkpoint.family
    if gram is None:
        return []
    quantized = {
        tensor.name: observed_input(gram, family, tensor.sources) is not None
        for tensor in layout.tensors
        if tensor.kind is not None
    }
    return [describe_feedback(format_id, quantized)]


def _decision(
    checkpoint: Checkpoint, keep: Keep, layout: MlxLayout, format_id: str
) -> Decision[MlxLayout]:
    tensors = planned_tensors(checkpoint, keep, layout, format_id)
    files: Mapping[str, int | None] = dict(layout.files)
    return Decision(format_id, layout, tensors, files)
