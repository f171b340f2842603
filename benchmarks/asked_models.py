"""gemmule and its pruned forms asked the questions of tasks and the prompts of loops, once each."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.checkpoint.identity import file_hashes
from secateur.checkpoint.reader import open_checkpoint
from secateur.evaluation.asking.ask import ask_all
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Reply
from secateur.evaluation.asking.server import AskedServer, ask_engine
from secateur.evaluation.robustness.detectors.base import Call as MadeCall
from secateur.evaluation.robustness.detectors.base import Exchange
from secateur.evaluation.robustness.prompts import LoopPrompt, loop_prompts
from secateur.evaluation.tasks.suites.base import Answer, Call
from secateur.evaluation.tasks.suites.registry import SUITES
from secateur.serving.engine_server import serve_model
from secateur.serving.settings import ServerSettings, Thinking

SEED = 11
"""Of the items."""

SLOTS = 4

LOOP_TOKENS, LOOP_TEMPERATURE = 256, 0.7


@dataclass(frozen=True)
class Model:
    """A pruned gemmule (`dropped` 0: the original) and its GGUF."""

    criterion: str
    dropped: float
    path: Path

    @property
    def name(self) -> str:
        return self.criterion if not self.dropped else f"{self.criterion} {self.dropped:g}"


def ask(
    model: Model, work: Path, options: argparse.Namespace
) -> tuple[dict[str, dict[str, float]], dict[str, list[Exchange]]]:
    """(scores by suite and item, exchanges by prompt)"""
    thinking = Thinking(enabled=False)
    settings = ServerSettings(context=1024, slots=SLOTS, workers=1, thinking=thinking)
    prompts = loop_prompts(str(test_set()), options.prompts, 0).prompts
    with (
        serve_model(model.path, settings) as engine,
        ask_engine(engine) as server,
        Ledger(work / f"answers-{model.name.replace(' ', '-')}.jsonl") as ledger,
    ):
        digest = file_hashes({model.path})[model.path]
        lock = RunLock(digest, server.identity, {**thinking.request(), "temperature": 0.0})
        scores = {
            name: ask_suite(name, options.items, server, lock, ledger) for name in options.tasks
        }
        asked = [
            Question(
                "loops", f"{prompt.id}/{seed}", prompt.messages, prompt.tools,
                {"temperature": LOOP_TEMPERATURE, "seed": seed, "max_tokens": LOOP_TOKENS},
            )
            for prompt in prompts
            for seed in range(options.seeds)
        ]  # fmt: skip
        replies = ask_all(asked, server, lock, ledger)
    exchanges: dict[str, list[Exchange]] = {}
    both = [(prompt, seed) for prompt in prompts for seed in range(options.seeds)]
    for (prompt, _), reply in zip(both, replies, strict=True):
        exchanges.setdefault(prompt.id, []).append(exchange_of(prompt, reply))
    return scores, exchanges


def ask_suite(
    name: str, count: int, server: AskedServer, lock: RunLock, ledger: Ledger
) -> dict[str, float]:
    """{item: score}; what is no whole answer is wrong."""
    suite = SUITES[name]
    items = suite.items(SEED, count)
    questions = [
        Question(name, item.id, item.messages, item.tools, {"max_tokens": item.tokens})
        for item in items
    ]
    replies = ask_all(questions, server, lock, ledger)
    return {
        item.id: 0.0 if reply.error else suite.score(item, answer_of(reply)).value
        for item, reply in zip(items, replies, strict=True)
    }


def answer_of(reply: Reply) -> Answer:
    """What is scored of a reply."""

    def arguments(text: str) -> dict[str, Any] | None:
        try:
            found = json.loads(text)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    calls = (call["function"] for call in reply.tool_calls)
    return Answer(
        reply.content, tuple(Call(call["name"], arguments(call["arguments"])) for call in calls)
    )


def exchange_of(prompt: LoopPrompt, reply: Reply) -> Exchange:
    """What the detectors see of a reply."""
    calls = (call["function"] for call in reply.tool_calls)
    return Exchange(
        str(prompt.messages[-1].get("content") or ""),
        reply.content,
        reply.reasoning,
        calls=tuple(MadeCall(call["name"], call["arguments"]) for call in calls),
        finish=reply.finish or "stop",
    )


def test_set() -> Path:
    return open_checkpoint("gemmule").path / "sets" / "test.jsonl"
