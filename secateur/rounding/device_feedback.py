"""Codes and scales of rows, chosen with error feedback on a CUDA device, from any thread.

Up go rows with the scales and offsets to try, down come codes and what was chosen; factors stay on
the device as long as somebody holds them here. Every thread has a stream of its own, and sleeps
until its rows are back, so that there are as many blocks on their way as threads.

Imported only where a CUDA device is used: torch brings Triton with its builds for one.
"""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import EngineError
from secateur.rounding.factor import Factor
from secateur.rounding.feedback import choose
from secateur.rounding.grid import Choices, Codes, Floats, Levels, Scales, integers
from secateur.system.sizes import show_bytes

ROWS = 16
"""Rows of a program."""
BLOCK, STEP = 64, 16
"""Columns (or one group) that have one product with all before them, and of those as many at a
time."""
CHUNK = 8
"""Columns of a group that a program has in registers: 32 take minutes to compile (docs/log.md)."""
MOST_DIFFERENT = 0.01
"""Share of codes that may differ from the cores': a tie that turns may turn what follows it."""
TRIALS = 8
"""Lanes of a row, for as many scales or offsets to try."""


class _Placed(NamedTuple):
    """A factor on the device."""

    order: Tensor
    """int32 [C]"""
    shares: Tensor
    """[C, C]: its feedback, transposed"""
    weight: Tensor
    """[C]"""


class DeviceChooser:
    """Chooses as `feedback.choose` does, but for the order of sums: the same rows give the same
    codes on every device of a kind, whatever else is on its way.

    Memory on the device: the factors held, and for each thread four times its rows. Raises
    EngineError where there is too little.
    """

    def __init__(self, device: torch.device) -> None:
        # Not above: some of torch's builds have no Triton.
        from secateur.rounding.device_kernels import choose_codes

        self.device = device
        self._kernel: Any = choose_codes
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._levels: dict[bytes, Tensor] = {}
        self._factors: dict[int, tuple[weakref.ref[Floats], _Placed]] = {}

    def __call__(
        self, rows: Floats, choices: Choices, levels: Levels, factor: Factor
    ) -> tuple[Codes, Scales]:
        """(uint8 [R, C]: places among the levels, scales and offsets)."""
        try:
            return self._choose(rows, choices, levels, factor)
        except RuntimeError as error:
            if not _is_of_memory(error):
                raise
        self._release_memory()
        try:
            return self._choose(rows, choices, levels, factor)
        except RuntimeError as error:
            if not _is_of_memory(error):
                raise
        raise EngineError(
            f"{self.device} has too little memory to choose codes for rows of {rows.shape[1]} "
            f"numbers ({show_bytes(2 * factor.feedback.nbytes)}): free some of it, and the same "
            "command goes on; or begin again with --device cpu"
        )

    def _choose(
        self, rows: Floats, choices: Choices, levels: Levels, factor: Factor
    ) -> tuple[Codes, Scales]:
        count, columns = rows.shape
        groups = choices.scale.shape[2]
        lanes = -(-count // ROWS) * ROWS
        tried = len(choices.scale), len(choices.offset)
        parts = [np.ravel(one) for one in (rows, choices.scale, choices.offset)]
        here = self._host(sum(part.size for part in parts), torch.float32)
        np.concatenate(parts, out=here.numpy())
        stream = self._stream()
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            placed, known = self._place(factor), self._place_levels(levels)
            given = here.to(self.device, non_blocking=True)
            codes = torch.empty(count, columns, dtype=torch.uint8, device=self.device)
            chosen = torch.empty(2, count, groups, device=self.device)
            errors = torch.empty(columns, lanes, device=self.device)
            trials = torch.empty(columns // groups, lanes * TRIALS, device=self.device)
            with self._lock:  # one thread compiles
                self._kernel[(lanes // ROWS,)](
                    given, *placed, known, errors, trials, codes, chosen,
                    count, columns, float(levels.values.mean()),
                    ROWS=ROWS, GROUP=columns // groups, BLOCK=max(BLOCK, columns // groups),
                    STEP=STEP, CHUNK=CHUNK, SCALES=tried[0], OFFSETS=tried[1], TRIALS=TRIALS,
                    TURNS=1 if tried[0] == 1 else 2 if tried[1] == 1 else 4,
                    LEVELS=len(levels.values), UNIFORM=levels.uniform,
                )  # fmt: skip
            found = [self._host(one.numel(), one.dtype).view(one.shape) for one in (codes, chosen)]
            for one, there in zip(found, (codes, chosen), strict=True):
                one.copy_(there, non_blocking=True)
            if stream is not None:
                done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                done.record(stream)
                done.synchronize()
        scale, offset = found[1].numpy()
        return found[0].numpy(), Scales(scale, offset)

    def _host(self, size: int, dtype: torch.dtype) -> Tensor:
        """Memory of the host that a device copies from and to by itself."""
        return torch.empty(size, dtype=dtype, pin_memory=self.device.type == "cuda")

    def _stream(self) -> torch.cuda.Stream | None:
        """This thread's; None where a device is no CUDA device, as in tests."""
        if self.device.type == "cuda" and not hasattr(self._mine, "stream"):
            self._mine.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return getattr(self._mine, "stream", None)

    def _place(self, factor: Factor) -> _Placed:
        """The factor on the device, until nobody holds it here any more."""
        key = id(factor.feedback)
        with self._lock:
            if key not in self._factors:
                shares = self._copy(factor.feedback).T.contiguous()
                order, weight = self._copy(factor.order.astype(np.int32)), self._copy(factor.weight)
                self._wait()
                held = weakref.ref(factor.feedback, lambda _: self._factors.pop(key, None))
                self._factors[key] = held, _Placed(order, shares, weight)
            return self._factors[key][1]

    def _place_levels(self, levels: Levels) -> Tensor:
        """[L + L - 1]: the levels and the middles between neighbours."""
        values = levels.values
        key = values.tobytes()
        with self._lock:
            if key not in self._levels:
                middles = values[:-1] + np.diff(values) / np.float32(2)
                self._levels[key] = self._copy(np.concatenate([values, middles]))
                self._wait()
            return self._levels[key]

    def _copy(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _wait(self) -> None:
        """Other streams will use what this one has made."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _release_memory(self) -> None:
        """Give back what no thread is using."""
        with self._lock:
            self._factors.clear()
        gc.collect()
        torch.cuda.empty_cache()


def open_chooser(device: torch.device, nbytes: int) -> DeviceChooser | str:
    """A chooser on a CUDA device that has so many bytes free, tried on a few rows; or, to follow a
    semicolon, why there is none."""
    try:
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0]
    except RuntimeError as error:
        return f"CUDA fails there ({_describe(error)})"
    if free < nbytes:
        return f"it has {show_bytes(free)} of memory free, and {show_bytes(nbytes)} are needed"
    return try_chooser(device)


def try_chooser(device: torch.device) -> DeviceChooser | str:
    """A chooser whose codes are those of a CPU for two kinds of levels, or why there is none."""
    chance = np.random.default_rng(0)
    rows = chance.standard_normal((ROWS + 1, 3 * BLOCK // 2), np.float32)
    columns = rows.shape[1]
    feedback = np.triu(np.full((columns, columns), 0.1, np.float32), 1)
    factor = Factor(np.arange(columns)[::-1].copy(), feedback, np.ones(columns, np.float32))
    groups = np.ones((len(rows), columns // 32), np.float32)
    tried = groups * np.linspace(0.2, 0.4, 5, dtype=np.float32)[:, None, None]
    offsets = groups * np.linspace(-2.1, -1.9, 5, dtype=np.float32)[:, None, None]
    try:
        chooser = DeviceChooser(device)
        for levels, choices in (
            (integers(0, 15), Choices(tried, offsets)),
            (
                Levels(np.array([-8, -4, -2, -1, 0, 1, 2, 4, 8], np.float32)),
                Choices(tried, 0 * tried[:1]),
            ),
        ):
            codes, _ = chooser(rows, choices, levels, factor)
            expected, _ = choose(rows, choices, levels, factor)
            if (codes != expected).mean() > MOST_DIFFERENT:
                return "it chooses other codes than the cores do"
    except ImportError:
        return f"torch {torch.__version__} has no Triton here"
    except Exception as error:  # Triton's own, its compiler's, the driver's
        return f"Triton fails there ({_describe(error)})"
    return chooser


def _describe(error: Exception) -> str:
    """Its kind, and its first line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first:.100}"


def _is_of_memory(error: RuntimeError) -> bool:
    return "out of memory" in str(error)
