"""The project stands alone: nothing of it reads outside its checkout, nor names one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

OUTSIDE = re.compile(
    r"""(?<![\w.])\.\./shared          # a folder beside the checkout
      | ["'`=(\s]/(?:work|root|scratch)/  # a folder of one machine
      | parents\[\d\]\s*/\s*["']shared
      | ROOT\.parent\b
    """,
    re.VERBOSE,
)
BINARY = {".safetensors", ".gguf", ".dat", ".model", ".png"}


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_file_names_a_path_outside_the_checkout() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tracked_files()
        if path.suffix not in BINARY and path != Path(__file__) and path.exists()
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1)
        if OUTSIDE.search(line)
    ]
    assert found == []


def test_the_pattern_finds_what_it_is_for() -> None:
    for line in (
        'DATA = Path("/work/shared/data")',
        'DATA = ROOT.parent / "data"',
        'Path(__file__).resolve().parents[2] / "shared/data"',
        "see `../shared/design.md`",
        'open("/root/model")',
    ):
        assert OUTSIDE.search(line), line
    for line in ("config.shared", 'HOME / "cache"', "https://a.b/work/x"):
        assert not OUTSIDE.search(line), line


def test_no_test_skips_for_lack_of_data() -> None:
    """What may be missing is a compiler or a right, never a file."""
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if re.search(r"skipif?\(.*(?:is_dir|is_file|exists)\(|pytest\.skip\(", line)
        and "needs the right to" not in line
    ]
    assert found == []
