"""What type checkers and editors see of `import secateur`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import secateur

SNIPPET = """
import secateur
from typing_extensions import assert_type
from secateur import Calibration, Formats, Pruning

decided = secateur.plan("gemmule", Pruning(experts=24), Formats(types=("Q4_K_M",)))
assert_type(decided, secateur.Plan)
assert_type(decided.file_bytes("gguf-Q4_K_M"), "int | None")
assert_type(secateur.calibrate("gemmule", "s", Calibration()), secateur.Statistics)
secateur.Formats(type="Q4_K_M")  # E: misspelt
"""


def test_every_public_name_is_declared_for_type_checkers() -> None:
    tree = ast.parse(Path(secateur.__file__).read_text("utf-8"))
    declared = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("secateur.")
        for alias in node.names
    }
    assert declared == {name: f"secateur.{home}" for name, home in secateur._HOMES.items()}
    assert Path(secateur.__file__).with_name("py.typed").exists()


@pytest.mark.slow
def test_mypy_sees_the_types_of_the_public_functions(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [
        sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports",
        "--cache-dir", str(tmp_path / "cache"), "--config-file", "", "snippet.py",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(lines) == 1, done.stdout + done.stderr
    assert 'Unexpected keyword argument "type"' in lines[0]
