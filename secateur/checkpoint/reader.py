"""Opening a checkpoint: config and shard headers first, tensor bytes only when asked for.

Never pickle, never remote code: a checkpoint is a folder with config.json and safetensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secateur.checkpoint import hub
from secateur.checkpoint.companion_files import companion_files
from secateur.checkpoint.config_check import check_config
from secateur.checkpoint.config_edit import without_leftovers
from secateur.checkpoint.expected_tensors import expected_tensors
from secateur.checkpoint.headers import TensorSpec, read_header
from secateur.checkpoint.hub import (
    CONFIG,
    GEMMULE,
    gemmule_folder,
    has_shards,
    refuse_revision,
    resolve,
)
from secateur.checkpoint.identity import shape_identity, stamps, weights_identity
from secateur.checkpoint.links import is_there
from secateur.checkpoint.tensor_check import match_tensors
from secateur.checkpoint.tensors import STORAGE, NamedTensor
from secateur.errors import CheckpointError
from secateur.families.registry import family_of
from secateur.families.schema import Family, TensorMatch
from secateur.system.progress import Progress, no_progress
from secateur.system.sizes import show_count
from secateur.system.text_files import read_json

INDEX, SINGLE = hub.INDEX, hub.SINGLE

FAMILY_FILE = "family_file"
"""Among a checkpoint's facts: the user's file of its family, {"name", "sha256"}."""
SHAPE_ONLY = "shape_only"
"""Among a checkpoint's facts: only its config was there."""

MODEL_KEYS = {
    "source": "folder's name, hub id, or gemmule",
    "revision": "commit of a hub id",
    "identity": "hash of the config and all weights",
    "family": "its family",
    FAMILY_FILE + ".name": "the user's file of the family, where there is one",
    FAMILY_FILE + ".sha256": "sha256 of that file",
    "layers": "decoder layers",
    "experts": "routed experts of a layer",
    "top_k": "experts that work on a token",
    SHAPE_ONLY: "true where only its config was there",
}
"""The facts by which plans and statistics recognise a checkpoint (`Checkpoint.facts`)."""

_EXPECTED = "the config of a model (`secateur audit` looks at GGUF files)"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk. Holds no tensor data; `read` and `stream` fetch it from the shards.

    With `shape_only` there are no shards, and names and shapes are those that its config
    describes; `notes` then say what the config leaves open. `config_file` is where the config
    was read. `placed` is where devices keep its tensors from pass to pass, for who runs it again
    and again.
    """

    source: str
    revision: str | None
    path: Path
    config: Mapping[str, Any] = field(repr=False)
    family: Family = field(repr=False)
    specs: Mapping[str, TensorSpec] = field(repr=False)
    matches: Mapping[str, TensorMatch] = field(repr=False)
    config_file: Path = field(repr=False)
    shape_only: bool = False
    notes: tuple[str, ...] = ()
    placed: dict[Any, Any] | None = field(default=None, repr=False, compare=False)
    _computed: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What it is called where others read it: the hub id, or its folder's name, no path."""
        if Path(self.source) == self.path:
            return Path(os.path.abspath(self.path)).name
        if Path(self.source) == self.config_file:
            named = self.config_file.stem != Path(CONFIG).stem
            return self.config_file.stem if named else Path(os.path.abspath(self.path)).name
        return self.source

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return self.family.number(self.config, "layers")

    @property
    def experts(self) -> int:
        """Number of routed experts per MoE layer."""
        return self.family.number(self.config, "experts")

    @property
    def top_k(self) -> int:
        """Number of experts that each token is sent to."""
        return self.family.number(self.config, "top_k")

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Decoder layers that have routed experts, ascending."""
        return tuple(
            sorted(
                {
                    place.layer
                    for place in self.matches.values()
                    if place.role == "router" and place.layer is not None
                }
            )
        )

    @property
    def shards(self) -> tuple[Path, ...]:
        """The files that hold its tensors."""
        self.need_weights("reading its shards")
        return tuple(sorted({spec.path for spec in self.specs.values()}))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(spec.nbytes for spec in self.specs.values())

    def need_weights(self, what: str) -> None:
        """Raise CheckpointError unless there are weights, which `what` needs."""
        if self.shape_only:
            raise CheckpointError(
                f"{self.source} is a config without weights, and {what} needs them: name the "
                "model's folder or hub id (a config is enough for inspect, plan and fit)"
            )

    def read(self, name: str) -> NamedTensor:
        """One tensor, as `read_tensor` gives it. Peak memory: that tensor."""
        self.need_weights(f"reading tensor {name!r}")
        return read_tensor(self.specs[name])

    def facts(self) -> dict[str, Any]:
        """What statistics and plans remember of a checkpoint, to recognise it again."""
        return {
            "source": self.name,
            "revision": self.revision,
            "identity": self.identity(),
            "family": self.family.name,
            **({FAMILY_FILE: self.family.user_file()} if self.family.sha256 else {}),
            "layers": self.layers,
            "experts": self.experts,
            "top_k": self.top_k,
            **({SHAPE_ONLY: True} if self.shape_only else {}),
        }

    def identity(self, progress: Progress = no_progress, workers: int | None = None) -> str:
        """The hash that tells this model from others (`checkpoint.identity`), computed once.

        The first call may have to read all weights, `workers` files at a time, and reports the
        bytes to `progress`. Raises CheckpointError when a file cannot be read.
        """
        if "identity" not in self._computed:
            if not self.shape_only:
                self._computed["stamps"] = stamps(self.shards)
            self._computed["identity"] = (
                shape_identity(self.config, self.specs)
                if self.shape_only
                else weights_identity(self.config, self.shards, progress, workers)
            )
        return self._computed["identity"]

    def check_unchanged(self) -> None:
        """Check, before what was made of the weights is kept, that they still are those that were
        identified. Reads them only where a file was touched since.

        Raises CheckpointError when they are not, ReadError when a file has vanished.
        """
        if self.shape_only or (now := stamps(self.shards)) == self._computed.get("stamps"):
            return
        if weights_identity(self.config, self.shards) != self.identity():
            raise CheckpointError(
                f"{self.path}: its weights were changed while they were worked on: put back those "
                "that were there, or begin again with the new ones"
            )
        self._computed["stamps"] = now


def open_checkpoint(
    source: str | Path, revision: str | None = None, family: Family | Path | None = None
) -> Checkpoint:
    """Open a local folder, a hub id, or `gemmule`, the small model that ships with secateur.

    `family` is a family, or the user's file of one, for a model that no known family describes.
    Reads config.json and the shard headers only. Raises CheckpointError (FamilyError for a
    model no family describes) with the file, what was found, and what to do.
    """
    if Path(source).is_file():
        raise CheckpointError(
            f"{source} is a file: name the folder that holds config.json and the shards (a config "
            "is enough for inspect, plan and fit)"
        )
    if str(source) == GEMMULE:
        refuse_revision(source, revision)
        path, revision = gemmule_folder(), None
    else:
        path, revision = resolve(source, revision)
    return _open_folder(source, path, revision, family)


def open_shape(
    source: str | Path, revision: str | None = None, family: Family | Path | None = None
) -> Checkpoint:
    """As `open_checkpoint`, but a config is enough: names and shapes then follow from it.

    `source` may also be a config file, or a folder without shards; of a hub id that is not in
    the cache only the small files are fetched.
    """
    if Path(source).is_file():
        refuse_revision(source, revision)
        path, file = Path(source).parent, Path(source)
    elif str(source) == GEMMULE:
        return open_checkpoint(source, revision, family)
    else:
        path, revision = resolve(source, revision, weights=False)
        file = path / CONFIG
        companion_files(path)  # raises for a link to nothing
        # Pickled weights are there, and cannot be read: that is no model without weights.
        pickled = any(entry.suffix in _PICKLED for entry in path.iterdir())
        if has_shards(path) or pickled:
            return _open_folder(source, path, revision, family)
    config = read_config(file)
    family = family_of(config, family, file)
    check_config(config, family, file)
    expected = expected_tensors(family, config, file)
    notes = (f"there are no weights: names and shapes are those that {file} describes",)
    checkpoint = Checkpoint(
        str(source), revision, path, config, family, expected.specs, expected.matches, file, True,
        (*notes, *expected.notes),
    )  # fmt: skip
    _need_experts(checkpoint)
    return checkpoint


def _open_folder(
    source: str | Path, path: Path, revision: str | None, own: Family | Path | None
) -> Checkpoint:
    file = path / CONFIG
    read = read_config(path)
    family = family_of(read, own, file)
    check_config(read, family, file)
    companion_files(path)  # raises for a link to nothing
    config, notes = without_leftovers(read, family)
    found = match_tensors(path, family, read, read_specs(path))
    checkpoint = Checkpoint(
        str(source), revision, path, config, family, found.specs, found.matches, file,
        notes=(*notes, *found.notes),
    )  # fmt: skip
    _need_experts(checkpoint)
    return checkpoint


def _need_experts(checkpoint: Checkpoint) -> None:
    if not checkpoint.moe_layers:
        raise CheckpointError(
            f"{checkpoint.config_file} describes no layer with routed experts: secateur works on "
            "Mixture-of-Experts models"
        )


def read_config(path: Path) -> Mapping[str, Any]:
    """config.json of a model folder (or the file itself), as a mapping."""
    file = path / CONFIG if path.is_dir() else path
    if not is_there(file, of_folder=path.is_dir()):
        raise CheckpointError(
            f"{file.parent} is no model folder of Hugging Face's layout: {file.name} does not "
            "exist in it"
        )
    config = read_json(file, _EXPECTED, CheckpointError)
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object, expected the config of a model")
    return config


def read_tensor(spec: TensorSpec) -> NamedTensor:
    """One tensor, as a private view of its file: the pages are read when they are used.

    Writing into it changes memory only, never the file. A tensor that is not aligned in its file
    is read into memory of its own. Raises CheckpointError when the file has become too short.
    """
    storage = STORAGE[spec.dtype]
    try:
        if spec.offset % storage.itemsize or not spec.elements:
            array = np.fromfile(spec.path, storage, spec.elements, offset=spec.offset)
        else:
            mapped = np.memmap(spec.path, storage, "c", spec.offset, (spec.elements,))
            array = mapped.view(np.ndarray)
    except ValueError:
        array = np.empty(0, storage)
    if array.size != spec.elements:
        raise CheckpointError(
            f"shard {spec.path} ends inside tensor {spec.name!r}: download it again"
        )
    return NamedTensor(spec.name, spec.dtype, array.reshape(spec.shape))


def read_specs(path: Path) -> dict[str, TensorSpec]:
    """The tensors of a folder's shards, by their headers; strict about index and files."""
    index, single = path / INDEX, path / SINGLE
    if not is_there(index):
        if not is_there(single):
            raise CheckpointError(
                f"{path} has neither {SINGLE} nor {INDEX}: secateur reads safetensors only "
                "(convert pickled weights with their publisher's tools first)"
            )
        if stray := sorted(entry.name for entry in path.glob("model-*-of-*.safetensors")):
            raise CheckpointError(
                f"{path} has two sets of weights, {SINGLE} and "
                f"{show_count(len(stray), 'shard')} without an index ({stray[0]}), and readers "
                "disagree which one counts: remove the one that is not meant"
            )
        return read_header(single)
    shards = _read_index(index)
    if is_there(single) and SINGLE not in shards.values():
        several = show_count(len(set(shards.values())), "shard")
        raise CheckpointError(
            f"{path} has two sets of weights, {SINGLE} and the {several} of {INDEX}, and readers "
            "disagree which one counts: remove the one that is not meant"
        )
    specs: dict[str, TensorSpec] = {}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or shard in ("", ".."):
            raise CheckpointError(
                f"{index} names {shard!r}, a file outside the model folder: "
                "refuse this checkpoint, or correct its index"
            )
        if not is_there(path / shard):
            raise CheckpointError(f"shard {path / shard} is missing: download it again")
        for name, spec in read_header(path / shard).items():
            if shards.get(name) != shard:
                raise CheckpointError(
                    f"tensor {name!r} lies in shard {shard}, but {index} "
                    f"says {shards.get(name, 'nothing about it')!r}: mend the index"
                )
            specs[name] = spec
    if missing := sorted(set(shards) - set(specs)):
        raise CheckpointError(
            f"{index} promises tensor {missing[0]!r} in shard {shards[missing[0]]}, which does "
            f"not hold it ({len(missing)} missing in all): download that shard again"
        )
    return specs


def _read_index(index: Path) -> dict[str, str]:
    """{tensor: the name of its shard} of an index. Raises CheckpointError when it is none."""
    content = read_json(index, "the index of a model's shards", CheckpointError)
    try:
        return {name: str(shard) for name, shard in content["weight_map"].items()}
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{index} has no weight_map from tensors to shards: download it again"
        ) from None
