"""Plans: every tensor's fate, to the byte of the files; edited plans are checked."""

from __future__ import annotations

import json
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
from secateur.outputs.apply import check_plan, write_output
from secateur.outputs.base import PlanningAssumptions
from secateur.outputs.build import PlanInputs, make_plan
from secateur.outputs.safetensors.layout import safetensors_layout
from secateur.planning.checks import PlanSources
from secateur.planning.document import Plan, PlannedTensor, from_json, read_plan, to_json
from secateur.planning.edits import edits_of
from secateur.pruning.choose import Choice, Pruning, choose
from secateur.recipes.recipe import Recipe, Rule, find_recipe

TINY = Callable[[str], Checkpoint]


def halved(checkpoint: Checkpoint) -> Choice:
    keep = {layer: tuple(half(layer)) for layer in checkpoint.moe_layers}
    return Choice(keep, {"criterion": "reap"}, ("a note",))


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
    check_plan(plan, PlanSources(checkpoint))


def test_a_gguf_is_as_large_as_planned(gguf: tuple[Checkpoint, Plan], tmp_path: Path) -> None:
    checkpoint, plan = gguf
    write_output(check_plan(plan, PlanSources(checkpoint)), tmp_path)
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
    check_plan(from_json(text), PlanSources(gguf[0]))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 1}', "null"])
def test_what_is_no_plan_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json is (no plan|empty)") as caught:
        read_plan(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(PlanError, match=r"cannot read .*none\.json: No such file"):
        read_plan(tmp_path / "none.json")


def edited(plan: Plan, which: str, /, **change: Any) -> Plan:
    """The plan as a person would save it with one row changed."""
    tensors = tuple(replace(t, **change) if t.name == which else t for t in plan.tensors)
    return from_json(to_json(replace(plan, tensors=tensors)))


def test_a_plan_as_made_is_not_edited(gguf: tuple[Checkpoint, Plan]) -> None:
    checkpoint, plan = gguf
    checked = check_plan(from_json(to_json(plan)), PlanSources(checkpoint))
    assert checked.plan == plan
    assert checked.plan.sha256() == plan.sha256()
    assert edits_of(checked.plan).sentences() == []


def test_a_recipe_is_still_the_reason_when_its_plan_is_applied(
    gguf: tuple[Checkpoint, Plan],
) -> None:
    checkpoint, _ = gguf
    recipe = Recipe("mine", "Q4_K_M", rules=(Rule("Q6_K", roles=("expert",)),))
    plan = make_plan(checkpoint, halved(checkpoint), [recipe])
    assert any("recipe: expert = Q6_K" in str(tensor.reason) for tensor in plan.tensors)
    assert check_plan(from_json(to_json(plan)), PlanSources(checkpoint)).plan == plan


def test_numbers_that_follow_from_decisions_are_computed_again(
    gguf: tuple[Checkpoint, Plan],
) -> None:
    checkpoint, plan = gguf
    tensor = plan.of("safetensors")[0]
    data = json.loads(to_json(edited(plan, tensor.name, bytes=tensor.bytes + 1)))
    data["experts"], data["tensor_bytes"], data["file_bytes"] = 3, {}, {"safetensors": 5}
    data["files"]["safetensors"] = {"model.safetensors": 5}
    checked = check_plan(from_json(json.dumps(data)), PlanSources(checkpoint)).plan
    assert (checked.tensors, checked.files) == (plan.tensors, plan.files)
    assert checked.notes[-1] == (
        f"computed again after an edit: bytes of 1 tensor of safetensors (first: {tensor.name}); "
        "files of safetensors"
    )
    assert edits_of(checked).sentences() == []


def test_one_edited_type_is_enough(gguf: tuple[Checkpoint, Plan], tmp_path: Path) -> None:
    checkpoint, plan = gguf
    tensor = next(t for t in plan.of("gguf-Q8_0") if t.type == "Q8_0")
    checked = check_plan(edited_type(plan, tensor, "Q4_0"), PlanSources(checkpoint))
    found = next(t for t in checked.plan.of("gguf-Q8_0") if t.name == tensor.name)
    assert (found.type, found.bytes) == ("Q4_0", tensor.bytes // 34 * 18)  # blocks of 32 numbers
    assert edits_of(checked.plan).sentences() == ["types of gguf-Q8_0"]
    write_output(checked, tmp_path)
    for name, nbytes in checked.plan.files["gguf-Q8_0"].items():
        assert (tmp_path / name).stat().st_size == nbytes
        assert read_gguf(tmp_path / name).tensors[tensor.name].type == "Q4_0"
    assert read_plan(tmp_path / "plan.json").sha256() == checked.plan.sha256()


def derived(plan: Plan) -> dict[str, Any]:
    """All that follows from a plan's decisions, as a person reads it in the file."""
    data = json.loads(to_json(plan))
    followed = ("experts", "tensor_bytes", "file_bytes", "outputs", "files", "memory")
    tensors = [{**row, "reason": None} for row in data["tensors"]]
    return {**{key: data[key] for key in followed}, "tensors": tensors}


def test_an_applied_edit_has_the_numbers_of_a_plan_made_directly(
    gguf: tuple[Checkpoint, Plan], tmp_path: Path
) -> None:
    """Fewer experts, another type and another context, edited as text: all numbers follow."""
    checkpoint, plan = gguf
    data = json.loads(to_json(plan))
    data["keep"] = {layer: kept[1:] for layer, kept in data["keep"].items()}
    row = next(r for r in data["tensors"] if (r["format"], r["type"]) == ("gguf-Q8_0", "Q8_0"))
    row["type"] = "Q4_0"
    data["memory"] |= {"context": 100, "kv_cache_bytes": 1, "logits_bytes": 1, "formats": []}
    checked = check_plan(from_json(json.dumps(data)), PlanSources(checkpoint))
    write_output(checked, tmp_path)

    direct = make_plan(
        checkpoint,
        Choice({int(layer): tuple(kept) for layer, kept in data["keep"].items()}, {}, ()),
        [
            "safetensors",
            Recipe("Q8_0", "Q8_0", rules=(Rule("Q4_0", name=re.escape(row["name"])),)),
            find_recipe("Q4_K_M"),
        ],
        PlanInputs(assumptions=PlanningAssumptions(context=100)),
    )
    assert derived(read_plan(tmp_path / "plan.json")) == derived(direct)
    assert derived(direct)["memory"]["logits_bytes"] != derived(plan)["memory"]["logits_bytes"]
    assert checked.plan.notes[-1].endswith("; memory")
    for name, nbytes in checked.plan.sizes("gguf-Q8_0").items():
        assert (tmp_path / name).stat().st_size == nbytes


def test_only_memory_edited_is_computed_again(gguf: tuple[Checkpoint, Plan]) -> None:
    checkpoint, plan = gguf
    edited = replace(plan, memory={**plan.memory, "kv_cache_bytes": 1})
    checked = check_plan(edited, PlanSources(checkpoint)).plan
    assert checked.memory == plan.memory
    assert checked.notes[-1] == "computed again after an edit: memory"
    for context, message in (("much", 'is "much", expected a number'), (0, "at least 1 token")):
        odd = replace(plan, memory={**plan.memory, "context": context})
        with pytest.raises(PlanError, match=message):
            check_plan(odd, PlanSources(checkpoint))


def edited_type(plan: Plan, tensor: PlannedTensor, kind: str) -> Plan:
    tensors = tuple(replace(t, type=kind) if t == tensor else t for t in plan.tensors)
    return from_json(to_json(replace(plan, tensors=tensors)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (3,)}, r"the shape \[3\], expected \["),
        ({"sources": ("x",)}, "the sources .* expected"),
        ({"type": "I64"}, 'the type "I64", expected'),
        ({"name": "oracle"}, "the plan .* tensor .* in format safetensors"),
    ],
)
def test_what_does_not_follow_from_an_edit_is_refused(
    change: dict[str, Any], message: str, gguf: tuple[Checkpoint, Plan]
) -> None:
    checkpoint, plan = gguf
    name = plan.of("safetensors")[0].name
    with pytest.raises(PlanError, match=message) as caught:
        check_plan(edited(plan, name, **change), PlanSources(checkpoint))
    assert "\n" not in str(caught.value)


def test_an_edited_type_that_needs_importance_is_refused(gguf: tuple[Checkpoint, Plan]) -> None:
    checkpoint, plan = gguf
    tensor = next(t for t in plan.of("gguf-Q8_0") if t.type == "Q8_0")
    with pytest.raises(PlanError, match="1 tensor .* need an importance matrix"):
        check_plan(edited_type(plan, tensor, "IQ2_XS"), PlanSources(checkpoint))


def test_a_vector_in_a_type_that_llama_cpp_does_not_compute_with_is_refused(
    gguf: tuple[Checkpoint, Plan],
) -> None:
    checkpoint, plan = gguf
    name = "blk.0.attn_norm.weight"
    tensor = next(t for t in plan.of("gguf-Q8_0") if t.name == name)
    for kind in ("Q8_0", "F16"):
        with pytest.raises(PlanError, match=f"the vector '{name}' the type '{kind}', .* in F32 "):
            check_plan(edited_type(plan, tensor, kind), PlanSources(checkpoint))


def test_an_edited_keep_list_is_checked(gguf: tuple[Checkpoint, Plan]) -> None:
    checkpoint, plan = gguf
    first = min(plan.keep)
    for kept, message in (
        ((0, 1, 2), "keeps 3 experts"),
        ((0, 0, 1, 2), "keeps expert 0 twice"),
        ((0, 1, 2, 99), "keeps expert 99"),
    ):
        with pytest.raises(PlanError, match=message):
            check_plan(replace(plan, keep={**plan.keep, first: kept}), PlanSources(checkpoint))
    others = tuple(sorted(set(range(EXPERTS)) - {*plan.keep[first]}))
    checked = check_plan(replace(plan, keep={**plan.keep, first: others}), PlanSources(checkpoint))
    assert edits_of(checked.plan).sentences() == [f"experts kept in layer {first}"]
    assert checked.plan.tensors == plan.tensors


def test_fewer_experts_in_every_layer_are_planned_again(
    gguf: tuple[Checkpoint, Plan], tmp_path: Path
) -> None:
    checkpoint, plan = gguf
    fewer = {layer: kept[1:] for layer, kept in plan.keep.items()}
    checked = check_plan(from_json(to_json(replace(plan, keep=fewer))), PlanSources(checkpoint))
    right = make_plan(checkpoint, Choice(fewer, {}, ()), ["safetensors", find_recipe("Q8_0")])
    assert checked.plan.of("safetensors") == right.of("safetensors")
    assert checked.plan.files["safetensors"] == right.files["safetensors"]
    assert checked.plan.experts == right.experts
    write_output(checked, tmp_path)
    assert open_checkpoint(tmp_path).experts == right.experts


@pytest.mark.parametrize("criterion", ["magic", 3, ["reap"]])
def test_an_unknown_criterion_is_refused(criterion: object, gguf: tuple[Checkpoint, Plan]) -> None:
    checkpoint, plan = gguf
    edited = replace(plan, selection={**plan.selection, "criterion": criterion})
    with pytest.raises(PlanError, match="unknown criterion"):
        check_plan(edited, PlanSources(checkpoint))


def test_another_criterion_is_an_edit(gguf: tuple[Checkpoint, Plan]) -> None:
    checkpoint, plan = gguf
    edited = replace(plan, selection={**plan.selection, "criterion": "frequency"})
    checked = check_plan(edited, PlanSources(checkpoint))
    assert edits_of(checked.plan).sentences() == ["how experts were selected"]


def test_the_plan_of_another_checkpoint_is_refused(tiny: TINY) -> None:
    plan = planned(tiny("gemma4"), "safetensors")
    with pytest.raises(PlanError, match="plan again for this checkpoint"):
        check_plan(plan, PlanSources(tiny("mixtral")))


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
    assert set(everyone.keep.values()) == {tuple(range(8))} and not everyone.notes
    (note,) = choose(tiny("gemma4"), None, Pruning(drop=0.1)).notes
    assert note.startswith("a share of 0.1 of 8 experts is less than one expert")
    with pytest.raises(PlanError, match="layer 1 is protected, but has no routed"):
        choose(tiny("qwen3_moe"), None, Pruning(experts=8, protect={1: (0,)}))


@pytest.mark.parametrize("names", [("mini", "mini-Q4_0"), ("mine-Q8_0", "MINE-Q8_0")])
def test_two_outputs_that_would_be_one_file_are_refused(line: Line, names: tuple[str, str]) -> None:
    """Also where a disk takes two names for one that differ in case only."""
    checkpoint = open_checkpoint(line.model)
    choice = Choice(dict.fromkeys(checkpoint.moe_layers, tuple(range(EXPERTS))), {}, ())
    recipes = [Recipe(name, "Q4_0") for name in names]
    with pytest.raises(PlanError, match=f"gguf-{names[0]} and gguf-{names[1]} would both be writ"):
        make_plan(checkpoint, choice, recipes)
