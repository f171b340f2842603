"""The second question to those that gave no answer to a choice of letters.

The assistant's turn begins with the protocol's words, and the most probable of the letters is
taken: no thought, one token, the same for every model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from secateur.evaluation.asking.protocol import SecondPass
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Reply
from secateur.evaluation.tasks.asker import Asker
from secateur.evaluation.tasks.result import TaskResult

_LETTER = re.compile(r"\(?([A-Z])\)?\.?")
_TOP = 20
"""First tokens whose probability is asked for; a letter that is none of them has none. OpenAI's API
and vLLM refuse more."""


def ask_again(result: TaskResult, asker: Asker) -> TaskResult:
    """The result with `patched` for every item that the protocol's second pass is for.

    A task whose right answers are not single letters is returned as it is, and so is an item whose
    second question the server does not answer with probabilities. Raises EngineError when the
    server ends.
    """
    rule = asker.protocol.second_pass
    letters = [letter_of(item.expected) for item in result.items]
    if rule is None or None in letters:
        return result
    choices = sorted({letter for letter in letters if letter} | set("ABCD"))
    again = [one for one in result.items if one.outcome.value in rule.of and one.question]
    questions = [_question(one.question, rule) for one in again if one.question is not None]
    replies = asker.ask(questions, f"{result.task}, second pass")
    patched = {
        one.item: float(most_probable(reply, choices) == letter_of(one.expected))
        for one, reply in zip(again, replies, strict=True)
        if reply.first_token
    }
    return replace(
        result, items=tuple(replace(one, patched=patched.get(one.item)) for one in result.items)
    )


def letter_of(expected: object) -> str | None:
    """The letter of an answer such as "(B)"; None for anything else."""
    found = _LETTER.fullmatch(expected.strip()) if isinstance(expected, str) else None
    return None if found is None else found[1]


def most_probable(reply: Reply, letters: Sequence[str]) -> str | None:
    """The letter that is most probable as the first token; None where none of them is there."""
    chances: dict[str, float] = {}
    for token, chance in (reply.first_token or {}).items():
        letter = token.strip().rstrip(").")
        if letter in letters:
            chances[letter] = chances.get(letter, 0.0) + math.exp(chance)
    return max(chances, key=lambda letter: chances[letter]) if chances else None


def _question(asked: Question, rule: SecondPass) -> Question:
    last = {"role": "assistant", "content": rule.prefill}
    arguments: Mapping[str, object] = {
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": _TOP,
        # The thought is closed before the words; llama.cpp refuses them after an open one.
        "chat_template_kwargs": {"enable_thinking": False},
        # vLLM begins a new turn without these; llama.cpp continues the last one by itself.
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    return replace(
        asked,
        id=f"{asked.id}-second",
        messages=(*asked.messages, last),
        arguments=arguments,
    )
