"""What asking models will be, for an estimate: counted, as no engine's speed is known before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.evaluation.asking.request import NO_ORIGINAL
from secateur.evaluation.robustness.request import Loops, longest_reply
from secateur.evaluation.tasks.request import LIMIT
from secateur.system.sizes import show_count

if TYPE_CHECKING:
    from secateur.api.measuring import Measuring
    from secateur.checkpoint.reader import Checkpoint

_SPEED = 10
"""Tokens a second, for which a time is said: what a large model does on a machine without a GPU."""


def asking_notes(original: Checkpoint, request: Measuring, quantized: int) -> tuple[str, ...]:
    """A sentence about what is asked besides, in the engines, that an estimate's times leave out;
    none where nothing is. `quantized`: files for llama.cpp and folders for mlx-lm; where there are
    none a GGUF of the safetensors is asked."""
    models = max(1, quantized) + (request.serving.original != NO_ORIGINAL)
    parts = []
    if request.tasks is not None:
        each = request.tasks.limit
        count = (
            f"all questions (of a built-in suite {LIMIT})"
            if each is None
            else show_count(each, "question")
        )
        parts.append(f"{count} of {', '.join(request.tasks.names)}")
    if request.loops is not None:
        parts.append(_loops(original, request.loops, models))
    if request.speed is not None:
        parts.append(f"{show_count(request.speed.turns, 'turn')} of timing")
    if not parts:
        return ()
    many = f"{models} models" if models > 1 else "the model"
    return (f"these times leave out what {many} will be asked in their engines: "
            f"{'; '.join(parts)}",)  # fmt: skip


def _loops(original: Checkpoint, request: Loops, models: int) -> str:
    from secateur.estimation.table import show_duration
    from secateur.evaluation.tokens.prompts import context_of

    tokens = longest_reply(request, context_of(original))
    replies = request.count * request.seeds
    total = models * replies * tokens
    each = show_count(replies, "reply", "replies")
    return (
        f"for loops {each} of each, of at most {tokens:,} tokens ({total:,} together, for which an "
        f"engine that writes {_SPEED} a second takes {show_duration(total / _SPEED)})"
    )
