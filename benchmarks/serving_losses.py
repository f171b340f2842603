"""What an OpenAI-compatible answer of llama.cpp hides, how often, and what it costs to see it.

gemmule (Q8_0) answers its selection prompts in llama.cpp with thinking on, under several budgets.
Of every answer all generated tokens are compared with the fields of the message
(serving/answer_facts.py). Beside it the cheaper guess that the number of tokens allows alone:
`completion_tokens` minus the tokens of thought and answer, more than 8.
Then the same requests in turns: plain, with `verbose` and `return_tokens`, and with `logprobs`.

    python benchmarks/serving_losses.py --prompts 80
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generated_loops import prompts as conversations
from goals import result_path
from scipy.stats import binomtest

import secateur
from secateur import Formats, Pruning
from secateur.serving.answer_facts import WHOLE, message_of, read_facts, thought_of
from secateur.serving.engine_server import EngineServer, serve_model
from secateur.serving.settings import ServerSettings, Thinking
from secateur.serving.thought_marks import find_marks, tokenize
from secateur.system.process_use import cpu_seconds

BUDGETS = (None, 64, 16, 4)
TOKENS, GUESS, ROUNDS = 250, 8, 3


def ask(server: EngineServer, messages: Any, thinking: Thinking, **more: Any) -> Mapping[str, Any]:
    body = {"messages": messages, "max_tokens": TOKENS, "temperature": 0, "cache_prompt": False}
    found: Mapping[str, Any] = server.ask(
        "/v1/chat/completions", {**body, **thinking.request(), **more}
    )
    return found


def share(flags: Sequence[bool]) -> dict[str, Any]:
    """A share with its 95 % Wilson interval."""
    found = binomtest(sum(flags), len(flags)).proportion_ci(method="wilson")
    return {
        "k": sum(flags),
        "n": len(flags),
        "share": round(sum(flags) / len(flags), 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }


def of_budget(server: EngineServer, asked: Sequence[Any], budget: int | None) -> dict[str, Any]:
    """How many answers lost something under a budget."""
    thinking = Thinking(True, budget)
    marks = find_marks(server)
    lost, unclosed, silent, hit, guessed = [], [], [], [], []
    for messages in asked:
        answer = ask(server, messages, thinking, **WHOLE)
        facts, message = read_facts(answer, marks, thinking), message_of(answer)
        finish = answer["choices"][0]["finish_reason"]
        lost.append(bool(facts.swallowed))
        unclosed.append(bool(facts.unclosed))
        silent.append(finish == "stop" and not message["content"])
        hit.append(bool(facts.budget_hit))
        texts = (thought_of(message), message["content"] or "")
        counted = sum(len(tokenize(server, text)) for text in texts if text)
        guessed.append(answer["usage"]["completion_tokens"] - counted > GUESS)
    pairs = list(zip(lost, guessed, strict=True))
    return {
        "budget": budget,
        "swallowed_text": share(lost),
        "unclosed_thought": share(unclosed),
        "empty_content_though_finish_is_stop": share(silent),
        "budget_hit": share(hit),
        "guess_by_counts": {
            "missed": sum(a and not b for a, b in pairs),
            "false": sum(b and not a for a, b in pairs),
        },
    }


def costs(server: EngineServer, asked: Sequence[Any]) -> dict[str, Any]:
    """CPU and wall seconds of the server for the same requests, in turns."""
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "verbose": dict(WHOLE),
        "logprobs": {"logprobs": True},
    }
    spent = {name: [0.0, 0.0] for name in ways}
    for _ in range(ROUNDS):
        for name, more in ways.items():
            wall, cpu = time.perf_counter(), cpu_seconds(server.pid) or 0.0
            for messages in asked:
                ask(server, messages, Thinking(True), **more)
            spent[name][0] += (cpu_seconds(server.pid) or 0.0) - cpu
            spent[name][1] += time.perf_counter() - wall
    plain = spent["plain"]
    return {
        name: {
            "cpu_ratio": round(cpu / plain[0], 3),
            "wall_ratio": round(wall / plain[1], 3),
            "cpu_seconds": round(cpu, 2),
        }
        for name, (cpu, wall) in spent.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=80)
    options = parser.parse_args()
    asked = conversations(options.prompts)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        secateur.apply(secateur.plan("gemmule", Pruning(), Formats("gguf", "Q8_0")), out)
        settings = ServerSettings(context=2048, workers=1)
        with serve_model(next(out.glob("*.gguf")), settings) as server:
            budgets = [of_budget(server, asked, budget) for budget in BUDGETS]
            costly = costs(server, asked[:8])
            identity = server.identity.to_json()
    result = {
        "what": "what chat answers of llama.cpp do not say; shares with 95 % Wilson intervals",
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "server": identity,
        "tokens_at_most": TOKENS,
        "budgets": budgets,
        "cost": costly,
    }
    result_path("serving_losses").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
