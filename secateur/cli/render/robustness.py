"""Loops and speed as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from secateur.cli.render.table import Table
from secateur.evaluation.measurement import POOLED, Measurement
from secateur.release.evidence import ArtefactEvidence, Evidence
from secateur.system.sizes import show_bytes, show_figure

Lines = list[str | Table]
Named = Mapping[str, Measurement]

_RATES = ("loop_rate", "no_answer_rate", "echo_rate", "drift_rate", "truncated_rate")


def loop_lines(evidence: Evidence) -> Lines:
    """Rates over all prompts, and what differs from the original. Those of single domains, which
    have few prompts, are in the report."""
    apart = [domain for domain in _domains(evidence) if domain != POOLED]
    rows = [(POOLED, one) for one in evidence.artefacts]
    head = ("loops", "no answer", "echo", "drift", "cut", "tokens")
    lines: Lines = [
        "loops: of all replies (in brackets 95 % intervals)",
        Table(["prompts", "", "n", *head], _cells(rows, _rates), "ll"),
    ]
    found = [row for row in rows if row[1].value("loop_rate_difference", row[0], "loops")]
    if found:
        names = ["prompts", "", "n", "any of these", "p", "needed", "loops", "p", "needed"]
        lines += [
            "against the original, on the same prompts (needed: prompts that would show it):",
            Table(names, _cells(found, _differences, "prompts", "loop_rate_difference"), "ll"),
        ]
    if apart:
        lines.append(f"the same for each domain ({', '.join(apart)}): report.md")
    return lines


def speed_lines(evidence: Evidence) -> Lines:
    """Speeds by engine, and their ratios to the original."""
    rows = [(engine, one) for engine in _domains(evidence) for one in evidence.artefacts]
    head = ("prompt tokens/s", "answer tokens/s", "first token", "CPU s/1000 (answer)", "memory")
    lines: Lines = [
        "speed (in brackets 95 % intervals over turns)",
        Table(["engine", "", "turns", *head], _cells(rows, _speeds, "turns"), "ll"),
    ]
    found = [row for row in rows if row[1].value("generation_speed_ratio", row[0], "speed")]
    if found:
        lines += [
            "of the original's, turn by turn:",
            Table(["engine", "", "turns", *head], _cells(found, _ratios, "turns"), "ll"),
        ]
    return lines


def _domains(evidence: Evidence) -> list[str]:
    """In order of appearance."""
    numbers = (entry for one in evidence.artefacts for entry in one.measurements)
    return list(dict.fromkeys(entry.domain for entry in numbers))


def _cells(
    rows: Sequence[tuple[str, ArtefactEvidence]],
    cells: Callable[[Named], list[str]],
    what: str = "replies",
    counted: str | None = None,
) -> list[list[str]]:
    """The rows of a table; n is `what` stands behind the number `counted`, or behind any."""
    found = []
    for domain, one in rows:
        named = {entry.name: entry for entry in one.measurements if entry.domain == domain}
        if named:
            entries = named.values() if counted is None else (named[counted],)
            most = max(entry.n[what] for entry in entries if what in entry.n)
            found.append([domain, one.name, str(most), *cells(named)])
    return found


def _rates(named: Named) -> list[str]:
    tokens = named.get("reply_tokens_median")
    return [
        *(_percent(named[name]) for name in _RATES),
        "" if tokens is None else f"{tokens.value:g}",
    ]


def _differences(named: Named) -> list[str]:
    cells = []
    for name in ("degenerate_rate_difference", "loop_rate_difference"):
        needed = named.get(f"{name}_prompts_needed")
        cells += [
            _percent(named[name], "+"),
            f"{named[f'{name}_p_value'].value:.2g}",
            "" if needed is None else f"{needed.value:,.0f}",
        ]
    return cells


def _speeds(named: Named) -> list[str]:
    memory = named.get("peak_memory")
    return [
        *(
            _spread(named.get(name))
            for name in (
                "prefill_speed", "generation_speed", "time_to_first_token", "generation_cpu"
            )
        ),
        "" if memory is None else show_bytes(int(memory.value)),
    ]  # fmt: skip


def _ratios(named: Named) -> list[str]:
    names = (
        "prefill_speed", "generation_speed", "time_to_first_token", "generation_cpu",
        "peak_memory",
    )  # fmt: skip
    return [_spread(named.get(f"{name}_ratio")) for name in names]


def _spread(entry: Measurement | None) -> str:
    if entry is None:
        return ""
    if entry.low is None or entry.high is None:
        return show_figure(entry.value)
    low, high = show_figure(entry.low), show_figure(entry.high)
    return f"{show_figure(entry.value)} [{low}, {high}]"


def _percent(entry: Measurement, sign: str = "") -> str:
    text = f"{100 * entry.value:{sign}.1f} %"
    if entry.low is None or entry.high is None:
        return text
    return f"{text} [{100 * entry.low:{sign}.1f}, {100 * entry.high:{sign}.1f}]"
