"""The manifest and the report: what they say is so, and complete."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_line import Line, Run, files_of

import secateur
from secateur import Measuring, Report, measure, read_plan, verify
from secateur.errors import GateError, OutputError
from secateur.evaluation.gate import parse_gate
from secateur.evaluation.intervals import FEWEST_ANSWERS
from secateur.release.manifest import is_of_one_run, read_manifest
from secateur.release.report import show_ranges, table_metrics, to_markdown, worst_domain
from secateur.release.run_record import read_runs
from secateur.system.sizes import show_bytes


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


def test_verify_finds_a_digit_that_was_changed_in_the_page(copy: Path, run: Run) -> None:
    whole, runs = (copy / "report.md").read_text(), (copy / "run.json").read_text()
    ran = run("verify", copy)
    assert (ran.code, ran.out.count("note: run.json tells of one run, and is not checked")) == (
        0,
        1,
    )
    digit = re.search(r"is (\d)\.\d+ \[", whole)
    assert digit is not None
    other = whole[: digit.start(1)] + str(9 - int(digit[1])) + whole[digit.end(1) :]
    (copy / "report.md").write_text(other)
    (problem,) = verify(copy)
    assert (problem.file, problem.kind) == ("report.md", "changed")
    ran = run("verify", copy)
    assert ran.code == 2
    assert "report.md is not what report.json and run.json give" in ran.err
    (copy / "report.md").write_text(whole)
    (copy / "run.json").write_text(runs.replace('"seconds": ', '"seconds": 9'))
    assert [problem.file for problem in verify(copy)] == ["report.md", "report.html"]
    (copy / "run.json").write_text(runs.replace('"cores"', '"kernels"'))
    assert [problem.file for problem in verify(copy)] == ["report.md", "report.html"]
    (copy / "run.json").write_text(runs)
    (copy / "report.md").unlink()
    (problem,) = verify(copy)
    assert (problem.file, problem.what) == ("report.md", "is missing")


def test_the_page_of_another_version_is_not_checked(
    copy: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.release.pages.__version__", "99")
    (copy / "report.md").write_text("another page")
    assert run("verify", copy, json=True).json["unchecked"] == [
        "report.html",
        "report.md",
        "run.json",
    ]


def test_verify_finds_a_file_that_is_not_listed(copy: Path) -> None:
    (copy / "model-00002.safetensors").write_bytes(b"")
    (problem,) = verify(copy)
    assert (problem.file, problem.what) == ("model-00002.safetensors", "is not in the manifest")
    assert not problem.is_damage


def test_a_file_too_many_is_a_note_and_with_strict_an_error(copy: Path, run: Run) -> None:
    (copy / "README.md").write_text("published")
    ran = run("verify", copy)
    assert (ran.code, ran.said) == (0, [])
    assert "note: README.md is not in the manifest" in ran.out
    assert run("verify", copy, json=True).json["additional"] == ["README.md"]
    ran = run("verify", copy, strict=True)
    assert ran.code == 2
    assert "README.md: remove them" in ran.err
    assert "again" not in ran.err


def test_a_damaged_manifest_is_one_short_sentence(copy: Path, run: Run) -> None:
    whole = (copy / "manifest.json").read_bytes()
    for damage in (
        b"GGUF\xff\xfe" * 100_000,
        whole[:-40],
        b"[]",
        b'{"files": [1]}',
        b'{"files": 3}',
    ):
        (copy / "manifest.json").write_bytes(damage)
        ran = run("verify", copy)
        assert ran.code == 2
        assert "manifest.json is " in ran.err and "list of files and hashes" in ran.err
        assert len(ran.err) < 400 and "Error" not in ran.err


def test_verify_reports_its_progress(made: Path) -> None:
    told: list[tuple[int, int]] = []
    verify(made, lambda stage, done, total, unit: told.append((done, total)))
    total = sum(entry["bytes"] for entry in read_manifest(made)["files"].values())
    assert told[-1] == (total, total)


def test_the_report_in_the_output_is_the_one_returned(made: Path, shrunk: Report) -> None:
    data = json.loads((made / "report.json").read_text())
    assert data == json.loads(json.dumps(shrunk.to_json()))


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
                if found.n["answers"] >= FEWEST_ANSWERS:
                    assert found.low <= found.value <= found.high
                else:
                    assert found.low is None and found.high is None
        assert artefact.value("kl_p99") is not None


def test_the_markdown_report_has_the_numbers_of_the_json_one(
    made: Path, shrunk: Report, line: Line
) -> None:
    text = (made / "report.md").read_text()
    assert text == to_markdown(shrunk, read_runs(made))
    plan = read_plan(made / "plan.json")
    for form in plan.formats:
        assert f"{plan.file_bytes(form):,}" in text
    for artefact in shrunk.artefacts:
        assert f"{artefact.value('kl_mean').value:.3g}" in text
    assert "6 of 8 experts" in text
    original = sum(path.stat().st_size for path in line.model.glob("*.safetensors"))
    assert f"| the original | {show_bytes(original)} |" in text
    assert f"{100 * shrunk.artefacts[0].bytes / original:.1f} %" in text
    assert all(metric.title in text for metric in table_metrics())
    assert "no intervals for sums (3 answers), names (3 answers)" in text
    pruned = sorted(set(range(8)) - set(plan.keep[0]))
    assert f"| 0 | 2 | {show_ranges(tuple(pruned))} |" in text


def test_the_report_begins_with_what_it_cost(made: Path, shrunk: Report) -> None:
    """One paragraph: what was made from what, how much smaller, what it lost, on how much."""
    title, summary, *_ = (made / "report.md").read_text().split("\n\n")
    assert title == "# tiny-moe, made smaller"
    smallest = min(shrunk.artefacts, key=lambda entry: entry.bytes)
    found, worst = smallest.value("kl_mean"), worst_domain(smallest)
    assert found is not None and worst is not None
    flat = " ".join(summary.split())
    assert "6 of 8 experts are kept in each layer, chosen by `rerouted`." in flat
    assert f"The smallest of 3 outputs, {smallest.name}, has {show_bytes(smallest.bytes)}: " in flat
    assert f"is {found.value:.3g} [{found.low:.3g}, {found.high:.3g}] nats per token" in flat
    assert "measured on 6 answers of the original with 157 tokens; it is worst on" in flat
    assert f"it is worst on {worst.domain}, with {worst.value:.3g}" in flat
    assert (made / "report.md").read_text().count(f"**{worst.domain}**") >= 1


def test_the_report_names_the_rounding_of_each_output(shrunk: Report) -> None:
    forms = "gguf-Q8_0, gguf-Q4_K_M"
    assert f"\nRounding of {forms}: to nearest.\n" in to_markdown(shrunk)
    facts = {"method": "feedback", "gram": "shared", "sha256": "0" * 64}
    made = {**shrunk.made, "selection": {**shrunk.made["selection"], "rounding": facts}}
    told = to_markdown(replace(shrunk, made=made))
    assert f"\nRounding of {forms}: with error feedback (Gram matrices: shared).\n" in told
    assert "Rounding" not in to_markdown(replace(shrunk, sizes={}))


@pytest.mark.slow
def test_the_report_tells_the_run_and_the_manifest_does_not(
    copy: Path, line: Line, run: Run, tmp_path: Path
) -> None:
    """Command, time of the stages, machine and versions; a path of somebody's home is not told."""
    before = read_manifest(copy)
    words = ("measure", copy, "--against", line.model, f"--answers={line.answers}", "--workers", 1)
    assert run(*words).code == 0
    made, measured = read_runs(copy)
    assert (made.command, measured.command) == (
        "",
        "secateur measure out --against tiny-moe --answers=answers.jsonl --workers 1",
    )
    assert {"calibrate", "write GGUF"} <= made.parts.keys()
    assert {"verify", "safetensors"} <= measured.parts.keys()
    assert measured.machine["cores"] >= 1
    text = (copy / "report.md").read_text()
    assert f"    {measured.command}\n" in text
    assert measured.machine["processor"] in text
    assert f"torch {measured.versions['torch']}" in text
    assert str(tmp_path) not in text
    assert read_manifest(copy) == before
    assert not any(is_of_one_run(name) for name in before["files"])
    assert verify(copy) == ()
    run(*words)
    assert len(read_runs(copy)) == 2
    (copy / "run.json").write_text("[]")
    assert run(*words).code == 0
    assert len(read_runs(copy)) == 1


def test_the_markdown_tables_are_tables(made: Path) -> None:
    """Each row as many cells as its head, no blank line inside."""
    tables = re.findall(r"(?:^\|.*\|\n)+", (made / "report.md").read_text(), re.MULTILINE)
    # Sizes, three artefacts, other numbers, routers, pruned experts, stages, estimate, files.
    assert len(tables) == 10
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


def test_measuring_adds_exactly_its_own_files_to_the_manifest(
    copy: Path, line: Line, tmp_path: Path
) -> None:
    for name in ("report.json", "report.md"):
        (copy / name).unlink()
    before = read_manifest(copy)
    (copy / "README.md").write_text("published")
    report = measure(copy, line.model, Measuring(answers=line.answers), work=tmp_path / "work")
    assert any("README.md" in note for note in report.notes)
    after = read_manifest(copy)
    own = after["files"].pop("report.json")
    assert own["bytes"] == (copy / "report.json").stat().st_size
    assert own != before["files"].pop("report.json")
    assert after.pop("manifest_sha256") != before.pop("manifest_sha256")
    assert after == before
    assert [problem.file for problem in verify(copy)] == ["README.md"]


def test_what_a_killed_measurement_left_is_removed_and_not_noted(
    copy: Path, line: Line, tmp_path: Path
) -> None:
    left = copy / f".report.json.{socket.gethostname()}-{2**31}-0a1b2c3d.partial"
    left.write_text("{")
    report = measure(copy, line.model, Measuring(answers=line.answers), work=tmp_path / "work")
    assert not left.exists()
    assert not any("not in the manifest" in note for note in report.notes)


def test_a_changed_file_is_refused_before_anything_is_measured_or_written(
    copy: Path, line: Line, tmp_path: Path
) -> None:
    (copy / "tokenizer_config.json").write_text("{}")
    before = files_of(copy)
    with pytest.raises(OutputError, match=r"tokenizer_config\.json has 2 bytes, the manifest says"):
        measure(copy, line.model, Measuring(answers=line.answers), work=tmp_path / "work")
    assert files_of(copy) == before
    assert {path.name for path in (tmp_path / "work").iterdir()} <= {"model.json"}


def test_a_gate_that_is_met_says_nothing(shrunk: Report) -> None:
    def check(*gates: str) -> None:
        replace(shrunk, gates=tuple(map(parse_gate, gates))).check_gate()

    check("kl_mean<=10", "top1_agreement>=0.01")
    with pytest.raises(GateError, match="kl_mean<=1e-09") as missed:
        check("kl_mean<=1e-9")
    # Every artefact that misses it is named.
    assert all(f"{artefact.name}: " in str(missed.value) for artefact in shrunk.artefacts)
    with pytest.raises(GateError, match="top1_agreement>=1"):
        check("top1_agreement>=1.0")


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
