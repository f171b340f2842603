"""MLX models against the real mlx-lm: they load, generate, and are what it would have written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
import tiny_line
import torch
from mlx.utils import tree_flatten
from mlx_lm import generate, load
from mlx_lm.utils import get_total_parameters
from tiny_mlx import _GEMMA4 as WIDE_GEMMA4
from tiny_mlx import card_004, config_of, converted, save_wide, weights_of
from tiny_models import EXPERTS, save_tiny

from secateur import Formats, Measuring, Pruning, apply, measure, plan, save_plan, verify
from secateur.checkpoint.reader import Checkpoint, open_checkpoint, open_shape
from secateur.checkpoint.writer import write_shards
from secateur.errors import CheckpointError, FamilyError, FormatError, PlanError
from secateur.forward import weights
from secateur.forward.weights import CheckpointWeights, StackOnDisk
from secateur.outputs.apply import check_plan, write_output
from secateur.outputs.build import make_plan
from secateur.outputs.companions import write_companions
from secateur.outputs.mlx.layout import MlxLayout, mlx_layout
from secateur.outputs.mlx.write import write_mlx
from secateur.outputs.registry import artefacts_of, open_artefact
from secateur.outputs.safetensors.layout import safetensors_layout
from secateur.planning.checks import PlanSources
from secateur.planning.document import from_json, to_json
from secateur.planning.edits import edits_of
from secateur.pruning.choose import Choice
from secateur.recipes.recipe import Recipe, Rule, find_recipe

KEPT = (0, 2, 3, 5, 7)


class Made(NamedTuple):
    """A checkpoint and the MLX model that was written of it."""

    checkpoint: Checkpoint
    form: MlxLayout
    folder: Path
    hashes: Mapping[str, str]


@pytest.fixture(autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model of tiny_mlx by form, in bfloat16, saved once: read only."""
    saved: dict[str, Path] = {}

    def get(form: str) -> Path:
        if form not in saved:
            saved[form] = save_wide(form, tmp_path_factory.mktemp(form) / "model")
        return saved[form]

    return get


def all_experts(checkpoint: Checkpoint) -> dict[int, tuple[int, ...]]:
    return {layer: tuple(range(checkpoint.experts)) for layer in checkpoint.moe_layers}


def write(source: Path, recipe: Recipe, out: Path, experts: tuple[int, ...] | None = None) -> Made:
    checkpoint = open_checkpoint(source)
    keep = dict.fromkeys(checkpoint.moe_layers, experts or tuple(range(EXPERTS)))
    form = mlx_layout(checkpoint, keep, recipe)
    out.mkdir()
    hashes = write_mlx(form, checkpoint, keep, out, workers=2)
    return Made(checkpoint, form, out / form.folder, hashes)


def predicate_of(form: MlxLayout) -> Callable[[str, Any], Any]:
    """The form's decisions as mlx-lm is told them."""
    kinds = {tensor.name.removesuffix(".weight"): tensor.kind for tensor in form.tensors}

    def predicate(path: str, module: Any) -> Any:
        kind = kinds[path]
        if kind is None:
            return False
        return form.quantization.get(path, True)

    return predicate


def assert_same_weights(mine: Path, theirs: Path) -> None:
    got, expected = weights_of(mine), weights_of(theirs)
    assert sorted(got) == sorted(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert np.array_equal(got[name], array), name


def said(folder: Path) -> str:
    model, tokenizer = load(str(folder))
    return str(generate(model, tokenizer, prompt="w5 w6 w7", max_tokens=6))


@pytest.mark.parametrize("form", ["gemma4", "gemma4_wrapper"])
def test_card_004_is_what_mlx_lm_converts_with_its_predicate(
    form: str, wide: Callable[[str], Path], tmp_path: Path
) -> None:
    """Both forms of Gemma 4's config, as transformers saves them now."""
    made = write(wide(form), find_recipe("mlx-mixed-4-8"), tmp_path / "out")
    theirs = converted(wide(form), tmp_path / "theirs", card_004)
    assert_same_weights(made.folder, theirs)
    mine, expected = config_of(made.folder), config_of(theirs)
    expected.pop("eos_token_id", None)  # mlx-lm puts generation_config's here, and reads it there
    mine.pop("eos_token_id", None)
    assert mine == expected
    assert mine["quantization"]["bits"] == 4
    assert said(made.folder) == said(theirs)


def test_plain_4_bit_is_what_mlx_lm_converts_by_itself(
    wide: Callable[[str], Path], tmp_path: Path
) -> None:
    made = write(wide("qwen3_moe"), find_recipe("mlx-4bit"), tmp_path / "out")
    theirs = converted(wide("qwen3_moe"), tmp_path / "theirs", None)
    assert_same_weights(made.folder, theirs)
    assert config_of(made.folder) == config_of(theirs)


MIXED = Recipe(
    "everything",
    "affine-3-32",
    "mlx",
    embedding="affine-8-128",
    tiers={"late": "2"},
    rules=(
        Rule("none", ("attention.q",)),
        Rule("mxfp4", ("expert.down",), "late"),
        Rule("affine-2-64", ("expert.gate_up", "expert.gate")),
        Rule("affine-5-32", ("expert.up",), if_present=True),
        Rule("affine-6-64", ("attention", "head")),
        Rule("affine-8-32", ("router",)),
        Rule("mxfp4", ("dense",), if_present=True),
    ),
)
"""Every width and mode somewhere."""


@pytest.mark.parametrize("form", ["gemma4", "qwen3_moe", "mixtral"])
def test_every_type_by_role_and_layer_after_pruning(
    form: str, wide: Callable[[str], Path], tmp_path: Path
) -> None:
    """Against mlx-lm's conversion of the pruned checkpoint; it loads there and generates."""
    made = write(wide(form), MIXED, tmp_path / "out", KEPT)
    pruned = _pruned(made.checkpoint, tmp_path / "pruned")
    theirs = converted(
        pruned, tmp_path / "theirs", predicate_of(made.form), q_bits=3, q_group_size=32
    )
    assert_same_weights(made.folder, theirs)
    assert config_of(made.folder)["quantization"] == config_of(theirs)["quantization"]
    assert said(made.folder) == said(theirs)


def _pruned(checkpoint: Checkpoint, folder: Path) -> Path:
    """The pruned safetensors checkpoint."""
    choice = Choice(dict.fromkeys(checkpoint.moe_layers, KEPT), {}, ())
    plan = make_plan(checkpoint, choice, ["safetensors"])
    folder.mkdir()
    write_shards(folder, safetensors_layout(checkpoint, plan.keep))
    write_companions(plan, checkpoint, folder)
    return folder


def test_stacked_experts_give_the_same_model(wide: Callable[[str], Path], tmp_path: Path) -> None:
    """transformers' own form of a family whose publisher splits experts; mlx-lm cannot read it."""
    recipe = find_recipe("mlx-mixed-4-8")
    split = write(wide("qwen3_moe"), recipe, tmp_path / "split", KEPT)
    stacked = write(wide("qwen3_moe_fused"), recipe, tmp_path / "stacked", KEPT)
    assert_same_weights(split.folder, stacked.folder)


def test_numbers_are_rounded_to_the_config_s_type_as_mlx_lm_does(tmp_path: Path) -> None:
    source = save_wide("mixtral", tmp_path / "model", dtype=torch.float32)
    config = json.loads((source / "config.json").read_text())
    config["torch_dtype"] = "bfloat16"
    (source / "config.json").write_text(json.dumps(config))
    made = write(source, find_recipe("mlx-4bit"), tmp_path / "out")
    theirs = converted(source, tmp_path / "theirs", predicate_of(made.form))
    assert_same_weights(made.folder, theirs)
    assert {tensor.dtype for tensor in made.form.tensors} == {"BF16"}


@pytest.mark.parametrize("form", ["gemma4_wrapper", "qwen3_moe"])
def test_files_and_bits_per_weight_are_as_predicted(
    form: str, wide: Callable[[str], Path], tmp_path: Path
) -> None:
    made = write(wide(form), find_recipe("mlx-mixed-4-6-8"), tmp_path / "out", KEPT)
    out = made.folder.parent
    files = made.form.files
    assert {name: (out / name).stat().st_size for name in files} == files
    assert sorted(made.hashes) == sorted(
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()
    )
    model, _ = load(str(made.folder))
    nbytes = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    assert made.form.bits_per_weight == 8 * nbytes / get_total_parameters(model)
    index = json.loads((made.folder / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {
        "total_size": nbytes,
        "total_parameters": get_total_parameters(model),
    }


def test_several_shards_load(
    wide: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(wide("gemma4"), find_recipe("mlx-4bit"), tmp_path / "whole")
    monkeypatch.setattr("secateur.outputs.mlx.layout.SHARD_LIMIT", 200_000)
    parts = write(wide("gemma4"), find_recipe("mlx-4bit"), tmp_path / "parts")
    assert len(parts.form.shards) > 2
    assert_same_weights(parts.folder, whole.folder)
    assert said(parts.folder) == said(whole.folder)


@pytest.mark.parametrize(
    ("recipe", "bits", "gigabytes"),
    [
        ("mlx-4bit", 4.502, 14.20),
        ("mlx-mixed-4-8", 4.587, 14.47),
        ("mlx-mixed-4-6-8", 4.792, 15.11),
    ],
)
def test_the_real_gemma_4_has_the_bits_of_card_004(
    recipe: str, bits: float, gigabytes: float, real: Path
) -> None:
    checkpoint = open_shape(real / "config.json")
    form = mlx_layout(checkpoint, all_experts(checkpoint), find_recipe(recipe))
    assert round(form.bits_per_weight, 3) == bits
    assert round(sum(form.files.values()) / 1e9, 2) == gigabytes


def test_card_004_s_embedding_is_not_left_alone(real: Path) -> None:
    """It says so, but only with 4 bits in the embedding do its 4.587 come out."""
    checkpoint = open_shape(real / "config.json")
    recipe = find_recipe("mlx-mixed-4-8")
    said = Recipe("card", "affine-4-64", "mlx", embedding="none", rules=recipe.rules)
    form = mlx_layout(checkpoint, all_experts(checkpoint), said)
    assert round(form.bits_per_weight, 3) == 4.923


@pytest.mark.parametrize("form", ["gemma4_wrapper", "mixtral"])
def test_an_mlx_model_decodes_to_the_model_it_was_made_of(
    form: str, wide: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 8 bits in groups of 32 the numbers are close, and what stays is exact."""
    recipe = Recipe("near", "affine-8-32", "mlx", rules=(Rule("none", ("router",)),))
    made = write(wide(form), recipe, tmp_path / "out")
    artefact = open_artefact(made.folder, made.checkpoint)
    assert artefact.name == made.folder.name
    original = CheckpointWeights(made.checkpoint)
    assert sorted(artefact.source.names()) == sorted(original.names())
    for name in original.names():
        got, expected = artefact.source.tensor(name), original.tensor(name).float()
        assert got.shape == expected.shape, name
        if got.dtype == torch.bfloat16:
            assert torch.equal(got.float(), expected), name
        else:
            assert (got - expected).abs().max() < 0.02 * expected.abs().max(), name
    monkeypatch.setattr(weights, "EAGER_STACK_BYTES", 0)
    for name in (name for name in original.names() if ".experts." in name):
        stack, whole = artefact.source.experts(name), artefact.source.tensor(name)
        assert isinstance(stack, StackOnDisk)
        assert tuple(stack.shape) == tuple(whole.shape)
        assert all(torch.equal(stack[expert], whole[expert]) for expert in range(len(whole)))


def test_an_interruption_leaves_no_shard(wide: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(wide("gemma4"))
    keep = all_experts(checkpoint)
    form = mlx_layout(checkpoint, keep, find_recipe("mlx-4bit"))
    calls = 0

    def stop(stage: str, done: int, total: int, unit: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_mlx(form, checkpoint, keep, tmp_path, workers=2, progress=stop)
    left = {path.name for path in (tmp_path / form.folder).iterdir()}
    assert not any(name.endswith(".safetensors") for name in left)


def test_threads_do_not_change_a_byte(wide: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(wide("mixtral"))
    keep = all_experts(checkpoint)
    form = mlx_layout(checkpoint, keep, find_recipe("mlx-mixed-4-8"))
    found = []
    for threads in (1, 3):
        out = tmp_path / str(threads)
        out.mkdir()
        found.append(write_mlx(form, checkpoint, keep, out, workers=threads))
    assert found[0] == found[1]


def test_rows_that_a_group_does_not_divide_are_refused(tmp_path: Path) -> None:
    """mlx-lm would leave them unquantized and say nothing."""
    checkpoint = open_checkpoint(save_tiny("gemma4", tmp_path / "model"))
    keep = all_experts(checkpoint)
    with pytest.raises(FormatError, match=r"experts\.switch_glu\.down_proj\.weight has rows of 16"):
        mlx_layout(checkpoint, keep, Recipe("r", "affine-4-32", "mlx"))
    rules = (Rule("none", ("expert.down", "dense.down")),)
    form = mlx_layout(checkpoint, keep, Recipe("r", "affine-4-32", "mlx", rules=rules))
    assert {t.type for t in form.tensors if "down_proj" in t.name} == {"F32"}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("r", "Q4_K", "mlx"), "recipe r: unknown MLX type 'Q4_K'"),
        (Recipe("r", "affine-4-64", "mlx", imatrix=True), "imatrix is for GGUF"),
        (Recipe("r", "affine-4-64", "mlx", pad=True), "pad is for GGUF"),
        (Recipe("r", "affine-4-64", "mlx", patterns=((".*", "q8_0"),)), "write rules"),
        (
            Recipe("r", "affine-4-64", "mlx", rules=(Rule("affine-8-64", ("norm",)),)),
            "norm = affine-8-64` matches no tensor",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_refused(
    recipe: Recipe, message: str, wide: Callable[[str], Path]
) -> None:
    checkpoint = open_checkpoint(wide("gemma4"))
    with pytest.raises(PlanError, match=message):
        mlx_layout(checkpoint, all_experts(checkpoint), recipe)


def test_a_family_without_a_form_in_mlx_lm_is_refused(tiny: Callable[[str], Checkpoint]) -> None:
    checkpoint = tiny("deepseek_v3")
    with pytest.raises(FamilyError, match=r"no \[mlx\] table"):
        mlx_layout(checkpoint, all_experts(checkpoint), find_recipe("mlx-4bit"))


def test_a_config_that_mlx_lm_reads_otherwise_is_refused(
    tiny: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    checkpoint = tiny("qwen3_moe")  # with biases in attention
    with pytest.raises(CheckpointError, match="attention_bias = True.*only False"):
        mlx_layout(checkpoint, all_experts(checkpoint), find_recipe("mlx-4bit"))
    source = save_wide("qwen3_moe", tmp_path / "model")
    config = json.loads((source / "config.json").read_text())
    del config["norm_topk_prob"]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no norm_topk_prob"):
        mlx_layout(open_checkpoint(source), all_experts(checkpoint), find_recipe("mlx-4bit"))


def test_a_head_that_the_config_ties_is_said_to_be_left_out(
    wide: Callable[[str], Path], tmp_path: Path
) -> None:
    """The checkpoint's other forms use it: transformers takes a head that is there and differs."""
    source = shutil.copytree(wide("qwen3_moe"), tmp_path / "model")

    def notes() -> list[str]:
        checkpoint = open_checkpoint(source)
        choice = Choice(all_experts(checkpoint), {}, ())
        made = make_plan(checkpoint, choice, [find_recipe("mlx-4bit")])
        return [note for note in made.notes if "lm_head.weight is left out" in note]

    assert notes() == []
    config = config_of(source) | {"tie_word_embeddings": True}
    (source / "config.json").write_text(json.dumps(config))
    assert len(notes()) == 1


def test_an_mlx_model_whose_config_lies_is_refused(
    wide: Callable[[str], Path], tmp_path: Path
) -> None:
    made = write(wide("mixtral"), find_recipe("mlx-4bit"), tmp_path / "out")
    path = made.folder / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"bits": 4', '"bits": 6'))
    weights = open_artefact(made.folder, made.checkpoint).source
    with pytest.raises(FormatError, match="which affine-6-64 of config.json does not make"):
        weights.tensor("model.embed_tokens.weight")
    path.write_text(text.replace('"bits": 4', '"bits": 7'))
    weights = open_artefact(made.folder, made.checkpoint).source
    with pytest.raises(FormatError, match="affine with 7 bits in groups of 64"):
        weights.tensor("model.embed_tokens.weight")
    settings = {"group_size": 64, "bits": 4, "model.embed_tokens": False}
    path.write_text(json.dumps(json.loads(text) | {"quantization": settings}))
    weights = open_artefact(made.folder, made.checkpoint).source
    with pytest.raises(FormatError, match="has false among its settings of quantization"):
        weights.tensor("model.embed_tokens.weight")
    path.write_text(json.dumps(json.loads(text) | {"quantization": "4 bits"}))
    with pytest.raises(FormatError, match='has "4 bits" among its settings'):
        open_artefact(made.folder, made.checkpoint)


def test_groups_of_which_mlx_lm_says_no_size_are_of_its_default(tmp_path: Path) -> None:
    """As its own mixed recipes write them: "group_size": null."""
    source = save_wide("gemma4", tmp_path / "model")
    made = converted(source, tmp_path / "mixed", "mixed_3_6")  # type: ignore[arg-type]
    settings = config_of(made)["quantization"]["model.embed_tokens"]
    assert settings["group_size"] is None
    original = open_checkpoint(source)
    found, whole = open_artefact(made, original).source, CheckpointWeights(original)
    for name in ("model.embed_tokens.weight", "model.layers.0.experts.down_proj"):
        expected = whole.tensor(name).float()
        assert (found.tensor(name) - expected).norm() < 0.3 * expected.norm()


def test_a_plan_with_an_mlx_model_is_applied_verified_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of its own in the output; kept when the run is taken up again."""
    monkeypatch.setattr(tiny_line, "WIDER", {**tiny_line.WIDER, **WIDE_GEMMA4})
    line = tiny_line.save_line(tmp_path / "line")
    drop = {"layers": {"0": {"drop": [1, 4]}, "1": {"drop": [0, 7]}}}
    (tmp_path / "drop.json").write_text(json.dumps(drop))
    made = plan(line.model, Pruning(drop_map=tmp_path / "drop.json"),
                Formats(to="mlx", types=("mlx-mixed-4-8",)))  # fmt: skip
    save_plan(made, tmp_path / "plan.json")
    out = tmp_path / "out"
    apply(tmp_path / "plan.json", out)
    assert verify(out) == ()
    folder = out / "mlx-mixed-4-8"
    report = measure(folder, line.model, Measuring(answers=line.answers), work=tmp_path / "work")
    assert [artefact.name for artefact in report.artefacts] == ["mlx-mixed-4-8"]
    assert artefacts_of(out) == [folder]
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text + " ")
    assert [problem.file for problem in verify(out)] == ["mlx-mixed-4-8/config.json"]

    shard = folder / "model.safetensors"
    before = shard.stat().st_mtime_ns
    (folder / ".model.safetensors.partial").write_bytes(b"left by kill -9")
    write_output(check_plan(made, PlanSources(open_checkpoint(line.model))), out)
    assert shard.stat().st_mtime_ns == before
    assert not (folder / ".model.safetensors.partial").exists()


def test_a_type_edited_in_the_plan_is_what_is_written(
    wide: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(wide("gemma4"))
    choice = Choice(all_experts(checkpoint), {}, ())
    made = make_plan(checkpoint, choice, [find_recipe("mlx-4bit")])
    name = "model.embed_tokens.weight"
    edited = from_json(to_json(made))
    tensors = tuple(
        replace(tensor, type="affine-8-64") if tensor.name == name else tensor
        for tensor in edited.tensors
    )
    checked = check_plan(replace(edited, tensors=tensors), PlanSources(checkpoint))
    assert any("bytes of 1 tensor of mlx-4bit" in note for note in checked.plan.notes)
    assert edits_of(checked.plan).sentences() == ["types of mlx-4bit"]
    layout = checked.decisions["mlx-4bit"].layout
    assert layout.quantization["model.embed_tokens"] == {"group_size": 64, "bits": 8}
    alone = tuple(replace(t, type="BF16") if t.name == name else t for t in edited.tensors)
    left = check_plan(replace(edited, tensors=alone), PlanSources(checkpoint)).plan
    assert {t.name: t.action for t in left.of("mlx-4bit")}[name] == "copy"
