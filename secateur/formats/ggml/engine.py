"""ggml's C functions, found in the prebuilt xllamacpp wheel and checked before first use.

The wheel's extension module exports them; ctypes opens that file without importing the
package, whose import starts llama.cpp's backends.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.errors import EngineError
from secateur.formats.ggml.types import TYPES, GgmlType

PACKAGE = "xllamacpp"

_EXACT_TYPES = ("Q4_0", "Q5_1", "Q8_0")
_EXACT_SHA256 = "7ef65dc86b337688a0aa15629dcab084de94356f455affede8763f55801b2a91"
_SEARCHED_ERRORS = {"Q3_K": 0.2, "Q4_K": 0.1, "Q5_K": 0.05, "Q6_K": 0.03, "IQ4_XS": 0.1}


class _TypeTraits(ctypes.Structure):
    """The head of `struct ggml_type_traits`, up to the decoder."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def engine_version() -> str:
    """Name and version of the wheel that the kernels come from, for a manifest."""
    try:
        return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise EngineError(
            f"ggml's kernels come from the package {PACKAGE}, which is not installed: "
            f"pip install {PACKAGE}"
        ) from error


@cache
def load_engine() -> ctypes.CDLL:
    """The opened library, its functions typed and its results checked once per process.

    Raises EngineError naming the wheel's version if the library is missing, lacks a function,
    knows a type by other sizes than ours, or encodes a fixed pattern to other bytes.
    """
    version = engine_version()
    try:
        library = ctypes.CDLL(str(find_library()))
        _declare(library)
    except (OSError, AttributeError) as error:
        raise EngineError(f"{version} does not offer ggml's functions: {error}") from error
    for kind in TYPES.values():
        traits = library.ggml_get_type_traits(kind.id).contents
        got = (traits.type_name.decode().upper(), traits.blck_size, traits.type_size)
        if got != (kind.name, kind.block, kind.nbytes):
            raise EngineError(
                f"{version} describes ggml type {kind.id} as {got}, expected "
                f"{(kind.name, kind.block, kind.nbytes)}: install another version of {PACKAGE}"
            )
    _check_results(library, version)
    return library


def find_library() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        for pattern in (f"{PACKAGE}*.so", f"{PACKAGE}*.pyd", f"{PACKAGE}*.dylib"):
            for file in sorted(Path(folder).glob(pattern)):
                return file
    raise EngineError(f"no extension module of {PACKAGE} in {folders}: reinstall {PACKAGE}")


def _declare(library: ctypes.CDLL) -> None:
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_get_type_traits.argtypes = (ctypes.c_int,)
    library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    library.ggml_quantize_init.argtypes = (ctypes.c_int,)
    library.ggml_quantize_init.restype = None
    library.ggml_quantize_chunk.argtypes = (
        ctypes.c_int,
        pointer,
        pointer,
        count,
        count,
        count,
        pointer,
    )
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_requires_imatrix.argtypes = (ctypes.c_int,)
    library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    library.ggml_validate_row_data.argtypes = (ctypes.c_int, pointer, ctypes.c_size_t)
    library.ggml_validate_row_data.restype = ctypes.c_bool


def _check_results(library: ctypes.CDLL, version: str) -> None:
    """Encode a fixed pattern: some types must give known bytes, some come back nearly equal.

    The pattern is made of small dyadic numbers, so that the first group's arithmetic is exact on
    every processor; the second group searches for scales, where a fused multiply-add may decide
    differently, and is held to its rounding error instead.
    """
    pattern = (((np.arange(1024, dtype=np.int64) * 37) % 61 - 30) / 8).astype(np.float32)
    pattern[::32] = -4.0
    digest = hashlib.sha256()
    for name in _EXACT_TYPES:
        digest.update(_encode(library, pattern, TYPES[name]).tobytes())
    if digest.hexdigest() != _EXACT_SHA256:
        raise EngineError(
            f"{version} encodes {', '.join(_EXACT_TYPES)} to unexpected bytes "
            f"({digest.hexdigest()[:12]}): install another version of {PACKAGE}"
        )
    for name, limit in _SEARCHED_ERRORS.items():
        data = _encode(library, pattern, TYPES[name])
        back = np.empty_like(pattern)
        traits = library.ggml_get_type_traits(TYPES[name].id).contents
        traits.to_float(data.ctypes.data, back.ctypes.data, back.size)
        error = float(np.linalg.norm(back - pattern) / np.linalg.norm(pattern))
        if not error < limit:
            raise EngineError(
                f"{version} encodes {name} with a relative error of {error:.3f}, expected under "
                f"{limit}: install another version of {PACKAGE}"
            )


def _encode(library: ctypes.CDLL, row: NDArray[np.float32], kind: GgmlType) -> NDArray[np.uint8]:
    out = np.empty(row.size // kind.block * kind.nbytes, dtype=np.uint8)
    library.ggml_quantize_chunk(kind.id, row.ctypes.data, out.ctypes.data, 0, 1, row.size, None)
    return out
