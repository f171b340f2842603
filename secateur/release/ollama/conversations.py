"""Conversations on which two chat templates are compared, in the forms that their readers want.

The three forms of one conversation: what a checkpoint's Jinja template is given (`for_jinja`),
what an OpenAI-compatible server is given (the messages and tools themselves), and what Ollama
hands to a Go template (`for_ollama`; its template/template.go, as of August 2026).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.release.ollama.go_template.functions import Struct

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages and tools in OpenAI's form, before the model's next turn.

    `thinking` is None where nothing is said of it. `needs` names what a template must be able to
    do for it: "system", "thinking", "tools".
    """

    name: str
    messages: tuple[Message, ...]
    tools: tuple[Message, ...] = ()
    thinking: bool | None = None

    @property
    def needs(self) -> frozenset[str]:
        found = {"system"} if self.messages[0]["role"] == "system" else set()
        if self.thinking:
            found.add("thinking")
        if self.tools or any(message["role"] == "tool" for message in self.messages):
            found.add("tools")
        return frozenset(found)


def conversations(told: bool = True) -> tuple[Conversation, ...]:
    """What templates are compared on: with and without a system text, one turn and several, text
    that looks like a template, tools declared, called, answered, with and without thinking.

    Where the template is not `told` whether to think, nothing is said of it.
    """
    system = _say("system", "Be short; say 'please' \"twice\".")
    ask, again = _say("user", "What is 12 + 7?"), _say("user", "And {{ .Twice }}?\n\n- é 语 🙂")
    answer = _say("assistant", "It is 19.\nSure.")
    looked = (_say("user", "Rain in Oslo?"), _calls("c1", "weather", _ARGUMENTS))
    result = _result("c1", "weather", "cloudy")
    twice = _both(looked[1], _calls("c2", "book", {"seats": 2, "window": True}))
    plain = {
        "one turn": (ask,),
        "a system text": (system, ask),
        "several turns": (ask, answer, again),
        "a system text and several turns": (system, ask, answer, again, answer, ask),
    }
    tools = {
        "tools declared": (ask,),
        "tools and a system text": (system, ask),
        "a tool's result": (*looked, result),
        "two calls at once": (looked[0], twice, result, _result("c2", "book", "no seat")),
        "a thought before a call": (looked[0], {**looked[1], "reasoning_content": "Hm."}, result),
        "call after call": (*looked, result, _calls("c2", "book", {}), _result("c2", "book", "ok")),
        "an answer after a tool's result": (*looked, result, answer, again),
    }
    found = []
    for thinking in (False, True) if told else (None,):
        word = ", thinking" if thinking else ""
        found += [Conversation(n + word, turns, (), thinking) for n, turns in plain.items()]
        found += [Conversation(n + word, turns, _TOOLS, thinking) for n, turns in tools.items()]
    return tuple(found)


def for_jinja(conversation: Conversation, template: str) -> list[dict[str, Any]]:
    """The messages for a checkpoint's template.

    A template that reads `tool_responses` and knows no tool_call_id wants the results of tools in
    the message that asked for them, and what the model said next as that message's content, as
    llama.cpp gives them to it (common/chat.cpp, as in xllamacpp 2026.10).
    """
    messages = [dict(message) for message in conversation.messages]
    if "tool_responses" not in template or "tool_call_id" in template:
        return messages
    folded: list[dict[str, Any]] = []
    for message in messages:
        last = folded[-1] if folded else {}
        if message["role"] == "tool":
            result = {"name": message["name"], "response": message["content"]}
            last.setdefault("tool_responses", []).append(result)
        elif "tool_responses" in last and message["role"] == "assistant" and (
            not message.get("tool_calls")
        ):  # fmt: skip
            last["content"] = message["content"]
        else:
            folded.append(message)
    return folded


def for_ollama(conversation: Conversation) -> dict[str, Any]:
    """The data that Ollama executes a Go template with.

    Messages of one role that follow each other are joined, system texts are also given together,
    and the template sees structs with fixed fields.
    """
    joined: list[dict[str, Any]] = []
    for message in conversation.messages:
        if joined and joined[-1]["role"] == message["role"] != "tool":
            joined[-1]["content"] += "\n\n" + message["content"]
        else:
            joined.append(dict(message))
    texts = [m["content"] for m in conversation.messages if m["role"] == "system"]
    return {
        "System": "\n\n".join(texts),
        "Messages": [_message(message) for message in joined],
        "Tools": [_tool(tool["function"]) for tool in conversation.tools],
        "Response": "",
        "Think": bool(conversation.thinking),
        "ThinkLevel": "",
        "IsThinkSet": conversation.thinking is not None,
    }


def _message(message: Message) -> Struct:
    calls = [
        Struct(
            {
                "ID": call["id"],
                "Function": Struct(
                    {
                        "Index": 0,
                        "Name": call["function"]["name"],
                        "Arguments": call["function"]["arguments"],
                    }
                ),
            }
        )
        for call in message.get("tool_calls", ())
    ]
    return Struct(
        {
            "Role": message["role"],
            "Content": message["content"],
            "Thinking": message.get("reasoning_content", ""),
            "Images": [],
            "ToolCalls": calls,
            "ToolName": message.get("name", ""),
            "ToolCallID": message.get("tool_call_id", ""),
        }
    )


def _tool(function: Message) -> Struct:
    parameters = function["parameters"]
    properties = {name: _property(one) for name, one in parameters["properties"].items()}
    return Struct(
        {
            "Type": "function",
            "Items": None,
            "Function": Struct(
                {
                    "Name": function["name"],
                    "Description": function["description"],
                    "Parameters": Struct(
                        {
                            "Type": parameters["type"],
                            "Defs": None,
                            "Items": None,
                            "Required": list(parameters.get("required", ())),
                            "Properties": properties,
                        }
                    ),
                }
            ),
        }
    )


def _property(schema: Message) -> Struct:
    nested = schema.get("properties")
    inner = {name: _property(one) for name, one in nested.items()} if nested else {}
    return Struct(
        {
            "AnyOf": [],
            "Type": Struct({}, schema["type"]),
            "Items": schema.get("items"),
            "Description": schema.get("description", ""),
            "Enum": list(schema.get("enum", ())),
            "Properties": Struct({"ToMap": inner}) if nested else None,
            "Required": list(schema.get("required", ())),
        }
    )


def _say(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _calls(number: str, name: str, arguments: Mapping[str, Any]) -> Message:
    function = {"name": name, "arguments": dict(arguments)}
    call = {"id": number, "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _both(first: Message, second: Message) -> Message:
    return {**first, "tool_calls": [*first["tool_calls"], *second["tool_calls"]]}


def _result(number: str, name: str, text: str) -> Message:
    return {"role": "tool", "tool_call_id": number, "name": name, "content": text}


def _function(
    name: str, description: str, properties: Mapping[str, Any], required: Sequence[str] = ()
) -> Message:
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


_ARGUMENTS = {"city": "Oslo", "days": 3, "where": {"lat": 59.91, "tags": ["a", "b"]}, "fine": False}
_TOOLS = (
    _function(
        "weather",
        "Weather of a city",
        {
            "city": {"type": "string", "description": "Its \"name\" & land"},
            "days": {"type": "integer"},
            "unit": {"type": "string", "description": "of heat", "enum": ["C", "F"]},
            "hours": {"type": "array", "description": "which", "items": {"type": "number"}},
            "where": {
                "type": "object",
                "description": "the place",
                "properties": {"lat": {"type": "number", "description": "north"}},
                "required": ["lat"],
            },
        },
        ("city", "days"),
    ),
    _function("book", "Books seats", {"seats": {"type": "integer", "description": "how many"},
                                      "window": {"type": "boolean", "description": "wished"}}),
)  # fmt: skip
