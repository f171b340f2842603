"""A GGUF as a source of running weights, so that every format is measured in one way.

It is decoded tensor by tensor, by ggml's own kernels, under the names of the running model: the
family's `gguf` fields, read backwards. What a GGUF does not say (which modules, which layers are
full) is in the config of the checkpoint it was made from; the expert count is the file's own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.checkpoint.config_edit import with_experts
from secateur.checkpoint.expected_tensors import Facts
from secateur.checkpoint.identity import weights_identity
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.tensors import NamedTensor
from secateur.errors import FamilyError, FormatError
from secateur.families.schema import Family, TensorRow
from secateur.formats.ggml.codec import decode
from secateur.formats.gguf.container import Scalar, Value
from secateur.formats.gguf.metadata import model_metadata
from secateur.formats.gguf.padding import Width, rounded, widened_config, width_of
from secateur.formats.gguf.reader import GgufFile
from secateur.formats.gguf.row_order import RowView
from secateur.formats.gguf.rules import gguf_rules
from secateur.formats.gguf.split import joined, read_every_part
from secateur.formats.gguf.tensors import gguf_tensors, row_view
from secateur.forward.weights import Stack, as_torch, open_stack

_ROPE_DEFAULTS: Mapping[str, tuple[Scalar, ...]] = {
    "freq_base": (10000.0,),
    "scaling.type": ("linear", "none"),
    "scaling.factor": (1.0,),
    "scaling.attn_factor": (1.0,),
}
"""What llama.cpp computes with where a file has no such key."""
_ROPE_UNREAD = ("dimension_count", "scaling.finetuned", "scaling.yarn_")
"""How the names of rotary keys begin that change nothing: checked with the tensors' shapes, said
for people only, or read for other architectures than those of our families."""


class _Part(NamedTuple):
    """A GGUF tensor that is, or is a part of, a running tensor. `half` is "" for all of it, `view`
    the rows that it has of the matrices of its source."""

    name: str
    half: str
    view: RowView


def open_weights(
    path: Path, original: Checkpoint, workers: int
) -> tuple[GgufWeights, str, tuple[Path, ...]]:
    """(weights, identity, files) of a GGUF; a split one is named by its first part.

    `original` is the checkpoint whose config describes it. Raises FormatError.
    """
    parts = read_every_part(path)
    weights = GgufWeights(joined(parts), original.family, original.config, workers)
    files = tuple(part.path for part in parts)
    return weights, weights_identity({}, set(files)), files


class GgufWeights:
    """A GGUF file as a source of running weights.

    Peak memory of `tensor`: the tensor in float32 (F16 and BF16 stay as they are), and once more
    while halves are joined; of a stack of experts: EAGER_STACK_BYTES, or one matrix twice.
    """

    def __init__(
        self, file: GgufFile, family: Family, config: Mapping[str, Any], workers: int = 1
    ) -> None:
        """Checks names and metadata. Raises FormatError for a tensor that no row describes, and
        for a file whose numbers are not those of `config` (except for its expert count)."""
        self.file = file
        self._family = family
        self._workers = workers
        self._config = _config_of(file, family, config)
        self._parts = _parts_of(file, family, self._config)

    @property
    def config(self) -> Mapping[str, Any]:
        return self._config

    @property
    def family(self) -> Family:
        return self._family

    def names(self) -> Sequence[str]:
        return tuple(self._parts)

    def experts(self, name: str) -> Stack:
        parts, axis = self._find_parts(name)
        shapes = [self.file.tensor(part.name).shape for part in parts]
        shape = list(shapes[0])
        shape[axis] = sum(one[axis] for one in shapes) if len(parts) > 1 else shape[axis]

        def read(expert: int) -> Tensor:
            # Inside one expert the experts' axis is gone, so the halves' axis is one lower.
            return _concatenate([self._decode(part, expert) for part in parts], axis - 1)

        return open_stack(tuple(shape), 4 * math.prod(shape), lambda: self.tensor(name), read)

    def tensor(self, name: str) -> Tensor:
        parts, axis = self._find_parts(name)
        return _concatenate([self._decode(part) for part in parts], axis)

    def _find_parts(self, name: str) -> tuple[list[_Part], int]:
        """The parts of a running tensor in order, and the axis along which they lie.

        Raises FormatError when one is missing.
        """
        parts = self._parts.get(name)
        if parts is None:
            raise FormatError(
                f"{self.file.path} has no tensor for the parameter {name!r}: it is not made from "
                "this model, or was made by a tool that lays it out differently"
            )
        if len(parts) == 1 and not parts[0].half:
            return parts, 0
        row = next(row for row in self._family.rows if self._is_row_of(row, name))
        axis, halves = _halves(row)
        by_half = {part.half: part for part in parts}
        if set(by_half) != set(halves):
            raise FormatError(
                f"{self.file.path}: {name!r} is made of {', '.join(halves)}, but the file has "
                f"only {', '.join(sorted(by_half))}"
            )
        return [by_half[half] for half in halves], axis

    def _is_row_of(self, row: TensorRow, name: str) -> bool:
        return row.into is None and not row.per_expert and bool(row.pattern.fullmatch(name))

    def _decode(self, part: _Part, expert: int | None = None) -> Tensor:
        """The part, or one expert of it, its rows in the order of the running model."""
        name = part.name
        info = self.file.tensor(name)
        data, shape, workers = self.file.data(name), info.shape, self._workers
        if expert is not None:
            size = data.size // shape[0]
            # In one thread: those of the forward pass decode an expert each.
            data, shape, workers = data[expert * size : (expert + 1) * size], shape[1:], 1
        if info.type in ("F16", "BF16"):
            storage = np.dtype(np.float16 if info.type == "F16" else np.uint16)
            array = part.view.undone(np.array(data).view(storage).reshape(shape))
            return as_torch(NamedTensor(name, info.type, array))
        numbers = decode(data, info.type, shape, workers)
        return torch.from_numpy(part.view.undone(numbers))


def _concatenate(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=axis)


def _config_of(file: GgufFile, family: Family, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The original's config with the file's expert count and padded widths, checked against all
    its numbers."""
    rules = gguf_rules(family)
    found = file.value("general.architecture")
    if found != rules.architecture:
        raise FormatError(
            f"{file.path} is of the architecture {found!r}, but the original is a {family.title} "
            f"model ({rules.architecture!r}): give the original that it was made from"
        )
    prefix = f"{rules.architecture}."
    experts = file.value(f"{prefix}expert_count")
    if type(experts) is not int:
        raise FormatError(f"{file.path}: {prefix}expert_count is {experts!r}, expected a number")
    edited: dict[str, Any] = json.loads(with_experts(json.dumps(config), family, experts))
    edited = widened_config(edited, family, _widths_of(file, family, edited))
    infos = tuple(file.tensors.values())
    expected = model_metadata(family, edited, infos, "", 0)
    _check_rotary_keys(file, f"{prefix}rope.", expected)
    for key, value in expected.items():
        theirs = file.metadata.get(key)
        # Optional keys may be absent, and files of other tools lack newer ones.
        if not key.startswith(prefix) or theirs is None:
            continue
        if not _equal(theirs.value, value.value):
            raise FormatError(
                f"{file.path}: {key} is {theirs.value!r}, but the original's config says "
                f"{value.value!r}: give the original that it was made from"
            )
    return edited


def _check_rotary_keys(file: GgufFile, prefix: str, expected: Mapping[str, Value]) -> None:
    """Refuse a file that turns positions otherwise than the config of the original says.

    Its weights are measured under that config, so that a key which only one of the two has would
    not show in any number.
    """
    context = expected.get(f"{prefix.removesuffix('rope.')}context_length")
    original = () if context is None else (context.value,)
    defaults = {**_ROPE_DEFAULTS, "scaling.original_context_length": original}
    keys = {key for key in {*expected, *file.metadata} if key.startswith(prefix)}
    for key in sorted(keys):
        name = key.removeprefix(prefix)
        if name.startswith(_ROPE_UNREAD):
            continue
        mine, theirs, default = expected.get(key), file.metadata.get(key), defaults.get(name, ())
        if mine is None and theirs is not None and theirs.value not in default:
            raise FormatError(
                f"{file.path}: {key} is {theirs.value!r}, which the original's config does not "
                "say: give the original that it was made from"
            )
        if theirs is None and mine is not None and mine.value not in default:
            raise FormatError(
                f"{file.path} has no {key}, but the original's config says {mine.value!r}: it "
                "computes other positions than the original, make it again"
            )


def _widths_of(file: GgufFile, family: Family, config: Mapping[str, Any]) -> Mapping[str, Width]:
    """The widths of the file that are those of the config padded with zeros."""
    widths: dict[str, Width] = {}
    for name, info in file.tensors.items():
        row = next((r for r in family.rows if any(_match(own, name) for own in r.gguf)), None)
        what = width_of(row, -1) if row and row.axes else None
        found = family.find(config, what) if what else None
        if what and found and info.shape[-1] == rounded(found[1]) != found[1]:
            widths[what] = Width(found[1], info.shape[-1])
    return widths


def _equal(first: Scalar | tuple[Scalar, ...], second: Scalar | tuple[Scalar, ...]) -> bool:
    """Equal as a file stores them: numbers with the precision of a float32."""
    if isinstance(first, str) or isinstance(second, str):
        return first == second
    return np.array_equal(np.asarray(first, np.float32), np.asarray(second, np.float32))


def _parts_of(file: GgufFile, family: Family, config: Mapping[str, Any]) -> dict[str, list[_Part]]:
    """{running name: its parts}, for every tensor of the file."""
    generated = {entry.info.name: entry.values for entry in gguf_tensors(family, config, {})}
    parts: dict[str, list[_Part]] = {}
    facts = Facts(family, config)
    for name in file.tensors:
        if name in generated:
            info = file.tensor(name)
            values = decode(file.data(name), info.type, info.shape)
            if not np.array_equal(values, np.asarray(generated[name])):
                raise FormatError(
                    f"{file.path}: {name} holds other values than the original's config gives: "
                    "it is not made from this model"
                )
            continue
        running, part = _running(name, facts, file.path)
        parts.setdefault(running, []).append(part)
    return parts


def _running(name: str, facts: Facts, path: Path) -> tuple[str, _Part]:
    """(running name, what it is of it) of a GGUF tensor."""
    family = facts.family
    for row in family.rows:
        for number, template in enumerate(row.gguf):
            if match := _match(template, name):
                layer = int(match["layer"]) if "layer" in match.groupdict() else None
                halves = _halves_of_target(row, family)
                half = next((word for word in row.axes if word in halves), "")
                if len(row.gguf) > 1:
                    half = _halves(row)[1][number]
                view = row_view(facts, row, number, layer)
                return family.fill(row.into or row.name, layer), _Part(name, half, view)
    raise FormatError(
        f"{path}: tensor {name!r} is not known to the family {family.name!r}: it is not made from "
        "this model, or was made by a tool that lays it out differently"
    )


def _match(template: str, name: str) -> re.Match[str] | None:
    """A row's GGUF name, found in `name`."""
    pattern = re.escape(template).replace(r"\{layer\}", r"(?P<layer>\d+)")
    return re.fullmatch(pattern, name)


def _halves_of_target(row: TensorRow, family: Family) -> Sequence[str]:
    return _halves(family.fused_row(row.into))[1] if row.into and row.per_expert else ()


def _halves(row: TensorRow) -> tuple[int, Sequence[str]]:
    """(axis, words) of the axis that holds two projections, one after the other."""
    for axis, word in enumerate(row.axes):
        if "|" in word:
            return axis, word.split("|")
        if "/" in word:
            raise FamilyError(
                f"{row.name!r} interleaves {word}, which no GGUF layout is known for: "
                "measure the checkpoint instead"
            )
    return 0, ()
