"""As much of Triton as our kernels use, in numpy: programs run one after the other.

What a GPU's threads would do at once happens in order here, so that a missing barrier is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tile(np.ndarray[Any, Any]):
    """Numbers of a program."""

    def to(self, kind: Any) -> Tile:
        return self.astype(kind)


class Pointer:
    """Places of an array; `offset` are their numbers."""

    def __init__(self, values: NDArray[Any], offset: Any = 0) -> None:
        self.values, self.offset = values, offset

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.values, self.offset + more)

    def masked(self, mask: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """(places, mask) of one shape; a place that is used is there."""
        at, used = np.broadcast_arrays(self.offset, True if mask is None else mask)
        assert ((at >= 0) & (at < len(self.values)))[used].all()
        return at, used


def tile(values: Any) -> Tile:
    return np.asarray(values).view(Tile)


class Kernel:
    """A function as it is given to Triton."""

    here: tuple[int, int] = (0, 1)
    """The program that runs, and how many there are."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.function(*given, **named)

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def launch(*given: Any, **named: Any) -> None:
            held = [Pointer(np.asarray(x).reshape(-1)) if hasattr(x, "shape") else x for x in given]
            options = {key: value for key, value in named.items() if key != "num_warps"}
            for program in range(grid[0]):
                Kernel.here = program, grid[0]
                with np.errstate(all="ignore"):
                    self.function(*held, **options)

        return launch


def load(where: Pointer, mask: Any = None, other: Any = 0) -> Tile:
    at, used = where.masked(mask)
    found = where.values[np.where(used, at, 0)]
    return tile(np.where(used, found, np.array(other, found.dtype)))


def store(where: Pointer, value: Any, mask: Any = None) -> None:
    at, used = where.masked(mask)
    where.values[at[used]] = np.broadcast_to(value, at.shape)[used]


def dot(a: Tile, b: Tile, c: Tile, input_precision: str) -> Tile:
    assert input_precision == "ieee"
    return tile(a @ b + c)


def language() -> ModuleType:
    found = ModuleType("triton.language")
    kinds = {"float32": np.float32, "int32": np.int32, "int64": np.int64, "uint8": np.uint8}
    functions: dict[str, Any] = {
        "constexpr": lambda value: value,
        "program_id": lambda axis: Kernel.here[axis],
        "num_programs": lambda axis: Kernel.here[axis + 1],
        "arange": lambda first, last: tile(np.arange(first, last, dtype=np.int32)),
        "zeros": lambda shape, kind: tile(np.zeros(shape, kind)),
        "full": lambda shape, value, kind: tile(np.full(shape, value, kind)),
        "static_range": range,
        "debug_barrier": lambda: None,
        "load": load,
        "store": store,
        "dot": dot,
        "sum": lambda values, axis: tile(values.sum(axis)),
        "argmin": lambda values, axis: tile(values.argmin(axis)),
        "where": lambda test, a, b: tile(np.where(test, a, b)),
        "reshape": lambda values, shape: values.reshape(shape),
        "broadcast_to": lambda values, shape: tile(np.broadcast_to(values, shape)),
        "minimum": np.minimum,
        "maximum": np.maximum,
        "abs": np.abs,
        "div_rn": np.divide,
        "cast": lambda value, kind: kind(value),
        "zeros_like": lambda values: tile(np.zeros_like(values)),
    }
    for name, value in {**kinds, **functions}.items():
        setattr(found, name, value)
    return found


@contextmanager
def triton_or_pretended() -> Iterator[None]:
    """Inside, `import triton` finds this one, where there is no other."""
    if find_spec("triton") is not None:
        yield
        return
    package = ModuleType("triton")
    vars(package).update(jit=Kernel, language=language())
    sys.modules.update({"triton": package, "triton.language": package.language})
    try:
        yield
    finally:
        for name in ("triton", "triton.language"):
            del sys.modules[name]
