"""The model that lm-eval talks to: its requests are put as questions of ours, through a ledger.

lm-eval's own clients keep the text alone and its cache confuses models; here the finish, the
thought, the tokens and an error are kept of every answer, and nothing finished is asked twice.
Imported only where lm-eval is installed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from secateur.errors import RequestError
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Reply
from secateur.evaluation.tasks.asker import Asker

ANSWER_TOKENS = 256
"""Tokens of an answer where a task says nothing: lm-eval's own default."""
_OURS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p", "seed")
"""Arguments of lm-eval that the protocol decides, or that are called otherwise here."""

Place = tuple[str, int]
"""A task and the number of a question in it."""


class KeepingManager(TaskManager):  # type: ignore[misc]
    """lm-eval's tasks; `groups` are those that were loaded, whose rules a result does not hold."""

    groups: Mapping[str, Group] = MappingProxyType({})

    def load(self, *arguments: Any, **named: Any) -> Any:
        """As lm-eval's own."""
        loaded = super().load(*arguments, **named)
        self.groups = loaded["groups"]
        return loaded


class AskingModel(LM):  # type: ignore[misc]
    """Chat requests of lm-eval. `replies` are all that were given, by task and document."""

    def __init__(self, asker: Asker) -> None:
        super().__init__()
        self._asker = asker
        self.replies: dict[Place, Reply] = {}
        self.questions: dict[Place, Question] = {}

    @property
    def tokenizer_name(self) -> str:
        """Part of a cache's name in lm-eval, which is not used."""
        return "chat"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The server renders messages."""
        return ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as text, to be read again when they are asked."""
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answers, without thoughts and cut at the task's stops; "" where there is none."""
        seed = self._asker.protocol.sampler.seed
        questions = _number([self._question(one) for one in requests], seed)
        replies = self._asker.ask(questions, _titled(questions))
        self._note(requests, questions, replies)
        return [self._cut(reply, one.args[1]) for one, reply in zip(requests, replies, strict=True)]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """(log-probability, whether it is the most probable) of given answers.

        Raises RequestError for a server that cannot say.
        """
        questions = [
            Question(
                str(one.task_name),
                f"{one.doc_id}-{one.idx}",
                _messages(one.args[0]),
                arguments={"continuation": one.args[1]},
            )
            for one in requests
        ]
        replies = self._asker.rate(questions, _titled(questions))
        self._note(requests, questions, replies)
        # What could not be rated must not be the most probable.
        chances = (-math.inf if one.loglikelihood is None else one.loglikelihood for one in replies)
        return [
            (chance, reply.finish == "greedy")
            for chance, reply in zip(chances, replies, strict=True)
        ]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Refused: a chat server does not rate whole texts."""
        raise RequestError(
            f"{requests[0].task_name} rates whole texts, which no chat server does: leave it out "
            "(perplexity is measured without tasks)"
        )

    def _question(self, request: Instance) -> Question:
        context, arguments = request.args
        tokens = int(arguments.get("max_gen_toks") or ANSWER_TOKENS)
        more = {key: value for key, value in arguments.items() if key not in _OURS}
        return Question(
            str(request.task_name),
            str(request.doc_id),
            _messages(context),
            arguments={**more, "max_tokens": self._asker.tokens(tokens)},
        )

    def _cut(self, reply: Reply, arguments: Mapping[str, Any]) -> str:
        """Stops are looked for in the answer alone: sent to a server, they would end a thought."""
        text = reply.content
        if end := self._asker.protocol.thought_end:
            text = text.rpartition(end)[2]
        until = arguments.get("until") or ()
        for stop in (until,) if isinstance(until, str) else until:
            text = text.partition(stop)[0] if stop else text
        return text

    def _note(
        self, requests: Sequence[Instance], questions: Sequence[Question], replies: Sequence[Reply]
    ) -> None:
        for request, question, reply in zip(requests, questions, replies, strict=True):
            place = (str(request.task_name), int(request.doc_id))
            worst = self.replies.get(place)
            if worst is None or (reply.error and not worst.error):
                self.replies[place], self.questions[place] = reply, question


def _number(questions: Sequence[Question], seed: int | None) -> list[Question]:
    """Repeats of a question told apart, each with a seed of its own."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for one in questions:
        again = seen[one.task, one.id]
        seen[one.task, one.id] += 1
        more = {} if not again or seed is None else {"seed": seed + again}
        name = f"{one.id}-{again}" if again else one.id
        found.append(replace(one, id=name, arguments={**one.arguments, **more}))
    return found


def _messages(context: str) -> tuple[Mapping[str, Any], ...]:
    """The messages of `apply_chat_template`."""
    return tuple(json.loads(context))


def _titled(questions: Sequence[Question]) -> str:
    names = dict.fromkeys(one.task for one in questions)
    first = next(iter(names), "nothing")
    return first if len(names) < 2 else f"{first} and {len(names) - 1} more"
