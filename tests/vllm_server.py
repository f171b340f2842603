"""What vLLM does with a prefilled answer, as its documentation says, on the loopback.

From "Extra parameters for Chat API" of its OpenAI-compatible server (docs.vllm.ai) and the checks
of its ChatCompletionRequest: `continue_final_message` cannot be used together with
`add_generation_prompt`, which is true where a request says nothing; `top_logprobs` needs
`logprobs`, and is at most the server's --max-logprobs, 20. Fields that it does not know are passed
over. No model runs: what is shown is that our requests are those that vLLM takes, and that answers
of its form are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from openai_server import completion

MOST = 20
"""vLLM's own --max-logprobs."""


def answer_as_vllm(
    request: Mapping[str, Any], chances: Mapping[str, float], whole: str
) -> tuple[int, dict[str, Any]]:
    """`whole` as the answer of a new turn; where the last message is continued, the most probable
    of the tokens in `chances`, {token: probability}."""
    continues = bool(request.get("continue_final_message"))
    begins = bool(request.get("add_generation_prompt", True))
    top = request.get("top_logprobs")
    if continues and begins:
        return _refuse(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
    if top and not request.get("logprobs"):
        return _refuse("when using `top_logprobs`, `logprobs` must be set to true.")
    if top and top > MOST:
        return _refuse(
            f"Requested sample logprobs of {top}, which is greater than max allowed: {MOST}"
        )
    if not continues:
        return completion(whole)
    ranked = sorted(chances, key=lambda token: -chances[token])
    named = [
        {"token": token, "logprob": math.log(chances[token]), "bytes": list(token.encode())}
        for token in ranked
    ]
    logged = {"content": [{**named[0], "top_logprobs": named[:top]}]}
    return completion(ranked[0], finish_reason="length", logprobs=logged, stop_reason=None)


def _refuse(message: str) -> tuple[int, dict[str, Any]]:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    return 400, {"error": error}
