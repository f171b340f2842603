"""The whole model in memory, for generating; everything else runs it layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import CheckpointError, EngineError
from secateur.forward.skeleton import build_skeleton, fill_parameters
from secateur.forward.weights import CheckpointWeights


@contextmanager
def whole_model(checkpoint: Checkpoint) -> Iterator[Any]:
    """The text model with all its weights, as the streamed forward would run it.

    Peak memory: see `weight_bytes`, and once more the largest tensor.
    """
    source = CheckpointWeights(checkpoint)
    model = build_skeleton(source)
    present = set(source.names())
    names = {name: name for name in model.state_dict() if name in present}
    with fill_parameters(model, names, source):
        if "lm_head.weight" not in present:
            model.lm_head.weight = model.get_input_embeddings().weight
        _check_filled(model, checkpoint)
        yield model


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights at most: experts in their own type (in memory or mapped), all else in
    float32."""
    return sum(
        spec.nbytes if checkpoint.matches[name].role.startswith("expert.") else 4 * spec.elements
        for name, spec in checkpoint.specs.items()
        if checkpoint.matches[name].row.axes
    )


def _check_filled(model: Any, checkpoint: Checkpoint) -> None:
    for path, value in model.state_dict(keep_vars=True).items():
        owner, _, leaf = path.rpartition(".")
        if value.is_meta and leaf not in vars(model.get_submodule(owner)):
            raise CheckpointError(
                f"{checkpoint.path} has no tensor for the parameter {path!r}: "
                "the checkpoint is incomplete"
            )


def check_memory(checkpoint: Checkpoint, memory: int) -> None:
    """Raise EngineError, with both numbers and a way out, when the weights take more bytes."""
    need = weight_bytes(checkpoint)
    if need > memory:
        raise EngineError(
            f"answering takes the whole model in memory: {need} bytes, but {memory} are free; let "
            "the original answer on a larger machine, or on any server, and give its answers "
            "as a file"
        )
