"""What was done, in a paragraph, and the numbers that count, for the top of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from secateur.release.html.picture import show_interval, show_number
from secateur.release.html.subjects import Subject
from secateur.release.measured_on import KINDS
from secateur.release.report import Report, summary_metrics, worst_domain
from secateur.release.results import Results
from secateur.system.sizes import show_bytes, show_count


class Figure(NamedTuple):
    """A number that stands large, what it is, and what is known of it."""

    number: str
    what: str
    more: str


def title_of(outputs: Sequence[Results]) -> str:
    """`gemmule, made smaller`; with several outputs how many ways."""
    original = outputs[0].report.original
    if len(outputs) == 1:
        return f"{original}, made smaller"
    return f"{original}, made smaller in {len(outputs)} ways"


def paragraph(outputs: Sequence[Results], subjects: Sequence[Subject]) -> list[str]:
    """Sentences: what was made of which model, how, and what the smallest artefact lost."""
    report = outputs[0].report
    sentences = [f"{report.original} has {show_bytes(report.original_bytes)} of weights."]
    sentences += _kept(outputs)
    sentences += _calibrated(report)
    sentences.append(_written(subjects))
    sentences += _lost(subjects)
    return sentences


def key_figures(outputs: Sequence[Results], smallest: Subject) -> list[Figure]:
    """At most four numbers of the smallest artefact."""
    report = smallest.results.report
    found = [
        Figure(
            f"{100 * smallest.share:.1f} %",
            "of the original's size",
            f"{show_bytes(smallest.artefact.bytes)} instead of {show_bytes(report.original_bytes)}",
        )
    ]
    made = report.made
    if made["experts"] != made["model"]["experts"]:
        found.append(
            Figure(
                f"{made['experts']} of {made['model']['experts']}",
                "experts kept in each layer",
                f"{made['model']['layers']} layers",
            )
        )
    for metric in summary_metrics()[:3]:
        entry = smallest.artefact.value(metric.name)
        if entry is None or len(found) == 4:
            continue
        spread = ""
        if entry.low is not None and entry.high is not None:
            spread = f"95 % interval {show_number(entry.low)} to {show_number(entry.high)}"
        found.append(Figure(show_number(entry.value), f"{metric.title}, {metric.unit}", spread))
    return found


def smallest_of(subjects: Sequence[Subject]) -> Subject:
    """The artefact of fewest bytes."""
    return min(subjects, key=lambda one: (one.artefact.bytes, one.label))


def _kept(outputs: Sequence[Results]) -> list[str]:
    made = outputs[0].report.made
    count = made["model"]["experts"]
    kept = sorted({results.report.made["experts"] for results in outputs}, reverse=True)
    if kept == [count]:
        return [f"All {count} experts of each layer are kept."]
    numbers = " or ".join(str(number) for number in kept)
    chosen = made["selection"].get("criterion")
    how = f"chosen by the criterion {chosen}" if chosen else "named by a drop map"
    edited = (
        ", and edited by hand afterwards" if any(r.report.made["edited"] for r in outputs) else ""
    )
    return [f"Of {count} experts in each layer {numbers} are kept, {how}{edited}."]


def _calibrated(report: Report) -> list[str]:
    calibration = report.made.get("calibration")
    if calibration is None:
        return []
    tokens = sum(calibration["tokens"].values())
    names = ", ".join(calibration["tokens"])
    documents = show_count(calibration["samples"], "document")
    return [f"They were observed on {tokens:,} tokens of {documents} ({names})."]


def _written(subjects: Sequence[Subject]) -> str:
    forms = dict.fromkeys(_FORMS.get(one.form, one.form) for one in subjects)
    count = len(subjects)
    files = "artefact was" if count == 1 else "artefacts were"
    return f"{count} {files} written ({', '.join(forms)})."


_FORMS = {"safetensors": "safetensors", "gguf": "GGUF", "mlx": "MLX"}


def _lost(subjects: Sequence[Subject]) -> list[str]:
    one = smallest_of(subjects)
    metric = summary_metrics()[0]
    entry = one.artefact.value(metric.name)
    if entry is None:
        return []
    kind = next((kind for kind in KINDS if kind == entry.kind), None)
    on = f" on {entry.n[entry.kind]:,} {KINDS[kind]}" if kind and entry.kind in entry.n else ""
    worst = worst_domain(one.artefact)
    where = ""
    if worst:
        where = (
            f"; it lost most on {worst.domain}, {show_interval(worst)} (n = {worst.n[worst.kind]})"
        )
    return [
        f"The smallest, {one.label}, has {100 * one.share:.1f} % of the original's bytes, and "
        f"its {metric.title} from the original is {show_interval(entry)} {entry.unit}"
        f"{on}{where}."
    ]
