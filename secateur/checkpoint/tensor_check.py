"""Whether the tensors of a folder are those that its config describes: names, shapes and types.

Compared is everything that the family's rows give axes, in both directions. Parts that are only
carried along (a vision tower) have no axes; who reads them checks them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from secateur.checkpoint.config_edit import EXTRA_LAYERS
from secateur.checkpoint.expected_tensors import (
    ExpectedTensors,
    Facts,
    expected_tensors,
    prefix_of,
    row_shape,
    running_rows,
)
from secateur.checkpoint.headers import TensorSpec
from secateur.checkpoint.unknown_tensors import unknown_tensors
from secateur.errors import CheckpointError
from secateur.families.schema import Family, TensorMatch
from secateur.system.sizes import show_count

_SAVED_BUFFERS = ".rotary_emb.inv_freq"
"""End of the names of tables that older libraries saved; every reader computes them itself."""
_TOGETHER = "config and weights do not belong together, download both again"
_PLAIN = ("BF16", "F16", "F32", "F64")


@dataclass(frozen=True)
class MatchedTensors:
    """The tensors of a folder that make up the model, each with its row; notes on the others."""

    specs: Mapping[str, TensorSpec] = field(repr=False)
    matches: Mapping[str, TensorMatch] = field(repr=False)
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Model:
    """What is compared: the tensors of a folder, and its config."""

    folder: Path
    family: Family
    config: Mapping[str, Any] = field(repr=False)
    specs: Mapping[str, TensorSpec] = field(repr=False)

    @cached_property
    def _layer(self) -> re.Pattern[str]:
        return re.compile(rf"(?:{'|'.join(map(re.escape, self.family.prefixes))})layers\.(\d+)\.")

    def layer_of(self, name: str) -> int | None:
        """The number of the decoder layer that a name gives."""
        found = self._layer.match(name)
        return int(found[1]) if found else None

    @cached_property
    def layers(self) -> int:
        return self.family.number(self.config, "layers")

    @property
    def layers_key(self) -> str:
        found = self.family.find(self.config, "layers")
        return found[0] if found else ""


def match_tensors(
    folder: Path, family: Family, config: Mapping[str, Any], specs: Mapping[str, TensorSpec]
) -> MatchedTensors:
    """The tensors of `folder` with their rows, when they are those that its config describes.

    Left out are saved rotary tables, and layers beyond the model's own of which the config knows.
    Raises CheckpointError (FamilyError for names that no row describes), naming the tensor, what
    was expected and how many more there are.
    """
    kept, notes = _without_extra(_Model(folder, family, config, specs))
    model = _Model(folder, family, config, kept)
    there = {layer for name in kept if (layer := model.layer_of(name)) is not None}
    _refuse_layers(model, "tensors", there - set(range(model.layers)))
    running = _running_in(model)
    expected = expected_tensors(family, config, folder, running=running)
    matches = _match_names(model, expected)
    _check_routed(model, matches)
    _refuse_layers(model, "no tensors", set(range(model.layers)) - there)
    _check_superfluous(model, expected, matches)
    _check_types(model, matches)
    _check_shapes(model, expected, matches)
    _check_missing(model, expected)
    return MatchedTensors(kept, matches, (*notes, *_absent_towers(model, expected)))


def _without_extra(model: _Model) -> tuple[dict[str, TensorSpec], list[str]]:
    """The tensors of the model itself, and notes on those that are left out."""
    extra = model.family.find(model.config, EXTRA_LAYERS)
    beyond = range(model.layers, model.layers + extra[1]) if extra else range(0)
    kept, left_out = {}, 0
    for name, spec in model.specs.items():
        if name.endswith(_SAVED_BUFFERS):
            continue
        if beyond and model.layer_of(name) in beyond:
            left_out += 1
            continue
        kept[name] = spec
    if not left_out or extra is None:
        return kept, []
    return kept, [
        f"what only predicts further tokens is left out: {show_count(left_out, 'tensor')} in "
        f"layers after the model's own ({extra[0]} = {extra[1]})"
    ]


def _running_in(model: _Model) -> Collection[str]:
    """The rows whose tensors this checkpoint has as the running model has them."""
    prefix = prefix_of(model.family, model.config)
    return [
        row
        for row in running_rows(model.family)
        if any(
            row.replace("{model}", prefix).replace("{layer}", str(layer)) in model.specs
            for layer in range(model.layers)
        )
    ]


def _match_names(model: _Model, expected: ExpectedTensors) -> dict[str, TensorMatch]:
    """The row of every tensor. Raises FamilyError where there is none."""
    matches: dict[str, TensorMatch] = {}
    unknown = []
    for name in model.specs:
        match = expected.matches.get(name) or model.family.match(name)
        if match is None:
            unknown.append(name)
        else:
            matches[name] = match
    if unknown:
        raise unknown_tensors(unknown, model.family, model.folder)
    return matches


def _check_routed(model: _Model, matches: Mapping[str, TensorMatch]) -> None:
    if not any(match.role == "router" for match in matches.values()):
        raise CheckpointError(
            f"{model.folder} has no routed experts: secateur works on Mixture-of-Experts "
            "checkpoints"
        )


def _refuse_layers(model: _Model, have: str, layers: Collection[int]) -> None:
    """Raise CheckpointError when there is any of `layers`, which `have` (no) tensors."""
    if layers:
        extra = model.family.config.get(EXTRA_LAYERS, ())
        unless = f" (layers that only predict further tokens: {extra[0]})" if extra else ""
        raise CheckpointError(
            f"{model.folder} has {have} of layer {min(layers)}, but config.json says "
            f"{model.layers_key} = {model.layers}{unless}: {_TOGETHER}"
        )


def _check_types(model: _Model, matches: Mapping[str, TensorMatch]) -> None:
    coded = [
        name
        for name, match in matches.items()
        if not match.row.carried and model.specs[name].dtype not in _PLAIN
    ]
    if coded:
        spec = model.specs[coded[0]]
        raise CheckpointError(
            f"{spec.path} has tensor {coded[0]!r} in type {spec.dtype}, expected one of "
            f"{', '.join(_PLAIN)}{_more(coded)}: dequantize the checkpoint to 16 bits first"
        )


def _check_shapes(
    model: _Model, expected: ExpectedTensors, matches: Mapping[str, TensorMatch]
) -> None:
    facts = Facts(model.family, model.config)
    odd: dict[str, tuple[int, ...]] = {}
    for name, match in matches.items():
        if match.row.carried:
            continue
        known = expected.specs.get(name)
        shape = known.shape if known else row_shape(facts, match.row, match.layer)
        if model.specs[name].shape != shape:
            odd[name] = shape
    if not odd:
        return
    name, shape = next(iter(odd.items()))
    spec, row = model.specs[name], matches[name].row
    axis = row.expert_axis
    if axis is not None and len(spec.shape) == len(shape) and spec.shape[axis] != shape[axis]:
        raise CheckpointError(
            f"tensor {name!r} of {model.folder} holds {spec.shape[axis]} experts on axis {axis}, "
            f"but config.json says {shape[axis]}{_more(odd)}: one of the two was edited without "
            "the other"
        )
    raise CheckpointError(
        f"{spec.path} has tensor {name!r} of shape {list(spec.shape)}, but config.json describes "
        f"{list(shape)} ({', '.join(row.axes)}){_more(odd)}: {_TOGETHER}"
    )


def _check_missing(model: _Model, expected: ExpectedTensors) -> None:
    missing = [
        name
        for name, match in expected.matches.items()
        if not match.row.carried and name not in model.specs
    ]
    if not missing:
        return
    match = expected.matches[missing[0]]
    if match.expert is not None:
        lacking = Counter(
            (expected.matches[name].row.name, expected.matches[name].layer) for name in missing
        )[match.row.name, match.layer]
        experts = model.family.number(model.config, "experts")
        raise CheckpointError(
            f"layer {match.layer} of {model.folder} has {experts - lacking} experts in "
            f"{match.row.name!r}, but config.json says {experts} (first missing: expert "
            f"{match.expert}): download the checkpoint again, or correct its config"
        )
    raise CheckpointError(
        f"{model.folder} has no tensor {missing[0]!r}, which config.json describes with shape "
        f"{list(expected.specs[missing[0]].shape)}{_more(missing)}: the checkpoint is incomplete, "
        f"or {_TOGETHER}"
    )


def _check_superfluous(
    model: _Model, expected: ExpectedTensors, matches: Mapping[str, TensorMatch]
) -> None:
    """A head of its own is used where it is there, whatever the config says; nothing else is."""
    others = [
        name
        for name, match in matches.items()
        if name not in expected.matches and not match.row.carried and match.role != "head"
    ]
    if not others:
        return
    name = others[0]
    match, prefix = matches[name], prefix_of(model.family, model.config)
    if match.prefix and match.prefix != prefix:
        reason = f"is of a model whose tensors begin with {prefix!r}"
    elif match.expert is not None:
        reason = f"says {model.family.number(model.config, 'experts')} experts"
    else:
        reason = f"describes a model without it (the row's condition: {match.row.when or 'none'})"
    raise CheckpointError(
        f"{model.folder} has tensor {name!r}, but config.json {reason}{_more(others)}: {_TOGETHER}"
    )


def _absent_towers(model: _Model, expected: ExpectedTensors) -> list[str]:
    """A note where the config describes a tower of which there is no tensor."""
    tower = [name for name, match in expected.matches.items() if match.row.carried]
    if not tower or any(name in model.specs for name in tower):
        return []
    return [
        f"config.json describes a tower ({tower[0]} and {len(tower) - 1} more tensors) that the "
        "checkpoint has not: what is written has none either"
    ]


def _more(names: Collection[str]) -> str:
    """How many tensors next to the first have the same fault."""
    return f" (the first of {len(names)} such tensors)" if len(names) > 1 else ""
