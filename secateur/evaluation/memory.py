"""Whether the whole model fits in memory, which only generating answers needs."""

from __future__ import annotations

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import EngineError
from secateur.system.sizes import show_bytes


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights at most: experts in their own type (in memory or mapped), all else in
    float32."""
    return sum(
        spec.nbytes if checkpoint.matches[name].role.startswith("expert.") else 4 * spec.elements
        for name, spec in checkpoint.specs.items()
        if checkpoint.matches[name].row.axes
    )


def check_memory(checkpoint: Checkpoint, memory: int) -> None:
    """Raise EngineError, with both numbers and a way out, when the weights take more bytes."""
    need = weight_bytes(checkpoint)
    if need > memory:
        raise EngineError(
            f"generating the original's answers takes the whole model in memory: "
            f"{show_bytes(need)}, but {show_bytes(memory)} are free; name what answers for it, a "
            "server or a GGUF of it (--answers-from), or give its answers as a file (--answers)"
        )
