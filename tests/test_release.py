"""The manifest and the report: what they say is so, and complete."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from tiny_line import Line, files_of

import secateur
from secateur import Measuring, Report, measure, read_plan, verify
from secateur.errors import GateError, OutputError
from secateur.release.manifest import read_manifest
from secateur.release.report import COLUMNS, report_from_json, to_markdown


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_every_file_has_its_sha256_and_size(made: Path) -> None:
    listed = read_manifest(made)["files"]
    for name, content in files_of(made).items():
        if name != "manifest.json":
            expected = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            assert listed.pop(name) == expected
    assert listed == {}


def test_the_manifest_says_what_it_was_made_from(made: Path, line: Line) -> None:
    manifest = read_manifest(made)
    original = secateur.open_checkpoint(line.model)
    assert manifest["secateur"] == secateur.__version__
    assert manifest["model"]["source"] == "tiny-moe"
    assert manifest["model"]["identity"] == original.identity()
    assert (manifest["experts"], manifest["model"]["experts"]) == (6, 8)
    assert manifest["selection"]["criterion"] == "rerouted"
    assert sum(manifest["calibration"]["tokens"].values()) > 0
    assert manifest["calibration"]["samples"] == 12


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("is missing", lambda path: path.unlink()),
        ("bytes, the manifest says", lambda path: path.write_bytes(path.read_bytes() + b"x")),
        (
            "sha256",
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"),
        ),
    ],
)
def test_verify_finds_what_was_changed(what, change, copy: Path) -> None:
    change(copy / "model.safetensors")
    (problem,) = verify(copy)
    assert problem.file == "model.safetensors"
    assert what in problem.what


def test_verify_finds_a_file_that_is_not_listed(copy: Path) -> None:
    (copy / "model-00002.safetensors").write_bytes(b"")
    (problem,) = verify(copy)
    assert (problem.file, problem.what) == ("model-00002.safetensors", "is not in the manifest")


def test_verify_reports_its_progress(made: Path) -> None:
    told: list[tuple[int, int]] = []
    verify(made, lambda stage, done, total, unit: told.append((done, total)))
    total = sum(entry["bytes"] for entry in read_manifest(made)["files"].values())
    assert told[-1] == (total, total)


def test_the_report_reads_back(made: Path, shrunk: Report) -> None:
    data = json.loads((made / "report.json").read_text())
    assert report_from_json(data).to_json() == data == json.loads(json.dumps(shrunk.to_json()))
    with pytest.raises(OutputError, match="not a report"):
        report_from_json({})


def test_every_number_has_unit_samples_and_interval(shrunk: Report) -> None:
    assert [artefact.name for artefact in shrunk.artefacts] == [
        "safetensors", "tiny-moe-6e-Q4_K_M.gguf", "tiny-moe-6e-Q8_0.gguf",
    ]  # fmt: skip
    for artefact in shrunk.artefacts:
        domains = {domain for _, domain in artefact.groups}
        assert domains == {"pooled", "sums", "names"}
        for domain in domains:
            for name in ("kl_mean", "kl_median", "top1_agreement", "perplexity"):
                found = artefact.value(name, domain)
                assert found is not None
                assert found.unit
                assert found.n["answers"] in (3, 6)
                assert found.low <= found.value <= found.high
        assert artefact.value("kl_p99") is not None


def test_the_markdown_report_has_the_numbers_of_the_json_one(
    made: Path, shrunk: Report, line: Line
) -> None:
    text = (made / "report.md").read_text()
    assert text == to_markdown(shrunk)
    plan = read_plan(made / "plan.json")
    for form in plan.formats:
        assert f"{plan.file_bytes(form):,}" in text
    for artefact in shrunk.artefacts:
        assert f"{artefact.value('kl_mean').value:.4g}" in text
    assert "6 of 8 experts" in text
    original = sum(path.stat().st_size for path in line.model.glob("*.safetensors"))
    assert f"| the original | {original:,} |" in text
    assert f"{100 * shrunk.artefacts[0].bytes / original:.1f} %" in text
    assert all(title in text for _, title in COLUMNS)


def test_the_markdown_tables_are_tables(made: Path) -> None:
    """Each row as many cells as its head, no blank line inside."""
    tables = re.findall(r"(?:^\|.*\|\n)+", (made / "report.md").read_text(), re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        head, rule, *rows = table.splitlines()
        assert re.fullmatch(r"[|:-]+", rule)
        assert rows
        assert {line.count("|") for line in (rule, *rows)} == {head.count("|")}


def test_measuring_again_brings_report_and_manifest_up_to_date(
    copy: Path, line: Line, tmp_path: Path
) -> None:
    before = (copy / "report.json").read_bytes()
    request = Measuring(answers=line.answers, per_domain=2)
    report = measure(copy, line.model, request, work=tmp_path / "work")
    assert report.answers["answers"] == 4
    assert (copy / "report.json").read_bytes() != before
    assert verify(copy) == ()
    again = measure(copy, line.model, request, work=tmp_path / "work", workers=2)
    assert again.to_json() == report.to_json()


def test_a_gate_that_is_met_says_nothing(shrunk: Report) -> None:
    from dataclasses import replace

    replace(shrunk, limits={"max_mean_kl": 10.0, "min_top1": 0.01}).check_gate()
    with pytest.raises(GateError, match="at most"):
        replace(shrunk, limits={"max_mean_kl": 1e-9}).check_gate()
    with pytest.raises(GateError, match="at least"):
        replace(shrunk, limits={"min_top1": 1.0}).check_gate()


def test_a_foreign_model_is_measured_but_nothing_is_written_into_it(
    line: Line, tmp_path: Path
) -> None:
    before = files_of(line.model)
    report = measure(line.model, line.model, Measuring(answers=line.answers), work=tmp_path)
    assert report.artefacts[0].value("kl_mean").value == 0
    assert files_of(line.model) == before


def test_the_public_names_are_all_there() -> None:
    assert set(secateur.__all__) == set(dir(secateur))
    assert all(getattr(secateur, name) is not None for name in secateur.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        secateur.prune  # noqa: B018
