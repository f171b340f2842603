"""The output formats there are, by name. All that asks for a format asks here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import InputError, OutputError, PlanError
from secateur.outputs.base import Artefact, Output, OutputFormat
from secateur.outputs.gguf.format import GgufFormat
from secateur.outputs.gguf.mmproj_format import MmprojFormat
from secateur.outputs.mlx.format import MlxFormat
from secateur.outputs.safetensors.format import SafetensorsFormat
from secateur.planning.document import Plan

FORMATS: dict[str, OutputFormat[Any]] = {}
"""{name: format}. A path is opened by the last one that recognises it."""

DEFAULT_TO = (SafetensorsFormat.name,)
"""What is written where `--to` names nothing: the pruned checkpoint, and what the types are for."""


def register(output_format: OutputFormat[Any]) -> None:
    """Make a format known under its name. Raises ValueError when the name is taken."""
    if output_format.name in FORMATS:
        raise ValueError(f"there is an output format {output_format.name!r} already")
    FORMATS[output_format.name] = output_format


for _format in (SafetensorsFormat(), GgufFormat(), MlxFormat(), MmprojFormat()):
    register(_format)


def format_of(output: Output) -> OutputFormat[Any]:
    """The format of an output. Raises PlanError for one that there is not."""
    name = output if isinstance(output, str) else output.to
    if name not in FORMATS:
        raise PlanError(f"unknown output format {name!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def format_id_of(output: Output) -> str:
    """What a plan calls an output."""
    return output if isinstance(output, str) else output.format


def planned_format(plan: Plan, format_id: str) -> OutputFormat[Any]:
    """The format of a plan's output. Raises PlanError for one that the plan does not describe."""
    name = plan.recipes.get(format_id, {}).get("to", format_id)
    if name not in FORMATS or (format_id not in plan.recipes and FORMATS[name].example):
        raise PlanError(f"unknown format {format_id!r} in the plan: plan again")
    return FORMATS[name]


def artefacts_of(out: Path) -> list[Path]:
    """What can be measured at a path: itself, or what lies in an output folder.

    Raises OutputError when there is nothing.
    """
    if not out.is_dir():
        return [out]
    found = [path for known in FORMATS.values() for path in known.artefacts(out)]
    if not found:
        raise OutputError(f"{out} holds no model ({', '.join(FORMATS)}): nothing to measure")
    return found


def open_artefact(path: Path, original: Checkpoint, *, workers: int = 1) -> Artefact:
    """What lies at `path`, ready to be measured. Reads headers only.

    `original` is the checkpoint that it was made from; `workers` decode its tensors. Raises
    CheckpointError or FormatError when it is damaged, InputError when no format recognises it or
    it is not made from a model like the original.
    """
    for known in reversed(FORMATS.values()):
        if known.recognises(path):
            return known.open(path, original, workers=workers)
    raise InputError(
        f"{path} is neither a model folder nor a .gguf file: give what apply has written"
    )
