"""A record of any data set to one document: messages or plain text, as a field mapping says.

A mapping has one of three forms.

    {messages: FIELD, tools: FIELD}       a conversation as it stands
    {text: FIELD}                         plain text, no chat template
    {user: TURN, assistant: TURN, system: TURN, thought: TURN, tools: FIELD, tool_calls: FIELD}
                                          a conversation of one question and its answer

With both `messages` and `text`, each record must have one of them; that is the default. FIELD
is the name of a field; a string in it is read as JSON where a list is needed. TURN is the name
of a field, or a Jinja template over the record's fields: "{{ question }}\\n\\n{{ hint }}".
`thought` is what the model thinks before its answer, rendered whatever the chat template does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from secateur.corpus.json_lines import Record
from secateur.corpus.tools import parse_messages, parse_tool_calls, parse_tools
from secateur.errors import CorpusError

if TYPE_CHECKING:
    from jinja2 import Template

    from secateur.corpus.bounded_templates import BoundedEnvironment

FIELDS: Mapping[str, str] = {"messages": "messages", "tools": "tools", "text": "text"}

_TURNS = ("system", "user", "thought", "assistant")


FIELD_KEYS = {
    "messages": "the field that holds the conversation",
    "text": "the field that holds plain text",
    "system": "the system's turn",
    "user": "the question",
    "thought": "what the model thinks before its answer",
    "assistant": "the answer",
    "tools": "the field that holds the tools that may be called",
    "tool_calls": "the field that holds the calls that are the answer",
}
"""The keys of a field mapping, and what each names; turns may be templates."""


@dataclass(frozen=True, slots=True)
class Fields:
    """A checked field mapping; None: not mapped."""

    messages: str | None = None
    text: str | None = None
    system: str | None = None
    user: str | None = None
    thought: str | None = None
    assistant: str | None = None
    tools: str | None = None
    tool_calls: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields of a record that this mapping looks at, sorted."""
        names: set[str] = set()
        for member in fields(self):
            value = getattr(self, member.name)
            if value is not None:
                names |= _find_names(value) if member.name in _TURNS else {value}
        return tuple(sorted(names))


class Content(NamedTuple):
    """One document as read: `text`, or `messages` with `tools`.

    `thoughts`: index of a message -> the thought before it, to be rendered whatever the chat
    template does with thoughts.
    """

    text: str | None
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    thoughts: Mapping[int, str]


def parse_fields(given: Mapping[Any, Any], where: str) -> Fields:
    """Check a mapping. Raises CorpusError when a key is unknown, missing or does not fit."""
    for key, value in given.items():
        if key not in FIELD_KEYS:
            raise CorpusError(
                f"{where}: fields: unknown key {key!r:.60}; known: {', '.join(FIELD_KEYS)}"
            )
        if not isinstance(value, str) or not value:
            raise CorpusError(
                f"{where}: fields: {key} is {value!r:.60}, expected the name of a field"
            )
    mapping = Fields(**given)
    turns = [name for name in (*_TURNS, "tool_calls") if name in given]
    whole = [name for name in ("messages", "text") if name in given]
    if turns and whole:
        raise CorpusError(f"{where}: fields: {turns[0]} does not go with {whole[0]}")
    if turns and not (mapping.user and (mapping.assistant or mapping.tool_calls)):
        raise CorpusError(f"{where}: fields: give `user`, and `assistant` or `tool_calls`")
    if mapping.thought and mapping.tool_calls:
        raise CorpusError(f"{where}: fields: `thought` does not go with `tool_calls`")
    if not turns and not whole:
        raise CorpusError(f"{where}: fields: give `messages`, `text`, or `user` and `assistant`")
    if whole == ["text"] and mapping.tools:
        raise CorpusError(f"{where}: fields: `tools` goes with messages, not with text alone")
    for name in _TURNS:
        _check_turn(given.get(name, ""), f"{where}: fields: {name}")
    return mapping


def read_content(
    record: Record, mapping: Fields, tags: tuple[str, str] | None, where: str
) -> Content:
    """The document in a record. `tags` mark the thought at the start of an answer.

    Raises CorpusError when a field is missing or holds something else.
    """
    tools = parse_tools(record.get(mapping.tools) if mapping.tools else None, where)
    if mapping.user is not None:
        return _read_turns(record, mapping, tools, where)
    whole = [name for name in (mapping.messages, mapping.text) if name is not None]
    present = [name for name in whole if record.get(name) is not None]
    if len(present) != 1:
        found = " and ".join(present) or f"only {', '.join(record) or 'nothing'}"
        raise CorpusError(f"{where}: has {found}, expected {' or '.join(whole)}")
    value = record[present[0]]
    if present[0] == mapping.text:
        if not isinstance(value, str):
            raise CorpusError(f"{where}: {mapping.text} is a {type(value).__name__}, expected text")
        return Content(value, (), (), {})
    return _separate_thoughts(Content(None, parse_messages(value, where), tools, {}), tags, where)


def hash_content(content: Content, where: str) -> str:
    """SHA-256 of the canonical JSON of a document as it was read."""
    parts: dict[str, Any] = {"text": content.text}
    if content.text is None:
        parts = {"messages": content.messages, "tools": content.tools}
        if content.thoughts:
            parts["thoughts"] = {str(index): text for index, text in content.thoughts.items()}
    try:
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}: half of a surrogate pair, which is not a character") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: not expressible as JSON: {error}") from error


def _read_turns(
    record: Record, mapping: Fields, tools: Sequence[Mapping[str, Any]], where: str
) -> Content:
    messages: list[dict[str, Any]] = []
    if mapping.system is not None:
        messages.append({"role": "system", "content": _fill_turn(record, mapping.system, where)})
    assert mapping.user is not None  # the caller's case
    messages.append({"role": "user", "content": _fill_turn(record, mapping.user, where)})
    answer = "" if mapping.assistant is None else _fill_turn(record, mapping.assistant, where)
    messages.append({"role": "assistant", "content": answer})
    if mapping.tool_calls is not None:
        messages[-1]["tool_calls"] = parse_tool_calls(
            _get_field(record, mapping.tool_calls, where), where
        )
    thoughts = {}
    if mapping.thought is not None:
        thoughts = {len(messages) - 1: _fill_turn(record, mapping.thought, where).strip()}
    return Content(None, messages, tools, thoughts)


def _separate_thoughts(content: Content, tags: tuple[str, str] | None, where: str) -> Content:
    """Move the thought that stands between `tags` at the start of an answer to `thoughts`."""
    if tags is None:
        return content
    opening, closing = tags
    messages = list(content.messages)
    thoughts: dict[int, str] = {}
    for index, message in enumerate(messages):
        text = message.get("content")
        if message["role"] != "assistant" or not isinstance(text, str):
            continue
        if not text.lstrip().startswith(opening):
            continue
        thought, closed, answer = text.lstrip().removeprefix(opening).partition(closing)
        if not closed:
            raise CorpusError(f"{where}: messages[{index}] opens with {opening}, never {closing}")
        if message.get("tool_calls"):
            raise CorpusError(f"{where}: messages[{index}] has a thought and tool_calls")
        messages[index] = {**message, "content": answer.strip()}
        thoughts[index] = thought.strip()
    return content._replace(messages=messages, thoughts=thoughts)


def _fill_turn(record: Record, turn: str, where: str) -> str:
    if not _is_template(turn):
        value = _get_field(record, turn, where)
        if not isinstance(value, str):
            raise CorpusError(f"{where}: {turn} is a {type(value).__name__}, expected text")
        return value
    from jinja2 import TemplateError

    try:
        return _compile(turn).render(record)
    except TemplateError as error:
        raise CorpusError(f"{where}: the template {turn!r:.60}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise CorpusError(f"{where}: the template {turn!r:.60} failed: {error}") from error


def _get_field(record: Record, name: str, where: str) -> object:
    value = record.get(name)
    if value is None:
        raise CorpusError(f"{where}: no field {name!r}, only {', '.join(record) or 'nothing'}")
    return value


def _is_template(turn: str) -> bool:
    return "{{" in turn or "{%" in turn


def _check_turn(turn: str, where: str) -> None:
    if _is_template(turn):
        from jinja2 import TemplateError

        try:
            _find_names(turn)
        except TemplateError as error:
            raise CorpusError(f"{where}: not a template: {error}") from error


@cache
def _jinja() -> BoundedEnvironment:
    """Imported when a mix has a template: plans and help pages read mixes, and have none."""
    from jinja2 import StrictUndefined

    from secateur.corpus.bounded_templates import BoundedEnvironment

    return BoundedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


@cache
def _compile(turn: str) -> Template:
    return _jinja().from_string(turn)


def _find_names(turn: str) -> set[str]:
    if not _is_template(turn):
        return {turn}
    from jinja2 import meta

    return set(meta.find_undeclared_variables(_jinja().parse(turn)))
