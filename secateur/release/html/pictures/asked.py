"""What was asked of the models: tasks, loops and speed, the original beside the artefacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from secateur.evaluation.measurement import POOLED, Measurement
from secateur.release.evidence import MAIN_NUMBERS, ORIGINAL, TITLES, Kind
from secateur.release.html.forest import Line, draw_forest
from secateur.release.html.picture import Picture, Table, describe_samples, show_interval
from secateur.release.html.subjects import Subject

MOST_LINES = 24
"""A picture of more shows all domains together, where that was counted."""


Entries = Mapping[str, Sequence[Measurement]]
"""{the label of who was asked: its numbers}; that of an original ends in `ORIGINAL_LABEL`."""

ORIGINAL_LABEL = "the original"


def draw_asked(kind: Kind, found: Entries) -> list[Picture]:
    """A picture for each number of that kind that says most; the first has the table of all."""
    table: Table | None = _table(found)
    pictures = []
    for name in MAIN_NUMBERS[kind]:
        if lines := _lines(name, found):
            pictures.append(_picture(kind, name, lines, table))
            table = None
    return pictures


def _picture(kind: Kind, name: str, lines: Sequence[Line], table: Table | None) -> Picture:
    unit, words, title = lines[0].entry.unit, name.replace("_", " "), MAIN_NUMBERS[kind][name]
    shown = "; ".join(
        f"{line.label}{f' on {line.group}' if line.group else ''} {show_interval(line.entry)}"
        for line in lines[:3]
    )
    no_change = 0.0 if name.endswith("_difference") else 1.0 if name.endswith("_ratio") else None
    return Picture(
        name=f"{kind}-{name.replace('_', '-')}",
        title=f"{TITLES[kind]}: {title}",
        label=f"{title.capitalize()}, {unit}: {shown}{'; and more' if len(lines) > 3 else ''}.",
        sample=f"{describe_samples(line.entry for line in lines)} a line",
        about=" ".join(_explain(lines, no_change)),
        spec=draw_forest(lines, f"{words} ({unit})", no_change=no_change),
        table=table or _table_of(lines),
    )


def _explain(lines: Sequence[Line], no_change: float | None) -> Iterator[str]:
    if any(line.is_original for line in lines):
        yield "The hollow point is the original."
    if any(line.entry.low is not None for line in lines):
        yield "Bars are 95 % intervals."
    else:
        yield "There are no intervals: these take more samples."
    if no_change is not None:
        yield "The dashed line is no difference from the original."


def entries_of(kind: Kind, subjects: Sequence[Subject]) -> dict[str, tuple[Measurement, ...]]:
    """{label: its numbers}, the original of each output first; the same original is told once."""
    found: dict[str, tuple[Measurement, ...]] = {}
    for one in subjects:
        evidence = one.results.evidence.get(kind)
        if evidence is None:
            continue
        original = evidence.of(ORIGINAL)
        if original is not None:
            label = f"{one.output} {ORIGINAL_LABEL}".strip()
            known = found.get(ORIGINAL_LABEL)
            if known is None or known == original.measurements:
                label = ORIGINAL_LABEL
            found.setdefault(label, original.measurements)
        artefact = evidence.of(one.artefact.name)
        if artefact is not None:
            found[one.label] = artefact.measurements
    return found


def _lines(name: str, found: Entries) -> list[Line]:
    """The lines of one number, by domain; the domain is no heading where there is one."""
    entries = [
        (label, entry)
        for label, measurements in found.items()
        for entry in measurements
        if entry.name == name
    ]
    domains = list(dict.fromkeys(entry.domain for _, entry in entries))
    if POOLED in domains:
        others = [domain for domain in domains if domain != POOLED]
        domains = [POOLED, *others] if len(entries) <= MOST_LINES else [POOLED]
    return [
        Line(_heading(domain, domains), label, entry, label.endswith(ORIGINAL_LABEL))
        for domain in domains
        for label, entry in entries
        if entry.domain == domain
    ]


def _heading(domain: str, domains: Sequence[str]) -> str:
    if len(domains) == 1:
        return "" if domain == POOLED else domain
    return "all together" if domain == POOLED else domain


def _table(found: Entries) -> Table:
    lines = [
        Line(entry.domain, label, entry)
        for label, measurements in found.items()
        for entry in measurements
    ]
    return _table_of(lines, with_name=True)


def _table_of(lines: Sequence[Line], *, with_name: bool = False) -> Table:
    rows = tuple(
        (
            line.label,
            line.group or line.entry.domain,
            *((line.entry.name.replace("_", " "),) if with_name else ()),
            show_interval(line.entry),
            line.entry.unit,
            ", ".join(f"{count:,} {what}" for what, count in line.entry.n.items()),
        )
        for line in lines
    )
    names = ("number",) if with_name else ()
    columns = ("artefact", "of", *names, "value", "unit", "n")
    return Table(columns, rows, frozenset({2 + len(names)}))
