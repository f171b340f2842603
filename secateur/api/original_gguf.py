"""The original itself as a GGUF, for what is served beside it: made once, and kept."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from secateur.api.apply import apply
from secateur.api.models import File, Model, open_weights
from secateur.api.plan import plan
from secateur.api.requests import Formats, Pruning
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import RequestError, WriteError
from secateur.formats.gguf.reader import read_gguf
from secateur.outputs.gguf.format import GgufFormat
from secateur.planning.document import Plan
from secateur.system.atomic import writing
from secateur.system.cache import kept_original, model_folder, name_model, touch
from secateur.system.folder_lock import in_use
from secateur.system.locks import locked
from secateur.system.progress import Progress, no_progress
from secateur.system.sizes import show_bytes

_TYPES = {"F32": "F32", "F16": "F16"}
"""Type of most weights -> the file type that loses nothing of them; BF16 for all others."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OriginalGguf:
    """Where an original's GGUF is or will be, by what plan, of how many bytes."""

    path: Path
    plan: Plan
    nbytes: int

    @property
    def made(self) -> bool:
        """Whether it is there."""
        return self.path.is_file() and self.path.stat().st_size == self.nbytes


def find_original_gguf(model: Model, work: File | None = None) -> OriginalGguf:
    """Where the GGUF of a model is kept and how large it is; makes nothing.

    Raises FamilyError or PlanError for a family that is no GGUF, CheckpointError for a model
    without weights.
    """
    checkpoint = open_weights(model, None, "serving the original")
    kind = lossless_type(checkpoint)
    decided = plan(checkpoint, Pruning(), Formats(types=kind, to=GgufFormat.name, mmproj="none"))
    files = {
        name: nbytes
        for name, nbytes in decided.files[f"{GgufFormat.name}-{kind}"].items()
        if name.endswith(".gguf")
    }
    ((name, nbytes),) = files.items()
    assert nbytes is not None  # there are weights
    folder = Path(work) if work is not None else model_folder(checkpoint.identity())
    return OriginalGguf(kept_original(folder, decided.sha256()) / name, decided, nbytes)


def gguf_of_original(
    model: Model,
    work: File | None = None,
    *,
    given: File | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Path:
    """A GGUF of a model in its own precision (BF16 as a rule), for llama.cpp to run.

    It is made in the folder `work` (default: the model's own in the cache) and kept there;
    `find_original_gguf` says beforehand how large it is. `given` is one that a user has, and is
    taken instead. An interrupted call resumes; of two processes one makes it, and the other waits.
    Raises RequestError for a `given` that is not there, FormatError for one that is damaged,
    WriteError when the disk has not enough room, and as `find_original_gguf`.
    """
    if given is not None:
        return _check(Path(given))
    found = find_original_gguf(model, work)
    if not found.made:
        waits = f"{found.path}: another process is writing the original as GGUF, waiting for it"
        with locked(found.path.parent, lambda: _log.info(waits)):
            if not found.made:
                _make(found, model, workers, progress)
    touch(found.path)
    return found.path


def check_room(model: Checkpoint, work: Path) -> None:
    """Raise WriteError where the disk has no room for the GGUF of a model that is asked beside
    others, before hours are spent on these."""
    found = find_original_gguf(model, work)
    existing = next(folder for folder in found.path.parents if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if not found.made and free < found.nbytes:
        raise WriteError(
            f"{model.name} is asked beside what is made of it, as a GGUF of "
            f"{show_bytes(found.nbytes)}, and the disk of {existing} has {show_bytes(free)} free: "
            "make room, or name a GGUF or a server of it with original, or none"
        )


def _make(found: OriginalGguf, model: Model, workers: int | None, progress: Progress) -> None:
    checkpoint = open_weights(model, None, "serving the original")
    folder = found.path.parent
    name_model(folder.parent, checkpoint.name)
    with writing(folder):
        if folder.exists():  # its file was removed, or cut short
            shutil.rmtree(folder)
    _log.info("%s: writing the original as GGUF, %s", found.path, show_bytes(found.nbytes))
    with in_use(folder.parent):
        apply(found.plan, folder, model=checkpoint, workers=workers, progress=progress)


def lossless_type(checkpoint: Checkpoint) -> str:
    """The file type that holds most weights as they are; raises CheckpointError without weights."""
    checkpoint.need_weights("writing it as GGUF")
    nbytes: Counter[str] = Counter()
    for spec in checkpoint.specs.values():
        nbytes[spec.dtype] += spec.nbytes
    return _TYPES.get(max(nbytes, key=lambda kind: nbytes[kind]), "BF16")


def _check(path: Path) -> Path:
    if not path.is_file():
        raise RequestError(f"{path} is not there, expected a GGUF of the original")
    read_gguf(path)
    return path
