"""Which tensors a random checkpoint has, in a publisher's form, and which numbers are in them.

Sizes of numbers are those at which nothing grows or dies from layer to layer: a matrix keeps the
size of what it is given (spread 1 / sqrt(inputs)), a norm or a scale is near 1. Router logits have
a spread of ROUTER, so that some experts are chosen clearly, and by each token others.

One seed gives one model in all 16-bit forms: experts that a form stacks are those that another
keeps apart. In FP8 it is that model rounded, with every block scaled by a factor near 1 of its
own, so that a reader that mixes up scales gets another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from secateur.checkpoint.expected_tensors import Facts, expected_tensors, running_rows
from secateur.checkpoint.headers import TensorSpec
from secateur.checkpoint.synthetic.numbers import Distribution, Stream
from secateur.checkpoint.tensors import STORAGE
from secateur.errors import RequestError
from secateur.families.schema import EXPERT, Family, TensorMatch, TensorRow

Form = Literal["published", "plain", "stacked", "fp8", "mxfp4"]
"""How a random checkpoint is stored; `published` is what its config says."""

ROUTER = 2.0
"""Standard deviation of an expert's logits."""
_BIAS, _NORM, _BOUND = 0.02, 0.1, 1e4
_FP8, _FP8_BLOCK = 100.0, 128
"""Spread of the stored E4M3 numbers, which reach to 448; rows and columns of a block."""
_FP4, _FP4_BLOCK = 2.0, 32
"""Spread of the stored E2M1 numbers, which reach to 6; numbers of a block."""


@dataclass(frozen=True)
class RandomTensor:
    """A tensor to write; its streams one after the other are its elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    streams: tuple[Stream, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * STORAGE[self.dtype].itemsize


def design(
    family: Family, config: Mapping[str, Any], file: Path, form: Form
) -> tuple[list[RandomTensor], tuple[str, ...]]:
    """(tensors, what the config leaves open) of the checkpoint that `config`, read from `file`,
    describes in a form (not `published`, see `forms.py`). Raises FamilyError as
    `expected_tensors` does."""
    running = running_rows(family) if form == "stacked" else ()
    expected = expected_tensors(family, config, file, running=running)
    facts = Facts(family, config)
    tensors: list[RandomTensor] = []
    for name, spec in expected.specs.items():
        place = expected.matches[name]
        if not is_packed(family, form, place.role, spec):
            streams = _streams(family, spec, place, _distribution(facts, spec, place))
            tensors.append(RandomTensor(name, spec.dtype, spec.shape, streams))
        elif form == "fp8":
            numbers = _streams(family, spec, place, Distribution("F8_E4M3", 0.0, _FP8))
            tensors.append(RandomTensor(name, "F8_E4M3", spec.shape, numbers))
            tensors.append(_block_scales(spec, _spread(facts, spec, place)))
        else:
            tensors += _mxfp4(spec, place, _spread(facts, spec, place))
    return tensors, expected.notes


def is_packed(family: Family, form: Form, role: str, spec: TensorSpec) -> bool:
    """Whether a tensor is stored in fewer bits in a form."""
    rule = next((rule for rule in family.packed if rule.method == form), None)
    if rule is None or len(spec.shape) < 2:
        return False
    return role in rule.roles or role.partition(".")[0] in rule.roles


def _streams(
    family: Family, spec: TensorSpec, place: TensorMatch, distribution: Distribution
) -> tuple[Stream, ...]:
    """One for each expert's matrix, or half of one, by the names that the running model has."""
    name = spec.name if place.row.carried else family.running_name(place)
    axes = place.row.axes
    if place.row.expert_axis == 0 and len(spec.shape) > 2:
        halves = axes[1].split("|") if "|" in axes[1] else [""]
        keys = [_expert_key(name, e, half) for e in range(spec.shape[0]) for half in halves]
    elif place.expert is not None:
        keys = [_expert_key(name, place.expert, _half(family, place.row))]
    else:
        keys = [name]
    return tuple(Stream(key, spec.elements // len(keys), distribution) for key in keys)


def _expert_key(name: str, expert: int, half: str) -> str:
    return f"{name}[{expert}]{half}"


def _half(family: Family, row: TensorRow) -> str:
    """Which half of the stacked tensor a row of a single expert is, "" for all of it."""
    joined = family.fused_row(row.into).axes if row.into else ()
    halves = [half for axis in joined if "|" in axis for half in axis.split("|")]
    return next((axis for axis in row.axes if axis in halves), "")


def _distribution(facts: Facts, spec: TensorSpec, place: TensorMatch) -> Distribution:
    if spec.name.endswith(("bias", "sinks")):
        return Distribution(spec.dtype, 0.0, _BIAS)
    if spec.name.endswith(("_min", "_max")):  # a bound of a clipped product
        return Distribution(spec.dtype, _BOUND if spec.name.endswith("max") else -_BOUND, 0.0)
    if len(spec.shape) < 2:
        return Distribution(spec.dtype, 1.0, _NORM)
    return Distribution(spec.dtype, 0.0, _spread(facts, spec, place))


def _spread(facts: Facts, spec: TensorSpec, place: TensorMatch) -> float:
    """The standard deviation of a matrix' numbers."""
    if place.role == "router":
        return ROUTER / math.sqrt(facts.size(facts.family.router.inputs, place.layer))
    return 1 / math.sqrt(spec.shape[_input_axis(spec, place)])


def _input_axis(spec: TensorSpec, place: TensorMatch) -> int:
    """The axis of a matrix that a product sums over: the last one, but for stacks that are stored
    the other way round, which the words of the axes tell."""
    last = len(spec.shape) - 1
    axes = place.row.axes
    if len(axes) < 3 or axes[0] != EXPERT:
        return last
    turned = (axes[-1] == "hidden") == place.role.endswith("down")
    return last - 1 if turned else last


def _block_scales(spec: TensorSpec, spread: float) -> RandomTensor:
    """What each block of 8-bit numbers is multiplied by."""
    name = f"{spec.name}_scale_inv"
    blocks = tuple(-(-length // _FP8_BLOCK) for length in spec.shape)
    scales = Distribution("F32", spread / _FP8, _NORM * spread / _FP8)
    return RandomTensor(name, "F32", blocks, (Stream(name, math.prod(blocks), scales),))


def _mxfp4(spec: TensorSpec, place: TensorMatch, spread: float) -> list[RandomTensor]:
    """Pairs of 4-bit numbers, and the exponent of each block of 32 along the inputs."""
    inputs = spec.shape[_input_axis(spec, place)]
    if inputs % _FP4_BLOCK:
        raise RequestError(
            f"form mxfp4: {spec.name} has {inputs} inputs, expected a multiple of {_FP4_BLOCK}"
        )
    outputs = spec.elements // (inputs * spec.shape[0])
    shape = (spec.shape[0], outputs, inputs // _FP4_BLOCK)
    blocks, scales = f"{spec.name}_blocks", f"{spec.name}_scales"
    numbers = Distribution("E2M1", 0.0, _FP4)
    exponents = Distribution("U8", 127 + math.log2(spread / _FP4), 0.4)
    pairs = (*shape, _FP4_BLOCK // 2)
    return [
        RandomTensor(blocks, "U8", pairs, (Stream(blocks, math.prod(pairs), numbers),)),
        RandomTensor(scales, "U8", shape, (Stream(scales, math.prod(shape), exponents),)),
    ]
