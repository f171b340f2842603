"""What a user calls a device; no library is loaded to read it."""

from __future__ import annotations

import re
from typing import NamedTuple

from secateur.errors import RequestError

DEVICE_WORDS = "auto, cpu, cuda, cuda:N, several such as cuda:0,cuda:1, or mps"


class DeviceName(NamedTuple):
    """`kind` is auto, cpu, cuda or mps; `numbers` count the GPUs from 0: those that share the
    layers of one model."""

    kind: str
    numbers: tuple[int, ...]


def read_device(word: str) -> DeviceName:
    """The device, or devices, that a word names. Raises RequestError for another word."""
    found = re.fullmatch(r"(auto|cpu|mps|cuda)(?::(\d{1,4}))?", word)
    if found and (found[2] is None or found[1] == "cuda"):
        return DeviceName(found[1], (int(found[2] or 0),))
    numbers = re.findall(r"cuda:(\d{1,4})", word)
    if ",".join(f"cuda:{number}" for number in numbers) != word or not numbers:
        raise RequestError(f"device {word!r}: expected {DEVICE_WORDS}")
    if len(set(map(int, numbers))) < len(numbers):
        raise RequestError(f"device {word!r}: the same GPU twice: name each once")
    return DeviceName("cuda", tuple(map(int, numbers)))


def first_gpus(count: int) -> str:
    """The word for so many GPUs that share the layers of one model."""
    return ",".join(f"cuda:{number}" for number in range(count)) if count > 1 else "cuda"
