"""Log-probabilities of given answers, from llama.cpp: a request for each of their tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.errors import EngineError
from secateur.evaluation.asking.reply import Reply
from secateur.serving.engine_server import EngineServer

_FORCE = 1e6
"""Added to a token's logit, so that it is the one that is chosen. The probabilities that the server
says are those before anything is added."""


def rate_answer(server: EngineServer, messages: Sequence[Mapping[str, Any]], answer: str) -> Reply:
    """The log-probability of an answer, in nats, and whether each of its tokens is the most
    probable one (finish "greedy"). The thought is closed before it. Raises EngineError."""
    started = time.monotonic()
    asked = {"messages": list(messages), "chat_template_kwargs": {"enable_thinking": False}}
    prompt = str(server.ask("/apply-template", asked)["prompt"])
    before, whole = _with_start(server, prompt), _with_start(server, prompt + answer)
    same = 0  # tokens in common: the answer may change the last ones of the prompt
    while same < min(len(before), len(whole)) and before[same] == whole[same]:
        same += 1
    total, greedy = 0.0, True
    for place in range(same, len(whole)):
        chance, first = _rate_token(server, whole[:place], whole[place])
        total, greedy = total + chance, greedy and first
    return Reply(
        content=answer,
        finish="greedy" if greedy else "given",
        prompt_tokens=same,
        completion_tokens=len(whole) - same,
        loglikelihood=total,
        seconds=time.monotonic() - started,
    )


def _rate_token(server: EngineServer, before: Sequence[int], token: int) -> tuple[float, bool]:
    answer = server.ask(
        "/completion",
        {
            "prompt": list(before),
            "n_predict": 1,
            "n_probs": 1,
            "temperature": 0,
            "logit_bias": [[token, _FORCE]],
            "cache_prompt": True,
            "return_tokens": True,
        },
    )
    try:
        step = answer["completion_probabilities"][0]
        found, chance = int(step["id"]), float(step["logprob"])
        first = int(step["top_logprobs"][0]["id"]) == token
    except (KeyError, IndexError, TypeError, ValueError):
        raise EngineError(
            "llama.cpp gave no log-probability of a token: install xllamacpp"
        ) from None
    if found != token or not math.isfinite(chance):
        raise EngineError(f"llama.cpp did not rate token {token}: the task needs log-probabilities")
    return chance, first


def _with_start(server: EngineServer, text: str) -> tuple[int, ...]:
    """Tokens of a prompt, with the vocabulary's own start (llama.cpp renders none)."""
    asked = {"content": text, "parse_special": True, "add_special": True}
    return tuple(int(token) for token in server.ask("/tokenize", asked)["tokens"])
