"""An MLX model as a source of running weights: the family's rows, read backwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.checkpoint.headers import TensorSpec
from secateur.checkpoint.hub import CONFIG
from secateur.checkpoint.identity import weights_identity
from secateur.checkpoint.reader import read_config, read_specs, read_tensor
from secateur.errors import FormatError
from secateur.families.registry import family_of
from secateur.families.schema import Family, TensorRow
from secateur.formats.mlx.codec import TYPES, MlxType, dequantize
from secateur.formats.mlx.rules import mlx_names
from secateur.forward.weights import as_torch

_SETTINGS = ("quantization", "quantization_config")


class MlxWeights:
    """A folder of mlx-lm as a source of running weights.

    Peak memory of `tensor`: the tensor in float32 and its codes, and once more while halves are
    joined. The largest of a model are one layer's stacked experts.
    """

    def __init__(self, folder: Path, family: Family | None = None) -> None:
        """Reads config and headers; `family` comes before the known ones.

        Raises FormatError for tensors that no row describes, and types that mlx-lm has and we
        have not.
        """
        config = dict(read_config(folder))
        self.folder = folder
        self._quantization: Mapping[str, Any] = config.get(_SETTINGS[0]) or {}
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

    def experts(self, name: str) -> Tensor:
        return self.tensor(name)

    def tensor(self, name: str) -> Tensor:
        parts = self._parts.get(name)
        if parts is None:
            raise FormatError(
                f"{self.folder} has no tensor for the parameter {name!r}: the model is incomplete"
            )
        decoded = [self._decoded(part) for part in parts]
        # Halves lie along the rows of a matrix, whatever stands before.
        return decoded[0] if len(decoded) == 1 else torch.cat(decoded, dim=-2)

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

    def _decoded(self, name: str) -> Tensor:
        stem = name.removesuffix("weight")
        codes, scales = self._specs[name], self._specs.get(f"{stem}scales")
        if scales is None:
            return as_torch(read_tensor(codes))
        biases = self._specs.get(f"{stem}biases")
        kind = self._type_of(name, codes, scales)
        if (biases is None) != (kind.mode == "mxfp4"):
            raise FormatError(f"{self.folder}: {name!r} of {kind.name} lacks or has biases")
        return torch.from_numpy(
            dequantize(
                read_tensor(codes).array.view("<u4"),
                read_tensor(scales),
                None if biases is None else read_tensor(biases),
                kind,
            )
        )

    def _type_of(self, name: str, codes: TensorSpec, scales: TensorSpec) -> MlxType:
        """The type that the config gives a module, checked against its shapes."""
        found = self._quantization.get(name.removesuffix(".weight"), self._quantization)
        mode, bits, group = found.get("mode", "affine"), found.get("bits"), found.get("group_size")
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


def _owner(name: str) -> str:
    """The weight that a tensor of scales or biases belongs to."""
    stem, _, last = name.rpartition(".")
    return f"{stem}.weight" if last in ("scales", "biases") else name
