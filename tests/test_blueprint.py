"""The checkpoint that a config alone describes is the one that transformers saves."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import FAMILIES, FORMS, MODELS

from secateur import (
    Calibration,
    Formats,
    Measuring,
    Pruning,
    ShrinkRequest,
    apply,
    calibrate,
    inspect,
    measure,
    plan,
    save_plan,
    shrink,
)
from secateur.checkpoint.expected_tensors import expected_tensors, running_rows
from secateur.checkpoint.reader import Checkpoint, open_checkpoint, open_shape
from secateur.errors import CheckpointError, FamilyError, PlanError
from secateur.families.expressions import evaluate
from secateur.families.registry import family_of

TINY = Callable[[str], Checkpoint]


def shape_of(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the part that the family's rows, and its tower's, describe."""
    return {
        name: spec.shape
        for name, spec in checkpoint.specs.items()
        if checkpoint.matches[name].role != "audio"
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_config_gives_what_save_pretrained_writes(form: str, tiny: TINY) -> None:
    saved = tiny(form)
    drawn = expected_tensors(
        saved.family,
        saved.config,
        saved.config_file,
        running=running_rows(saved.family) if FORMS[form][1] else (),
    )
    assert {name: spec.shape for name, spec in drawn.specs.items()} == shape_of(saved)
    assert drawn.matches == {n: saved.matches[n] for n in drawn.specs}
    assert {name: spec.dtype for name, spec in drawn.specs.items()} == {
        name: saved.specs[name].dtype for name in drawn.specs
    }
    assert bool(drawn.notes) == (form == "gemma4_wrapper")


def random_config(kind: str, chance: random.Random) -> dict[str, Any]:
    """config.json as transformers writes it, for random counts and widths of a family."""
    heads = chance.choice([1, 2, 4, 8])
    layers = chance.randint(1, 7)
    words: dict[str, Any] = {
        "vocab_size": chance.randint(3, 90),
        "hidden_size": 8 * heads * chance.randint(1, 3),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": chance.choice([k for k in (1, 2, 4, 8) if heads % k == 0]),
        "intermediate_size": chance.randint(1, 50),
        "max_position_embeddings": 64,
        "tie_word_embeddings": chance.random() < 0.5,
    }
    experts, top_k = chance.randint(2, 9), chance.randint(1, 2)
    width = chance.randint(1, 40)
    some_head = {"head_dim": 2 * chance.randint(1, 9)} if chance.random() < 0.5 else {}
    config: Any
    if kind == "gemma4":
        kinds = [chance.choice(["sliding_attention", "full_attention"]) for _ in range(layers)]
        wide = {"global_head_dim": 4 * chance.randint(1, 9)} if chance.random() < 0.7 else {}
        if chance.random() < 0.7:
            wide["num_global_key_value_heads"] = 1
        config = transformers.Gemma4TextConfig(
            **words,
            **{"head_dim": 8, **some_head},
            **wide,
            **({"layer_types": kinds} if chance.random() < 0.7 else {}),
            vocab_size_per_layer_input=0,
            hidden_size_per_layer_input=0,
            attention_k_eq_v=chance.random() < 0.5,
            use_double_wide_mlp=chance.random() < 0.5,
            enable_moe_block=True,
            num_experts=experts,
            top_k_experts=top_k,
            moe_intermediate_size=width,
        )
        kinds = list(config.layer_types)
        if layers > 2 and set(kinds[: layers - 1]) == set(kinds):
            config.num_kv_shared_layers = chance.choice([0, 1])
    elif kind == "qwen3_moe":
        config = transformers.Qwen3MoeConfig(
            **words,
            **some_head,
            num_experts=experts,
            num_experts_per_tok=top_k,
            moe_intermediate_size=width,
            mlp_only_layers=sorted(chance.sample(range(layers), chance.randint(0, layers - 1))),
            decoder_sparse_step=chance.choice([1, 1, 2]),
            attention_bias=chance.random() < 0.5,
        )
    elif kind == "mixtral":
        config = transformers.MixtralConfig(
            **words, **some_head, num_local_experts=experts, num_experts_per_tok=top_k
        )
    elif kind == "gpt_oss":
        config = transformers.GptOssConfig(
            **words,
            **{"head_dim": 8, **some_head},
            num_local_experts=experts,
            num_experts_per_tok=top_k,
            attention_bias=chance.random() < 0.7,
        )
    elif kind == "deepseek_v3":
        groups = chance.choice([1, 2])
        config = transformers.DeepseekV3Config(
            **{**words, "num_key_value_heads": heads},
            moe_intermediate_size=width,
            n_routed_experts=groups * experts,
            num_experts_per_tok=top_k,
            n_shared_experts=chance.randint(1, 3),
            n_group=groups,
            topk_group=1,
            first_k_dense_replace=chance.randint(0, layers - 1),
            kv_lora_rank=chance.randint(1, 20),
            q_lora_rank=chance.choice([None, 5, 16]),
            qk_rope_head_dim=2 * chance.randint(1, 5),
            qk_nope_head_dim=chance.randint(1, 9),
            v_head_dim=chance.randint(1, 9),
            attention_bias=chance.random() < 0.5,
        )
    else:  # a family without a random config of its own: that of its tiny model
        config = MODELS[kind]().config
    return json.loads(config.to_json_string())


def running_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """transformers' own parameters and persistent buffers; a tied head is not saved."""
    read = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(read)
    state = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if read.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


@pytest.mark.parametrize("kind", FAMILIES)
def test_random_configs_give_the_running_models_shapes(kind: str) -> None:
    chance = random.Random(kind)
    for _ in range(12):
        config = random_config(kind, chance)
        family = family_of(config)
        drawn = expected_tensors(family, config, Path("config.json"), running=running_rows(family))
        assert {n: spec.shape for n, spec in drawn.specs.items()} == running_shapes(config), config


@pytest.mark.parametrize("kind", [kind for kind, fused in FORMS.values() if fused])
def test_random_published_forms_are_what_is_saved(kind: str, tmp_path: Path) -> None:
    chance = random.Random(kind)
    for number in range(3):
        config = random_config(kind, chance)
        read = transformers.AutoConfig.for_model(**config)
        model = transformers.AutoModelForCausalLM.from_config(read)
        folder = tmp_path / str(number)
        model.save_pretrained(folder, save_original_format=True)
        drawn, saved = open_shape(folder / "config.json"), open_checkpoint(folder)
        assert shape_of(drawn) == shape_of(saved), config


def test_keys_that_are_left_out_mean_what_transformers_means() -> None:
    bare = {
        "model_type": "qwen3_moe", "vocab_size": 10, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 8, "intermediate_size": 16,
    }  # fmt: skip
    drawn = expected_tensors(
        family_of(bare), bare, Path("config.json"), running=running_rows(family_of(bare))
    )
    assert {n: s.shape for n, s in drawn.specs.items()} == running_shapes(bare)
    assert drawn.notes == ("config.json gives no dtype: the checkpoint is counted in BF16",)
    mixtral = {
        "model_type": "mixtral", "vocab_size": 10, "hidden_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
        "intermediate_size": 16,
    }  # fmt: skip
    drawn = expected_tensors(
        family_of(mixtral), mixtral, Path("config.json"), running=running_rows(family_of(mixtral))
    )
    assert {n: s.shape for n, s in drawn.specs.items()} == running_shapes(mixtral)
    none = mixtral | {"num_key_value_heads": None}  # newer versions of transformers refuse it
    drawn = expected_tensors(family_of(none), none, Path("config.json"))
    assert drawn.specs["model.layers.0.self_attn.k_proj.weight"].shape == (64, 64)
    del bare["moe_intermediate_size"]
    with pytest.raises(FamilyError, match="gives nothing for 'expert_width'"):
        expected_tensors(family_of(bare), bare, Path("config.json"))


@pytest.fixture
def config(tiny: TINY, tmp_path: Path) -> Path:
    """The config of a tiny model, alone in a folder."""
    path = tmp_path / "a-model" / "config.json"
    path.parent.mkdir()
    path.write_bytes(tiny("gemma4").config_file.read_bytes())
    return path


def test_a_config_file_and_a_folder_without_shards_are_the_same_model(config: Path) -> None:
    file, folder = open_shape(config), open_shape(config.parent)
    assert file.name == folder.name == "a-model"
    assert file.shape_only
    assert file.facts() == folder.facts()
    assert file.facts()["shape_only"] is True
    assert file.experts == 8
    renamed = config.rename(config.with_name("other.json"))
    assert open_shape(renamed).name == "other"
    assert open_shape(renamed).identity() == file.identity()


def test_a_model_with_weights_is_opened_as_such(tiny: TINY, tmp_path: Path) -> None:
    whole = tiny("gemma4")
    assert not open_shape(whole.path).shape_only
    assert open_shape(whole.path).identity() == whole.identity()
    assert open_shape(whole.config_file).identity() != whole.identity()
    (tmp_path / "config.json").write_bytes(whole.config_file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="secateur reads safetensors only"):
        open_shape(tmp_path)


def test_inspect_needs_no_weights(config: Path, tiny: TINY) -> None:
    drawn, whole = inspect(config), inspect(tiny("gemma4"))
    assert (drawn.parameters, drawn.active, drawn.bytes) == (
        whole.parameters,
        whole.active,
        whole.bytes,
    )


def test_what_needs_weights_says_so(config: Path, tmp_path: Path) -> None:
    shape = open_shape(config)
    out = tmp_path / "out"
    calls: tuple[Callable[[], object], ...] = (
        lambda: calibrate(config, out, Calibration("gemmule")),
        lambda: calibrate(shape, out, Calibration("gemmule")),
        lambda: measure(out, config, Measuring()),
        lambda: measure(out, shape, Measuring()),
        lambda: shrink(config, out, ShrinkRequest(Pruning(experts=4))),
        lambda: shape.read("model.norm.weight"),
        lambda: shape.shards,
    )
    for call in calls:
        with pytest.raises(CheckpointError, match="a config (without weights|is enough for)"):
            call()
    assert not out.exists()


def test_a_plan_from_a_config_is_not_applied(config: Path, tiny: TINY, tmp_path: Path) -> None:
    decided = plan(config, Pruning(experts=4), Formats())
    assert any("which experts are kept is not decided" in note for note in decided.notes)
    assert decided.tensor_bytes("safetensors") == plan(
        tiny("gemma4"), Pruning(drop_map=drop_map(tmp_path)), Formats()
    ).tensor_bytes("safetensors")
    save_plan(decided, tmp_path / "plan.json")
    for model in (None, tiny("gemma4"), open_shape(config)):
        with pytest.raises(PlanError, match="made from a config alone"):
            apply(tmp_path / "plan.json", tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()


def drop_map(folder: Path) -> Path:
    layers = {str(layer): {"drop": [0, 2, 4, 6]} for layer in range(3)}
    (folder / "drop.json").write_text(json.dumps({"layers": layers}))
    return folder / "drop.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "'hidden'"),
        ({"hidden_size_per_layer_input": 4}, "hidden_size_per_layer_input = 4, but the family's"),
        ({"enable_moe_block": False}, "enable_moe_block = False"),
        ({"dtype": "int4"}, "dtype 'int4'"),
        ({"num_attention_heads": "two"}, 'num_attention_heads = "two", expected a whole number'),
        ({"moe_intermediate_size": 0}, "makes it 0 for"),
    ],
)
def test_a_config_that_says_too_little_is_one_line(
    change: dict[str, Any], message: str, config: Path
) -> None:
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_shape(config)
    assert "\n" not in str(caught.value)


def test_expressions_know_a_small_part_of_python() -> None:
    values = {"a": 6, "many": [1, 2], "by": {"05": {"x": 7}}, "layer": 5}

    def look(text: str) -> Any:
        return evaluate(text, values.get)

    assert look("a * 2 + 1 if layer in many else a // 4 - 1 % 3") == 0
    assert look("by[layer].x or 3") == 7
    assert look("by[4].x or many[1]") == 2
    assert look("many[7]") is None
    assert look("not nothing and a >= 6") is True
    assert look("[] or 'word'") == "word"
    for bad in ("a()", "a.b.c()", "lambda: 1", "a < 1 < 2", "1 +", "-a", "{1}"):
        with pytest.raises(FamilyError, match="of a family's table"):
            look(bad)
    with pytest.raises(FamilyError, match="nothing is missing"):
        look("a * nothing")
