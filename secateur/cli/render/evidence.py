"""What models did when they were asked, as people read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from secateur.api.compare_tasks import TaskPair
from secateur.cli.render.robustness import loop_lines, speed_lines
from secateur.cli.render.table import Table
from secateur.evaluation.asking.reply import Outcome
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.tasks.group import AGGREGATE
from secateur.release.evidence import ArtefactEvidence, Evidence

Lines = list[str | Table]


def evidence_lines(evidence: Evidence) -> Lines:
    """A kind of evidence: its tables, and what should be known of them."""
    lines = _RENDERED[evidence.kind](evidence)
    return [*lines, *(f"note: {note}" for note in evidence.notes)]


def task_pair_lines(pair: TaskPair) -> Lines:
    """Two models on the tasks that both were asked."""
    note = [] if pair.note is None else [f"note: {pair.note}"]
    tasks = (f"  {one.describe()}" for one in pair.tasks)
    return [f"{pair.second} against {pair.first}, second minus first:", *tasks, *note]


def _task_lines(evidence: Evidence) -> Lines:
    """First what became of every question, then how many were right, then the differences."""
    tasks = list(dict.fromkeys(
        entry.domain for one in evidence.artefacts for entry in one.measurements
    ))  # fmt: skip
    rows = [(task, one) for task in tasks for one in evidence.artefacts]
    protocol = evidence.facts.get("protocol", "")
    return [
        f"tasks, protocol {protocol}: what became of every question",
        _table(("tokens", *(one.value for one in Outcome)), rows, _account),
        "strict accuracy: every failure is wrong (95 % interval); as read: what could be read of a "
        "failure counts; at best: every failure is right",
        _table(("strict accuracy", "as read", "at best", "second pass"), rows, _accuracy),
        *_aggregates(rows),
        *_differences(rows),
    ]


def _aggregates(rows: Sequence[tuple[str, ArtefactEvidence]]) -> Lines:
    """lm-eval's own numbers of groups, as tables elsewhere have them."""
    found = [
        [group, one.name, str(entry.n["items"]), str(entry.n["tasks"]), _percent(entry), entry.unit]
        for group, one in rows
        if (entry := one.value(AGGREGATE, group, "tasks")) is not None
    ]
    head = ["group", "", "n", "tasks", "aggregate", "of"]
    return ["lm-eval's own number of each group:", Table(head, found, "ll")] if found else []


def _differences(rows: Sequence[tuple[str, ArtefactEvidence]]) -> Lines:
    found = [row for row in rows if row[1].value("accuracy_difference", row[0], "tasks")]
    if not found:
        return []
    head = ("difference", "lost", "gained", "p", "effect", "items needed")
    return ["against the original, on the same questions:", _table(head, found, _difference)]


def _table(
    head: Sequence[str],
    rows: Sequence[tuple[str, ArtefactEvidence]],
    cells: Callable[[Mapping[str, Measurement]], list[str]],
) -> Table:
    found = []
    for task, one in rows:
        named = {entry.name: entry for entry in one.measurements if entry.domain == task}
        if named:
            items = next(iter(named.values())).n["items"]
            found.append([task, one.name, str(items), *cells(named)])
    return Table(["task", "", "n", *head], found, "ll")


def _account(named: Mapping[str, Measurement]) -> list[str]:
    length = named.get("completion_tokens_median")
    counts = [named[one.value.replace(" ", "_")].value for one in Outcome]
    return ["" if length is None else f"{length.value:g}", *(f"{one:g}" for one in counts)]


def _accuracy(named: Mapping[str, Measurement]) -> list[str]:
    patched = named.get("accuracy_patched")
    second = ""
    if patched is not None:
        second = f"{_percent(patched)}, {named['patched_items'].value:g} patched"
    names = ("accuracy", "accuracy_as_read", "accuracy_best")
    return [*(_percent(named[name]) for name in names), second]


def _difference(named: Mapping[str, Measurement]) -> list[str]:
    needed = named.get("items_needed")
    return [
        _percent(named["accuracy_difference"], "+"),
        *(f"{named[name].value:g}" for name in ("flips_lost", "flips_gained")),
        f"{named['p_value'].value:.2g}",
        f"{named['effect_size'].value:+.2f}",
        "" if needed is None else f"{needed.value:,.0f}",
    ]


def _percent(entry: Measurement, sign: str = "") -> str:
    text = f"{100 * entry.value:{sign}.1f} %"
    if entry.low is None or entry.high is None:
        return text
    return f"{text} [{100 * entry.low:{sign}.1f}, {100 * entry.high:{sign}.1f}]"


_RENDERED: Mapping[str, Callable[[Evidence], Lines]] = {
    "tasks": _task_lines,
    "loops": loop_lines,
    "speed": speed_lines,
}
