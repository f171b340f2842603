"""An MLX model as a source of running weights: the family's rows, read backwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.checkpoint.config_check import show
from secateur.checkpoint.headers import TensorSpec
from secateur.checkpoint.hub import CONFIG
from secateur.checkpoint.identity import weights_identity
from secateur.checkpoint.reader import read_config, read_specs, read_tensor
from secateur.checkpoint.tensors import NamedTensor
from secateur.errors import FormatError
from secateur.families.registry import family_of
from secateur.families.schema import Family, TensorRow
from secateur.formats.mlx.codec import TYPES, MlxType, dequantize
from secateur.formats.mlx.rules import mlx_names
from secateur.forward.weights import Stack, as_torch, open_stack

_SETTINGS = ("quantization", "quantization_config")


class MlxWeights:
    """A folder of mlx-lm as a source of running weights.

    Peak memory of `tensor`: the tensor in float32 and its codes, and once more while halves are
    joined; of a stack of experts: EAGER_STACK_BYTES, or one matrix twice.
    """

    def __init__(self, folder: Path, family: Family | None = None) -> None:
        """Reads config and headers; `family` comes before the known ones.

        Raises FormatError for tensors that no row describes, and types that mlx-lm has and we
        have not.
        """
        config = dict(read_config(folder))
        self.folder = folder
        self._quantization = _settings_of(config.get(_SETTINGS[0]) or {}, folder)
        # transformers would take it for a quantization of its own.
        self._config = {key: value for key, value in config.items() if key not in _SETTINGS}
        self._family = family_of(config, family, folder / CONFIG)
        self._specs = read_specs(folder)
        self._parts = self._found()

    @property
    def config(self) -> Mapping[str, Any]:
        return self._config

    @property
    def family(self) -> Family:
        return self._family

    def names(self) -> Sequence[str]:
        return tuple(self._parts)

    def experts(self, name: str) -> Stack:
        parts = self._find_parts(name)
        shapes = [self._find_shape(part) for part in parts]
        shape = (*shapes[0][:-2], sum(one[-2] for one in shapes), shapes[0][-1])

        def read(expert: int) -> Tensor:
            return _concatenate([self._decode(part, expert) for part in parts])

        return open_stack(shape, 4 * math.prod(shape), lambda: self.tensor(name), read)

    def tensor(self, name: str) -> Tensor:
        return _concatenate([self._decode(part) for part in self._find_parts(name)])

    def _find_parts(self, name: str) -> list[str]:
        parts = self._parts.get(name)
        if parts is None:
            raise FormatError(
                f"{self.folder} has no tensor for the parameter {name!r}: the model is incomplete"
            )
        return parts

    def identity(self) -> str:
        """What tells this model from others, as that of a checkpoint (`checkpoint.identity`)."""
        settings = {**self._config, _SETTINGS[0]: self._quantization}
        return weights_identity(settings, {spec.path for spec in self._specs.values()})

    def _found(self) -> dict[str, list[str]]:
        """{running name: the tensors that make it up, in order}."""
        kind = str(self._config["model_type"])
        layers = range(self._family.number(self._config, "layers"))
        parts: dict[str, list[str]] = {}
        for row in self._family.rows:
            if not row.axes or row.into is not None:
                continue
            for layer in layers if "{layer}" in row.name else (None,):
                names = mlx_names(self._family, row, kind, layer)
                if found := [name for name in names if name in self._specs]:
                    self._check_whole(row, layer, names, found)
                    parts[self._family.fill(row.name, layer)] = names
        known = {name for names in parts.values() for name in names}
        odd = [name for name in self._specs if _owner(name) not in known and name not in known]
        if odd:
            raise FormatError(
                f"{self.folder}: tensor {odd[0]!r} is not known to the family "
                f"{self._family.name!r} ({len(odd)} such tensors): it is not mlx-lm's form of it"
            )
        return parts

    def _check_whole(
        self, row: TensorRow, layer: int | None, names: list[str], found: list[str]
    ) -> None:
        if len(found) < len(names):
            lacking = next(name for name in names if name not in found)
            raise FormatError(
                f"{self.folder}: {self._family.fill(row.name, layer)!r} is made of "
                f"{', '.join(names)}, but {lacking} is missing: the model is incomplete"
            )

    def _find_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor's numbers."""
        codes = self._specs[name]
        scales = self._specs.get(name.removesuffix("weight") + "scales")
        if scales is None:
            return codes.shape
        return (*scales.shape[:-1], scales.shape[-1] * self._type_of(name, codes, scales).group)

    def _decode(self, name: str, expert: int | None = None) -> Tensor:
        """A tensor, or one expert of it."""

        def read(spec: TensorSpec) -> NamedTensor:
            return read_tensor(spec if expert is None else spec[expert])

        stem = name.removesuffix("weight")
        codes, scales = self._specs[name], self._specs.get(f"{stem}scales")
        if scales is None:
            return as_torch(read(codes))
        biases = self._specs.get(f"{stem}biases")
        kind = self._type_of(name, codes, scales)
        if (biases is None) != (kind.mode == "mxfp4"):
            raise FormatError(f"{self.folder}: {name!r} of {kind.name} lacks or has biases")
        values = dequantize(
            read(codes).array.view("<u4"),
            read(scales),
            None if biases is None else read(biases),
            kind,
        )
        return torch.from_numpy(values)

    def _type_of(self, name: str, codes: TensorSpec, scales: TensorSpec) -> MlxType:
        """The type that the config gives a module, checked against its shapes."""
        own = self._quantization.get(name.removesuffix(".weight"), self._quantization)
        found = _settings_of(own, self.folder)
        mode = found.get("mode", "affine")
        bits, group = (
            usual if found.get(key) is None else found[key]
            for key, usual in (("bits", 4), ("group_size", 32 if mode == "mxfp4" else 64))
        )
        kind = TYPES.get(mode if mode == "mxfp4" else f"{mode}-{bits}-{group}")
        if kind is None or (kind.bits, kind.group) != (bits, group):
            raise FormatError(
                f"{self.folder}: {name!r} is quantized as {mode} with {bits} bits in groups of "
                f"{group}, expected one of {', '.join(TYPES)}"
            )
        width = scales.shape[-1] * kind.group
        if codes.shape != (*scales.shape[:-1], width * kind.bits // 32) or codes.dtype != "U32":
            raise FormatError(
                f"{self.folder}: {name!r} has codes of shape {list(codes.shape)} and scales of "
                f"{list(scales.shape)}, which {kind.name} of config.json does not make"
            )
        return kind


def _settings_of(found: Any, folder: Path) -> Mapping[str, Any]:
    """An object of the config's settings. What it leaves out, or says with null, is mlx's default:
    mlx_lm.convert writes null for groups of which it was told no size."""
    if not isinstance(found, Mapping):
        raise FormatError(
            f"{folder}: {CONFIG} has {show(found)} among its settings of quantization, expected "
            "an object: it is not as mlx-lm writes it"
        )
    return found


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Halves, which lie along the rows of a matrix, whatever stands before."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=-2)


def _owner(name: str) -> str:
    """The weight that a tensor of scales or biases belongs to."""
    stem, _, last = name.rpartition(".")
    return f"{stem}.weight" if last in ("scales", "biases") else name
