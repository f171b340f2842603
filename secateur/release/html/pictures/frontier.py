"""Size against divergence, over all artefacts: which ones no smaller one matches."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.evaluation.measurement import Measurement, find_measurement
from secateur.release.html.frontier_chart import draw_chart, summary_entry
from secateur.release.html.picture import (
    Picture,
    Table,
    describe_samples,
    show_interval,
    show_number,
)
from secateur.release.html.subjects import Subject
from secateur.release.report import summary_metrics
from secateur.system.sizes import show_bytes


def frontier(subjects: Sequence[Subject]) -> tuple[str, ...]:
    """The labels of the artefacts that no artefact of at most their size comes nearer to the
    original than, by the first metric of summaries; ascending in size."""
    found: list[str] = []
    best = float("inf")
    for one in sorted(
        _measured(subjects), key=lambda one: (one.artefact.bytes, summary_entry(one).value)
    ):
        if summary_entry(one).value < best:
            best = summary_entry(one).value
            found.append(one.label)
    return tuple(found)


def draw_frontier(subjects: Sequence[Subject]) -> Picture | None:
    """None with fewer than two artefacts that were measured."""
    measured = sorted(_measured(subjects), key=lambda one: (one.artefact.bytes, one.label))
    if len(measured) < 2:
        return None
    metric = summary_metrics()[0]
    best = frontier(measured)
    entries = [summary_entry(one) for one in measured]
    floor = find_measurement(subjects[0].results.report.floor, metric.name)
    joined = [one for one in measured if one.label in best]
    ends = joined if len(joined) > 1 else measured
    least, most = ends[0], ends[-1]
    label = (
        f"{len(measured)} artefacts by size and {metric.title} from the original. From "
        f"{least.label} with {show_bytes(least.artefact.bytes)} and "
        f"{show_interval(summary_entry(least))} to {most.label} with "
        f"{show_bytes(most.artefact.bytes)} and {show_interval(summary_entry(most))}."
        f"{'' if floor is None else f' The floor is {show_number(floor.value)}.'}"
    )
    return Picture(
        name="size-and-divergence",
        title="Size against divergence",
        label=label,
        sample=describe_samples(entries),
        about="Numbers are the artefacts by size. Those that no smaller one matches are filled, "
        "and the line joins them. Bars are 95 % intervals."
        f"{'' if floor is None else ' ' + _ABOUT_FLOOR}"
        " Whether two artefacts differ is for secateur compare to say, in pairs.",
        spec=draw_chart(measured, best, floor),
        table=_table(measured, best, floor),
    )


_ABOUT_FLOOR = (
    "The shaded floor is what another kernel does to the original's own weights: what differs by "
    "less is not told apart."
)


def _measured(subjects: Sequence[Subject]) -> list[Subject]:
    name = summary_metrics()[0].name
    return [one for one in subjects if one.artefact.value(name) is not None]


def _table(measured: Sequence[Subject], best: Sequence[str], floor: Measurement | None) -> Table:
    metrics = summary_metrics()
    rows = [
        (
            str(number),
            one.label,
            show_bytes(one.artefact.bytes),
            f"{100 * one.share:.1f} %",
            *(show_interval(one.artefact.value(metric.name)) for metric in metrics),
            "yes" if one.label in best else "",
        )
        for number, one in enumerate(measured, 1)
    ]
    if floor is not None:
        found = measured[0].results.report.floor
        cells = (show_interval(find_measurement(found, metric.name)) for metric in metrics)
        rows.append(("", "the original, another kernel (floor)", "", "", *cells, ""))
    titles = tuple(metric.title for metric in metrics)
    columns = ("number", "artefact", "size", "of the original", *titles, "no smaller matches it")
    return Table(columns, tuple(rows), frozenset({0, *range(2, len(columns) - 1)}))
