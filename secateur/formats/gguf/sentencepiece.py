"""The pieces of a SentencePiece model file (tokenizer.model), of the kind that merges pairs.

Such a file is one message of protocol buffers: fields of (number << 3 | wire kind), a value each.
Of it are read the pieces (text, score, type) and the model's kind; all else is stepped over.
Source: sentencepiece's sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from secateur.errors import CheckpointError
from secateur.system.text_files import MIB, read_bytes

_PIECES, _TRAINER = 1, 2
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _BPE = 3, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NORMAL = 1
_FLOAT = struct.Struct("<f")
_LARGEST = 64 * MIB

Field = tuple[int, int | bytes]
"""A field's number, and its value: an integer, or the bytes of anything else."""


class Piece(NamedTuple):
    """A token: its text, its score (the higher, the earlier it is merged), and its type, which
    counts as llama.cpp's does: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""

    text: str
    score: float
    type: int


def read_pieces(path: Path) -> tuple[Piece, ...]:
    """The pieces by token id.

    Raises CheckpointError for a file that cannot be read, is damaged, has no pieces, or is not
    of the kind that merges pairs (BPE).
    """
    try:
        data = read_bytes(path, "a SentencePiece model", CheckpointError, _LARGEST)
        fields = list(_fields(data))
        pieces = tuple(_piece(value) for number, value in fields if number == _PIECES)
        trainers = [value for number, value in fields if number == _TRAINER]
        kinds = [value for value in trainers for n, value in _fields(value) if n == _MODEL_TYPE]
    except (ValueError, struct.error, TypeError, IndexError):
        raise CheckpointError(
            f"{path}: is no SentencePiece model, or is damaged: download it again"
        ) from None
    if not pieces:
        raise CheckpointError(f"{path}: is no SentencePiece model (it holds no pieces)")
    if not kinds or kinds[-1] != _BPE:
        raise CheckpointError(
            f"{path}: is a SentencePiece model that does not merge pairs (BPE), which llama.cpp "
            "would split text differently from"
        )
    return pieces


def _piece(message: int | bytes) -> Piece:
    fields = dict(_fields(message))
    text, score = fields.get(_TEXT, b""), fields.get(_SCORE, _FLOAT.pack(0.0))
    kind = fields.get(_TYPE, _NORMAL)
    if not (isinstance(text, bytes) and isinstance(score, bytes) and isinstance(kind, int)):
        raise ValueError("a piece has fields of other kinds")
    return Piece(text.decode("utf-8"), _FLOAT.unpack(score)[0], kind)


def _fields(message: int | bytes) -> Iterator[Field]:
    """The fields of a message, in order. Raises ValueError where it does not end with one."""
    if not isinstance(message, bytes):
        raise ValueError("a message is expected, and there is a number")
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire kind {kind}")
        if at + size > len(message):
            raise ValueError("it ends inside a field")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(number, offset after it): seven bits a byte, the lowest first."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
