"""A model is checked once, where it enters: config, names, shapes, types and files agree."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import FORMS, difference, load, logits, save_tiny

from secateur import Calibration, Formats, Pruning, apply, calibrate, inspect, plan, save_plan
from secateur.checkpoint.reader import INDEX, SINGLE, Checkpoint, open_checkpoint, open_shape
from secateur.errors import CheckpointError, SecateurError

TINY = Callable[[str], Checkpoint]
Tensors = dict[str, torch.Tensor]


def edit_config(folder: Path, **changed: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed, indent=2))


def edit_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE, {"format": "pt"})


def refused(folder: Path) -> str:
    """The one line with which a folder is refused, whoever opens it."""
    said = set()
    for opened in (open_checkpoint, open_shape):
        with pytest.raises(CheckpointError) as caught:
            opened(folder)
        said.add(str(caught.value))
    assert len(said) == 1
    message = said.pop()
    assert "\n" not in message
    assert "Error(" not in message
    return message


@pytest.fixture
def model(tiny: TINY, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a tiny model, to damage."""
    return lambda form: Path(shutil.copytree(tiny(form).path, tmp_path / form))


Model = Callable[[str], Path]


@pytest.mark.parametrize("form", FORMS)
def test_every_single_tensor_is_needed(form: str, tiny: TINY, model: Model) -> None:
    folder = model(form)
    sample = [name for name, m in tiny(form).matches.items() if not m.row.carried]
    for name in sample[:: max(1, len(sample) // 6)]:
        spec = tiny(form).specs[name]
        edit_tensors(folder, lambda t, name=name: t.pop(name))
        message = refused(folder)
        assert repr(name) in message or f"expert {tiny(form).matches[name].expert}" in message
        edit_tensors(folder, lambda t, n=name, s=spec: t.update({n: torch.zeros(*s.shape, 2)}))
        message = refused(folder)
        assert repr(name) in message
        assert str(list(spec.shape)) in message
        shutil.copy(tiny(form).path / SINGLE, folder / SINGLE)
        open_checkpoint(folder)


def test_how_many_are_missing_is_said(model: Model) -> None:
    folder = model("gemma4")
    edit_tensors(folder, lambda t: [t.pop(n) for n in list(t) if "self_attn.o_proj" in n])
    message = refused(folder)
    assert str(folder) in message
    assert "no tensor 'model.layers.0.self_attn.o_proj.weight'" in message
    assert "with shape [32, 32] (the first of 3 such tensors)" in message
    assert "download both again" in message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"intermediate_size": 64}, "of shape [32, 48], but config.json describes [32, 64]"),
        ({"moe_intermediate_size": 32}, "config.json describes [8, 32, 32]"),
        ({"num_key_value_heads": 1}, "config.json describes [16, 32]"),
        ({"vocab_size": 65}, "'model.embed_tokens.weight' of shape [64, 32]"),
        ({"attention_k_eq_v": False}, "k_proj.weight' of shape [32, 32]"),
        ({"tie_word_embeddings": False}, "no tensor 'lm_head.weight'"),
        ({"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
         "has tensors of layer 2, but config.json says num_hidden_layers = 2"),
        ({"num_hidden_layers": 4, "layer_types": ["full_attention"] * 4},
         "has no tensors of layer 3, but config.json says num_hidden_layers = 4"),
        ({"num_experts": 9}, "holds 8 experts on axis 0, but config.json says 9"),
    ],
)  # fmt: skip
def test_a_config_of_another_model(changed: dict[str, Any], words: str, model: Model) -> None:
    folder = model("gemma4")
    edit_config(folder, per_layer_config=None, global_head_dim=32, num_global_key_value_heads=1)
    open_checkpoint(folder)
    edit_config(folder, **changed)
    assert words in refused(folder)


@pytest.mark.parametrize(
    ("form", "changed", "words"),
    [
        ("gemma4", {"layer_types": ["full_attention"] * 4},
         "has 4 entries in layer_types, but num_hidden_layers says 3"),
        ("gemma4", {"layer_types": ["full_attention"] * 2}, "has 2 entries in layer_types"),
        ("gemma4", {"layer_types": "full_attention"}, 'layer_types = "full_attention"'),
        ("gemma4", {"layer_types": [None, "full_attention", "full_attention"]}, "different kinds"),
        ("gemma4", {"per_layer_config": {"3": {}}}, "has per_layer_config for layer 3"),
        ("gpt_oss", {"num_experts": 16}, "num_local_experts = 8 and num_experts = 16"),
        ("gpt_oss", {"num_experts_per_tok": 9, "experts_per_token": 9}, "9 experts, but there are"),
        ("mixtral", {"num_attention_heads": -2}, "num_attention_heads = -2"),
        ("mixtral", {"hidden_size": True}, "hidden_size = true"),
        ("mixtral", {"vocab_size": "64"}, 'vocab_size = "64"'),
        ("mixtral", {"hidden_size": None}, "'hidden'"),
        ("mixtral", {"num_hidden_layers": 10**12}, "expected at most 10000"),
        ("mixtral", {"num_local_experts": 10**12}, "expected at most 500000 experts in all"),
        ("deepseek_v3", {"n_group": -1}, "n_group = -1"),
        ("deepseek_v3", {"n_group": 3}, "8 experts in 3 groups"),
        ("deepseek_v3", {"topk_group": 0}, "of which a token may use 0, expected equal groups"),
        ("deepseek_v3", {"topk_group": 9}, "of which a token may use 9"),
        ("deepseek_v3", {"n_group": 8, "topk_group": 1}, "which takes at least 16 in all"),
        ("deepseek_v3", {"num_nextn_predict_layers": -1}, "num_nextn_predict_layers = -1"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be(
    form: str, changed: dict[str, Any], words: str, model: Model
) -> None:
    folder = model(form)
    edit_config(folder, **changed)
    assert words in refused(folder)
    (folder / SINGLE).unlink()
    with pytest.raises(CheckpointError) as caught:
        open_shape(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize("form", ["gemma4_wrapper", "qwen3_moe"])
def test_no_value_of_a_config_gives_anything_but_a_sentence(
    form: str, tiny: TINY, tmp_path: Path
) -> None:
    config = json.loads((tiny(form).path / "config.json").read_text())
    part = config.get("text_config", config)
    path = tmp_path / "config.json"
    for key, right in list(part.items()):
        for wrong in (None, -1, "x"):
            part[key] = wrong
            path.write_text(json.dumps(config))
            for to, kind in (("gguf", "Q8_0"), ("mlx", "mlx-4bit")):
                try:
                    plan(path, Pruning(experts=8), Formats(to=(to,), types=(kind,)))
                except SecateurError as error:
                    assert "\n" not in str(error)
                    assert len(str(error)) < 1000
        part[key] = right


def test_a_config_that_transformers_refuses_is_refused_before_the_corpus_is_read(
    model: Model, tmp_path: Path
) -> None:
    folder = model("qwen3_moe")
    edit_config(folder, router_aux_loss_coef=0)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"neither": "messages nor text"}\n')
    with pytest.raises(CheckpointError) as caught:
        calibrate(folder, tmp_path / "stats", Calibration(str(corpus)))
    assert "config.json is refused by transformers" in str(caught.value)
    assert "'router_aux_loss_coef' expected float, got int" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "stats").exists()


def test_one_expert_too_many(model: Model) -> None:
    folder = model("qwen3_moe")
    first, more = (f"model.layers.0.mlp.experts.{n}.up_proj.weight" for n in (0, 8))
    edit_tensors(folder, lambda t: t.update({more: t[first].clone()}))
    assert f"has tensor {more!r}, but config.json says 8 experts" in refused(folder)


def test_a_stack_next_to_its_parts(model: Model) -> None:
    folder = model("mixtral")
    edit_tensors(
        folder, lambda t: t.update({"model.layers.0.mlp.experts.down_proj": torch.zeros(8, 32, 16)})
    )
    assert "block_sparse_moe.experts.0.w2.weight" in refused(folder)


def test_a_tied_model_may_have_a_head_of_its_own(model: Model) -> None:
    folder = model("gemma4")
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": torch.ones(64, 32)}))
    assert "lm_head.weight" in open_checkpoint(folder).specs
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": torch.ones(64, 31)}))
    assert "'lm_head.weight' of shape [64, 31]" in refused(folder)


def test_weights_of_the_wrapper_under_the_text_models_config(model: Model) -> None:
    folder = model("gemma4")
    edit_tensors(
        folder,
        lambda t: [
            t.update({n.replace("model.", "model.language_model.", 1): t.pop(n)}) for n in list(t)
        ],
    )
    message = refused(folder)
    assert "config.json is of a model whose tensors begin with 'model.'" in message
    assert "'model.language_model." in message


def test_a_tower_that_is_described_and_not_there(model: Model, tiny: TINY) -> None:
    folder = model("gemma4_wrapper")
    carried = [n for n, m in tiny("gemma4_wrapper").matches.items() if m.row.carried]
    assert not any("tower" in note for note in open_checkpoint(folder).notes)
    edit_tensors(folder, lambda t: [t.pop(name) for name in carried])
    assert any("that the checkpoint has not" in note for note in open_checkpoint(folder).notes)


RENAMED: dict[str, tuple[Callable[[str], str], str]] = {
    "peft": (lambda n: f"base_model.model.{n}", "merge it into its base model"),
    "mlx": (lambda n: n.replace(".mlp.experts.", ".mlp.switch_mlp."), "names of an MLX model"),
    "fp8": (lambda n: f"{n}_scale_inv" if "experts" in n else n, "dequantize the checkpoint"),
    "gptq": (lambda n: n.replace("weight", "qweight"), "dequantize the checkpoint"),
    "ddp": (lambda n: f"module.{n}", "left by a training wrapper"),
    "wrapper": (lambda n: f"language_model.{n}", "names are those of an older wrapper"),
    "native": (lambda n: n.removeprefix("model."), "the publisher's own format"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RENAMED)
def test_advice_fits_the_kind_of_unknown_tensors(kind: str, model: Model) -> None:
    folder = model("qwen3_moe")
    rename, words = RENAMED[kind]
    edit_tensors(folder, lambda t: [t.update({rename(n): t.pop(n)}) for n in list(t)])
    message = refused(folder)
    assert words in message
    assert " more" in message
    assert len(message) < 700
    assert "mistake" not in message


def test_types_that_hold_no_plain_numbers(model: Model) -> None:
    folder = model("mixtral")
    edit_config(folder, quantization_config={"quant_method": "fp8"})
    edit_tensors(
        folder,
        lambda t: t.update({n: t[n].to(torch.float8_e4m3fn) for n in list(t) if "w1" in n}),
    )
    message = refused(folder)
    assert "in type F8_E4M3, expected one of BF16, F16, F32, F64" in message
    assert "the first of 24 such tensors" in message
    assert "dequantize the checkpoint to 16 bits first" in message


def written(folder: Path, out: Path, experts: int = 8) -> tuple[Path, tuple[str, ...]]:
    """The safetensors output of a folder, and the notes of its plan."""
    checkpoint = open_checkpoint(folder)
    drop = out.with_suffix(".json")
    layers = {str(n): {"drop": list(range(experts, 8))} for n in checkpoint.moe_layers}
    drop.write_text(json.dumps({"layers": layers}))
    decided = plan(folder, Pruning(drop_map=drop), Formats())
    save_plan(decided, out.with_suffix(".plan"))
    apply(out.with_suffix(".plan"), out, model=folder)
    return out, tuple(decided.notes)


@pytest.mark.parametrize("form", ["mixtral", "gemma4_wrapper"])
def test_a_leftover_quantization_config_is_not_written(
    form: str, model: Model, tmp_path: Path
) -> None:
    folder = model(form)
    plain, notes = written(folder, tmp_path / "plain")
    assert not any("quantization_config" in note for note in notes)
    config = json.loads((folder / "config.json").read_text())
    for home in (config, config.get("text_config", config)):
        home["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    assert "quantization_config" not in open_checkpoint(folder).config
    out, notes = written(folder, tmp_path / "out")
    assert any("config.json has a quantization_config, but" in note for note in notes)
    assert (out / "config.json").read_bytes() == (plain / "config.json").read_bytes()


def add_block(folder: Path) -> None:
    """The block that predicts a second token, as DeepSeek publishes it: one more layer."""

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith("model.layers.2.")]:
            tensors[name.replace("layers.2.", "layers.3.")] = tensors[name].clone()
        prefix = "model.layers.3."
        tensors[prefix + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors[prefix + "eh_proj.weight"] = torch.ones(32, 64)
        for norm in ("enorm", "hnorm", "shared_head.norm"):
            tensors[f"{prefix}{norm}.weight"] = torch.ones(32)
        tensors[prefix + "shared_head.head.weight"] = tensors["lm_head.weight"].clone()

    edit_tensors(folder, change)


def test_the_block_that_predicts_further_tokens_is_left_out(
    tiny: TINY, model: Model, tmp_path: Path
) -> None:
    plain, folder = tiny("deepseek_v3"), model("deepseek_v3")
    add_block(folder)
    edit_config(folder, num_nextn_predict_layers=1)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.specs.keys() == plain.specs.keys()
    assert checkpoint.moe_layers == plain.moe_layers == (1, 2)
    out, notes = written(folder, tmp_path / "out", experts=8)
    assert any("num_nextn_predict_layers = 1" in n and "left out: 44 " in n for n in notes), notes
    assert json.loads((out / "config.json").read_text())["num_nextn_predict_layers"] == 0
    load(out)
    whole, _ = written(folder, tmp_path / "whole")
    assert difference(logits(load(whole)), logits(load(plain.path))) == 0
    edit_config(folder, num_nextn_predict_layers=0)
    message = refused(folder)
    assert "has tensors of layer 3, but config.json says num_hidden_layers = 3" in message
    assert "further tokens: num_nextn_predict_layers" in message


def test_saved_rotary_tables_are_left_out(tiny: TINY, model: Model) -> None:
    folder = model("mixtral")
    edit_tensors(
        folder,
        lambda t: t.update(
            {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.rand(4) for n in range(3)}
        ),
    )
    assert open_checkpoint(folder).specs.keys() == tiny("mixtral").specs.keys()


def test_two_sets_of_weights(tmp_path: Path) -> None:
    folder = save_tiny("mixtral", tmp_path / "model", shard_size="40KB")
    single = save_tiny("mixtral", tmp_path / "other", seed=1) / SINGLE
    shutil.copy(single, folder / SINGLE)
    message = refused(folder)
    assert f"two sets of weights, {SINGLE} and the" in message
    assert INDEX in message
    (folder / INDEX).unlink()
    assert "shards without an index" in refused(folder)
    for shard in folder.glob("model-*"):
        shard.unlink()
    open_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    [SINGLE, "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"],
)
def test_a_link_to_nothing(name: str, model: Model) -> None:
    folder = model("mixtral")
    (folder / name).unlink()
    (folder / name).symlink_to("../../blobs/gone")
    message = refused(folder)
    assert f"{folder / name} is a link to ../../blobs/gone, which does not exist" in message
    assert "download it again" in message


@pytest.mark.parametrize("name", [INDEX, "first", "additional_chat_templates/tools.jinja"])
def test_a_link_to_nothing_among_shards(name: str, tmp_path: Path) -> None:
    folder = save_tiny("mixtral", tmp_path / "model", shard_size="40KB")
    path = min(folder.glob("*.safetensors")) if name == "first" else folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(folder / "gone")
    assert f"{path} is a link to" in refused(folder)


def test_links_to_files_are_files(tiny: TINY, tmp_path: Path) -> None:
    plain, blobs = tiny("mixtral"), tmp_path / "models--a--b" / "blobs"
    folder = blobs.parent / "snapshots" / "0123456"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(plain.path.iterdir()):
        shutil.copy(path, blobs / str(number))
        os.symlink(f"../../blobs/{number}", folder / path.name)
    assert open_checkpoint(folder).specs.keys() == plain.specs.keys()


def test_weights_may_lie_elsewhere_and_nothing_else(tiny: TINY, tmp_path: Path) -> None:
    plain = tiny("mixtral")
    for path in plain.path.iterdir():
        if path.name == SINGLE:
            os.symlink(path, tmp_path / SINGLE)
        else:
            shutil.copy(path, tmp_path / path.name)
    assert open_checkpoint(tmp_path).specs.keys() == plain.specs.keys()
    outside = tmp_path.parent / "private"
    outside.write_text("private words")
    for name in ("LICENSE", "chat_template.jinja", "config.json"):
        (tmp_path / name).unlink(missing_ok=True)
        os.symlink(outside, tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name} is a link out of the model's folder"):
            open_checkpoint(tmp_path)
        (tmp_path / name).unlink()


def test_looking_at_a_config_alone_says_so(model: Model) -> None:
    folder = model("mixtral")
    (folder / SINGLE).unlink()
    notes = inspect(folder).notes
    assert any("there are no weights" in note and str(folder) in note for note in notes)


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF\x03\x00\x86")
    with pytest.raises(CheckpointError, match="a.gguf is a GGUF file, .*`secateur audit`"):
        open_shape(tmp_path / "a.gguf")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^\. is no model folder"):
        open_shape(".")
    with pytest.raises(CheckpointError, match="nope.gguf does not exist"):
        open_shape(tmp_path / "nope.gguf")
