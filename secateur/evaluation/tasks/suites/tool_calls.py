"""Tool calling: is the right tool called, with the right arguments, and none where none fits?

An answer is right when its calls are exactly those expected: name, every argument and no other,
of the declared JSON type. Text around the calls does not count.

    single     one tool is declared and asked for
    choice     three are declared, one is asked for
    parallel   three are declared, two are asked for in one message
    none       three are declared, none of them can do what is asked
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from secateur.evaluation.tasks.suites.base import (
    Answer,
    Call,
    Draft,
    Item,
    Score,
    ask,
    draw_items,
)
from secateur.evaluation.tasks.suites.tables import gemmule_tables

DECLARED = 3
_DATA = Path(__file__).parent / "data" / "tools.yaml"
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool, as data/tools.yaml has it; parameters are {name: (type, description, values)}."""

    name: str
    about: str
    parameters: Mapping[str, tuple[str, str, tuple[Any, ...]]]
    asks: tuple[str, ...]
    gemmule: bool

    def declare(self) -> dict[str, Any]:
        """The declaration, as OpenAI's API takes it."""
        properties = {
            name: {"type": kind, "description": about}
            for name, (kind, about, _) in self.parameters.items()
        }
        parameters = {"type": "object", "properties": properties, "required": list(self.parameters)}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.about, "parameters": parameters},
        }

    def draw(self, rng: random.Random) -> tuple[str, dict[str, Any]]:
        """A question, and the arguments that it asks for, no two of them the same."""
        arguments: dict[str, Any] = {}
        for name, (_, _, values) in self.parameters.items():
            arguments[name] = rng.choice([v for v in values if v not in arguments.values()])
        return rng.choice(self.asks).format(**arguments), arguments


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """Calls of tools of our own; with `gemmule` only of those that gemmule knows."""

    name: str
    title: str
    kinds: tuple[str, ...]
    gemmule: bool = False
    version: int = 1

    def items(self, seed: int, count: int) -> tuple[Item, ...]:
        return draw_items(self, seed, count, self._draw)

    def _draw(self, rng: random.Random) -> Draft:
        kind = rng.choice(self.kinds)
        tools = [tool for tool in read_tools() if tool.gemmule or not self.gemmule]
        count = {"single": 1, "none": DECLARED + 1}.get(kind, DECLARED)
        chosen = rng.sample(tools, count)
        wanted = chosen[: {"parallel": 2}.get(kind, 1)]
        declared = chosen[1:] if kind == "none" else rng.sample(chosen, count)
        asked = [tool.draw(rng) for tool in wanted]
        calls = [
            {"name": tool.name, "arguments": arguments}
            for tool, (_, arguments) in zip(wanted, asked, strict=True)
        ]
        question = " ".join(question for question, _ in asked)
        return Draft(
            kind,
            ask(question),
            [] if kind == "none" else calls,
            tuple(tool.declare() for tool in declared),
        )

    def score(self, item: Item, answer: Answer) -> Score:
        if not answer.calls and not answer.content.strip():
            return Score(0.0, None)
        types = {
            tool["function"]["name"]: {
                name: entry["type"]
                for name, entry in tool["function"]["parameters"]["properties"].items()
            }
            for tool in item.tools
        }
        left = list(item.expected)
        right = len(answer.calls) == len(left)
        for call in answer.calls:
            match = next((one for one in left if _same(one, call, types)), None)
            if match is None:
                right = False
            else:
                left.remove(match)
        return Score(float(right and not left), _describe(answer.calls))


def _same(expected: Mapping[str, Any], call: Call, types: Mapping[str, Mapping[str, str]]) -> bool:
    wanted = expected["arguments"]
    if call.name != expected["name"] or call.arguments is None:
        return False
    if call.arguments.keys() != wanted.keys():
        return False
    kinds = types[call.name]
    return all(_equal(wanted[name], call.arguments[name], kinds[name]) for name in wanted)


def _equal(wanted: Any, given: Any, kind: str) -> bool:
    """Equal and of the declared type: 5 is no string, "5" no number, 5.0 is a number."""
    if isinstance(given, bool) or not isinstance(given, _TYPES[kind]):
        return False
    if isinstance(wanted, str) and isinstance(given, str):
        return " ".join(given.split()).casefold() == wanted.casefold()
    return bool(given == wanted)


def _describe(calls: Sequence[Call]) -> str:
    if not calls:
        return "no call"
    return "; ".join(
        f"{call.name} {json.dumps(call.arguments, sort_keys=True, ensure_ascii=False)}"
        for call in calls
    )


@cache
def read_tools() -> tuple[Tool, ...]:
    """The tools of data/tools.yaml."""
    tables = gemmule_tables()
    named = {name: getattr(tables, name) for name in ("cities", "names", "things", "words")}

    def values(given: Any) -> tuple[Any, ...]:
        if isinstance(given, str):
            return tuple(named[given])
        if isinstance(given, dict):
            return tuple(range(given["from"], given["to"] + 1))
        return tuple(given)

    return tuple(
        Tool(
            entry["name"],
            entry["about"],
            {
                name: (kind, about, values(given))
                for name, (kind, about, given) in entry["parameters"].items()
            },
            tuple(entry["asks"]),
            entry.get("gemmule", False),
        )
        for entry in yaml.safe_load(_DATA.read_text("utf-8"))
    )


SUITES = (
    ToolCalls(
        "tool-calls",
        "tool calls: one or two of several declared tools, or none that fits",
        ("single", "choice", "parallel", "none"),
    ),
    ToolCalls(
        "gemmule-tools",
        "gemmule's own tools: one of one or three declared",
        ("single", "choice"),
        gemmule=True,
    ),
)
