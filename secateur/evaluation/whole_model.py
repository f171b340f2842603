"""The whole model in memory, for generating; everything else runs it layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import CheckpointError
from secateur.forward.backends.base import Backend
from secateur.forward.skeleton import build_skeleton, fill_parameters, find_routers
from secateur.forward.weights import CheckpointWeights


@contextmanager
def whole_model(
    checkpoint: Checkpoint, backend: Backend, layers: int | None = None
) -> Iterator[Any]:
    """The text model with all its weights, as the streamed forward would run it on the backend.

    `layers` keeps only the first so many, to try what they take. Peak memory: see
    `memory.weight_bytes`, and once more the largest tensor.
    """
    source = CheckpointWeights(checkpoint)
    model = build_skeleton(source, backend)
    if layers is not None:
        model.base_model.layers = model.base_model.layers[:layers]
        model.config.num_hidden_layers = layers
    present = set(source.names())
    names = {name: name for name in model.state_dict() if name in present}
    routers = find_routers(model, source.family, range(checkpoint.layers))
    with (
        backend.open(source) as weights,
        fill_parameters(model, names, weights),
        backend.run_alone(model, routers),
    ):
        if "lm_head.weight" not in present:
            model.lm_head.weight = model.get_input_embeddings().weight
        _check_filled(model, checkpoint)
        yield model


def _check_filled(model: Any, checkpoint: Checkpoint) -> None:
    for path, value in model.state_dict(keep_vars=True).items():
        owner, _, leaf = path.rpartition(".")
        if value.is_meta and leaf not in vars(model.get_submodule(owner)):
            raise CheckpointError(
                f"{checkpoint.path} has no tensor for the parameter {path!r}: "
                "the checkpoint is incomplete"
            )
