"""When a device runs out of memory: the same again with smaller micro-batches."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from secateur.errors import EngineError
from secateur.forward.backends.base import Backend
from secateur.forward.backends.torch_device import TorchDevice

LEAST_TOKENS = 512
"""Micro-batches are made no smaller: if so few do not fit, the layer does not."""

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
        gc.collect()
        if backend.device.type == "cuda":
            torch.cuda.empty_cache()
        if tokens < LEAST_TOKENS:
            raise EngineError(
                f"{backend.name} has too little memory for {2 * tokens} tokens of one layer: free "
                "some of it, cut the text into shorter rows, or use --device cpu"
            )
        if not told:
            say(f"{backend.name} is out of memory: again, with smaller micro-batches")
            told = True
        backend = replace(backend, batch_size=replace(size, fits=tokens))


def _is_of_memory(error: RuntimeError) -> bool:
    """Torch has a class of its own for this on CUDA alone, and not for all that needs memory."""
    said = str(error)
    known = "out of memory" in said or "can't allocate memory" in said
    return known or isinstance(error, torch.OutOfMemoryError)
