"""The report: what an output is, how it was made, and what it lost. As JSON and as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from secateur import __version__
from secateur.evaluation.engine_metrics import ENGINE_COLUMNS, KIND
from secateur.evaluation.floor import KERNEL
from secateur.evaluation.gate import Gate, Verdict, check_gates, judge_gates
from secateur.evaluation.measurement import (
    POOLED,
    Measurement,
    describe_counts,
    find_measurement,
    main_kind,
)
from secateur.evaluation.metrics.base import Metric
from secateur.evaluation.metrics.registry import all_metrics
from secateur.evaluation.summary import ROUTER_KIND
from secateur.outputs.registry import FORMATS
from secateur.planning.rounding import ROUNDING
from secateur.release.evidence import MAIN_NUMBERS, TITLES, Evidence, asked_of_artefacts
from secateur.release.measured_on import KINDS, describe_measured_on
from secateur.release.run_record import RunRecord
from secateur.system.atomic import write_text
from secateur.system.sizes import show_bytes, show_figure
from secateur.system.stopwatch import show_duration

REPORT = "report.json"


@dataclass(frozen=True)
class ArtefactReport:
    """One artefact (a checkpoint folder, a GGUF file) and its measurements."""

    name: str
    bytes: int
    measurements: tuple[Measurement, ...]

    def value(self, name: str, domain: str = POOLED, kind: str | None = None) -> Measurement | None:
        """The measurement of that name, of the main kind by default; None when it was not made."""
        return find_measurement(self.measurements, name, domain, kind)

    @property
    def groups(self) -> list[tuple[str, str]]:
        """(kind, domain) of all measurements of text, in the order they were made."""
        groups = ((entry.kind, entry.domain) for entry in self.measurements)
        return [group for group in dict.fromkeys(groups) if group[0] in KINDS]

    @property
    def layers(self) -> list[Measurement]:
        """The router agreement of every layer."""
        return [entry for entry in self.measurements if entry.kind == ROUTER_KIND]


@dataclass(frozen=True)
class Report:
    """What was made of which model, and what each artefact lost against it.

    `made` holds the facts of the manifest, `sizes` {format: {"predicted", "written"}} in bytes and
    `pruned` {layer: its pruned experts}; all empty for an artefact that is not ours. `answers`
    says what was measured on, `gates` the limits that `check_gate` holds it to, `floor` what the
    original's own weights lose in another kernel (evaluation.floor). `evidence` is what was asked
    in the same run, and `earlier` what a limit is about and an earlier run asked; both have files
    of their own (release.evidence).
    """

    original: str
    original_bytes: int
    answers: Mapping[str, Any]
    artefacts: tuple[ArtefactReport, ...]
    made: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    pruned: Mapping[int, tuple[int, ...]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()
    floor: tuple[Measurement, ...] = ()
    evidence: tuple[Evidence, ...] = field(default=(), repr=False)
    earlier: tuple[Evidence, ...] = field(default=(), repr=False)

    def check_gate(self) -> None:
        """Raise GateError when an artefact misses a limit, InputError when one was not measured."""
        check_gates(self.gates, self._all_numbers((*self.evidence, *self.earlier)))

    def verdicts(self, evidence: Sequence[Evidence]) -> tuple[Verdict, ...]:
        """What comes of every limit, with `evidence` of what was asked."""
        return judge_gates(self.gates, self._all_numbers(evidence))

    def _all_numbers(self, evidence: Sequence[Evidence]) -> dict[str, tuple[Measurement, ...]]:
        found = {entry.name: entry.measurements for entry in self.artefacts}
        for name, numbers in asked_of_artefacts(evidence).items():
            if name in found:
                found[name] += numbers
        return found

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {
            "secateur": __version__,
            "original": self.original,
            "original_bytes": self.original_bytes,
            "made": dict(self.made),
            "sizes": {form: dict(sizes) for form, sizes in self.sizes.items()},
            "pruned": {str(layer): list(experts) for layer, experts in self.pruned.items()},
            "answers": dict(self.answers),
            "floor": [entry.to_json() for entry in self.floor],
            "artefacts": [
                {
                    "name": artefact.name,
                    "bytes": artefact.bytes,
                    "worst_domain": None
                    if (worst := worst_domain(artefact)) is None
                    else worst.to_json(),
                    "measurements": [entry.to_json() for entry in artefact.measurements],
                }
                for artefact in self.artefacts
            ],
            "notes": list(self.notes),
            "gates": [str(gate) for gate in self.gates],
        }


class Row(NamedTuple):
    """A line of an artefact's table: a domain, and its measurements in the order of the columns."""

    kind: str
    domain: str
    samples: Mapping[str, int]
    cells: list[Measurement | None]
    is_worst: bool


def summary_metrics() -> list[Metric]:
    """The metrics whose pooled numbers stand next to the sizes."""
    return [metric for metric in all_metrics() if metric.in_summary]


def table_metrics() -> list[Metric]:
    """The metrics shown for every domain."""
    return [metric for metric in all_metrics() if metric.in_table]


def other_metrics() -> list[Metric]:
    """The metrics whose numbers over all domains are all that is shown."""
    return [metric for metric in all_metrics() if not metric.in_table]


def worst_domain(artefact: ArtefactReport) -> Measurement | None:
    """The first summary metric in the domain where it is farthest from the original.

    None where there is no more than one domain.
    """
    first = summary_metrics()[0]
    found = [
        entry
        for entry in artefact.measurements
        if (entry.name, entry.kind) == (first.name, main_kind(artefact.measurements))
        and entry.domain != POOLED
    ]
    if len(found) < 2:
        return None
    return (max if first.better == "lower" else min)(found, key=lambda entry: entry.value)


class _Code(str):
    """A printed value that stands within code, where nothing but a table's `|` can be escaped."""


def _block(text: str) -> _Code:
    """A line of a block of code."""
    return _Code(_one_line(text))


def _span(value: object) -> _Code:
    """Words within a span of code."""
    return _Code(_one_line(str(value)).replace("`", "'"))


def _span_in_table(value: object) -> _Code:
    return _Code(_span(value).replace("|", "\\|"))


def _inert(value: Any) -> Any:
    """A printed value that cannot begin HTML, code, a link, a line or a cell: names are a
    stranger's."""
    if not isinstance(value, str) or isinstance(value, _Code):
        return value
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", _one_line(value)).replace("](", "]\\(")
    return re.sub(r"(\\*)([|`])", r"\1\1\\\2", text)


def _one_line(text: str) -> str:
    return re.sub(r"[\r\n\u2028\u2029]+", " ", text)


def write_report(report: Report, folder: Path) -> None:
    """Write report.json into `folder`, complete or as it was: the same inputs give the same bytes.

    Raises WriteError.
    """
    write_text(folder / REPORT, json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")


def to_markdown(
    report: Report, runs: Sequence[RunRecord] = (), evidence: Sequence[Evidence] = ()
) -> str:
    """The report for people: a summary, then tables; `runs` say how it was made, `evidence` what
    came of tasks, loops and speed."""
    return (
        _environment()
        .get_template("report.md.jinja")
        .render(
            report=report,
            runs=runs,
            smallest=min(report.artefacts, key=lambda entry: entry.bytes, default=None),
            worst=worst_domain,
            measured_on=describe_measured_on(report.answers),
            rounding=describe_rounding(report),
            floor={
                metric.name: find_measurement(report.floor, metric.name) for metric in all_metrics()
            },
            kernel=KERNEL,
            kinds=KINDS,
            summary=summary_metrics(),
            columns=table_metrics(),
            others=[
                metric
                for metric in other_metrics()
                if any(artefact.value(metric.name) for artefact in report.artefacts)
            ],
            layers=_layer_rows(report),
            rows_of=_rows,
            engine=[entry for entry in report.artefacts if _engine_cells(entry)],
            engine_columns=ENGINE_COLUMNS,
            engine_cells=_engine_cells,
            engine_answers=_engine_answers,
            evidence=evidence,
            verdicts=report.verdicts(evidence),
            titles=TITLES,
            asked_rows=_asked_rows,
        )
    )


def evidence_to_markdown(
    title: str, evidence: Sequence[Evidence], verdicts: Sequence[Verdict] = ()
) -> str:
    """What came of tasks, loops and speed alone, under a title, and of the limits to it."""
    environment = _environment()
    values = {"titles": TITLES, "asked_rows": _asked_rows}
    parts = (
        environment.get_template("limits.md.jinja").render(verdicts=verdicts),
        environment.get_template("evidence.md.jinja").render(evidence=evidence, **values),
    )
    return f"# {_inert(title)}\n{''.join(parts)}"


def _environment() -> jinja2.Environment:
    folder = resources.files(__package__)
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text("utf-8"))
    environment = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters.update(FILTERS)
    return environment


def describe_rounding(report: Report) -> str | None:
    """How the weights of each output were rounded, as a sentence; None where none was quantized."""
    quantized = [form for form in report.sizes if form not in FORMATS or FORMATS[form].example]
    if not quantized:
        return None
    facts = report.made.get("selection", {}).get(ROUNDING)
    how = f"with error feedback (Gram matrices: {facts['gram']})" if facts else "to nearest"
    if (chosen_on := report.made.get("codes_chosen_on", "cpu")) != "cpu":
        how += f", codes chosen on {chosen_on}"
    return f"Rounding of {', '.join(quantized)}: {how}."


def show_ranges(numbers: tuple[int, ...]) -> str:
    """Ascending numbers in short: `0-3, 7, 9-12`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)


def _rows(artefact: ArtefactReport) -> list[Row]:
    rows, worst = [], worst_domain(artefact)
    for kind, domain in artefact.groups:
        cells = [artefact.value(metric.name, domain, kind) for metric in table_metrics()]
        samples = next(cell.n for cell in cells if cell is not None)
        is_worst = worst is not None and (worst.kind, worst.domain) == (kind, domain)
        rows.append(Row(kind, domain, samples, cells, is_worst))
    return rows


def _layer_rows(report: Report) -> list[tuple[str, list[Measurement | None]]]:
    """(layer, its router agreement in each artefact)."""
    found = [{entry.domain: entry for entry in one.layers} for one in report.artefacts]
    names = dict.fromkeys(name for layers in found for name in layers)
    return [(name, [layers.get(name) for layers in found]) for name in names]


def _engine_cells(artefact: ArtefactReport) -> list[Measurement | None]:
    """What is shown of the engine; empty where it was not run."""
    found = [artefact.value(metric.name, kind=KIND) for metric in ENGINE_COLUMNS]
    return found if any(found) else []


def _engine_answers(artefact: ArtefactReport) -> int:
    """The answers, turns or documents that the engine read."""
    found = artefact.value(ENGINE_COLUMNS[0].name, kind=KIND)
    return 0 if found is None else next(count for what, count in found.n.items() if what in KINDS)


class AskedRow(NamedTuple):
    """A number of tasks, loops or speed: one of its measurements, how many samples stand behind
    it ("59 to 60 replies"), and its value for each artefact."""

    entry: Measurement
    samples: str
    cells: list[Measurement | None]


def _asked_rows(evidence: Evidence) -> list[AskedRow]:
    """All numbers, by domain in the order in which they were measured. Of loops in single domains
    only those that say most: few prompts stand behind the others."""
    every = {
        (entry.domain, entry.name): entry
        for artefact in evidence.artefacts
        for entry in artefact.measurements
    }
    domains = list(dict.fromkeys(domain for domain, _ in every))
    main = MAIN_NUMBERS[evidence.kind]
    rows = []
    for domain, name in sorted(every, key=lambda key: domains.index(key[0])):
        if evidence.kind == "loops" and domain != POOLED and name not in main:
            continue
        kind = every[domain, name].kind
        cells = [one.value(name, domain, kind) for one in evidence.artefacts]
        samples = describe_counts(cell for cell in cells if cell is not None)
        rows.append(AskedRow(every[domain, name], samples, cells))
    return rows


def _cell(entry: Measurement | None) -> str:
    if entry is None:
        return "-"
    if entry.low is None or entry.high is None:
        return show_figure(entry.value)
    return f"{show_figure(entry.value)} [{show_figure(entry.low)}, {show_figure(entry.high)}]"


def _number(entry: Measurement | None) -> str:
    return "-" if entry is None else show_figure(entry.value)


FILTERS: Mapping[str, Callable[..., str]] = {
    "cell": _cell,
    "block": _block,
    "span": _span,
    "span_in_table": _span_in_table,
    "number": _number,
    "thousands": "{:,}".format,
    "ranges": show_ranges,
    "size": show_bytes,
    "duration": show_duration,
}
"""What the template may do with a value."""
