"""How the original and the artefacts are served when they are asked: a part of a request."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.errors import RequestError
from secateur.system.settings import check_least

NO_ORIGINAL = "none"


@dataclass(frozen=True)
class Serving:
    """How models are served for tasks, loops and speed.

    `original` is what is asked beside the artefacts: the address of a server (OpenAI's protocol;
    key: OPENAI_API_KEY), a GGUF of the original, or "none". By default a GGUF of it is made in its
    own precision and kept. `original_model` is the name that the server has for it, and `model`
    the one that a server which is measured has for its own. `slots` are
    answered at a time, each with `context` tokens (default: what the protocol says, else what the
    model was trained for, 32,768 at most). `gpu_layers` run on a GPU where there is one.
    `retry_errors` asks questions again whose answer was an error that the server would always give;
    errors of the moment are asked again anyway. `compare_anyway` compares with the original also
    where both were asked under different conditions (asking.lock.compare_locks), and says so.
    """

    original: str | None = None
    original_model: str | None = None
    model: str | None = None
    slots: int = 4
    context: int | None = None
    gpu_layers: int | None = None
    retry_errors: bool = False
    compare_anyway: bool = False

    def __post_init__(self) -> None:
        check_least("slots", self.slots, 1, RequestError)
        check_least("context", self.context, 256, RequestError)
        check_least("gpu_layers", self.gpu_layers, 0, RequestError)
