"""A built-in suite as a task: its items asked, and their answers checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import WHOLE, Outcome, Reply
from secateur.evaluation.tasks.asker import Asker
from secateur.evaluation.tasks.result import ItemResult, TaskResult
from secateur.evaluation.tasks.suites.base import Answer, Call, Item, Suite, data_hash


def ask_suite(suite: Suite, asker: Asker, seed: int, limit: int) -> TaskResult:
    """The first `limit` items of a seed, asked and checked. Raises RequestError, EngineError."""
    items = suite.items(seed, limit)
    questions = [
        Question(
            suite.name,
            item.id,
            item.messages,
            item.tools,
            {"max_tokens": asker.tokens(item.tokens)},
        )
        for item in items
    ]
    replies = asker.ask(questions, suite.name)
    return TaskResult(
        suite.name,
        tuple(
            _check(suite, item, question, reply, asker.outcome(reply))
            for item, question, reply in zip(items, questions, replies, strict=True)
        ),
        data_hash(suite, items),
        str(suite.version),
    )


def _check(
    suite: Suite, item: Item, question: Question, reply: Reply, outcome: Outcome
) -> ItemResult:
    value, read = None, None
    if outcome not in (Outcome.EMPTY, Outcome.SERVER_ERROR):
        value, read = suite.score(item, answer_of(reply))
        if read is None:
            value, outcome = None, Outcome.UNPARSED if outcome in WHOLE else outcome
    return ItemResult(
        suite.name,
        item.id,
        outcome,
        value,
        read,
        item.expected,
        facts=reply.facts(),
        question=question,
    )


def answer_of(reply: Reply) -> Answer:
    """What is scored of a reply."""
    return Answer(reply.content, tuple(map(_call, reply.tool_calls)))


def _call(call: Mapping[str, Any]) -> Call:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (ValueError, TypeError, RecursionError):
        arguments = None
    name = str(function.get("name") or "")
    return Call(name, arguments if isinstance(arguments, dict) else None)
