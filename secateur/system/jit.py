"""Compiling the loops that no library has: numba, without Python's lock.

numba keeps what it compiled next to the file that the function is in, and makes it anew when that
file changes, but not when one that it calls changes: what calls each other stays in one file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.compiler import CompilerBase, DefaultPassBuilder

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile at first use; divides as IEEE 754 says, and adds in the order that is written."""
    return _compiled(function)


def inlined(function: _Function) -> _Function:
    """As `compiled`, put into its callers, which only then are vectorised."""
    return _compiled(function, inline="always")


def inner(function: _Function) -> _Function:
    """As `compiled`, for callers that are compiled too: takes half the time to compile."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


class _ArraysApart(CompilerBase):
    """numba's pipeline, which tells LLVM that no two array arguments overlap."""

    def define_pipelines(self) -> list[Any]:
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]  # type: ignore[no-untyped-call]


def apart(function: _Function) -> _Function:
    """As `inner`, for functions whose arrays never overlap: LLVM then keeps sums in registers and
    checks no addresses, which in short loops is most of the time."""
    return _compiled(
        function, no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_ArraysApart
    )


def compiled_apart(function: _Function) -> _Function:
    """As `apart`, for callers in Python too."""
    return _compiled(function, pipeline_class=_ArraysApart)


def reordered(function: _Function) -> _Function:
    """As `compiled`, but sums are added in the order that the processor's vectors make.

    That depends on the machine and on the shapes, and on nothing else.
    """
    return _compiled(function, fastmath={"reassoc"})


def _compiled(function: _Function, **how: Any) -> _Function:
    make = partial(njit, nogil=True, error_model="numpy", **how)
    try:
        return cast(_Function, make(cache=True)(function))
    except RuntimeError:  # there is no folder to keep it in: compile it in every process
        return cast(_Function, make()(function))
