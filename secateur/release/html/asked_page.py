"""The page about models that were asked over the network, or whose log was read: tasks alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from secateur.evaluation.gate import Verdict
from secateur.evaluation.measurement import Measurement
from secateur.release.evidence import ORIGINAL, TITLES, ArtefactEvidence, Evidence
from secateur.release.html.layout import Section, render
from secateur.release.html.picture import Picture
from secateur.release.html.pictures.asked import ORIGINAL_LABEL, Entries, draw_asked
from secateur.release.html.provenance import asked

MODEL_LABEL = "the model"


class _Row(NamedTuple):
    """A task: the accuracy of each model, their difference, and the questions."""

    task: str
    accuracies: tuple[Measurement | None, ...]
    difference: Measurement | None
    questions: int


def render_asked_page(
    target: str,
    against: str | None,
    evidence: Sequence[Evidence],
    verdicts: Sequence[Verdict] = (),
) -> str:
    """The page about `target`, beside `against` where it was asked, too."""
    rows = [row for one in evidence for row in _rows(one)]
    names = dict.fromkeys(model.name for one in evidence for model in one.artefacts)
    return render(
        "asked.html.jinja",
        f"Tasks of {target}",
        sections_of(evidence),
        sentences=_sentences(target, against, rows),
        labels=[_label(name) for name in names],
        rows=rows,
        has_pairs=any(row.difference is not None for row in rows),
        limits=[("", verdict) for verdict in verdicts],
        models=[
            (f"{_label(model.name)}: {against if model.name == ORIGINAL else target}", _how(model))
            for one in evidence
            for model in one.artefacts
        ],
    )


def sections_of(evidence: Sequence[Evidence]) -> list[Section]:
    """The parts of the page that hold pictures."""
    return [
        Section(
            one.kind,
            TITLES[one.kind],
            tuple(draw_asked(one.kind, _entries(one))),
            one.notes,
            tuple(asked(one.facts)),
        )
        for one in evidence
    ]


def pictures_of(evidence: Sequence[Evidence]) -> tuple[Picture, ...]:
    """All pictures of the page, in its order."""
    return tuple(picture for section in sections_of(evidence) for picture in section.pictures)


def _label(name: str) -> str:
    return ORIGINAL_LABEL if name == ORIGINAL else MODEL_LABEL


def _entries(evidence: Evidence) -> Entries:
    return {_label(one.name): one.measurements for one in evidence.artefacts}


def _how(model: ArtefactEvidence) -> list[tuple[str, str]]:
    return asked(model.facts)


def _rows(evidence: Evidence) -> list[_Row]:
    named = {
        (entry.name, entry.domain, number): entry
        for number, model in enumerate(evidence.artefacts)
        for entry in model.measurements
    }
    last = len(evidence.artefacts) - 1
    tasks = dict.fromkeys(domain for name, domain, _ in named if name == "accuracy")
    return [
        _Row(
            task,
            tuple(named.get(("accuracy", task, number)) for number in range(last + 1)),
            named.get(("accuracy_difference", task, last)),
            next(named["accuracy", task, number].n["items"] for number in range(last + 1)
                 if ("accuracy", task, number) in named),
        )
        for task in tasks
    ]  # fmt: skip


def _sentences(target: str, against: str | None, rows: Sequence[_Row]) -> list[str]:
    found = [f"{target} was asked the questions of {', '.join(row.task for row in rows)}."]
    if against is None:
        return [*found, "Nothing was set beside it."]
    compared = any(row.difference is not None for row in rows)
    return [
        *found,
        f"{against} stands beside it as the original"
        + (
            "; a difference is that of the answers to the same questions, in pairs."
            if compared
            else ", and is not compared with it: why is said below."
        ),
    ]
