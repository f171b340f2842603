"""The sizes a card gives: of files, of checkpoints, of what pruning saves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from secateur.audit.card.card import Line, Row
from secateur.audit.card.quantity import Quantity, bytes_in, other_unit, quantities
from secateur.audit.card.subject import Subject, sizes_in
from secateur.audit.finding import Finding
from secateur.audit.gguf.making import (
    Made,
    Way,
    gguf_recipes,
    labels,
    make,
    stock_ways,
    ways_of_label,
)
from secateur.errors import PlanError
from secateur.formats.ggml.types import TYPES
from secateur.formats.gguf.naming import label_of
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.recipe import LARGE
from secateur.system.sizes import show_in_both_units

HEADER_SLACK = 0.03
"""By how much a header may differ from ours: another template, name or imatrix path."""

MOST_HEADER = 192
"""Bytes of a tensor's name, type, shape and offsets in the header of a safetensors file at most."""

_FILE = re.compile(r"[\w.+-]+\.gguf\b", re.IGNORECASE)
_NAMED = re.compile(r"\b(B?F16)\W*$", re.IGNORECASE)
_EXTRA_NAMED = re.compile(r"\(?\bB?F16:[\s|]*~?[\d.,]+\s?[KMGT]i?B\)?", re.IGNORECASE)
_CHECKPOINT = re.compile(r"\bsafetensors\b|\bdisk size\b", re.IGNORECASE)
_FEW_BITS = re.compile(r"\bmlx\b|\bmixed\b|\baffine\b|\b[2-8][- ]bits?\b", re.IGNORECASE)
_MEMORY = re.compile(r"\bv?ram\b|memory|\bgpu\b|\brtx\b|buffer|\bm\d\b", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What a size may mean: words, and the bounds in bytes."""

    what: str
    low: float
    high: float


@dataclass(frozen=True)
class FileRow:
    """A file in a card: its name, its quantization, its size, and the words around."""

    line: int
    file: str
    label: str
    size: Quantity
    text: str
    taken: frozenset[int]


def judge(said: Quantity, readings: Iterable[Reading]) -> tuple[str, str, str]:
    """(verdict, what it must be, reason) of a size that may mean one of the readings."""
    readings = list(readings)
    for unit, verdict in ((said.unit, "holds"), (other_unit(said.unit), "other unit")):
        scale = bytes_in(unit)
        for reading in readings:
            if said.fits(reading.low / scale, reading.high / scale):
                must = f"{(reading.low + reading.high) / 2 / scale:.2f} {unit}"
                return verdict, must, reading.what
    best = readings[0]
    return "wrong", show_in_both_units((best.low + best.high) / 2), best.what


def file_rows(subject: Subject) -> Iterator[FileRow]:
    """Every file that a card lists with its quantization or size."""
    lines = subject.card.lines
    for at, line in enumerate(lines):
        names = _FILE.findall(line.text)
        # A row of a table is about its first file, and may name another that does as well.
        most = 2 if line.text.lstrip().startswith("|") else 1
        if not 1 <= len(names) <= most:
            continue
        if line.text.lstrip().startswith(("-", "./", "llama", "wget", "FROM")):
            continue
        rest = line.text.partition(names[0])[2]
        if len(names) > 1:
            rest = rest.partition(names[1])[0]
        following = lines[at + 1] if at + 1 < len(lines) else None
        joined = line.text.endswith("|") and following and not _FILE.search(following.text)
        if joined and following:
            rest += f" {following.text}"
        words = re.split(r"[\s|,()]+", rest)
        known = {label.upper(): label for label in labels()}
        label = next((known[word.upper()] for word in words if word.upper() in known), None)
        label = label or known.get(label_of(names[0]) or "")
        size = next(iter(sizes_in(rest)), None)
        if label is not None and size is not None:
            taken = {line.number, following.number} if following and joined else {line.number}
            yield FileRow(line.number, names[0], label, size, rest.strip(" |"), frozenset(taken))


def ways_sizes(subject: Subject, label: str, experts: int) -> list[Made]:
    """What the ways of a label make; ways that llama.cpp would refuse are left out."""
    if (label, experts) not in subject.memo:
        ways = ways_of_label(label, subject.shape, subject.importance)
        subject.memo[label, experts] = made_of(subject, ways, experts)
    found: list[Made] = subject.memo[label, experts]
    return found


def made_of(subject: Subject, ways: Iterable[Way], experts: int) -> list[Made]:
    """What the ways make, without those that llama.cpp would refuse."""
    found = []
    for way in ways:
        try:
            made = make(subject.shape, experts, way)
        except PlanError:
            continue
        if way.request.has_imatrix or not any(c.needs_importance for c in made.choices):
            found.append(made)
    return found


def readings_of(made: Iterable[Made]) -> list[Reading]:
    """A file as a whole, and its tensors alone as llama-quantize prints them."""
    whole, data = [], []
    for one in made:
        words = one.way.sentence()
        slack = HEADER_SLACK * (one.size.low - one.data)
        whole.append(Reading(words, one.size.low - slack, one.size.high + slack))
        data.append(Reading(f"{words}, tensors alone", one.data, one.data))
    return whole + data


def reproducing(subject: Subject, said: Quantity, experts: int) -> Made | None:
    """The likeliest way of a file type or recipe that makes just this size, in either unit."""
    names = (*FILE_TYPES, *LARGE, *(recipe.name for recipe in gguf_recipes()))
    every = chain(
        chain.from_iterable(ways_sizes(subject, name, experts) for name in names),
        with_ends(subject, "Q8_0", experts),
    )
    return next((made for made in every if judge(said, readings_of([made]))[0] != "wrong"), None)


def with_ends(subject: Subject, ends: str, experts: int) -> Iterator[Made]:
    """Every file type with another type of embedding and output."""
    for name, row in FILE_TYPES.items():
        key = f"{name} with ends {ends}"
        if (key, experts) not in subject.memo:
            ways = stock_ways(name, (ends,), (ends,)) if TYPES[row.default].quantized else ()
            subject.memo[key, experts] = made_of(subject, ways, experts)
        yield from subject.memo[key, experts]


def size_findings(subject: Subject) -> Iterator[Finding]:
    """All sizes of a card."""
    taken: set[int] = set()
    for row in file_rows(subject):
        taken |= row.taken
        yield _file(subject, row)
    for table in subject.card.all_rows:
        if table.line not in taken:
            yield from _row(subject, table)
    for line in subject.card.sentences():
        if line.number not in taken:
            yield from _saved(subject, line)
    yield from _compressed(subject)


def _file(subject: Subject, row: FileRow) -> Finding:
    said = f"{row.file} {row.label} {row.size.said}"
    if subject.file is not None and row.file == subject.name:
        made = [subject.file]
    elif row.label.upper() in ("BF16", "F16", "F32"):
        made = ways_sizes(subject, row.label, subject.experts)[:1]
    else:
        made = ways_sizes(subject, row.label, subject.experts)
    if not made:
        return Finding(
            "file size", said, "unchecked", "", f"no recipe {row.label} is known", row.line
        )
    verdict, must, what = judge(row.size, readings_of(made))
    reason = what
    if verdict == "wrong":
        other = reproducing(subject, row.size, subject.experts)
        if other is not None:
            reason = f"{what}; the size is that of {other.way.sentence()}"
        else:
            low, high = subject.parameters(subject.experts)
            bits = made[0].data * 8 / subject.shape.parameters(subject.experts)
            whole = Reading("", low * bits / 8, high * bits / 8)
            if judge(row.size, [whole])[0] != "wrong":
                reason = f"{what}; the size is that of all parameters, towers included"
    return Finding("file size", said, verdict, must, reason, row.line)  # type: ignore[arg-type]


def _row(subject: Subject, row: Row) -> Iterator[Finding]:
    """A row of sizes by column: of checkpoints in 16 bits, or of one quantization."""
    if not sizes_in(row.text) or _MEMORY.search(row.text):
        return
    if row.block in subject.columns:
        sizes = [(q, n, f"{row.label} {_format(subject, row)}") for q, n in subject.counted(row)]
    else:
        # What stands right before a size names it, as in "~11 GB (F16: ~37 GB)".
        near = [_NAMED.search(row.text[: q.start]) for q in sizes_in(row.text)]
        sizes = [
            (q, subject.experts, found[1] if found else _EXTRA_NAMED.sub("", row.text))
            for q, found in zip(sizes_in(row.text), near, strict=True)
        ]
    for value, experts, words in sizes:
        readings = _meant(subject, words, experts) if value.is_size else []
        if readings:
            verdict, must, what = judge(value, readings)
            said = f"{row.label}: {value.said} with {experts} experts"
            yield Finding("size", said, verdict, must, what, row.line)  # type: ignore[arg-type]
    yield from _change(subject, row)


def _format(subject: Subject, row: Row) -> str:
    """What a row of the same table says of the format of all its columns."""
    cells = {
        cell for other in subject.card.block_of(row) if other.label == "Format"
        for cell in other.cells
    }  # fmt: skip
    return cells.pop() if len(cells) == 1 else ""


def _meant(subject: Subject, words: str, experts: int) -> list[Reading]:
    """What a size with these words may be of; nothing when they do not say."""
    label = label_of(words)
    whole = label is None and _CHECKPOINT.search(words) and not _FEW_BITS.search(words)
    if label in ("F16", "BF16", "F32") or whole:
        files = readings_of(ways_sizes(subject, "F16", experts))
        return [*checkpoint_readings(subject, experts), *files]
    if subject.anchors and (label or re.search(r"\bsize\b", words, re.IGNORECASE)):
        sizes = [quantity.value * bytes_in(quantity.unit) for quantity in subject.anchors]
        return [Reading(f"the card's own {a.said}", n, n) for a, n in zip(
            subject.anchors, sizes, strict=True)]  # fmt: skip
    return readings_of(ways_sizes(subject, label, experts)) if label else []


def checkpoint_readings(subject: Subject, experts: int) -> list[Reading]:
    """A checkpoint in 16 bits: with what comes in addition to the text model, and without."""
    low, high = (2 * bound for bound in subject.parameters(experts))
    text = 2.0 * subject.shape.parameters(experts)
    header = MOST_HEADER * len(subject.shape.tensors)
    readings = [Reading("all parameters in 16 bits", low, high + header)]
    if (low, high) != (text, text):
        readings.append(Reading("the text model in 16 bits", text, text + header))
    return readings


def _change(subject: Subject, row: Row) -> Iterator[Finding]:
    """The change that a row of checkpoint sizes states, against that of the parameters."""
    columns = subject.columns.get(row.block, ())
    cells = [v for v in row.values if v is not None]
    if len(cells) <= len(columns) or len(columns) < 2 or cells[-1].unit != "%":
        return
    if label_of(row.label) not in (None, "BF16", "F16"):
        return
    yield _share(subject, cells[-1], columns[0], columns[-1], f"{row.label}: {cells[-1].said}",
                 row.line)  # fmt: skip


_SMALLER = re.compile(
    r"(~?\d+(?:\.\d+)?\s?%)\s+(?:smaller\b|(?:reduction|less|decrease)\b(?=.*"
    r"(?:disk|size|memory|footprint)))",
    re.IGNORECASE,
)


def _saved(subject: Subject, line: Line) -> Iterator[Finding]:
    """ "a 31% smaller model": what leaving out experts really saves."""
    for found in _SMALLER.finditer(line.text):
        if subject.experts == subject.base or re.search("expert", found[0], re.IGNORECASE):
            continue
        if label_of(line.text) or line.text.lower().startswith("compression"):
            continue
        percent = next(iter(quantities(found[1])))
        yield _share(subject, percent, subject.base, subject.experts, found[0], line.number)


def _share(
    subject: Subject, said: Quantity, before: int, after: int, words: str, line: int
) -> Finding:
    """A stated change against that of the parameters; printed sizes may be rounded, so +-1."""
    pairs = [
        (subject.parameters(before, whole)[end], subject.parameters(after, whole)[end])
        for whole in (True, False)
        for end in (0, 1)
    ]
    shares = sorted(100 * (1 - b / a) for a, b in pairs)
    fits = shares[0] - 1 <= abs(said.value) <= shares[-1] + 1
    return Finding(
        "saving",
        words,
        "holds" if fits else "wrong",
        f"{shares[0]:.1f} to {shares[-1]:.1f} %",
        f"bytes in one type shrink as the parameters do, from {before} to {after} experts"
        + ("" if fits else "; sizes in GB and in GiB were compared"),
        line,
    )


def _compressed(subject: Subject) -> Iterator[Finding]:
    """Sizes in one paragraph of a float file and a quantized one, and the share between them."""
    for block in subject.card.blocks():
        pairs = [(line, q) for line in block for q in sizes_in(line.text)]
        words = [line for line in block if re.match(r"\W*compression", line.text, re.IGNORECASE)]
        if len(pairs) != 2 or len(words) != 1:
            continue
        share = next(iter(quantities(words[0].text)), None)
        first, second = (q.value * bytes_in(q.unit) for _, q in pairs)
        if share is None or share.unit != "%" or not first:
            continue
        must = 100 * (1 - second / first)
        yield Finding(
            "arithmetic",
            words[0].text,
            "holds" if share.fits(must, must) else "wrong",
            f"{must:.1f} %",
            f"1 - {pairs[1][1].said} / {pairs[0][1].said}",
            words[0].number,
        )
