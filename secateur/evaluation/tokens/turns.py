"""Conversations of a corpus: the question before an assistant's turn, and the turns themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from secateur.corpus.held_out import DOCUMENT_TOKENS
from secateur.corpus.render import render_conversation
from secateur.corpus.rows import Chosen
from secateur.evaluation.tokens.answers import Answer
from secateur.evaluation.tokens.prompts import (
    Prompt,
    PromptSet,
    answer_span,
    text_ids,
    turn_end_ids,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONVERSATION_TOKENS = 2048
"""Tokens of a conversation that are used at most: up to its last turn that ends before."""


class _Turn(NamedTuple):
    """An assistant's turn as text: what is rendered with it, and where it begins and ends there."""

    message: int
    before: str
    prompt: str
    whole: str
    begin: int


def held_out_prompts(documents: Sequence[Chosen], tokenizer: PreTrainedTokenizerBase) -> PromptSet:
    """Documents that a corpus held out, as prompts: conversations with their turns, and texts.

    A conversation is asked up to its last assistant's turn that ends within CONVERSATION_TOKENS.
    The domain of a prompt is its category. Raises CorpusError when the chat template refuses a
    conversation.
    """
    prompts = []
    for document in documents:
        prompt = None
        if document.content is not None and document.content.text is None:
            prompt = _conversation(document, tokenizer)
        if prompt is None:
            ids = tuple(document.input_ids[:DOCUMENT_TOKENS].tolist())
            prompt = Prompt(_id(document), document.sample.category, "documents", ids)
        if prompt.kind != "documents" or len(prompt.input_ids) > 1:
            prompts.append(prompt)
    return PromptSet(tuple(prompts), {})


def _conversation(document: Chosen, tokenizer: PreTrainedTokenizerBase) -> Prompt | None:
    """A conversation to be answered; None when it has no question that is short enough."""
    assert document.content is not None
    messages = document.content.messages
    asked = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i]
    last: _Turn | None = None
    for message in reversed(asked):
        turn = _render_turn(document, tokenizer, message)
        if turn is not None and len(text_ids(turn.whole, tokenizer)) <= CONVERSATION_TOKENS:
            last = turn
            break
    if last is None:
        return None
    earlier = [_render_turn(document, tokenizer, message) for message in asked]
    spans = [
        (turn.begin, len(turn.whole))
        for turn in earlier
        if turn is not None and turn.message < last.message and last.whole.startswith(turn.whole)
    ]
    turns = _score_turns(document, last.whole, [*spans, (last.begin, len(last.whole))], tokenizer)
    return Prompt(
        _id(document),
        document.sample.category,
        "answers",
        text_ids(last.prompt, tokenizer),
        tuple(messages[: last.message]),
        tuple(document.content.tools),
        document.template,
        turns,
    )


def _render_turn(
    document: Chosen, tokenizer: PreTrainedTokenizerBase, message: int
) -> _Turn | None:
    """The turn of a message; None when it cannot be told apart in what the template writes."""
    before, prompt, whole = (
        _render(document, tokenizer, count, asking=asking)
        for count, asking in ((message, False), (message, True), (message + 1, False))
    )
    span = answer_span(before, prompt, whole)
    return None if span is None else _Turn(message, before, prompt, whole, span[0])


def _render(
    document: Chosen, tokenizer: PreTrainedTokenizerBase, count: int, *, asking: bool
) -> str:
    """The first `count` messages, with the prompt for an answer when `asking`."""
    assert document.content is not None
    content = document.content._replace(
        messages=document.content.messages[:count],
        thoughts={at: said for at, said in document.content.thoughts.items() if at < count},
    )
    options = {**document.template, **({"add_generation_prompt": True} if asking else {})}
    where = f"document {document.sample.sha256[:12]} of {document.sample.source}"
    return render_conversation(content, tokenizer, options, document.thought, where)


def _score_turns(
    document: Chosen,
    text: str,
    spans: Sequence[tuple[int, int]],
    tokenizer: PreTrainedTokenizerBase,
) -> Answer | None:
    """The conversation with the tokens of its turns to be scored, each to the end of the turn."""
    ends = turn_end_ids(tokenizer)
    ids: list[int] = []
    scored: list[tuple[int, int]] = []
    place = 0
    for begin, end in spans:
        ids += text_ids(text[place:begin], tokenizer)
        answer = text_ids(text[begin:end], tokenizer)
        count = next((i + 1 for i, token in enumerate(answer) if token in ends), len(answer))
        if count:
            scored.append((len(ids), len(ids) + count))
        ids += answer
        place = end
    if not scored or not scored[0][0]:
        return None
    return Answer(
        _id(document),
        document.sample.category,
        "turns",
        tuple(ids[: scored[-1][1]]),
        scored[0][0],
        "given",
        tuple((one[1], other[0]) for one, other in pairwise(scored)),
    )


def _id(document: Chosen) -> str:
    return document.sample.sha256[:16]
