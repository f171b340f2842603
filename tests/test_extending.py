"""The worked examples of docs/extending.md run as they stand.

A section's blocks are taken in order: one that begins with a comment naming a file is written to
that file of a copy of the project, `sh` blocks are run by the shell, and the Python blocks left
are one program. Each section has a copy of its own, a tiny model in `model`, its statistics, rows
and answers, an output of it in `out`, and a tiny OLMoE, which no family of ours describes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_line import Line
from tiny_models import olmoe, save_model

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extending.md"
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:toml|yaml|py))\n")
LINES_OF_A_PAGE = 90


def sections() -> dict[str, str]:
    """Title -> text."""
    parts = SECTION.split(PAGE.read_text("utf-8"))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks_of(title: str) -> list[tuple[str, str]]:
    """(language, text) of the blocks of a section."""
    return BLOCK.findall(sections()[title])


def program_of(title: str, project: Path) -> str:
    """The Python of a section; what it puts into files is written below `project`."""
    program = []
    for language, text in blocks_of(title):
        if named := FILE.match(text):
            path = project / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        elif language == "python":
            program.append(text)
        elif language == "sh":
            program.append(f"import subprocess\nsubprocess.run({text!r}, shell=True, check=True)\n")
    return "\n".join(program)


@pytest.fixture
def project(line: Line, stats: Path, made: Path, tmp_path: Path) -> Path:
    """A copy of the package, and what the examples read."""
    # What numba compiled goes along, but no file that somebody is writing now.
    leave_out = shutil.ignore_patterns("gemmule", "*.tmp.*", "*.pyc.*")
    shutil.copytree(ROOT / "secateur", tmp_path / "secateur", ignore=leave_out)
    (tmp_path / "secateur" / "gemmule").symlink_to(ROOT / "secateur" / "gemmule")
    (tmp_path / "model").symlink_to(line.model)
    shutil.copytree(made, tmp_path / "out")
    for source, name in ((stats, "stats.safetensors"), (line.rows, "rows.jsonl")):
        shutil.copyfile(source, tmp_path / name)
    shutil.copyfile(line.answers, tmp_path / "answers.jsonl")
    save_model(olmoe, tmp_path / "olmoe")
    row = {"input_ids": list(range(4, 44)), "category": "any"}
    (tmp_path / "olmoe.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def test_the_page_has_all_that_multiplies() -> None:
    assert list(sections()) == [
        "A criterion", "A metric", "A detector", "A task suite", "A family", "A format", "A device"
    ]  # fmt: skip
    for title, text in sections().items():
        assert text.count("\n") <= LINES_OF_A_PAGE, title


@pytest.mark.slow
@pytest.mark.parametrize("title", sections())
def test_the_worked_example_runs(title: str, project: Path) -> None:
    program = program_of(title, project)
    assert program
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(project), str(ROOT / "tests")]),
        "XDG_CACHE_HOME": str(project / "cache"),
        "XDG_CONFIG_HOME": str(project / "config"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_criterions_own_sum_is_right(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    made: dict[str, object] = {}
    exec(compile(program_of("A criterion", project), PAGE.name, "exec"), made)
    scores, _, keep = capsys.readouterr().out.strip().rpartition("\n")
    assert len(scores.strip("[]").split()) == 8
    assert keep.startswith("{0: (")
    statistics = made["statistics"]
    assert statistics.sums["turn"] == "sum"  # type: ignore[attr-defined]
    turn = statistics.array(0, "turn").sum(0)  # type: ignore[attr-defined]
    gates = statistics.array(0, "gate").sum(0)  # type: ignore[attr-defined]
    assert (turn >= 0).all()
    assert (turn <= 2 * gates + 1e-6).all()
    assert turn.any()
