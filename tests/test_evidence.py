"""What tasks, loops and speed leave in an output: whole, listed, and read back as it was."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secateur import Report
from secateur.errors import OutputError
from secateur.evaluation.gate import Verdict, parse_gate
from secateur.evaluation.measurement import Measurement
from secateur.release.evidence import (
    ORIGINAL,
    ArtefactEvidence,
    Evidence,
    measured_files,
    read_evidence,
    read_items,
    write_evidence,
)
from secateur.release.manifest import read_manifest, verify
from secateur.release.report import evidence_to_markdown, to_markdown

ACCURACY = Measurement(
    "accuracy", 0.75, "of the questions", {"questions": 8}, 0.4, 0.93, 0.95, "sums", "tasks"
)
FOUND = Evidence(
    "tasks",
    (
        ArtefactEvidence(ORIGINAL, (ACCURACY,), {"lock": {"seed": 1}}),
        ArtefactEvidence("a b-Q8_0.gguf", (replace(ACCURACY, value=0.5, low=None, high=None),)),
    ),
    {"tasks": ["sums"]},
    ("one question was cut",),
)
ITEMS = {
    f"{ORIGINAL}/sums": [{"item": "é", "score": 1}, {"item": "2", "score": None}],
    "a b-Q8_0.gguf/sums": [{"item": "é", "score": 0}],
}


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_evidence_is_read_back_as_it_was_written(copy: Path) -> None:
    assert read_evidence(copy, "tasks") is None
    write_evidence(copy, FOUND, ITEMS)
    assert read_evidence(copy, "tasks") == FOUND
    assert read_evidence(copy, "loops") is None
    assert {name: list(read_items(copy, "tasks", name)) for name in ITEMS} == ITEMS
    found = FOUND.of("a b-Q8_0.gguf")
    assert found is not None and found.value("accuracy", "sums", "tasks") is not None
    assert FOUND.of("c.gguf") is None


def test_its_files_are_in_the_manifest_and_old_items_are_not(copy: Path) -> None:
    before = read_manifest(copy)["files"]
    write_evidence(copy, FOUND, ITEMS)
    names = {*measured_files(copy, ["tasks"])}
    assert names == {"evidence/tasks.json", *(f"evidence/tasks/{name}.jsonl" for name in ITEMS)}
    assert read_manifest(copy)["files"].keys() - before.keys() == names
    assert verify(copy) == ()
    path = copy / "evidence/tasks/original/sums.jsonl"
    path.write_text(path.read_text().replace("1", "0"))
    assert [problem.file for problem in verify(copy)] == ["evidence/tasks/original/sums.jsonl"]
    write_evidence(copy, FOUND, {f"{ORIGINAL}/sums": []})
    assert not (copy / "evidence/tasks/a b-Q8_0.gguf/sums.jsonl").exists()
    assert verify(copy) == ()
    assert read_items(copy, "tasks", "original/sums") == ()


def test_speed_is_of_one_run_and_in_no_manifest(copy: Path) -> None:
    before = read_manifest(copy)
    seconds = replace(ACCURACY, name="generation", unit="tokens per second", kind="speed")
    speed = Evidence("speed", (ArtefactEvidence("a.gguf", (seconds,)),))
    write_evidence(copy, speed, {"a.gguf": [{"seconds": 0.25}]})
    assert read_evidence(copy, "speed") == speed
    assert read_items(copy, "speed", "a.gguf") == ({"seconds": 0.25},)
    assert read_manifest(copy) == before
    assert verify(copy) == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(kind="loops"),
        lambda data: data["artefacts"].append(data["artefacts"][0]),
        lambda data: data["artefacts"][0]["measurements"][0].pop("n"),
        lambda data: data["artefacts"][0]["measurements"][0].update(odd=1),
        lambda data: data["artefacts"][0]["measurements"][0].update(value="0.9"),
        lambda data: data["artefacts"][0]["measurements"][0].update(value=float("nan")),
        lambda data: data["artefacts"][0]["measurements"][0].update(high=None),
        lambda data: data["artefacts"][0]["measurements"][0].update(n={"questions": -1}),
        lambda data: data["artefacts"][0]["measurements"][0].update(domain=3),
        lambda data: data.pop("notes"),
        lambda data: data.update(artefacts=3),
    ],
)
def test_what_is_not_ours_is_refused_in_a_sentence(
    change: Callable[[dict[str, Any]], object], copy: Path
) -> None:
    write_evidence(copy, FOUND)
    path = copy / "evidence/tasks.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(OutputError, match="is not what secateur wrote") as refused:
        read_evidence(copy, "tasks")
    assert "Error" not in str(refused.value)


def test_what_cannot_be_written_is_refused_before_anything_is(copy: Path) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        write_evidence(copy, FOUND, {"../tasks": []})
    odd = replace(FOUND, artefacts=(ArtefactEvidence("a", (replace(ACCURACY, value=2e999),)),))
    with pytest.raises(ValueError, match="Out of range"):
        write_evidence(copy, odd)
    (copy / "manifest.json").unlink()
    with pytest.raises(OutputError, match="no manifest"):
        write_evidence(copy, FOUND)
    assert not (copy / "evidence/tasks.json").exists()
    with pytest.raises(OutputError, match="cannot read"):
        read_items(copy, "tasks", "a")


def test_the_report_has_each_number_with_its_samples_by_domain() -> None:
    def replies(name: str, count: int, domain: str) -> Measurement:
        return Measurement(
            name, 0.25, "of replies", {"replies": count}, domain=domain, kind="loops"
        )

    def asked(called: str, count: int) -> ArtefactEvidence:
        names = [("loop_rate", "pooled"), ("compression", "pooled"), ("compression", "code")]
        more = [("loop_rate", "code"), ("loop_rate_difference", "pooled")]
        return ArtefactEvidence(called, tuple(replies(n, count, d) for n, d in names + more))

    text = evidence_to_markdown("x", [Evidence("loops", (asked("a", 60), asked("b", 59)))])
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| pooled | ")]
    assert [row[1] for row in rows] == ["loop rate", "compression", "loop rate difference"]
    assert {row[3] for row in rows} == {"59 to 60 replies"}
    code = [line for line in text.splitlines() if line.startswith("| code | ")]
    assert len(code) == 1 and "loop rate" in code[0]  # of few prompts only what says most
    large = Measurement(
        "prefill_speed", 1692.4, "tokens per second", {"turns": 3}, 215.2, 13200.0, 0.95
    )
    speed = Evidence("speed", (ArtefactEvidence("a", (large,)),))
    assert "| 1,692 [215, 13,200] |" in evidence_to_markdown("x", [speed])


HOSTILE = "a|b\\|c\n| d `e` <b> [f](g)"


def table_widths(text: str) -> list[set[int]]:
    """Of every table of a Markdown text the numbers of cells that its rows have."""
    tables = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    cells = re.compile(r"(?<!\\)(?:\\\\)*\|")
    return [{len(cells.findall(row)) for row in table.splitlines()} for table in tables]


def test_no_name_breaks_a_row_of_a_table(shrunk: Report) -> None:
    gate = parse_gate("accuracy:x|y`z>=0.5")
    number = replace(ACCURACY, domain=HOSTILE)
    asked = Evidence("tasks", (ArtefactEvidence(HOSTILE, (number,)),), notes=(HOSTILE,))
    limits = (Verdict(gate, HOSTILE, number),)
    text = evidence_to_markdown(HOSTILE, [asked], limits)
    assert table_widths(text) == [{6}, {6}]
    assert "`accuracy:x\\|y'z>=0.5`" in text
    assert "\n| a\\|b\\\\\\|c \\| d \\`e\\` &lt;b> [f]\\(g) | accuracy |" in text

    renamed = tuple(
        replace(
            one,
            name=f"{HOSTILE} {place}",
            measurements=tuple(
                replace(entry, domain=entry.domain if entry.domain == "pooled" else HOSTILE)
                for entry in one.measurements
            ),
        )
        for place, one in enumerate(shrunk.artefacts)
    )
    sizes = {HOSTILE: dict.fromkeys(("predicted", "written"), 1)}
    report = replace(shrunk, artefacts=renamed, original=HOSTILE, sizes=sizes, notes=(HOSTILE,))
    widths = table_widths(to_markdown(report, evidence=[asked]))
    assert len(widths) > 6 and all(len(one) == 1 for one in widths)
