"""The worked examples of docs/extending.md run as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_line import Line
from tiny_models import EXPERTS, olmoe, save_model

from secateur import apply, verify
from secateur.checkpoint.reader import open_checkpoint
from secateur.checkpoint.tensors import to_float32
from secateur.cli.help import format_names
from secateur.errors import OutputError
from secateur.outputs.registry import FORMATS

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text("utf-8")


def code_of(section: str) -> str:
    """The Python of a section, one block after the other."""
    part = TEXT.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL))


def test_a_criterion_and_its_own_sum(
    line: Line,
    stats: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copyfile(stats, tmp_path / "stats.safetensors")
    shutil.copyfile(line.rows, tmp_path / "rows.jsonl")
    (tmp_path / "model").symlink_to(line.model)
    monkeypatch.chdir(tmp_path)
    made: dict[str, object] = {}
    exec(compile(code_of("A criterion"), "docs/extending.md", "exec"), made)  # noqa: S102
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


def test_a_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(olmoe, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    section = TEXT.split("\n## A family\n", 1)[1]
    file = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)[0]
    Path("olmoe.toml").write_text(file)
    exec(compile(code_of("A family"), "docs/extending.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.startswith(f"OLMoE {EXPERTS} ")


def test_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is planned, written and verified like the others, and resumed or refused like them."""
    monkeypatch.chdir(tmp_path)
    made: dict[str, object] = {}
    try:
        exec(compile(code_of("A format"), "docs/extending.md", "exec"), made)  # noqa: S102
        assert verify("flat-gemmule") == ()
        with pytest.raises(OutputError, match="flat-gemmule"):
            apply(made["decided"], "flat-gemmule")  # type: ignore[arg-type]
        assert format_names()[-1] == "flat"
    finally:
        FORMATS.pop("flat", None)
    numbers = np.fromfile("flat-gemmule/model.f32", np.float32)
    original = open_checkpoint("gemmule")
    name = min(original.specs)
    first = to_float32(original.read(name)).reshape(-1)
    assert np.array_equal(numbers[: first.size], first)
    assert numbers.size == sum(spec.elements for spec in original.specs.values())
