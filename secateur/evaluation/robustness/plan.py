"""Plans of prompts: templates by domain, filled at random, the same for the same seed.

    title: five domains
    domains:
      coding:
        templates: ["Write a {language} function that {task}.", {text: "...", copies: 12}]
        slots: {language: [Rust, Go], task: ["sorts {input}"], input: [a file, a list]}
        lines: {notes: {count: 90, templates: ["{name} was there."]}}

`lines` are slots that hold many lines, each filled anew. `copies` says how often a template itself
asks for something to be repeated, which is then no loop.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from secateur.errors import CorpusError, RequestError
from secateur.system.settings import Settings, read_yaml

_FOLDER = Path(__file__).parent / "plans"
_SLOT = re.compile(r"\{(\w+)\}")
_TRIES = 200
"""Times that a prompt is composed anew because it was there already."""
_DEEPEST = 8
"""Slots in slots."""


class Template(NamedTuple):
    text: str
    copies: int = 1


@dataclass(frozen=True)
class Lines:
    """A slot of `count` lines."""

    count: int
    templates: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    name: str
    templates: tuple[Template, ...]
    slots: Mapping[str, tuple[str, ...]]
    lines: Mapping[str, Lines]


@dataclass(frozen=True)
class Plan:
    """Domains, and the SHA-256 of the file that they are from."""

    name: str
    title: str
    domains: tuple[Domain, ...]
    sha256: str


class Composed(NamedTuple):
    id: str
    domain: str
    text: str
    copies: int


def plan_names() -> tuple[str, ...]:
    """The plans that are shipped."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def is_plan(source: str) -> bool:
    """Whether a word names a plan, and not a file of conversations."""
    return source in plan_names() or Path(source).suffix != ".jsonl"


def find_plan(source: str) -> Plan:
    """A plan by name, or a YAML file of one. Raises InputError, with what there is."""
    path = _FOLDER / f"{source}.yaml" if source in plan_names() else Path(source)
    if not path.is_file():
        raise RequestError(
            f"there is no plan of prompts {source!r}: the plans are {', '.join(plan_names())}; "
            "a plan of your own is a YAML file, and prompts of your own are a .jsonl file"
        )
    top = Settings.of(read_yaml(path, CorpusError), str(path), ("title", "domains"), CorpusError)
    domains = tuple(
        _domain(str(name), content, f"{path}: {name}")
        for name, content in (top.pairs("domains") or {}).items()
    )
    if not domains:
        raise CorpusError(f"{path}: found no domains, expected at least one")
    title = top.text("title") or path.stem
    return Plan(path.stem, title, domains, hashlib.sha256(path.read_bytes()).hexdigest())


def compose(plan: Plan, count: int, seed: int) -> Iterator[Composed]:
    """`count` prompts, no two the same, as equally of every domain as can be.

    Raises CorpusError when a domain has not enough combinations.
    """
    for place, domain in enumerate(plan.domains):
        wanted = count // len(plan.domains) + (place < count % len(plan.domains))
        seen: set[str] = set()
        for number in range(wanted):
            chance = random.Random(f"{seed}/{domain.name}/{number}")
            # A template that has no new text any more leaves its turn to the next one.
            turns = (number + turn for turn in range(len(domain.templates)))
            templates = (domain.templates[turn % len(domain.templates)] for turn in turns)
            found = (_new_text(domain, template, chance, seen) for template in templates)
            prompt = next((one for one in found if one is not None), None)
            if prompt is None:
                raise CorpusError(
                    f"the plan {plan.name} has not {wanted} different prompts of {domain.name} "
                    f"(found {number}): add templates or slots, or ask for fewer prompts"
                )
            seen.add(prompt.text)
            yield Composed(f"{domain.name}-{number}", domain.name, prompt.text, prompt.copies)


def _new_text(
    domain: Domain, template: Template, chance: random.Random, seen: set[str]
) -> Template | None:
    """A template filled as nobody had it yet; None where that does not come about."""
    for _ in range(_TRIES):
        text = _fill(template.text, domain, chance)
        if text not in seen:
            return Template(text, template.copies)
    return None


def _fill(text: str, domain: Domain, chance: random.Random) -> str:
    """A template with its slots filled, those in slots too."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in domain.lines:
            lines = domain.lines[name]
            each = (
                _fill(chance.choice(lines.templates), domain, chance) for _ in range(lines.count)
            )
            return "\n".join(each)
        return _fill(chance.choice(domain.slots[name]), domain, chance)

    return _SLOT.sub(value, text)


def _domain(name: str, content: object, where: str) -> Domain:
    known = ("templates", "slots", "lines")
    settings = Settings.of(content, where, known, CorpusError)
    templates = tuple(_template(one, where) for one in settings.listing("templates") or ())
    slots = {
        str(slot): tuple(map(str, values if isinstance(values, list) else [values]))
        for slot, values in (settings.pairs("slots") or {}).items()
    }
    lines = {
        str(slot): _lines(value, f"{where}: {slot}")
        for slot, value in (settings.pairs("lines") or {}).items()
    }
    domain = Domain(name, templates, slots, lines)
    if not templates:
        raise CorpusError(f"{where}: found no templates, expected at least one")
    for text in (template.text for template in templates):
        _check_slots(text, domain, where)
    return domain


def _template(content: Any, where: str) -> Template:
    if isinstance(content, str):
        return Template(content)
    settings = Settings.of(content, where, ("text", "copies"), CorpusError)
    return Template(settings.text("text") or "", settings.whole("copies", 1) or 1)


def _lines(content: object, where: str) -> Lines:
    settings = Settings.of(content, where, ("count", "templates"), CorpusError)
    templates = tuple(map(str, settings.listing("templates") or ()))
    if not templates:
        raise CorpusError(f"{where}: found no templates, expected at least one")
    return Lines(settings.whole("count", 1) or 1, templates)


def _check_slots(text: str, domain: Domain, where: str, depth: int = 0) -> None:
    """Raise CorpusError for a slot that is not there, or that holds itself."""
    if depth > _DEEPEST:
        raise CorpusError(f"{where}: slots stand in one another without end in {text!r:.60}")
    for slot in _SLOT.findall(text):
        inner = domain.lines[slot].templates if slot in domain.lines else domain.slots.get(slot)
        if not inner:
            known = ", ".join([*domain.slots, *domain.lines]) or "none"
            raise CorpusError(f"{where}: no slot {slot!r} for {text!r:.60}; slots: {known}")
        for following in inner:
            _check_slots(following, domain, where, depth + 1)
