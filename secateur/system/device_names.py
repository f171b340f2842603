"""What a user calls a device; no library is loaded to read it."""

from __future__ import annotations

import re
from typing import NamedTuple

from secateur.errors import RequestError

DEVICE_WORDS = "auto, cpu, cuda, cuda:N or mps"


class DeviceName(NamedTuple):
    """`kind` is auto, cpu, cuda or mps; `number` counts the GPUs from 0."""

    kind: str
    number: int


def read_device(word: str) -> DeviceName:
    """The device that a word names. Raises RequestError for another word."""
    found = re.fullmatch(r"(auto|cpu|mps|cuda)(?::(\d+))?", word)
    if not found or (found[2] is not None and found[1] != "cuda"):
        raise RequestError(f"device {word!r}: expected {DEVICE_WORDS}")
    return DeviceName(found[1], int(found[2] or 0))
