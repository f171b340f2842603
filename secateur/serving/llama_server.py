"""llama.cpp as a server of one GGUF: started in a process of its own, queried over HTTP."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from secateur.errors import EngineError

CONTEXT = 2048
START_SECONDS = 600.0
"""Time that the engine has to load the model."""
ANSWER_SECONDS = 600.0
"""Time that the engine has for one completion."""

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
        request = urllib.request.Request(
            self.address + path,
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        # A proxy of the environment must not see what goes to the loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=ANSWER_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            reason = error.read().decode("utf-8", "replace")[:300]
            error.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
        raise EngineError(f"{NAME} did not complete a prompt with {self.model}: {reason}")


@contextmanager
def llama_server(
    model: Path, *, context: int = CONTEXT, workers: int = 1, gpu_layers: int = 0
) -> Iterator[LlamaServer]:
    """Load a GGUF into llama.cpp, in a process that ends with the block (or with this process).

    `context`: tokens of prompt and answer together; `gpu_layers`: how many layers run on a GPU,
    where xllamacpp was built for one. Raises EngineError, with llama.cpp's own words, when it does
    not load.
    """
    host = Path(__file__).with_name("llama_host.py")
    numbers = map(str, (context, workers, gpu_layers))
    command = [sys.executable, str(host), str(model), *numbers]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        except OSError as error:
            raise EngineError(f"cannot start {command[0]}: {error.strerror}") from None
        with process:
            try:
                yield LlamaServer(_address(process, model, log), model)
            finally:
                process.kill()


def _address(process: subprocess.Popen[str], model: Path, log: IO[str]) -> str:
    """Wait for the host's one line; kill it when that takes too long."""
    assert process.stdout is not None
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    try:
        line = process.stdout.readline().strip()
    finally:
        timer.cancel()
    state, _, rest = line.partition(" ")
    if state == "ready":
        return rest
    log.seek(0)
    # llama.cpp's log lines are "time E message"; the first error says most.
    errors = [entry for entry in log.read().splitlines() if " E " in entry]
    reason = errors[0].partition(" E ")[2].strip() if errors else rest
    code = process.poll()
    raise EngineError(
        f"{NAME} did not load {model}: {reason or f'its process ended with status {code}'}"
    )
