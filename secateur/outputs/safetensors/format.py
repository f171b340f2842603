"""The pruned checkpoint as an output format: for transformers, vLLM, and to go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.writer import Layout, write_shards
from secateur.outputs.base import Artefact, Decision, DecisionContext, OutputFormat, WriteJob
from secateur.outputs.model_folder import check_family, weight_files
from secateur.outputs.safetensors.layout import planned_tensors, safetensors_layout
from secateur.planning.document import Plan
from secateur.pruning.selection import Keep
from secateur.recipes.recipe import Recipe
from secateur.system.continued_file import reusable


class SafetensorsFormat(OutputFormat[Layout]):
    """The model's own form, with fewer experts. Its weights are copied, never converted."""

    name = "safetensors"

    def decide(
        self, context: DecisionContext, recipes: Sequence[Recipe | None]
    ) -> Sequence[Decision[Layout]]:
        return [self._decision(context.checkpoint, context.keep)]

    def resolve(self, plan: Plan, format_id: str, checkpoint: Checkpoint) -> Decision[Layout]:
        return self._decision(checkpoint, plan.keep)

    def reusable(self, files: Mapping[str, int], folder: Path) -> frozenset[Path]:
        """Shards; the index is written again."""
        shards = {name: size for name, size in files.items() if name.endswith(".safetensors")}
        return reusable(shards, folder)

    def write(self, decisions: Sequence[Decision[Any]], job: WriteJob) -> dict[str, str]:
        (decision,) = decisions
        key = f"{job.plan_sha256} {job.checkpoint.identity()}"
        return write_shards(job.folder, decision.layout, job.progress, job.edits, key)

    def artefacts(self, folder: Path) -> list[Path]:
        return [folder] if weight_files(folder) else []

    def recognises(self, path: Path) -> bool:
        return path.is_dir()

    def open(self, path: Path, original: Checkpoint, *, workers: int = 1) -> Artefact:
        from secateur.outputs.safetensors.weights import open_weights

        source, identity = open_weights(path, original.family)
        check_family(path, source.family, original)
        return Artefact(path, self.name, source, identity, weight_files(path))

    def _decision(self, checkpoint: Checkpoint, keep: Keep) -> Decision[Layout]:
        layout = safetensors_layout(checkpoint, keep)
        tensors = planned_tensors(checkpoint, keep, layout, self.name)
        files: Mapping[str, int | None] = dict(layout.files)
        return Decision(self.name, layout, tensors, files)
