"""The parts of a measured output's report that are not measurements: notes, facts, sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.evaluation.intervals import FEWEST_ANSWERS
from secateur.evaluation.metrics.router import AGREEMENT
from secateur.evaluation.seen_text import SeenText
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import Teacher
from secateur.outputs.base import Artefact
from secateur.planning.document import Plan, read_plan
from secateur.release.manifest import OWN, amend_manifest, read_manifest
from secateur.release.measured_on import KINDS
from secateur.release.report import REPORT, ArtefactReport, Report, write_report
from secateur.release.run_record import add_run
from secateur.system.stopwatch import Stopwatch


def describe_answers(answers: AnswerSet, teacher: Teacher) -> dict[str, Any]:
    """What was measured on, for the report."""
    kinds = [answer.kind for answer in answers.answers]
    return {
        **{kind: kinds.count(kind) for kind in KINDS},
        "tokens": answers.tokens,
        "finishes": answers.finishes,
        "sha256": answers.sha256,
        "top_k": int(teacher.top_ids.shape[1]),
        "provenance": dict(answers.provenance),
    }


def interval_notes(answers: AnswerSet) -> list[str]:
    """The domains that have too few answers for an interval."""
    counts = Counter((answer.kind, answer.domain) for answer in answers.answers)
    few = [
        f"{domain} ({count} {kind})"
        for (kind, domain), count in counts.items()
        if count < FEWEST_ANSWERS
    ]
    if not few:
        return []
    return [
        f"no intervals for {', '.join(few)}: fewer than {FEWEST_ANSWERS} say too little about "
        "how sure a number is"
    ]


def routing_notes(artefacts: Sequence[ArtefactReport]) -> list[str]:
    """The artefacts whose routers could not be compared with the original's."""
    names = [entry.name for entry in artefacts if entry.value(AGREEMENT.name) is None]
    if not names:
        return []
    return [
        f"no router agreement for {', '.join(names)}: the rows of their routers are not rows of "
        "the original's, one each, so nobody can tell which experts they are"
    ]


def engine_notes(artefacts: Sequence[Artefact]) -> list[str]:
    """That engines were asked for, where there is nothing that one of them reads."""
    if any(one.runs_in_llama_cpp or one.runs_in_mlx_lm for one in artefacts):
        return []
    names = ", ".join(one.name for one in artefacts)
    return [f"{names} was not run in an engine: llama.cpp reads GGUF files, mlx-lm MLX folders"]


def seen_notes(seen: SeenText) -> list[str]:
    """That an artefact was calibrated on what it is measured on."""
    return [seen.describe()] if seen.seen else []


def additional_notes(names: tuple[str, ...]) -> list[str]:
    """The files of an output that its manifest does not list."""
    if not names:
        return []
    return [f"not in the manifest, and not added to it: {', '.join(names)}"]


def publish_report(report: Report, out: Path) -> Report:
    """The report with the facts of the output it belongs to, written into it as report.json.

    Exactly report.json is brought up to date in the manifest. Raises WriteError.
    """
    made = read_manifest(out)
    facts = {key: made[key] for key in made if key not in ("secateur", "versions", "files", OWN)}
    decided = read_plan(out / "plan.json")
    whole = replace(
        report,
        made=facts,
        sizes=_sizes(decided, out),
        pruned=_pruned(decided),
        notes=(*decided.notes, *report.notes),
    )
    write_report(whole, out)
    amend_manifest(out, (REPORT,))
    return whole


def publish_pages(out: Path, stopwatch: Stopwatch) -> None:
    """The run's times and the pages, once everything that was asked for is measured.

    Raises WriteError.
    """
    from secateur.release.pages import write_pages

    add_run(out, stopwatch)
    write_pages(out)


def _sizes(plan: Plan, out: Path) -> dict[str, dict[str, int]]:
    return {
        form: {
            "predicted": sum(plan.sizes(form).values()),
            "written": sum((out / name).stat().st_size for name in plan.files[form]),
        }
        for form in plan.formats
    }


def _pruned(plan: Plan) -> Mapping[int, tuple[int, ...]]:
    """{layer: its experts that were pruned}; empty where none was."""
    everything = range(plan.model["experts"])
    return {
        layer: tuple(expert for expert in everything if expert not in set(kept))
        for layer, kept in plan.keep.items()
        if len(kept) < len(everything)
    }
