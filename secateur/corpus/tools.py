"""Messages, tools and tool calls in the one form that chat templates expect.

Data sets keep them as lists or as JSON in a string, with a tool's `function` wrapper or without
it, and with arguments as an object or as a string of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.errors import CorpusError

_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
}
"""Python's type names, which flat tool lists use, in the words of JSON schema."""


class ParsedArguments(dict[str, Any]):
    """The arguments of a tool call, from a string of JSON; `text` is that string as given."""

    text: str


def parse_messages(value: object, where: str) -> list[dict[str, Any]]:
    """A conversation; keys without a value are left out, content excepted.

    Content is text, or a list of `{"type": "text", "text": ...}`. Raises CorpusError when the
    conversation is empty or a message has no role or other content.
    """
    messages: list[dict[str, Any]] = []
    for index, message in enumerate(_parse_objects(value, "messages", where)):
        place = f"{where}: messages[{index}]"
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role:
            raise CorpusError(f"{place} has role {role!r:.40}, expected user, assistant, ...")
        if content is not None and not isinstance(content, str | list):
            raise CorpusError(f"{place} has a {type(content).__name__} as content, expected text")
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
                raise CorpusError(f"{place} has a part that is not text; only text can be used")
        kept = {key: item for key, item in message.items() if item is not None or key == "content"}
        if "tool_calls" in kept:
            kept["tool_calls"] = parse_tool_calls(kept["tool_calls"], place)
        messages.append(kept)
    if not messages:
        raise CorpusError(f"{where}: messages is empty")
    return messages


def parse_tools(value: object, where: str) -> list[dict[str, Any]]:
    """Tool declarations, each `{"type": "function", "function": {...}}`; none is fine."""
    if value is None or value == "":
        return []
    tools: list[dict[str, Any]] = []
    for index, tool in enumerate(_parse_objects(value, "tools", where)):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise CorpusError(f"{where}: tools[{index}] has no function with a name")
        if "function" in tool:
            tools.append(dict(tool))
        else:
            schema = _make_schema(tool.get("parameters") or {}, f"{where}: tools[{index}]")
            tools.append({"type": "function", "function": {**tool, "parameters": schema}})
    return tools


def parse_tool_calls(value: object, where: str) -> list[dict[str, Any]]:
    """Tool calls, each `{"type": "function", "function": {"name", "arguments"}}`.

    Arguments that are a string of a JSON object become that object (ParsedArguments); any other
    string is what the model wrote, and is kept.
    """
    calls: list[dict[str, Any]] = []
    for index, call in enumerate(_parse_objects(value, "tool_calls", where)):
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise CorpusError(f"{where}: tool_calls[{index}] has no function with a name")
        around = call if "function" in call else {"type": "function"}
        arguments = _parse_arguments(function.get("arguments"))
        calls.append({**around, "function": {**function, "arguments": arguments}})
    return calls


def _parse_objects(value: object, key: str, where: str) -> list[Mapping[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where}: {key} is text, but not JSON: {error}") from error
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise CorpusError(f"{where}: {key} is not a list of objects")
    return value


def _parse_arguments(value: object) -> object:
    if not isinstance(value, str):
        return {} if value is None else value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    if not isinstance(parsed, dict):
        return value
    result = ParsedArguments(parsed)
    result.text = value
    return result


def write_arguments(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with the arguments of their tool calls as text: as given, else as JSON."""

    def write(arguments: object) -> object:
        if isinstance(arguments, ParsedArguments):
            return arguments.text
        return (
            arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        )

    return [
        {
            **message,
            "tool_calls": [
                {**call, "function": {**one, "arguments": write(one.get("arguments"))}}
                for call in message["tool_calls"]
                for one in (call["function"],)
            ],
        }
        if message.get("tool_calls")
        else dict(message)
        for message in messages
    ]


def _make_schema(parameters: object, where: str) -> Mapping[str, Any]:
    """A tool's parameters as a JSON schema.

    They are one already, or `{name: {"type": "List[int], optional", "description", ...}}`.
    """
    if not isinstance(parameters, Mapping):
        raise CorpusError(f"{where} has a {type(parameters).__name__} as parameters")
    if isinstance(parameters.get("properties"), Mapping) and parameters.get("type") == "object":
        return parameters
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in parameters.items():
        if not isinstance(parameter, Mapping):
            raise CorpusError(f"{where}: its parameter {name!r} is not an object with a type")
        words = [word.strip() for word in str(parameter.get("type", "")).split(",")]
        python_type = words[0].split("[")[0].lower()
        properties[name] = {**parameter, "type": _JSON_TYPES.get(python_type, words[0])}
        if "optional" not in words:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}
