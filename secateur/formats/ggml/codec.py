"""Numbers to ggml blocks and back: ggml's bytes, by our SIMD kernels or by ggml's own.

Types whose scales are searched for are encoded by SIMD kernels (encoders), the others by the
prebuilt xllamacpp wheel through ctypes. Both release the GIL, so rows are split over threads. Rows
are encoded independently of each other, hence the bytes do not depend on the split.
F32, F16 and BF16 need no kernel: they are rounded in numpy, as llama.cpp rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.nonfinite import first_forbidden
from secateur.checkpoint.tensors import STORAGE, NamedTensor, from_float32, to_float32
from secateur.errors import FormatError, NumericError
from secateur.formats.ggml.encoders import ENCODERS, NEED_IMPORTANCE, WEIGHED_ENCODERS
from secateur.formats.ggml.engine import load_engine
from secateur.formats.ggml.types import INTERNAL_TYPES, TYPES, GgmlType, bytes_of, ggml_type

FLOATS = frozenset({"F32", "F16", "BF16"})
"""Types that are rounded in numpy, as llama.cpp rounds them."""

_INTEGERS = frozenset({"I8", "I16", "I32", "I64", "F64"})

ENCODABLE = tuple(name for name in TYPES if name not in INTERNAL_TYPES | _INTEGERS)
"""Names of the types that `encode` can write."""

_ELEMENTS = 1 << 18
"""Elements that a thread takes at a time."""

UNWEIGHED = FLOATS | {"Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"}
"""Types that come out the same with and without an importance: ggml's kernels pass over it."""


def encode(
    rows: NDArray[np.float32],
    type_name: str,
    importance: NDArray[np.float32] | None = None,
    workers: int = 1,
) -> NDArray[np.uint8]:
    """Encode the rows of a matrix, the same bytes for every number of threads.

    `rows` is [R, C] float32 in C order; `importance` is [C], the weight of each column's squared
    error. Returns uint8 [R, bytes of a row]. Peak memory: the result, and 4 MiB a thread.
    Raises FormatError if C does not divide into blocks or the type needs an importance,
    NumericError if an element is not finite, or is not after rounding.
    """
    kind = _find_encodable(type_name)
    if rows.ndim != 2 or rows.dtype != np.float32 or not rows.flags.c_contiguous:
        raise ValueError(f"expected float32 [R, C] in C order, got {rows.dtype} {rows.shape}")
    row_bytes = bytes_of(kind.name, rows.shape[1:])
    out = np.empty((len(rows), row_bytes), dtype=np.uint8)
    weights = _check_importance(importance, rows.shape[1], kind)

    def round_rows(first: int, last: int) -> None:
        _require_finite(rows[first:last], kind.name)
        out[first:last] = from_float32(rows[first:last], kind.name).view(np.uint8)

    if kind.name in FLOATS:
        _run_in_threads(round_rows, len(rows), rows.shape[1], workers)
        return out
    library = load_engine()
    encoder = (ENCODERS if weights is None else WEIGHED_ENCODERS).get(kind.name)
    if encoder is None:
        library.ggml_quantize_init(kind.id)

    def encode_rows(first: int, last: int) -> None:
        _require_finite(rows[first:last], kind.name)
        part = out[first:last]
        if encoder is not None:
            part[:] = encoder(rows[first:last], weights)
        else:
            encode_by_ggml(rows[first:last], kind, weights, part)
        if not library.ggml_validate_row_data(kind.id, part.ctypes.data, part.nbytes):
            raise NumericError(
                f"encoding to {kind.name} made scales that are not finite, as numbers beyond what "
                "they can say do: keep this tensor in BF16 or F32"
            )

    _run_in_threads(encode_rows, len(rows), rows.shape[1], workers)
    return out


def encode_by_ggml(
    rows: NDArray[np.float32],
    kind: GgmlType,
    importance: NDArray[np.float32] | None,
    out: NDArray[np.uint8],
) -> None:
    """Encode finite rows [R, C] into `out` with ggml's own kernel, once it is initialised."""
    load_engine().ggml_quantize_chunk(
        kind.id,
        rows.ctypes.data,
        out.ctypes.data,
        0,
        len(rows),
        rows.shape[1],
        None if importance is None else importance.ctypes.data,
    )


def decode(
    data: NDArray[np.uint8], type_name: str, shape: Sequence[int], workers: int = 1
) -> NDArray[np.float32]:
    """The float32 numbers, [*shape] in row-major order, that ggml reads from encoded bytes.

    Raises FormatError if the number of bytes is not what type and shape need.
    """
    kind = _find_encodable(type_name)
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    expected = bytes_of(kind.name, shape)
    if flat.nbytes != expected:
        raise FormatError(
            f"{kind.name} of shape {list(shape)} is {expected} bytes, got {flat.nbytes}"
        )
    if kind.name in FLOATS:
        stored = flat.view(STORAGE[kind.name]).reshape(shape)
        numbers = to_float32(NamedTensor("", kind.name, stored))
        return numbers.copy() if numbers is stored else numbers
    to_float = load_engine().ggml_get_type_traits(kind.id).contents.to_float
    out = np.empty(math.prod(shape), dtype=np.float32)

    def run(first: int, last: int) -> None:
        source = flat[first * kind.nbytes : last * kind.nbytes]
        target = out[first * kind.block : last * kind.block]
        to_float(source.ctypes.data, target.ctypes.data, target.size)

    _run_in_threads(run, out.size // kind.block, kind.block, workers)
    return out.reshape(shape)


def _find_encodable(type_name: str) -> GgmlType:
    kind = ggml_type(type_name)
    if kind.name not in ENCODABLE:
        raise FormatError(f"weights are not stored as {kind.name}, use one of {list(ENCODABLE)}")
    return kind


def _check_importance(
    importance: NDArray[np.float32] | None, columns: int, kind: GgmlType
) -> NDArray[np.float32] | None:
    if importance is None:
        if kind.name in NEED_IMPORTANCE:
            raise FormatError(
                f"{kind.name} needs an importance matrix, and there is none for this tensor: "
                "calibrate the model, or choose another type"
            )
        return None
    if importance.shape != (columns,):
        raise FormatError(
            f"importance has shape {importance.shape}, expected ({columns},), one per column"
        )
    weights = np.ascontiguousarray(importance, dtype=np.float32)
    _require_finite(weights, "importance")
    return weights


def _require_finite(values: NDArray[np.float32], what: str) -> None:
    """A kernel given NaN or infinity aborts the process, so it must never see one."""
    if first_forbidden("F32", values.data.cast("B")) is not None:
        raise NumericError(f"{what}: an element is NaN or infinite")


def _run_in_threads(run: Callable[[int, int], None], count: int, each: int, workers: int) -> None:
    """Call run(first, last) over [0, count), items of `each` elements, in `workers` threads.

    A call gets few enough items for temporary arrays to stay in a processor's cache.
    """
    step = max(1, _ELEMENTS // max(1, each))
    starts = range(0, count, step)
    if workers < 2 or len(starts) < 2:
        for first in starts:
            run(first, min(first + step, count))
        return
    with ThreadPoolExecutor(min(workers, len(starts))) as pool:
        for done in [pool.submit(run, first, min(first + step, count)) for first in starts]:
            done.result()
