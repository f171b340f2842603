"""The page: pictures, tables and words put together. The same results give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

from secateur.evaluation.gate import Verdict
from secateur.release.evidence import KINDS, TITLES
from secateur.release.html.layout import Section, render
from secateur.release.html.picture import Picture
from secateur.release.html.pictures.asked import draw_asked, entries_of
from secateur.release.html.pictures.divergence import draw_divergence
from secateur.release.html.pictures.dropped_load import draw_dropped_load
from secateur.release.html.pictures.experts import draw_experts
from secateur.release.html.pictures.frontier import draw_frontier
from secateur.release.html.pictures.load import draw_load
from secateur.release.html.pictures.sizes import draw_sizes
from secateur.release.html.provenance import asked, made_from, ran
from secateur.release.html.subjects import Subject, check_comparable, output_names, subjects_of
from secateur.release.html.summary import key_figures, paragraph, smallest_of, title_of
from secateur.release.report import summary_metrics, worst_domain
from secateur.release.results import Results


def render_page(outputs: Sequence[Results]) -> str:
    """One page about one output, or about several of one original.

    Raises InputError for outputs that cannot be compared.
    """
    check_comparable(outputs)
    subjects = subjects_of(outputs)
    smallest = smallest_of(subjects)
    return render(
        "page.html.jinja",
        title_of(outputs),
        sections_of(outputs, subjects),
        sentences=paragraph(outputs, subjects),
        figures=key_figures(outputs, smallest),
        smallest=smallest,
        subjects=subjects,
        report=outputs[0].report,
        summary=summary_metrics(),
        worst=worst_domain,
        limits=_limits(outputs),
        outputs=list(zip(output_names(outputs), outputs, strict=True)),
        made_from=made_from,
        ran=ran,
    )


def sections_of(outputs: Sequence[Results], subjects: Sequence[Subject]) -> list[Section]:
    """The parts of the page that hold pictures; what was not measured has none."""
    found = [
        Section(
            "size", "Size and divergence", _drawn(draw_frontier(subjects), draw_sizes(subjects))
        ),
        Section("lost", "What it lost", _drawn(draw_divergence(subjects))),
    ]
    for kind in KINDS:
        evidence = [results.evidence[kind] for results in outputs if kind in results.evidence]
        if not evidence:
            continue
        notes = tuple(dict.fromkeys(note for one in evidence for note in one.notes))
        pictures = tuple(draw_asked(kind, entries_of(kind, subjects)))
        found.append(Section(kind, TITLES[kind], pictures, notes, tuple(asked(evidence[0].facts))))
    for name, results in zip(output_names(outputs), outputs, strict=True):
        found.append(_experts(name, results))
    return [section for section in found if section.pictures]


def pictures_of(outputs: Sequence[Results]) -> tuple[Picture, ...]:
    """All pictures of the page, in its order."""
    sections = sections_of(outputs, subjects_of(outputs))
    return tuple(picture for section in sections for picture in section.pictures)


def _limits(outputs: Sequence[Results]) -> list[tuple[str, Verdict]]:
    """(the output's name before that of the artefact, a verdict) of every limit."""
    return [
        (f"{name}/" if name else "", verdict)
        for name, results in zip(output_names(outputs), outputs, strict=True)
        for verdict in results.report.verdicts(tuple(results.evidence.values()))
    ]


def _experts(name: str, results: Results) -> Section:
    experts = results.experts
    pictures = _drawn(draw_experts(experts), draw_load(experts), draw_dropped_load(experts))
    apart = tuple(_renamed(picture, name) for picture in pictures)
    missing = (
        (
            "This output keeps no statistics, so scores and load are not shown: shrink keeps them, "
            "and apply those that its plan names.",
        )
        if experts.load is None
        else ()
    )
    return Section(f"experts{_ending(name)}", f"Experts {name}".strip(), apart, missing)


def _renamed(picture: Picture, name: str) -> Picture:
    if not name:
        return picture
    return replace(picture, name=f"{picture.name}{_ending(name)}", title=f"{picture.title}, {name}")


def _ending(name: str) -> str:
    """What tells outputs apart in ids and file names, where no blank may stand."""
    return f"-{quote(name, safe='')}" if name else ""


def _drawn(*pictures: Picture | None) -> tuple[Picture, ...]:
    return tuple(picture for picture in pictures if picture is not None)
