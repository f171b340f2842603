"""Logits of a real engine for tokens that are given: llama.cpp with a GGUF, mlx-lm with a folder.

Nothing is generated: the engine reads documents, and says of every wanted position what it expects
next. The host sends float32 logits, and where the engine shows them the experts that it chose.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.errors import EngineError
from secateur.formats.ggml.engine import find_library
from secateur.serving.host_process import Host, start_host
from secateur.serving.model_defaults import model_bytes
from secateur.system.log_file import open_log

_LLAMA_HOST = Path(__file__).with_name("llama_logits_host.py")
_MLX_HOST = Path(__file__).with_name("mlx_logits_host.py")
_CONTEXT = 256
"""A context is a multiple of so many tokens."""
_ROWS_BYTES = 64 << 20
"""Bytes of logits that are taken at once."""

LLAMA, MLX = "llama.cpp", "mlx-lm"


class Rows(NamedTuple):
    """What an engine says at n positions of a document."""

    first: int
    """Which of the wanted positions is the first."""
    logits: NDArray[np.float32]
    """[n, V]"""
    experts: NDArray[np.int32]
    """[n, L, K]; L is 0 where the engine does not show them."""


@dataclass(frozen=True)
class Engine:
    """A running engine that has loaded a model. `experts` are (L, K) of what it shows."""

    host: Host
    experts: tuple[int, int]

    def run(self, tokens: Sequence[int], wanted: Sequence[int]) -> Iterator[Rows]:
        """Run a document from its beginning; the rows of ascending positions.

        Raises EngineError when the engine ends.
        """
        order = {"tokens": list(map(int, tokens)), "wanted": list(map(int, wanted))}
        stdin, stdout = self.host.process.stdin, self.host.process.stdout
        assert stdin is not None and isinstance(stdout, io.TextIOWrapper)
        try:
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
        except OSError:
            raise self._failed() from None
        vocab, (layers, chosen) = self.host.facts["vocab"], self.experts
        width = vocab + layers * chosen
        size = max(1, _ROWS_BYTES // (4 * width))
        for first in range(0, len(wanted), size):
            count = min(size, len(wanted) - first)
            data = stdout.buffer.read(4 * width * count)
            if len(data) < 4 * width * count:
                raise self._failed()
            table = np.frombuffer(data, np.float32).reshape(count, width)
            experts = table[:, vocab:].view(np.int32).reshape(count, layers, chosen)
            yield Rows(first, table[:, :vocab], experts)

    def _failed(self) -> EngineError:
        self.host.process.wait()
        return EngineError(self.host.failure() or f"{self.host.name} ended")


@contextmanager
def run_llama_cpp(
    model: Path, *, context: int, experts: tuple[int, int], workers: int = 1
) -> Iterator[Engine]:
    """llama.cpp with a GGUF (of a split one its first file), in a process that ends with the block.

    `context`: the longest document; `experts`: in how many layers how many are chosen. Without
    flash attention, and with keys and values in float32. Raises EngineError, with llama.cpp's own
    words, when it does not load. Memory: the model, in the other process.
    """
    order = {
        "library": str(find_library()),
        "model": str(model),
        "context": -(-context // _CONTEXT) * _CONTEXT,
        "threads": workers,
        "layers": experts[0],
        "chosen": experts[1],
    }
    with _start(LLAMA, _LLAMA_HOST, order, model) as host:
        yield Engine(host, experts)


@contextmanager
def run_mlx_lm(folder: Path) -> Iterator[Engine]:
    """mlx-lm with an MLX folder, in a process that ends with the block.

    On a CPU what is not quantized is widened to float32, since mlx multiplies experts there in no
    other type. Raises EngineError when it does not load, or is not installed. Memory: as
    `run_llama_cpp`.
    """
    with _start(MLX, _MLX_HOST, {"model": str(folder)}, folder) as host:
        yield Engine(host, (0, 0))


@contextmanager
def _start(name: str, script: Path, order: dict[str, Any], model: Path) -> Iterator[Host]:
    nbytes = model_bytes(model)
    with open_log(None) as log, start_host(name, script, order, log, nbytes) as host:
        yield host
