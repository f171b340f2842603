"""What a reader should not take from a card: sentences that follow from facts, and from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.evaluation.intervals import FEWEST_ANSWERS
from secateur.release.card.facts import Fact
from secateur.release.card.measured import artefacts_in, number_of, worst_of
from secateur.release.card.scope import Scope
from secateur.release.card.shown import Shown, show
from secateur.release.evidence import KINDS, evidence_file


def limits_of(scope: Scope) -> Mapping[str, Any]:
    """The values of the card's limits."""
    report, made = scope.results.report, scope.results.manifest
    artefacts = artefacts_in(scope, report) if report else []
    worst = [(one, found) for one in artefacts if (found := worst_of(one)) is not None]
    calibration = made.get("calibration")
    skipped = calibration.get("skipped_tokens") if calibration else None
    return {
        "nothing_measured": not artefacts,
        "worst": [(show(one["name"], "code"), number_of(found)) for one, found in worst],
        "few": _few(artefacts),
        "not_asked": [kind for kind in KINDS if scope.results.find(evidence_file(kind)) is None],
        "notes": _notes(scope),
        "skipped": show(skipped, "count") if skipped and skipped.value else None,
        "warnings": [show(text) for text in (calibration.get("warnings") or ()) if text]
        if calibration
        else [],
        "pruned_without_calibration": scope.is_pruned and calibration is None,
    }


def _few(artefacts: list[Fact]) -> list[tuple[Shown, Shown, Shown]]:
    """(domain, number, what) of domains with too few samples for an interval, once each."""
    found: dict[str, tuple[Shown, Shown, Shown]] = {}
    for artefact in artefacts:
        for entry in artefact["measurements"]:
            count = entry.get("n", entry.value["kind"])
            if count is not None and count.value < FEWEST_ANSWERS:
                key = f"{entry.value['kind']} {entry.value['domain']}"
                what = show(count, "count"), show(count, "words of key")
                found.setdefault(key, (show(entry["domain"]), *what))
    return list(found.values())


def _notes(scope: Scope) -> list[Shown]:
    """The plan's notes, and the report's own, about what is released."""
    report = scope.results.report
    notes = (report or scope.results.plan).get("notes") or ()
    others = {
        form.key for form in scope.results.plan["files"]
    } - {output.format_id for output in scope.outputs}  # fmt: skip
    return [show(note) for note in notes if str(note.value).partition(":")[0] not in others]
