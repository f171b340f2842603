"""An importance matrix in either of llama.cpp's forms: recognised when read, chosen when written.

A user has a file, not a form. Read here, it is always one matrix per expert, whatever the form
lost of that.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from secateur.errors import FormatError
from secateur.formats.gguf.container import MAGIC
from secateur.formats.imatrix.dat_file import count_in_tokens, read_dat, split_stacks, write_dat
from secateur.formats.imatrix.matrix import Imatrix, read_imatrix, write_imatrix
from secateur.system.text_files import open_file

DAT = ".dat"
"""The suffix by which a file to write is of the older form."""


@dataclass(frozen=True)
class ImatrixFile:
    """A user's own matrix, of the unpruned model or of the pruned one; `sha256` of the file."""

    imatrix: Imatrix
    sha256: str


def read_imatrix_file(path: Path, experts: int) -> ImatrixFile:
    """Read a matrix, GGUF or .dat, of a model with so many experts, and hash its file.

    Raises FormatError for a file of neither form.
    """
    imatrix = open_imatrix(path, experts)
    datasets = tuple(map(_without_folder, imatrix.datasets))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ImatrixFile(replace(imatrix, datasets=datasets), digest)


def open_imatrix(path: Path, experts: int | None = None) -> Imatrix:
    """Read a GGUF or .dat importance matrix, stacks split into their experts.

    The first bytes say which form it is. `experts` of the model are needed for a .dat without the
    router's entries. Raises FormatError for a file of neither form.
    """
    try:
        with open_file(path) as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    imatrix = read_imatrix(path) if magic == MAGIC else read_dat(path)
    return split_stacks(imatrix, experts)


def save_imatrix(path: Path, imatrix: Imatrix) -> int:
    """Write the form that the suffix asks for, .dat or GGUF; returns the bytes.

    A matrix from a .dat gets the counts of chunks of 512 tokens in a GGUF, as llama-imatrix does.
    """
    if path.suffix == DAT:
        return write_dat(path, imatrix)
    return write_imatrix(path, count_in_tokens(imatrix))


def _without_folder(dataset: str) -> str:
    """Only the last part of a path: the folders of the machine that recorded it stay private."""
    absolute = re.match(r"(/|~|[A-Za-z]:[\\/]|\\\\)", dataset)
    return re.split(r"[\\/]", dataset)[-1] if absolute else dataset
