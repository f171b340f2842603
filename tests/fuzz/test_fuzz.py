"""A short fuzzing of every reader with a fixed seed; `run.py` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_line import Line

HERE = Path(__file__).parent
RUNS = 100


@pytest.mark.slow
def test_no_reader_fails_in_a_short_run(line: Line, made: Path, tmp_path: Path) -> None:
    from run import write_goods

    write_goods(tmp_path, line.model, line.corpus, line.rows, line.answers, made)
    command = [sys.executable, str(HERE / "run.py"), "--goods", str(tmp_path)]
    # Without coverage: one process for all readers, and no atheris.
    ran = subprocess.run(
        [*command, "--random", "--runs", str(RUNS), "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:]
    assert ran.stdout.count(f": {RUNS} runs") >= 25, ran.stdout
