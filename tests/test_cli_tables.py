"""What commands print for people: tables that fit a screen, ruled on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_line import Line, Run

from secateur import Report, fit, inspect
from secateur.cli.render.fit import SHOWN, best_rows, fit_lines
from secateur.cli.render.measurement import measurement_lines, shrink_lines
from secateur.cli.render.scores import layer_lines, overview_lines, show_score
from secateur.cli.render.table import Table, plain_lines
from secateur.evaluation.measurement import POOLED
from secateur.release.report import worst_domain

SCRIPT = Path(sys.executable).with_name("secateur")


def test_columns_stand_below_each_other() -> None:
    table = Table(["name", "bytes", "why"], [["a", "1,000", "x"], ["longer", "5", ""]], "lrl")
    assert table.plain_lines() == [
        "  name    bytes  why",
        "  a       1,000  x",
        "  longer      5",
    ]
    assert plain_lines(["first", table])[0] == "first"


def test_shrink_prints_a_row_per_artefact(shrunk: Report, made: Path) -> None:
    lines = plain_lines(shrink_lines(shrunk, made))
    assert len(lines) <= 24
    first = shrunk.artefacts[0]
    (row,) = [line for line in lines if line.startswith(f"  {first.name} ")]
    found = first.value("kl_mean")
    assert found is not None
    assert f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]" in row
    assert f"{100 * first.bytes / shrunk.original_bytes:.1f} %" in row
    worst = worst_domain(first)
    assert worst is not None
    assert row.endswith(f"{worst.domain} {worst.value:.3g}, n = {worst.n['answers']}")
    domains = [first.value("kl_mean", domain) for _, domain in first.groups if domain != POOLED]
    assert worst.value == max(one.value for one in domains if one is not None)
    assert "on 6 answers of the original (157 tokens)" in lines[0]
    assert "all sizes are as the plan predicted, to the byte" in lines


def test_domains_are_shown_on_request(shrunk: Report) -> None:
    short = plain_lines(measurement_lines(shrunk))
    long = plain_lines(measurement_lines(shrunk, by_domain=True))
    assert not any(line.startswith("  names") for line in short)
    rows = [line for line in long if line.startswith("  names")]
    assert len(rows) == len(shrunk.artefacts)
    assert all("3 answers" in row for row in rows)


def test_plan_has_a_row_per_type(run: Run, line: Line) -> None:
    words = ("plan", line.model, "--drop", "0", "--types", "Q8_0,Q6_K,Q5_0,Q4_K_M")
    out = run(*words).out
    data = run(*words, json=True).json
    for form in data["file_bytes"]:
        (row,) = [text for text in out.splitlines() if text.startswith(f"  {form} ")]
        assert f"{data['file_bytes'][form]:,}" in row
    assert len(out.splitlines()) < 20
    assert "fall back" in out and "1 format like it (-v" in out
    more = run(*words, "-v").out
    assert "gguf-Q8_0, by type:" in more
    assert "like it (-v" not in more


def test_plan_says_whether_a_matrix_is_used(
    run: Run, line: Line, real: Path, tmp_path: Path
) -> None:
    """Of types that pass over one, that it is not needed, with statistics too."""

    def said(*words: object, **options: object) -> dict[str, str]:
        out = run("plan", *words, to="gguf", **options).out
        rows = [re.split("  +", text.strip()) for text in out.splitlines() if "  gguf-" in text]
        return {row[0].removeprefix("gguf-"): row[5] for row in rows}

    stats = tmp_path / "stats.safetensors"
    assert run("calibrate", line.model, "--rows", line.rows, out=stats).code == 0
    words = (line.model, "--drop", "0", "--types", "Q8_0,Q4_K_M")
    assert said(*words) == {"Q8_0": "not needed", "Q4_K_M": "not needed"}
    assert said(*words, stats=stats) == {"Q8_0": "not needed", "Q4_K_M": "used"}
    words = (real / "config.json", "--experts", "109", "--types", "IQ2_XXS,Q4_K_M")
    assert said(*words) == {"IQ2_XXS": "needed", "Q4_K_M": "not needed"}


def test_fit_shows_fifteen_rows_and_all(run: Run, real: Path) -> None:
    ladder = "Q6_K,Q5_K_M,Q5_0,Q4_K_M,Q4_0,IQ4_XS,Q3_K_M,Q3_K_S,IQ3_XXS,Q2_K"
    found = fit(real, "12GiB", experts=(128, 115, 103, 90, 64), types=ladder)
    best = best_rows(found.rows, SHOWN)
    assert len(best) == SHOWN < len(found.rows)
    for row in best_rows(found.rows, 3):  # nothing that fits has more experts and more bits
        assert not [
            other for other in found.rows
            if other.experts > row.experts and other.bits_per_weight > row.bits_per_weight
        ]  # fmt: skip
    assert {row.experts for row in best} >= {row.experts for row in found.rows if row.experts > 90}
    shown = plain_lines(fit_lines(found))
    assert f"--all shows {len(found.rows)}" in "\n".join(shown)
    assert len(shown) < 25
    words = ("fit", real, "--memory", "12GiB", "--experts", "90,64", "--types", ladder)
    rows = [
        len(re.findall(r"^ +\d+  \S+ +[\d.]+ ", run(*words, *flags).out, re.M))
        for flags in ((), ("--all",))
    ]
    assert rows == [SHOWN, sum(row.experts in (90, 64) for row in found.rows)]


def test_scores_at_a_glance_and_layer_by_layer(
    run: Run, stats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = run("scores", stats, criterion="reap", json=True).json["layers"]["1"]
    best, worst = max(range(8), key=scores.__getitem__), min(range(8), key=scores.__getitem__)
    out = run("scores", stats, criterion="reap").out
    (row,) = [text for text in out.splitlines() if re.match(r" +1 ", text)]
    assert f" {best} {show_score(scores[best])} " in row
    assert row.endswith(f" {worst} {show_score(scores[worst])}")
    assert "unit: weighted norm per token" in out
    out = run("scores", stats, "--layer", "1", criterion="reap").out
    assert "layer 1" in out and "layer 0" not in out
    assert re.search(rf" 1\. +{best} +{re.escape(show_score(scores[best]))} ", out)
    assert "layer 0" in run("scores", stats, "--all").out
    ran = run("scores", stats, "--layer", "7")
    assert (ran.code, ran.said) == (2, ["secateur: --layer 7: the layers with experts are 0, 1"])
    wide = {str(layer): [1000.5 + n for n in range(128)] for layer in range(30)}
    for columns in (128, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = plain_lines(overview_lines("head", wide))
        assert len(lines) <= 33
        assert all(len(text) <= columns for text in lines)
        assert " 127 1,128 " in lines[2] and lines[2].endswith("  0 1,000")
        lines = plain_lines(layer_lines("head", {"3": wide["3"]}))
        assert all(len(text) <= columns for text in lines)


def test_inspect_knows_any_number_of_experts(run: Run, line: Line) -> None:
    found = inspect(line.model, experts=(7, 5))
    whole = inspect(line.model)
    assert [size.experts for size in found.sizes] == [7, 5]
    for size in found.sizes:
        assert (size.parameters, size.bytes) == whole.with_experts(size.experts)
        assert size.memory is not None and size.memory > size.bytes
    out = run("inspect", line.model, "--experts", "7,5").out
    assert all(f"{size.bytes:,}" in out for size in found.sizes)
    assert run("inspect", line.model, "--experts", "1").code == 2
    assert run("inspect", line.model, "--experts", "9").code == 2
    assert "such as 90,109" in run("inspect", line.model, "--experts", "many").err


@pytest.mark.parametrize("columns", [100, 60])
def test_a_terminal_gets_ruled_tables_if_it_is_wide_enough(line: Line, columns: int) -> None:
    """No number is cut on a narrow one."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    process = subprocess.Popen([SCRIPT, "inspect", line.model], stdout=theirs, env=env)
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 4096):
            shown += block
    except OSError:  # what Linux says when the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert "─" in text
    assert "--experts" in text
    for size in inspect(line.model).sizes:
        assert f"{size.bytes:,}" in text
