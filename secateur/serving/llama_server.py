"""llama.cpp as a server of one GGUF: started in a process of its own, queried over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from secateur.errors import EngineError
from secateur.serving.host_process import start_host
from secateur.serving.http_json import request_json
from secateur.serving.model_defaults import model_bytes
from secateur.system.log_file import open_log

CONTEXT = 2048
HOST = Path(__file__).with_name("llama_host.py")
NAME = "llama.cpp"


class EngineToken(NamedTuple):
    """A token that the engine chose, and its most probable ones with their log-probabilities."""

    id: int
    top_ids: tuple[int, ...]
    top: tuple[float, ...]


class DrawnAnswer(NamedTuple):
    """The tokens that the engine drew, an end of the turn included, and whether it came to one."""

    tokens: tuple[int, ...]
    ended: bool


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """A running llama.cpp that has loaded one GGUF."""

    address: str
    model: Path

    def complete(
        self, prompt: Sequence[int], count: int, *, top: int = 10, cached: bool = False
    ) -> tuple[EngineToken, ...]:
        """Continue token ids greedily by at most `count` tokens. Raises EngineError.

        `top`: how many of the most probable tokens are shown per step. `cached` computes only
        what is new since the last prompt.
        """
        answer = self._post(
            "/completion",
            {
                "prompt": list(prompt),
                "n_predict": count,
                "n_probs": top,
                "temperature": 0,
                "cache_prompt": cached,
                "return_tokens": True,
            },
        )
        try:
            return tuple(
                EngineToken(
                    int(step["id"]),
                    tuple(int(other["id"]) for other in step["top_logprobs"]),
                    tuple(float(other["logprob"]) for other in step["top_logprobs"]),
                )
                for step in answer["completion_probabilities"]
            )
        except (KeyError, TypeError, ValueError):
            raise self._unexpected(answer, "completion_probabilities") from None

    def draw(
        self, prompt: Sequence[int], count: int, *, temperature: float, seed: int
    ) -> DrawnAnswer:
        """Continue token ids by at most `count` tokens, drawn from the model's own distribution at
        `temperature` (0: greedily). Raises EngineError.
        """
        answer = self._post(
            "/completion",
            {
                "prompt": list(prompt),
                "n_predict": count,
                "temperature": temperature,
                "seed": seed,
                # The server's defaults cut the distribution.
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
                "cache_prompt": False,
                "return_tokens": True,
            },
        )
        try:
            tokens = tuple(int(token) for token in answer["tokens"])
            ended = {"eos": True, "limit": False}[answer["stop_type"]]
        except (KeyError, TypeError, ValueError):
            raise self._unexpected(answer, "tokens, and how they ended") from None
        return DrawnAnswer(tokens, ended)

    def _unexpected(self, answer: object, expected: str) -> EngineError:
        return EngineError(
            f"{NAME} answered {str(answer)[:200]} for {self.model}, expected {expected}: install "
            "another version of xllamacpp"
        )

    def _post(self, path: str, content: Mapping[str, Any]) -> Any:
        try:
            return request_json(self.address + path, content)
        except EngineError as error:
            raise EngineError(
                f"{NAME} did not complete a prompt with {self.model}: {error}"
            ) from None


@contextmanager
def llama_server(
    model: Path, *, context: int = CONTEXT, workers: int = 1, gpu_layers: int = 0
) -> Iterator[LlamaServer]:
    """Load a GGUF into llama.cpp, in a process that ends with the block (or with this process).

    `context`: tokens of prompt and answer together; `gpu_layers`: how many layers run on a GPU,
    where xllamacpp was built for one. Raises EngineError, with llama.cpp's own words, when it does
    not load.
    """
    order = {
        "model": str(model),
        "context": context,
        "slots": 1,
        "workers": workers,
        "gpu_layers": gpu_layers,
        "exact": True,
    }
    nbytes = model_bytes(model) if model.is_file() else 0
    with open_log(None) as log, start_host(NAME, HOST, order, log, nbytes) as host:
        yield LlamaServer(host.facts["address"], model)
