"""When a device runs out of memory: the same again with smaller micro-batches, or fewer at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from secateur.errors import EngineError
from secateur.forward.backends.base import Backend
from secateur.forward.backends.torch_device import TorchDevice

LEAST_TOKENS = 512
"""Micro-batches are made no smaller: if so few do not fit, the layer does not."""

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")


def fit_memory(
    backend: Backend, work: Callable[[Backend], _Result], say: Callable[[str], None]
) -> _Result:
    """`work(backend)`; where a device has too little memory, again from the beginning with
    micro-batches of half the tokens, which `say` is told the first time.

    Long documents come first, so that what does not fit fails at once. Raises EngineError when
    even LEAST_TOKENS do not fit, MemoryError on the CPU.
    """
    told = False
    while True:
        try:
            return work(backend)
        except RuntimeError as error:
            if not _is_of_memory(error):
                raise
            if not isinstance(backend, TorchDevice):
                raise MemoryError from None
            size = backend.batch_size
            tokens = min(size.most, size.fits) // 2
        _release_memory()
        if tokens < LEAST_TOKENS:
            raise EngineError(
                f"{backend.name} has too little memory for {2 * tokens} tokens of one layer: free "
                "some of it, cut the text into shorter rows, or use --device cpu"
            )
        if not told:
            say(f"{backend.name} is out of memory: again, with smaller micro-batches")
            told = True
        backend = replace(backend, batch_size=replace(size, fits=tokens))


@dataclass
class FittingPieces:
    """Makes lists of `what` in pieces that a device has memory for: of half as many, where it
    turned out to have too little, which `say` is told the first time."""

    what: str
    device: str
    say: Callable[[str], None]
    most: int = sys.maxsize
    """as many at once"""

    def run(
        self, work: Callable[[Sequence[_Given]], Sequence[_Result]], given: Sequence[_Given]
    ) -> list[_Result]:
        """What `work` makes of a list, one result for each of its items, in order; it may be called
        with an item again. Raises EngineError when a single one does not fit."""
        done: list[_Result] = []
        while len(done) < len(given):
            piece = given[len(done) : len(done) + self.most]
            try:
                done += work(piece)
                continue
            except RuntimeError as error:
                if not _is_of_memory(error):
                    raise
            _release_memory()
            if len(piece) == 1:
                raise EngineError(
                    f"{self.device} has too little memory for one of the {self.what}: free some of "
                    "it, use --device cpu, or let a server answer (--answers-from)"
                )
            if self.most == sys.maxsize:
                self.say(f"{self.device} is out of memory: again, with fewer {self.what} at a time")
            self.most = len(piece) // 2
        return done


def _release_memory() -> None:
    """Let others have what nobody uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_of_memory(error: RuntimeError) -> bool:
    """Torch has a class of its own for this on CUDA alone, and not for all that needs memory."""
    said = str(error)
    known = "out of memory" in said or "can't allocate memory" in said
    return known or isinstance(error, torch.OutOfMemoryError)
