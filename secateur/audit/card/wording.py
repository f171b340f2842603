"""What words alone give away: another model's template, a class, a date, a command, two names."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points

from secateur.audit.card.card import Card
from secateur.audit.card.sizes import file_rows
from secateur.audit.card.subject import Subject
from secateur.audit.finding import Finding
from secateur.audit.gguf.shape import Shape
from secateur.audit.gguf.template import foreign_markers
from secateur.families.schema import Family
from secateur.formats.gguf.naming import label_of

_CLASS = re.compile(r"(?<![\w.])(?!Auto)([A-Z]\w*For(?:CausalLM|ConditionalGeneration|\w+LM))\b")
_REMOTE = re.compile(r"trust[_-]remote[_-]code(?!\s*=\s*False)")
_COMMAND = re.compile(r"(?<![\w/.-])(huggingface-cli)\s+\w+")
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(
    rf"\b({_MONTHS})\s+(?:\d{{1,2}},?\s+)?(\d{{4}})\b|\b(\d{{4}})-(\d{{2}})(?:-\d{{2}})?\b"
)
_MADE = re.compile(r"\b(?:quanti[sz]|creat|convert|releas|upload|publish|prun|train)\w*", re.I)
_ENTRY = re.compile(r"@\w+\{[^@]*?\n\}", re.DOTALL)
_TITLE = re.compile(r"title\s*=\s*[{\"](.+?)[}\"],?\s*$", re.MULTILINE)
_YEAR = re.compile(r"year\s*=\s*[{\"]?(\d{4})")
_REPOSITORY = re.compile(
    r"(?<![\w/.-])([A-Za-z0-9][\w-]*)/([A-Za-z0-9][\w.-]*[A-Za-z0-9])(?![\w/])"
)
_SIZE = re.compile(r"([a-z])(\d+(?:\.\d+)?b)", re.IGNORECASE)
_GGUF = re.compile(r"[\w.+-]+\.gguf\b", re.IGNORECASE)


def wording_findings(subject: Subject) -> Iterator[Finding]:
    """All that follows from words alone."""
    card, shape = subject.card, subject.shape
    if shape.family is not None:
        yield from _markers(card, shape.family)
        yield from _dates(card, shape.family)
    yield from _classes(subject)
    yield from _remote_code(card, shape)
    yield from _commands(card)
    yield from _names(card)
    yield from _files(subject)


def _markers(card: Card, family: Family) -> Iterator[Finding]:
    """Turn markers of other models, and channels that the template does not have."""
    stated = family.published
    needed = " and ".join(stated.markers)
    for line in card.lines:
        for marker, whose in foreign_markers(line.text, family).items():
            yield Finding(
                "template", f"{marker} in: {line.text}", "wrong", needed,
                f"{marker} is of {whose}: this model reads it as text and never stops at it",
                line.number,
            )  # fmt: skip
        if not stated.channel:
            continue
        for found in re.finditer(re.escape(stated.channel) + r"(\w+)", line.text):
            known = found[1] in stated.channels
            yield Finding(
                "template", found[0], "holds" if known else "wrong",
                " or ".join(f"{stated.channel}{name}" for name in stated.channels),
                "the channels of its template", line.number,
            )  # fmt: skip


def _dates(card: Card, family: Family) -> Iterator[Finding]:
    """Dates of making that lie before the model family existed."""
    if family.published.released is None:
        return
    released = datetime.date.fromisoformat(family.published.released)
    name = family.title.partition("(")[0].strip()
    reason = f"{name} was released on {released}"
    for line in card.lines:
        for found in _DATE.finditer(line.text):
            if not _MADE.search(line.text[: found.start()]):
                continue
            year = int(found[2] or found[3])
            month = _MONTHS.split("|").index(found[1]) + 1 if found[1] else int(found[4])
            if (year, month) < (released.year, released.month):
                yield Finding("date", line.text, "wrong", f"{released} or later", reason,
                              line.number)  # fmt: skip
    for entry in _ENTRY.finditer(card.text):
        title, year_said = _TITLE.search(entry[0]), _YEAR.search(entry[0])
        if not (title and year_said and name.lower() in title[1].lower()):
            continue
        if int(year_said[1]) < released.year:
            at = card.text[: entry.start() + year_said.start()].count("\n") + 1
            yield Finding("date", f"year {year_said[1]}: {title[1]}", "wrong",
                          f"{released.year} or later", reason, at)  # fmt: skip


def _classes(subject: Subject) -> Iterator[Finding]:
    """The class that a card calls the architecture, against the config's."""
    config = subject.shape.config
    if config is None or not config.get("architectures"):
        return
    right = [str(name) for name in config["architectures"]]
    extra = subject.extra[0] / 1e9
    more = f"; the card counts {extra:.2f} B in addition to the text model" if extra else ""
    for line in subject.card.lines:
        for found in _CLASS.finditer(line.text):
            if "import" in line.text.split():
                continue
            same = found[1] in right
            yield Finding(
                "architecture", found[1], "holds" if same else "wrong", ", ".join(right),
                "config.json's architectures" + ("" if same else more), line.number,
            )  # fmt: skip


def _remote_code(card: Card, shape: Shape) -> Iterator[Finding]:
    if shape.config is None:
        return
    own_code = bool(shape.config.get("auto_map"))
    for line in card.lines:
        if found := _REMOTE.search(line.text):
            yield Finding(
                "command", found[0], "holds" if own_code else "wrong",
                "" if own_code else "leave it out",
                "config.json has an auto_map" if own_code else
                "config.json has no auto_map: transformers has this model itself, and the option "
                "only lets a repository run code", line.number,
            )  # fmt: skip


@cache
def _hub_commands() -> frozenset[str]:
    """The commands that the hub's own package installs here."""
    return frozenset(
        entry.name
        for entry in entry_points(group="console_scripts")
        if entry.value.startswith("huggingface_hub")
    )


def _commands(card: Card) -> Iterator[Finding]:
    known = _hub_commands()
    for line in card.lines:
        found = _COMMAND.search(line.text)
        if found and known and found[1] not in known:
            yield Finding(
                "command", found[0], "wrong", f"{' or '.join(sorted(known - {'tiny-agents'}))}",
                "current huggingface_hub installs no command of this name", line.number,
            )  # fmt: skip


def _names(card: Card) -> Iterator[Finding]:
    """Two names of one owner that differ in the letter before a size, as a4b and e4b."""
    first: dict[tuple[str, str], tuple[str, int]] = {}
    for line in card.lines:
        for owner, name in _REPOSITORY.findall(line.text):
            key = (owner, _SIZE.sub(r"?\2", name.lower()))
            seen = first.setdefault(key, (name, line.number))
            if seen[0].lower() != name.lower():
                yield Finding(
                    "name", f"{owner}/{name}", "wrong", f"{owner}/{seen[0]}",
                    f"line {seen[1]} calls it so, and both cannot be", line.number,
                )  # fmt: skip


def _files(subject: Subject) -> Iterator[Finding]:
    """Files of a list that the Hub cannot distinguish, or reads no quantization out of."""
    first: dict[str, str] = {}
    for row in file_rows(subject):
        label = label_of(row.file)
        if label is None:
            yield Finding(
                "file name", row.file, "wrong", f"a name that ends in a label for {row.label}",
                "the Hub and Ollama read no quantization out of it", row.line,
            )  # fmt: skip
        elif first.setdefault(label, row.file) != row.file:
            yield Finding(
                "file name", row.file, "wrong", f"a label other than {label}",
                f"the Hub reads {label} out of it, as out of {first[label]}", row.line,
            )  # fmt: skip
    listed = {row.file for row in file_rows(subject)}
    stated: set[str] = set()
    for line in subject.card.lines:
        for name in _GGUF.findall(line.text):
            if name in listed or name in stated or label_of(name) is not None:
                continue
            stated.add(name)
            if listed and any(name in other for other in listed):
                continue
            yield Finding(
                "file name", name, "wrong", "a name that ends in a label such as Q4_K_M",
                "the Hub and Ollama read no quantization out of it", line.number,
            )  # fmt: skip
