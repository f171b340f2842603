"""Prompts: conversations in the model's chat format, up to where the model has to answer.

    {"domain": "code", "messages": [{"role": "user", "content": "Reverse a list in C."}]}

JSONL, a conversation a line. An assistant's message at its end is the answer of somebody else: as
prompts (`--prompts`) the lines lose it, as answers (`--answers`), which the original wrote
elsewhere, it is what is scored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.chat_template import render_chat
from secateur.corpus.held_out import DOCUMENT_TOKENS
from secateur.corpus.json_lines import JsonLines, read_json_lines
from secateur.corpus.tokenizer import hash_tokenizer
from secateur.corpus.tools import parse_messages, parse_tools
from secateur.errors import CorpusError, InputError
from secateur.evaluation.tokens.answers import Answer, AnswerSet, Kind, answer_set, load_answers
from secateur.system.sizes import show_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_KEYS = {
    "messages": "the conversation: list of messages, each with a `role` (system, user, assistant, "
    "tool) and `content`, where the chat template knows them with `tool_calls` too",
    "text": "plain text instead: a document, scored from its second token on, apart from answers",
    "domain": "what the numbers are grouped by; `all` by default",
    "id": "a name of its own; the number of the line by default",
    "tools": "with messages: the tools that the model may call, as the chat template takes them",
}
"""The keys of a prompt, and what each holds. Others are not looked at."""


class Prompt(NamedTuple):
    """What the model is given: the tokens of a conversation (or a document), ready to continue.

    `messages`, `tools` and `template` (arguments of the chat template) are what it was rendered
    from, for a server that renders itself. `turns` are those of a conversation that somebody else
    has led, to be measured where the original does not answer.
    """

    id: str
    domain: str
    kind: Kind
    input_ids: tuple[int, ...]
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    template: Mapping[str, Any] = MappingProxyType({})
    turns: Answer | None = None


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the order of their file, and where they come from (JSON-able)."""

    prompts: tuple[Prompt, ...]
    provenance: Mapping[str, Any] = field(repr=False)


class _Record(NamedTuple):
    """One line of the file."""

    id: str
    domain: str
    where: str
    text: str | None
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


def read_prompts(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    enable_thinking: bool | None = None,
    per_domain: int | None = None,
    document_tokens: int = DOCUMENT_TOKENS,
) -> PromptSet:
    """The prompts of a file, rendered with the tokenizer's chat template.

    `enable_thinking` is passed to the template when it is not None. `per_domain` takes that many
    prompts of each domain and kind, the first ones. `document_tokens`: length at which documents of
    plain text are cut. Raises CorpusError, naming file and line.
    """
    lines = read_json_lines(path)
    options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    prompts = []
    for record in _records(path, lines, per_domain):
        if record.text is not None:
            ids = tokenizer(record.text, verbose=False)["input_ids"][:document_tokens]
            prompts.append(Prompt(record.id, record.domain, "documents", tuple(ids)))
        else:
            text = _prompt_text(record, tokenizer, options)
            ids = text_ids(text, tokenizer)
            asked, tools = tuple(_asked(record)), tuple(record.tools)
            prompts.append(Prompt(record.id, record.domain, "answers", ids, asked, tools, options))
    provenance = _provenance(path, lines, tokenizer, enable_thinking, per_domain)
    return PromptSet(tuple(prompts), {**provenance, "document_tokens": document_tokens})


def given_answers(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    enable_thinking: bool | None = None,
    per_domain: int | None = None,
) -> AnswerSet:
    """Answers from a file whose conversations end with what the original answered elsewhere.

    The answer's tokens run from where the generation prompt ends to the end of the model's turn.
    Raises CorpusError, naming file and line, for a conversation that does not end with an
    assistant's message or whose answer the template does not write.
    """
    lines = read_json_lines(path)
    options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    ends = turn_end_ids(tokenizer)
    found = []
    for record in _records(path, lines, per_domain):
        _check_answered(record)
        prompt = _prompt_text(record, tokenizer, options)
        answer = text_ids(_answer_text(record, tokenizer, prompt, options), tokenizer)
        end = next((i + 1 for i, token in enumerate(answer) if token in ends), len(answer))
        ids = text_ids(prompt, tokenizer)
        found.append(
            Answer(record.id, record.domain, "answers", ids + answer[:end], len(ids), "given")
        )
    return answer_set(found, _provenance(path, lines, tokenizer, enable_thinking, per_domain))


def read_answers(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    *,
    enable_thinking: bool | None = None,
    per_domain: int | None = None,
) -> AnswerSet:
    """Answers in either form: a file of `save_answers`, used whole, or conversations as
    `given_answers` takes them. Raises CorpusError, naming file and line."""
    lines = read_json_lines(path)
    if lines.records and "format" in lines.records[0]:
        return load_answers(path, vocab_size)
    return given_answers(path, tokenizer, enable_thinking=enable_thinking, per_domain=per_domain)


def check_lines(path: Path, *, need_answers: bool = False) -> None:
    """Check that every line of a file can be used, without a tokenizer.

    `need_answers`: it is a file of answers, in either of the forms that `read_answers` takes.
    Raises CorpusError, naming file and line.
    """
    lines = read_json_lines(path)
    if need_answers and lines.records and "format" in lines.records[0]:
        load_answers(path)
        return
    for record in _records(path, lines, None):
        if need_answers:
            _check_answered(record)


def context_of(checkpoint: Checkpoint) -> int | None:
    """Tokens that the model was made for at most; None where its config does not say."""
    limit = checkpoint.family.section(checkpoint.config)[1].get("max_position_embeddings")
    return limit if isinstance(limit, int) else None


def check_lengths(checkpoint: Checkpoint, prompts: PromptSet, answer_tokens: int) -> None:
    """Raise InputError for a prompt that leaves no room for an answer in the model's context."""
    limit = context_of(checkpoint)
    for prompt in prompts.prompts:
        total = len(prompt.input_ids) + answer_tokens
        if prompt.kind == "answers" and limit is not None and total > limit:
            raise InputError(
                f"prompt {prompt.id!r} has {show_count(len(prompt.input_ids), 'token')} and its "
                f"answer may have {answer_tokens}, but the model's context is {limit}: "
                "shorten the prompt or allow fewer tokens"
            )


def pass_long_turns(prompts: PromptSet, room: int) -> PromptSet:
    """Prompts of more than `room` tokens are not asked: their turns are measured as they are."""
    kept = (
        prompt._replace(kind="turns") if _is_too_long(prompt, room) else prompt
        for prompt in prompts.prompts
    )
    return replace(
        prompts, prompts=tuple(one for one in kept if one.kind != "turns" or one.turns is not None)
    )


def _is_too_long(prompt: Prompt, room: int) -> bool:
    return prompt.kind == "answers" and len(prompt.input_ids) > room


def take_prompts(
    prompts: PromptSet, per_domain: int | None = None, most: int | None = None
) -> PromptSet:
    """The first `per_domain` prompts of each domain and kind, and `most` of them in all, in turn
    from every domain; in their order."""
    ranked: list[tuple[int, int]] = []
    counts: dict[tuple[str, Kind], int] = {}
    for number, prompt in enumerate(prompts.prompts):
        group = (prompt.domain, prompt.kind)
        counts[group] = counts.get(group, 0) + 1
        if per_domain is None or counts[group] <= per_domain:
            ranked.append((counts[group], number))
    kept = sorted(number for _, number in sorted(ranked)[:most])
    taken = tuple(prompts.prompts[number] for number in kept)
    limits = {"per_domain": per_domain, "max_prompts": most}
    return PromptSet(taken, {**prompts.provenance, **limits})


def turn_end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The special token that the chat template writes after an assistant's message.

    Empty when the template writes none. Raises CorpusError without a usable template.
    """
    marker = "SECATEURANSWER"
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": marker}]
    text = render_chat(tokenizer, messages, [], {}, "a test conversation")
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    following = text_ids(text.rpartition(marker)[2], tokenizer)
    return frozenset([token for token in following if token in special][:1])


def _records(path: Path, lines: JsonLines, per_domain: int | None) -> list[_Record]:
    taken: dict[tuple[str, bool], int] = {}
    found = []
    for data, line in zip(lines.records, lines.lines, strict=True):
        record = _record(data, line, f"{path}:{line}")
        group = (record.domain, record.text is None)
        taken[group] = taken.get(group, 0) + 1
        if per_domain is None or taken[group] <= per_domain:
            found.append(record)
    if not found:
        raise CorpusError(f"{path} holds no prompts")
    return found


def _record(data: Mapping[str, Any], line: int, where: str) -> _Record:
    if ("text" in data) == ("messages" in data):
        raise CorpusError(
            f"{where}: expected either messages or text, got "
            + (", ".join(sorted(data)[:8]) or "an empty object")
        )
    id, domain = data.get("id", str(line)), data.get("domain", "all")
    for key, value in (("id", id), ("domain", domain)):
        if not isinstance(value, str) or not value:
            raise CorpusError(f"{where}: {key} is {value!r}, expected a name")
    if "text" in data:
        if not isinstance(data["text"], str) or not data["text"].strip():
            raise CorpusError(f"{where}: text is empty or no text")
        return _Record(id, domain, where, data["text"], [], [])
    messages, tools = parse_messages(data["messages"], where), parse_tools(data.get("tools"), where)
    return _Record(id, domain, where, None, messages, tools)


def _check_answered(record: _Record) -> None:
    if record.text is not None or record.messages[-1]["role"] != "assistant":
        raise CorpusError(
            f"{record.where}: does not end with an assistant's message, so there is no answer "
            "in it: leave it out, or let the original answer"
        )


def _asked(record: _Record) -> list[dict[str, Any]]:
    """The messages up to where the model has to answer."""
    answered = record.messages[-1]["role"] == "assistant"
    messages = record.messages[:-1] if answered else record.messages
    if not messages:
        raise CorpusError(f"{record.where}: nothing is left to answer without the last message")
    return messages


def _prompt_text(
    record: _Record, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]
) -> str:
    messages = _asked(record)
    options = {**options, "add_generation_prompt": True}
    return render_chat(tokenizer, messages, record.tools, options, record.where)


def _answer_text(
    record: _Record,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    options: Mapping[str, Any],
) -> str:
    """What the template writes for the last message, without the header of its turn."""
    before = render_chat(tokenizer, record.messages[:-1], record.tools, options, record.where)
    whole = render_chat(tokenizer, record.messages, record.tools, options, record.where)
    span = answer_span(before, prompt, whole)
    if span is None:
        raise CorpusError(
            f"{record.where}: the chat template rewrites earlier turns when an answer follows, so "
            "the answer cannot be cut out: let the original answer instead"
        )
    return whole[span[0] :]


def answer_span(before: str, prompt: str, whole: str) -> tuple[int, int] | None:
    """Where an answer begins and ends in `whole`, the rendered conversation that it ends.

    `before` is the conversation without it, `prompt` that with the prompt for an answer. None
    when the template writes earlier turns otherwise once an answer follows.
    """
    if not whole.startswith(before) or not prompt.startswith(before):
        return None
    # The generation prompt may go on where the template's own turn does not (an empty thought).
    header = os.path.commonprefix([whole[len(before) :], prompt[len(before) :]])
    return len(before) + len(header), len(whole)


def text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens of what a chat template wrote, which holds its special tokens already."""
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _provenance(
    path: Path,
    lines: JsonLines,
    tokenizer: PreTrainedTokenizerBase,
    enable_thinking: bool | None,
    per_domain: int | None,
) -> dict[str, Any]:
    return {
        "prompts": {"file": path.name, "sha256": lines.sha256, "per_domain": per_domain},
        "tokenizer_sha256": hash_tokenizer(tokenizer),
        "enable_thinking": enable_thinking,
    }
