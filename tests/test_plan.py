"""Plans: every tensor's fate, to the byte of the files; edited plans are checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_experts import half
from tiny_line import Line
from tiny_models import EXPERTS, FORMS

from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.checkpoint.writer import write_shards
from secateur.errors import PlanError
from secateur.formats.gguf.reader import read_gguf
from secateur.outputs.apply import Sources, check_plan, write_output
from secateur.outputs.build import make_plan, safetensors_layout
from secateur.planning.document import Plan, from_json, read_plan, to_json
from secateur.pruning.choose import Choice, Pruning, choose
from secateur.recipes.recipe import find_recipe

TINY = Callable[[str], Checkpoint]


def halved(checkpoint: Checkpoint) -> Choice:
    keep = {layer: tuple(half(layer)) for layer in checkpoint.moe_layers}
    return Choice(keep, {"criterion": "test"}, ("a note",))


def planned(checkpoint: Checkpoint, *formats: str) -> Plan:
    outputs: list[Any] = [
        form if form == "safetensors" else find_recipe(form.removeprefix("gguf-"))
        for form in formats
    ]
    return make_plan(checkpoint, halved(checkpoint), outputs)


@pytest.fixture(scope="module")
def gguf(line: Line) -> tuple[Checkpoint, Plan]:
    checkpoint = open_checkpoint(line.model)
    return checkpoint, planned(checkpoint, "safetensors", "gguf-Q8_0", "gguf-Q4_K_M")


@pytest.mark.parametrize("form", FORMS)
def test_the_plan_of_every_family_is_what_is_written(form: str, tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny(form)
    plan = planned(checkpoint, "safetensors")
    assert plan.experts == EXPERTS // 2
    write_shards(tmp_path, safetensors_layout(checkpoint, plan.keep))
    written = {path.name: path.stat().st_size for path in tmp_path.glob("*.safetensors")}
    assert {name: plan.files["safetensors"][name] for name in written} == written
    shards: dict[str, Any] = {}
    for path in tmp_path.glob("*.safetensors"):
        from secateur.checkpoint.headers import read_header

        shards |= read_header(path)
    assert {t.name: (t.shape, t.bytes, t.type) for t in plan.tensors} == {
        name: (spec.shape, spec.nbytes, spec.dtype) for name, spec in shards.items()
    }
    check_plan(plan, Sources(checkpoint))


def test_a_gguf_is_as_large_as_planned(gguf: tuple[Checkpoint, Plan], tmp_path: Path) -> None:
    checkpoint, plan = gguf
    write_output(plan, Sources(checkpoint), tmp_path)
    for form in ("gguf-Q8_0", "gguf-Q4_K_M"):
        for name, nbytes in plan.files[form].items():
            assert (tmp_path / name).stat().st_size == nbytes
            infos = read_gguf(tmp_path / name).tensors.values()
            assert [(t.name, t.type, t.shape) for t in infos] == [
                (t.name, t.type, t.shape) for t in plan.of(form)
            ]


def test_fallbacks_are_in_the_plan(gguf: tuple[Checkpoint, Plan]) -> None:
    fallen = [t for t in gguf[1].of("gguf-Q4_K_M") if t.fallback_from]
    assert fallen
    assert {t.fallback_from for t in fallen} <= {"Q4_K", "Q5_K", "Q6_K"}
    assert all(t.reason for t in fallen)
    assert any(re.search(r"gguf-Q4_K_M: \d+ of \d+ tensors .* fall back", n) for n in gguf[1].notes)
    # Experts of 16 are no multiple of 32 either.
    assert {t.type for t in gguf[1].of("gguf-Q8_0") if t.fallback_from} == {"F16"}


def test_a_plan_reads_back(gguf: tuple[Checkpoint, Plan], tmp_path: Path) -> None:
    text = to_json(gguf[1])
    (tmp_path / "plan.json").write_text(text)
    assert to_json(read_plan(tmp_path / "plan.json")) == text
    assert from_json(text).tensors == gguf[1].tensors
    assert from_json(text).sha256() == gguf[1].sha256()
    check_plan(from_json(text), Sources(gguf[0]))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 1}', "null"])
def test_what_is_no_plan_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json is no plan") as caught:
        read_plan(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(PlanError, match="cannot read plan"):
        read_plan(tmp_path / "none.json")


def test_an_edited_number_is_refused_with_the_right_one(gguf: tuple[Checkpoint, Plan]) -> None:
    checkpoint, plan = gguf
    tensor = plan.of("safetensors")[0]
    tensors = tuple(replace(t, bytes=t.bytes + 1) if t is tensor else t for t in plan.tensors)
    message = f"{re.escape(tensor.name)}.* the bytes {tensor.bytes + 1}, expected {tensor.bytes}"
    with pytest.raises(PlanError, match=message) as caught:
        check_plan(replace(plan, tensors=tensors), Sources(checkpoint))
    assert "\n" not in str(caught.value)


def test_an_edited_type_asks_for_its_bytes(gguf: tuple[Checkpoint, Plan]) -> None:
    checkpoint, plan = gguf
    tensor = next(t for t in plan.of("gguf-Q8_0") if t.type == "Q8_0")
    right = tensor.bytes // 34 * 18  # blocks of 32 numbers
    tensors = tuple(replace(t, type="Q4_0") if t is tensor else t for t in plan.tensors)
    edited = replace(plan, tensors=tensors)
    with pytest.raises(PlanError, match=f"bytes {tensor.bytes}, expected {right} for type Q4_0"):
        check_plan(edited, Sources(checkpoint))
    tensors = tuple(replace(t, bytes=right) if t.type == "Q4_0" else t for t in tensors)
    with pytest.raises(PlanError, match="correct the numbers under 'files'"):
        check_plan(replace(edited, tensors=tensors), Sources(checkpoint))


def test_an_edited_keep_list_is_checked(gguf: tuple[Checkpoint, Plan]) -> None:
    checkpoint, plan = gguf
    fewer = {layer: kept[1:] for layer, kept in plan.keep.items()}
    with pytest.raises(PlanError, match=r"gives tensor .* expected"):
        check_plan(replace(plan, keep=fewer), Sources(checkpoint))
    first = min(plan.keep)
    for kept, message in (
        ((0, 1, 2), "keeps 3 experts"),
        ((0, 0, 1, 2), "keeps expert 0 twice"),
        ((0, 1, 2, 99), "keeps expert 99"),
    ):
        with pytest.raises(PlanError, match=message):
            check_plan(replace(plan, keep={**plan.keep, first: kept}), Sources(checkpoint))
    # As many others are as good: the plan's numbers follow from how many stay.
    others = {
        layer: tuple(sorted(set(range(EXPERTS)) - {*kept})) for layer, kept in plan.keep.items()
    }
    check_plan(replace(plan, keep=others), Sources(checkpoint))


def test_the_plan_of_another_checkpoint_is_refused(tiny: TINY) -> None:
    plan = planned(tiny("gemma4"), "safetensors")
    with pytest.raises(PlanError, match="plan again for this checkpoint"):
        check_plan(plan, Sources(tiny("mixtral")))


def test_unknown_formats_are_refused(tiny: TINY) -> None:
    for formats, message in (
        ((), "writes nothing"),
        (("onnx",), "unknown file type or recipe 'onnx'"),
    ):
        with pytest.raises(PlanError, match=message):
            planned(tiny("gemma4"), *formats)


def test_choosing_needs_statistics_or_a_map(tiny: TINY) -> None:
    with pytest.raises(PlanError, match="choosing 4 of 8 experts needs statistics"):
        choose(tiny("gemma4"), None, Pruning(experts=4))
    everyone = choose(tiny("gemma4"), None, Pruning(experts=8))
    assert set(everyone.keep.values()) == {tuple(range(8))}
    with pytest.raises(PlanError, match="layer 1 is protected, but has no routed"):
        choose(tiny("qwen3_moe"), None, Pruning(experts=8, protected={1: (0,)}))
