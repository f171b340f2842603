"""Opening what a command names: a model with its weights or by its config alone, statistics, an
importance matrix. What is open already is taken as it is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from secateur.checkpoint.reader import Checkpoint, open_checkpoint, open_shape
from secateur.errors import OutputError
from secateur.formats.imatrix.file import ImatrixFile, read_imatrix_file
from secateur.statistics import file as statistics_file
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import check_writable

File = str | os.PathLike[str]
"""The path of a file or folder."""

Model = Checkpoint | str | Path
"""An opened checkpoint, a folder, a hub id, or `gemmule`."""


def open_weights(
    model: Model, revision: str | None, purpose: str, family: File | None = None
) -> Checkpoint:
    """A checkpoint with its weights. `purpose` names what needs them, for the error message;
    `family` is the user's file of the model's family.

    Raises CheckpointError for a model without weights.
    """
    own = None if family is None else Path(family)
    opened = model if isinstance(model, Checkpoint) else open_checkpoint(model, revision, own)
    opened.need_weights(purpose)
    return opened


def open_same(model: Model, revision: str | None, purpose: str, family: File | None) -> Checkpoint:
    """As `open_weights`, for those who check afterwards that it has the content that they know: of
    commit `revision` of a hub id, which a folder with a copy is recorded as, too."""
    if isinstance(model, Checkpoint) or not Path(model).is_dir():
        return open_weights(model, revision, purpose, family)
    return replace(open_weights(model, None, purpose, family), revision=revision)


def open_headers(model: Model, revision: str | None) -> Checkpoint:
    """A checkpoint whose weights may be missing: a config is enough."""
    return model if isinstance(model, Checkpoint) else open_shape(model, revision)


def with_family(
    model: str, revision: str | None, family: Path | None, *, weights: bool = False
) -> Model:
    """The model, opened with the user's file of its family where there is one to open it with."""
    if family is None:
        return model
    return (open_checkpoint if weights else open_shape)(model, revision, family)


def check_file(path: Path, force: bool) -> None:
    """Check that a result can be written to the file `path`, before the work for it begins.

    Raises OutputError when there is something already, unless `force`, and when it is a folder;
    WriteError when it cannot be written.
    """
    if os.path.lexists(path) and not force and not path.is_dir():
        raise OutputError(f"{path} exists already: name another file, or overwrite it with force")
    check_writable(path)


def is_local(model: Model) -> bool:
    """Whether the model is opened already, or a path on this machine."""
    return isinstance(model, Checkpoint) or Path(model).exists()


def load_statistics(given: Statistics | File | None) -> Statistics | None:
    """Statistics of a file. Raises StatisticsError for one that is damaged."""
    if given is None or isinstance(given, Statistics):
        return given
    return statistics_file.load(Path(given))


def load_header(given: File | None) -> Statistics | None:
    """Statistics of a file without their arrays. Raises StatisticsError for a damaged one."""
    return None if given is None else statistics_file.load_header(Path(given))


def load_imatrix(given: ImatrixFile | File | None, checkpoint: Checkpoint) -> ImatrixFile | None:
    """An importance matrix for a model. Raises FormatError for one that is damaged."""
    if given is None or isinstance(given, ImatrixFile):
        return given
    return read_imatrix_file(Path(given), checkpoint.experts)
