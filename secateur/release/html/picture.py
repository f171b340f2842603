"""A picture: a Vega-Lite specification, what it is of, and its numbers as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from secateur.evaluation.measurement import Measurement, describe_counts

if TYPE_CHECKING:  # takes a quarter of a second, and most commands draw nothing
    import altair

ROWS = "rows"
"""The name that a chart's data goes by."""


@dataclass(frozen=True)
class Table:
    """The numbers of a picture, for those who do not see it. `numbers` are the columns that are
    aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = field(repr=False)
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """One picture of a report. It is as wide as its place, at least `least_width` pixels.

    `label` says in a sentence what it shows, for who cannot see it; `sample` how many samples
    stand behind it.
    """

    name: str
    title: str
    label: str
    sample: str
    spec: Mapping[str, Any] = field(repr=False)
    table: Table
    about: str = ""
    least_width: int = 0


def specification(
    chart: altair.LayerChart | altair.FacetChart, rows: Sequence[Mapping[str, Any]], height: int
) -> dict[str, Any]:
    """The chart as Vega-Lite, without a width: whoever shows it gives it one.

    The data is put in at the end: altair would copy every number many times. What it says is held
    against the schema by tests, because that takes as long as all the rest.
    """
    found: dict[str, Any] = chart.to_dict(validate=False)
    found.pop("config", None)  # the page's own, light or dark
    return {
        **found,
        "datasets": {ROWS: [dict(row) for row in rows]},
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }


def tooltips(*pairs: tuple[str, str]) -> list[altair.Tooltip]:
    """What is told of a mark: (field of its row, what that is called)."""
    import altair

    return [altair.Tooltip(f"{name}:N", title=says) for name, says in pairs]


def describe_samples(measurements: Iterable[Measurement]) -> str:
    """`n = 60 answers, 5,029 tokens`; where they differ, the least and the most: `6 to 60`."""
    counts = describe_counts(measurements)
    return f"n = {counts}" if counts else ""


def show_interval(entry: Measurement | None) -> str:
    """`0.0856 [0.074, 0.0956]`, or a dash."""
    if entry is None:
        return "–"
    if entry.low is None or entry.high is None:
        return show_number(entry.value)
    return f"{show_number(entry.value)} [{show_number(entry.low)}, {show_number(entry.high)}]"


def show_number(value: float) -> str:
    """Three digits, zeros at their end too; thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
