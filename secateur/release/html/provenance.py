"""Where numbers come from: the model, the text, the runs, the versions, in pairs of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from secateur.release.measured_on import describe_measured_on
from secateur.release.report import describe_rounding
from secateur.release.results import Results
from secateur.release.run_record import RunRecord
from secateur.system.sizes import show_bytes, show_count
from secateur.system.stopwatch import show_duration

Pairs = list[tuple[str, str]]


def made_from(results: Results) -> Pairs:
    """What an output was made from, and what it was measured on."""
    made, report = results.report.made, results.report
    model = made["model"]
    revision = f" at {model['revision']}" if model.get("revision") else ""
    pairs = [
        ("model", f"{model['source']}{revision}"),
        ("identity of its weights", _short(model["identity"])),
        ("plan", _short(made["plan_sha256"])),
        *(("edited by hand", edit) for edit in made["edited"]),
    ]
    if rounding := describe_rounding(report):
        pairs.append(("rounding", rounding))
    pairs += _calibrated(made.get("calibration"))
    pairs += [("measured", sentence) for sentence in describe_measured_on(report.answers)]
    pairs.append(("answers", _short(report.answers["sha256"])))
    return pairs


def asked(facts: Mapping[str, Any]) -> Pairs:
    """What is known of how tasks, loops or speed were asked, keys of keys joined by dots."""
    return [(path, _value(value)) for path, value in _flat("", facts)]


def ran(run: RunRecord) -> Pairs:
    """One run: what was typed, when, how long, where, with what."""
    machine = run.machine
    return [
        ("command", run.command or "called from Python"),
        ("ended", run.ended.replace("+00:00", " UTC").replace("T", " ")),
        ("took", show_duration(run.seconds)),
        (
            "machine",
            f"{machine['cores']} cores of {machine['processor']}, "
            f"{show_bytes(machine['memory_bytes'])} of memory, {machine['system']}",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
    ]


def _calibrated(calibration: Mapping[str, Any] | None) -> Pairs:
    if calibration is None:
        return []
    tokens = ", ".join(f"{name} {count:,}" for name, count in calibration["tokens"].items())
    pairs = [
        ("calibrated on", f"{show_count(calibration['samples'], 'document')}; tokens of {tokens}")
    ]
    for corpus in calibration["corpora"]:
        name = corpus.get("mix") or corpus.get("rows_file") or "rows"
        pairs.append(("corpus", f"{name}, {_short(corpus['sha256'])}"))
    pairs += [("coverage", sentence) for sentence in calibration["coverage"]]
    return pairs + [("warning", warning) for warning in calibration["warnings"]]


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _flat(f"{path}.{key}".lstrip("."), below)
    else:
        yield path, value


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    return "none" if value is None else str(value)


def _short(sha256: str) -> str:
    return f"sha256 {sha256[:16]}…"
