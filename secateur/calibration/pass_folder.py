"""What a calibration pass keeps on disk, so that it goes on at the layer where it was stopped.

After a layer the hidden states of all micro-batches go to a file, and the sums of the layers that
were run since the last time to another: the second one, written last, says that both are whole.
The states before them are removed then, so there are two sets of them for a moment. What is
restored is what was saved, bit for bit.

It takes at most MOST_SHARE of the pass' time: where layers are run faster than their states can be
written (a GPU, or a very small model), some layers are left out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import InputError
from secateur.forward.stream import ForwardPass
from secateur.statistics.sums import Array
from secateur.system.array_file import read_arrays, write_arrays
from secateur.system.atomic import atomic_path, remove_partials, sync, writing
from secateur.system.text_files import explain

MOST_SHARE = 0.05
"""Of the time of a pass that may be spent on saving it."""

STATES = "states-"
"""What the names of files of hidden states begin with."""

_FORMAT = "secateur calibration pass 2"
_MASKS = "masks"
_RATE = 500e6
"""Bytes per second that a disk is taken to write before it has been tried."""


@dataclass(frozen=True)
class Done:
    """What earlier runs did: the first `layers`, and their part of the statistics. `masks` are the
    tokens that still count, packed bits of all micro-batches; `skipped` were left out."""

    layers: int = 0
    arrays: Mapping[str, Array] = field(default_factory=dict)
    masks: NDArray[np.uint8] | None = None
    skipped: int = 0


class PassFolder:
    """The folder of one pass, whose name (or that of a folder above it) tells all that decides the
    pass' result. `done` is what is in it; `damage` says why nothing of it can be used."""

    def __init__(self, path: Path) -> None:
        """Raises WriteError when the folder cannot be made."""
        self.path = path
        self.damage: str | None = None
        self._saved: set[str] = set()
        self._begun = time.monotonic()
        self._cost: float | None = None
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            remove_partials(path)
            try:
                self.done = self._read()
            except (InputError, ValueError, KeyError, TypeError, OSError) as error:
                self.damage = explain(error)
                self.done = Done()
            if not self.done.layers:
                for file in path.iterdir():
                    file.unlink()
        self._saved |= self.done.arrays.keys()

    def restore(self, forward: ForwardPass) -> None:
        """Put a pass that has embedded its tokens behind the layers that are done."""
        if not self.done.layers:
            return
        with self._states(self.done.layers).open("rb") as file:
            for batch in forward.batches:
                state = forward.hidden(batch)
                content = bytearray(file.read(state.nbytes))
                state.copy_(torch.frombuffer(content, dtype=state.dtype).view(state.shape))
        assert self.done.masks is not None
        bits = np.unpackbits(self.done.masks).astype(bool)
        for batch in forward.batches:
            mask = forward.mask(batch)
            mask.copy_(torch.from_numpy(bits[: mask.numel()]).view(mask.shape))
            bits = bits[mask.numel() :]
        forward.skipped = self.done.skipped

    def is_due(self, forward: ForwardPass) -> bool:
        """Whether so much was done since the last time that it is worth saving."""
        cost = self._cost
        if cost is None:
            cost = sum(forward.hidden(batch).nbytes for batch in forward.batches) / _RATE
        return (time.monotonic() - self._begun) * MOST_SHARE >= cost

    def save(self, forward: ForwardPass, layers: int, arrays: Mapping[str, Array]) -> None:
        """Keep the pass as it is after the first `layers`, whose part of the statistics `arrays`
        is. Raises WriteError."""
        begun = time.monotonic()
        digest = hashlib.sha256()
        with atomic_path(self._states(layers)) as partial, partial.open("wb") as file:
            for batch in forward.batches:
                content = _bytes_of(forward.hidden(batch))
                digest.update(content)
                file.write(content)
        others = list(self._others())
        for other in others:
            with writing(other):
                sync(other)
        masks = [forward.mask(batch).reshape(-1).numpy() for batch in forward.batches]
        provenance = {
            "layers": layers,
            "after": self._last_part()[1],
            "states": digest.hexdigest(),
            "skipped": forward.skipped,
            "others": {other.name: other.stat().st_size for other in others},
        }
        fresh = {name: array for name, array in arrays.items() if name not in self._saved}
        write_arrays(
            self.path / f"layers-{layers:04}.safetensors",
            {**fresh, _MASKS: np.packbits(np.concatenate(masks))},
            {"format": _FORMAT, "provenance": json.dumps(provenance)},
        )
        self._saved |= fresh.keys()
        self._remove_states_but(layers)
        self._begun = time.monotonic()
        self._cost = self._begun - begun

    def _states(self, layers: int) -> Path:
        return self.path / f"{STATES}{layers:04}"

    def _remove_states_but(self, layers: int) -> None:
        for path in self.path.glob(f"{STATES}*"):
            if path != self._states(layers):
                path.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("layers-*.safetensors"))

    def _last_part(self) -> tuple[Path | None, int]:
        """The newest file of sums, and the layers that are done with it."""
        parts = self._parts()
        return (parts[-1], int(parts[-1].stem.removeprefix("layers-"))) if parts else (None, 0)

    def _others(self) -> Iterator[Path]:
        """The files that grow by every layer: of the token sample, and of Gram matrices."""
        for path in self.path.iterdir():
            if not path.name.startswith((".", STATES, "layers-")):
                yield path

    def _read(self) -> Done:
        """What is in the folder, all of which is checked. Raises what reading damaged files does.

        A file of states that belongs to no sums was written by a run that was stopped right then.
        """
        last, layers = self._last_part()
        self._remove_states_but(layers)
        if last is None:
            return Done()
        arrays: dict[str, Array] = {}
        before = 0
        for part in self._parts():
            found, head = read_arrays(part, _FORMAT)
            provenance = head["provenance"]
            if provenance["after"] != before:
                raise ValueError(f"the sums of layer {before} are missing")
            before = int(provenance["layers"])
            masks = found.pop(_MASKS)
            arrays |= found
        with self._states(layers).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != provenance["states"] or before != layers:
            raise ValueError("the hidden states were changed")
        for name, size in provenance["others"].items():
            if (self.path / name).stat().st_size < size:
                raise ValueError(f"{name} was cut")
        return Done(layers, arrays, masks, int(provenance["skipped"]))


def _bytes_of(state: Tensor) -> memoryview:
    return state.cpu().contiguous().view(torch.uint8).numpy().data
