"""Which widths a GGUF needs padded, and its tensors with the zeros.

Only where a type needs it: a row whose asked type does not divide it would fall back to a larger
type; padded to the next multiple of 256 it keeps the type. A width is one number for all layers,
so one tensor that needs it widens them all; experts and dense layers are decided on their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import FamilyError
from secateur.families.schema import Family, TensorRow
from secateur.formats.ggml.types import TYPES
from secateur.formats.gguf.metadata import model_metadata
from secateur.formats.gguf.padding import (
    NO_PADDING,
    Width,
    padded_shape,
    padding_of,
    rounded,
    widened_config,
    width_of,
)
from secateur.formats.gguf.tensors import GgufTensor

Widths = Mapping[str, Width]
"""{config number: the width}, for those that are padded."""


def all_widths(checkpoint: Checkpoint, tensors: Sequence[GgufTensor]) -> dict[str, Width]:
    """Every width that is no multiple of 256."""
    found: dict[str, Width] = {}
    for tensor in tensors:
        what, width = _width(checkpoint, tensor), tensor.info.shape[-1]
        if what is not None and rounded(width) != width:
            found[what] = Width(width, rounded(width))
    return found


def widths_needed(
    checkpoint: Checkpoint, tensors: Sequence[GgufTensor], asked: Mapping[str, str]
) -> dict[str, Width]:
    """The widths to pad so that every tensor can have the type asked for it.

    `asked` is {tensor name: type}, as it would be if every type fitted every row.
    """
    too_narrow = [t for t in tensors if t.info.shape[-1] % TYPES[asked[t.info.name]].block]
    return all_widths(checkpoint, too_narrow)


def padded_tensors(
    checkpoint: Checkpoint, tensors: Sequence[GgufTensor], widths: Widths
) -> tuple[GgufTensor, ...]:
    """The tensors, those widened with their zeros and new shapes.

    Raises FamilyError for a family that has no rule for it, CheckpointError for a tensor that is
    not as wide as the config says.
    """
    return tuple(_pad(checkpoint, tensor, widths) for tensor in tensors)


def padded_config(
    checkpoint: Checkpoint, config: Mapping[str, Any], widths: Widths
) -> dict[str, Any]:
    """The config with the new widths. Raises FamilyError if a GGUF would not say one of them."""
    family = checkpoint.family
    for what, width in widths.items():
        widened = widened_config(config, family, {what: width})
        if _metadata_of(family, widened) == _metadata_of(family, config):
            raise FamilyError(
                f"the family {family.name!r} writes no GGUF key for its {what}, so it cannot be "
                "padded: leave --pad out"
            )
    return widened_config(config, family, widths)


def describe_padding(format_id: str, widths: Widths, padded: int, plain: int | None) -> str:
    """What a plan notes of the padding, with its exact cost or gain in bytes of tensors.

    `plain` are those without padding; None where there is no fallback to do without.
    """
    if not widths:
        return f"{format_id}: nothing is padded: the types divide all rows that could be"
    names = {"expert_width": "experts", "dense_width": "the dense layers"}
    changes = ", ".join(f"{names[what]} from {w.old} to {w.new}" for what, w in widths.items())
    text = f"{format_id}: padded with zeros, which changes no logit: {changes}"
    if plain is None:
        return f"{text}; it cannot be made without, for its types have no fallback"
    change = padded - plain
    return (
        f"{text}; {abs(change):,} bytes ({abs(change) / plain:.1%}) "
        f"{'smaller' if change < 0 else 'larger'} than with fallbacks"
    )


def _width(checkpoint: Checkpoint, tensor: GgufTensor) -> str | None:
    """The config number that the tensor's rows are as wide as."""
    row = _row(checkpoint, tensor)
    return width_of(row, -1) if row and row.axes else None


def _row(checkpoint: Checkpoint, tensor: GgufTensor) -> TensorRow | None:
    return checkpoint.matches[tensor.sources[0]].row if tensor.sources else None


def _pad(checkpoint: Checkpoint, tensor: GgufTensor, widths: Widths) -> GgufTensor:
    row = _row(checkpoint, tensor)
    shape, split = tensor.info.shape, tensor.view.parts
    padding = padding_of(row, shape, widths, split) if row else NO_PADDING
    if padding == NO_PADDING:
        return tensor
    info = replace(tensor.info, shape=padded_shape(shape, padding))
    return replace(tensor, info=info, padding=padding)


def _metadata_of(family: Family, config: Mapping[str, Any]) -> Mapping[str, Any]:
    return model_metadata(family, config, (), "", 0)


def padding_reason(tensor: GgufTensor) -> str:
    """What a planned tensor says of its zeros; empty without any."""
    padding, shape = tensor.padding, tensor.info.shape
    if padding == NO_PADDING:
        return ""
    changes = []
    if padding.below:
        rows = shape[-2] - padding.parts * padding.below
        each = f" ({padding.below} in each half)" if padding.parts > 1 else ""
        changes.append(f"rows padded from {rows} to {shape[-2]}{each}")
    if padding.right:
        changes.append(f"columns padded from {tensor.columns} to {shape[-1]}")
    return f"; {', '.join(changes)}"
