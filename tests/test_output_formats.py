"""One interface of output formats: nobody else asks which one it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tiny_line import Line

import secateur
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.errors import InputError, OutputError, PlanError
from secateur.outputs.build import make_plan, resolve
from secateur.outputs.registry import FORMATS, artefacts_of, format_of, open_artefact, register
from secateur.pruning.choose import Choice
from secateur.recipes.recipe import BASES, Recipe, find_recipe

PACKAGE = Path(secateur.__file__).parent
OWN = {name: PACKAGE / "outputs" / name for name in FORMATS} | {
    "mmproj": PACKAGE / "outputs" / "gguf"
}


def compared_words(path: Path) -> set[str]:
    """All texts that a module compares something with."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Compare):
            for side in ast.walk(node):
                if isinstance(side, ast.Constant) and isinstance(side.value, str):
                    found.add(side.value)
    return found


@pytest.fixture
def checkpoint(line: Line) -> Checkpoint:
    return open_checkpoint(line.model)


def test_no_module_compares_a_name_of_a_format() -> None:
    for path in PACKAGE.rglob("*.py"):
        for name in compared_words(path) & FORMATS.keys():
            assert OWN[name] in path.parents, f"{path} compares something with {name!r}"


def test_every_format_reads_back_what_it_decided(checkpoint: Checkpoint) -> None:
    keep = dict.fromkeys(checkpoint.moe_layers, (0, 1, 2, 4, 5, 7))
    outputs = ["safetensors", find_recipe("Q8_0"), Recipe("plain", "none", "mlx")]
    plan = make_plan(checkpoint, Choice(keep, {}, ()), outputs)
    for format_id, decision in resolve(plan, checkpoint).items():
        assert decision.files == plan.files[format_id]
        mine = [(t.name, t.type, t.bytes, t.sources) for t in decision.tensors]
        assert mine == [(t.name, t.type, t.bytes, t.sources) for t in plan.of(format_id)]


def test_a_format_has_one_name() -> None:
    with pytest.raises(ValueError, match="there is an output format 'gguf' already"):
        register(FORMATS["gguf"])
    with pytest.raises(PlanError, match="unknown output format 'onnx': choose one of safetensors"):
        format_of("onnx")
    assert {*BASES} <= {*FORMATS}
    by_recipe = [known.name for known in FORMATS.values() if known.example is not None]
    assert {*BASES} <= {*by_recipe}


def test_what_nobody_recognises_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    assert artefacts_of(tmp_path / "model.bin") == [tmp_path / "model.bin"]
    with pytest.raises(InputError, match="neither a model folder nor a .gguf file"):
        open_artefact(tmp_path / "model.bin", checkpoint)
    with pytest.raises(OutputError, match="holds no model"):
        artefacts_of(tmp_path)
    with pytest.raises(InputError, match="not measured by itself"):
        FORMATS["mmproj"].open(tmp_path, checkpoint)
