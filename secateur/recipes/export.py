"""Decided types as rules for llama-quantize: every tensor by its whole name, no defaults left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from secateur.errors import PlanError
from secateur.formats.ggml.types import TYPES
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.llama_types import KEPT


class Decided(Protocol):
    """A tensor whose type is decided: a TypeChoice, or a row of a plan."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def fallback_from(self) -> str | None: ...


def asked_types(tensors: Iterable[Decided], base: str) -> dict[str, str]:
    """{name: type to ask for} of every tensor that llama-quantize may change.

    Where the type fell back, the one it fell back from is asked, and falls back again. `base` is
    the file type to name on the command line. Raises PlanError for one with which llama-quantize
    reads no rules.
    """
    if not TYPES[FILE_TYPES[base].default].quantized:
        raise PlanError(f"llama-quantize ignores tensor types when it makes {base}: export nothing")
    return {
        tensor.name: tensor.fallback_from or tensor.type
        for tensor in tensors
        if tensor.reason != KEPT
    }
