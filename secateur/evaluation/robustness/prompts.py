"""Prompts that loops are looked for on: composed from a plan, or a file of conversations.

A plan is data (`plans/*.yaml`, or a user's own file): templates by domain, whose slots are filled
at random. Real prompts of one's own use say most; they are a JSONL file of conversations, in the
form that prompts for measuring have (`tokens/prompts.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.corpus.json_lines import read_json_lines
from secateur.corpus.tools import parse_messages, parse_tools
from secateur.errors import CorpusError
from secateur.evaluation.robustness.plan import compose, find_plan, is_plan


@dataclass(frozen=True, slots=True)
class LoopPrompt:
    """What is asked. `copies`: how often the prompt asks for something to be repeated."""

    id: str
    domain: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    copies: int = 1


@dataclass(frozen=True)
class LoopPrompts:
    """Prompts in order, domain by domain, and where they come from (JSON-able)."""

    prompts: tuple[LoopPrompt, ...]
    provenance: Mapping[str, Any] = field(repr=False)


def loop_prompts(source: str, count: int, seed: int) -> LoopPrompts:
    """`count` prompts, as equally of every domain as there are.

    `source` is the name of a plan, a plan's YAML file, or a JSONL file of conversations, of which
    the first of each domain are taken. Raises InputError for what is neither.
    """
    if not is_plan(source):
        return _from_file(Path(source), count)
    plan = find_plan(source)
    prompts = [
        LoopPrompt(one.id, one.domain, ({"role": "user", "content": one.text},), (), one.copies)
        for one in compose(plan, count, seed)
    ]
    facts = {"plan": plan.name, "sha256": plan.sha256, "seed": seed, "prompts": len(prompts)}
    return LoopPrompts(tuple(prompts), facts)


def _from_file(path: Path, count: int) -> LoopPrompts:
    lines = read_json_lines(path)
    domains: dict[str, list[LoopPrompt]] = {}
    for record, line in zip(lines.records, lines.lines, strict=True):
        prompt = _prompt(record, line, f"{path}:{line}")
        if prompt is None:
            continue
        others = domains.setdefault(prompt.domain, [])
        if any(one.id == prompt.id for one in others):
            raise CorpusError(
                f"{path}:{line}: another conversation of {prompt.domain} has the id {prompt.id!r}: "
                "make ids unique"
            )
        others.append(prompt)
    if not domains:
        raise CorpusError(f"{path} holds no conversations (lines with messages)")
    taken = share({domain: len(found) for domain, found in domains.items()}, count)
    prompts = [one for domain, found in domains.items() for one in found[: taken[domain]]]
    facts = {"file": path.name, "sha256": lines.sha256, "prompts": len(prompts)}
    return LoopPrompts(tuple(prompts), facts)


def share(available: Mapping[str, int], count: int) -> dict[str, int]:
    """How many to take of each domain: equally many, more of some where others have too few."""
    taken = dict.fromkeys(available, 0)
    while count > 0 and (open_ := [name for name in taken if taken[name] < available[name]]):
        for name in open_[:count]:
            taken[name] += 1
        count -= min(count, len(open_))
    return taken


def _prompt(record: Mapping[str, Any], line: int, where: str) -> LoopPrompt | None:
    """The conversation of a line up to where the model has to answer; None for plain text."""
    if "messages" not in record:
        if "text" in record:
            return None
        raise CorpusError(f"{where}: expected messages, got {', '.join(sorted(record)[:8])}")
    messages = parse_messages(record["messages"], where)
    while messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise CorpusError(f"{where}: nothing is asked before the assistant's last messages")
    tools = parse_tools(record.get("tools"), where)
    domain = str(record.get("domain", "all"))
    return LoopPrompt(str(record.get("id", line)), domain, tuple(messages), tuple(tools))
