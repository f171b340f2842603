"""Metadata, tokenizer and tensors of a checkpoint: key by key what llama.cpp's converter writes."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import gemma4_facts
import numpy as np
import pytest

from secateur.errors import CheckpointError, FamilyError
from secateur.families.format_rules import GgufRules, TokenizerRules
from secateur.families.registry import families, family_of
from secateur.formats.gguf.container import TensorInfo, Value, header_bytes
from secateur.formats.gguf.metadata import model_metadata, sampling_metadata, size_label
from secateur.formats.gguf.rules import gguf_rules
from secateur.formats.gguf.tensors import file_order, gguf_tensors, unquantized_type
from secateur.formats.gguf.tokenizer import UNUSED, tokenizer_metadata

CONVERT = Path(__file__).parent / "golden/convert"
LEFT_OUT = {"tokenizer.ggml.add_sep_token"}


NAMES = ("text", "wrapper", "single")


def shapes_of(name):
    """The tensors of a golden folder's checkpoint."""
    expected = json.loads((CONVERT / name / "expected.json").read_text())
    return {tensor: tuple(shape) for tensor, shape in expected["checkpoint"].items()}


def converted(name):
    folder = CONVERT / name
    config = json.loads((folder / "config.json").read_text())
    family = family_of(config)
    tensors = gguf_tensors(family, config, shapes_of(name))
    infos = [tensor.info for tensor in tensors]
    rows = next(info.shape[0] for info in infos if info.name == "token_embd.weight")
    metadata = {
        **model_metadata(family, config, infos, name.title(), 1),
        **sampling_metadata(folder),
        **tokenizer_metadata(folder, config, gguf_rules(family).tokenizer, rows),
    }
    expected = json.loads((folder / "expected.json").read_text())
    return metadata, tensors, expected


@pytest.mark.parametrize("name", NAMES)
def test_every_key_equals_the_converters(name):
    metadata, _, expected = converted(name)
    theirs = expected["metadata"]
    assert set(theirs) - set(metadata) <= LEFT_OUT
    assert set(metadata) <= set(theirs)
    for key, value in metadata.items():
        kind, content = theirs[key]
        assert value.kind == kind, key
        ours = list(value.value) if isinstance(value.value, tuple) else value.value
        if kind == "f32":
            ours, content = np.float32(ours).tolist(), np.float32(content).tolist()
        assert ours == content, key


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_equals_the_converters(name):
    _, tensors, expected = converted(name)
    ours = {t.info.name: (t.info.type, list(t.info.shape)) for t in tensors}
    assert ours == {tensor: (kind, shape) for tensor, kind, shape in expected["tensors"]}
    assert [t.info.name for t in tensors] == sorted(ours, key=file_order)


def test_the_generated_rope_factors_stop_the_rotation_of_the_rest():
    _, tensors, _ = converted("text")
    rope = next(tensor for tensor in tensors if tensor.info.name == "rope_freqs.weight")
    assert rope.sources == ()
    np.testing.assert_array_equal(rope.values, np.float32([1] * 4 + [1e30] * 12))


def test_the_real_models_architecture_keys_equal_its_published_ones():
    """Against the keys of the vocabulary GGUF that llama.cpp ships for this very model."""
    config = gemma4_facts.CONFIG
    theirs = {f"gemma4.{key}": Value(*held) for key, held in gemma4_facts.ARCHITECTURE.items()}
    ours = model_metadata(family_of(config), config, (), "any", 1)
    for key, held in theirs.items():
        assert header_bytes({key: ours[key]}, ()) == header_bytes({key: held}, ())
        assert np.allclose(ours[key].value, held.value, rtol=1e-7), key
    assert {key for key in ours if key.startswith("gemma4.")} <= set(theirs)


def test_pruned_experts_are_counted_and_stacks_keep_their_order():
    config = json.loads((CONVERT / "text/config.json").read_text())
    family = family_of(config)
    shapes = shapes_of("text") | {
        f"model.layers.{layer}.{name}": shape
        for layer in range(3)
        for name, shape in {
            "experts.gate_up_proj": (3, 64, 64),
            "experts.down_proj": (3, 64, 32),
            "router.proj.weight": (3, 64),
            "router.per_expert_scale": (3,),
        }.items()
    }
    tensors = gguf_tensors(family, config, shapes)
    pruned = next(t for t in tensors if t.info.name == "blk.2.ffn_down_exps.weight")
    assert pruned.info.shape == (3, 64, 32)
    metadata = model_metadata(family, config | {"num_experts": 3}, (), "x", 7)
    assert metadata["gemma4.expert_count"] == Value("u32", 3)
    assert metadata["general.file_type"] == Value("u32", 7)


def test_experts_in_single_tensors_become_one_stack_in_the_order_of_their_numbers():
    family = next(f for f in families() if f.gguf and any(row.per_expert for row in f.rows))
    row = next(row for row in family.rows if row.per_expert and row.gguf)
    name = row.name.replace("{model}", family.prefixes[0]).replace("{layer}", "0")
    shapes = {name.replace("{expert}", str(expert)): (8, 4) for expert in (10, 2, 1, 0)}
    with pytest.raises(CheckpointError, match=r"cannot be stacked of experts \[0, 1, 2, 10\]"):
        gathered(family, shapes)
    shapes = {name.replace("{expert}", str(expert)): (8, 4) for expert in (11, *range(11))}
    (stack,) = gathered(family, shapes)
    assert stack.info.shape == (12, 8, 4)
    assert stack.sources == tuple(name.replace("{expert}", str(e)) for e in range(12))
    shapes[stack.sources[3]] = (8, 5)
    with pytest.raises(CheckpointError, match="differs in shape"):
        gathered(family, shapes)


def test_a_stack_of_two_projections_is_written_as_two_tensors():
    """llama.cpp's graph for this architecture reads gate and up from tensors of their own."""
    config = json.loads((CONVERT / "single/config.json").read_text())
    name = "model.layers.0.mlp.experts.gate_up_proj"
    gate, up = gguf_tensors(family_of(config), config, {name: (4, 64, 24)})
    assert (gate.info.name, up.info.name) == (
        "blk.0.ffn_gate_exps.weight",
        "blk.0.ffn_up_exps.weight",
    )
    assert gate.info.shape == up.info.shape == (4, 32, 24)
    assert gate.sources == up.sources == (name,)
    assert (gate.view.part, up.view.part, up.view.parts) == (0, 1, 2)
    with pytest.raises(CheckpointError, match=r"\[4, 63, 24\], whose rows are not 2 equal parts"):
        gguf_tensors(family_of(config), config, {name: (4, 63, 24)})


def gathered(family, shapes):
    """gguf_tensors with a table that generates nothing, for families that have none yet."""
    rules = GgufRules("x", TokenizerRules("x"))
    return gguf_tensors(replace(family, gguf=rules), {"num_hidden_layers": 1}, shapes)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.0.attn_q.weight", (4, 4), "BF16"),
        ("blk.0.attn_q.bias", (4,), "F32"),
        ("blk.0.attn_q_norm.weight", (4,), "F32"),
        ("blk.0.ffn_gate_inp.weight", (4, 4), "F32"),
        ("blk.0.ffn_down_exps.scale", (4,), "F32"),
        ("blk.0.ffn_down_exps.bias", (4, 4), "F32"),
    ],
)
def test_vectors_norms_and_routers_stay_f32(name, shape, expected):
    assert unquantized_type(name, shape, "BF16") == expected


def test_the_size_label_counts_one_expert():
    infos = [
        TensorInfo("token_embd.weight", "F16", (1000, 1000)),
        TensorInfo("blk.0.ffn_up_exps.weight", "F16", (8, 1000, 2000)),
    ]
    assert size_label(infos) == "8x3.0M"
    assert size_label(infos[:1]) == "1000K"
    assert size_label([TensorInfo("x", "F16", (26, 10**9))]) == "26B"
    assert math.prod(infos[1].shape) == 16_000_000


def folder_with(tmp_path, **changes):
    """A copy of the text folder with some keys of tokenizer.json or its config changed."""
    folder = tmp_path / "model"
    shutil.copytree(CONVERT / "text", folder)
    for name, change in changes.items():
        path = folder / f"{name}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return folder


def tokens_of(folder, rows=302):
    config = json.loads((folder / "config.json").read_text())
    return tokenizer_metadata(folder, config, gguf_rules(family_of(config)).tokenizer, rows)


def test_rows_without_a_token_are_filled_with_unused_ones(tmp_path):
    folder = folder_with(tmp_path)
    count = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) + 2
    metadata = tokens_of(folder, count + 2)
    assert metadata["tokenizer.ggml.tokens"].value[-2:] == (f"[PAD{count}]", f"[PAD{count + 1}]")
    assert metadata["tokenizer.ggml.token_type"].value[-2:] == (UNUSED, UNUSED)
    assert len(metadata["tokenizer.ggml.scores"].value) == count + 2


def test_merges_with_spaces_and_named_templates_are_read(tmp_path):
    def merges(content):
        content["model"]["merges"] = ["a b", ["c d", "e"]]

    def template(content):
        content["chat_template"] = [
            {"name": "tool_use", "template": "no"},
            {"name": "default", "template": "yes"},
        ]

    folder = folder_with(tmp_path, tokenizer=merges, tokenizer_config=template)
    (folder / "chat_template.jinja").unlink()
    metadata = tokens_of(folder, 400)
    assert metadata["tokenizer.ggml.merges"] == Value("string", ("a b", "c\u0120d e"))
    assert metadata["tokenizer.chat_template"] == Value("string", "yes")
    assert metadata["tokenizer.chat_template.tool_use"] == Value("string", "no")
    assert metadata["tokenizer.chat_templates"] == Value("string", ("tool_use",))


def test_special_ids_come_from_the_config_where_the_tokenizer_names_none(tmp_path):
    def forget(content):
        del content["bos_token"]

    metadata = tokens_of(folder_with(tmp_path, tokenizer_config=forget), 400)
    assert metadata["tokenizer.ggml.bos_token_id"] == Value("u32", 2)


def test_a_special_id_that_says_there_is_none_is_left_out(tmp_path):
    folder = folder_with(tmp_path, config=lambda c: c.update(cls_token_id=-1, sep_token_id=10**12))
    metadata = tokens_of(folder)
    assert "tokenizer.ggml.bos_token_id" in metadata
    assert not {"tokenizer.ggml.cls_token_id", "tokenizer.ggml.seperator_token_id"} & set(metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(type="Unigram"), "is a Unigram tokenizer, expected BPE"),
        (
            lambda c: c["model"].update(byte_fallback=False),
            "has no byte fallback and splits text by no exp",
        ),
        (
            lambda c: c.update(pre_tokenizer={"a": [{"Regex": "x+"}]}),
            r"splits text by x\+, and llama.cpp",
        ),
        (lambda c: (c["model"]["vocab"].pop("<pad>"), c["added_tokens"].pop(0)), "id 0 is miss"),
        (lambda c: c["model"]["vocab"].update({f"x{n}": 500 + n for n in range(200)}), "missing"),
    ],
)
def test_a_tokenizer_that_cannot_be_expressed_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        tokens_of(folder_with(tmp_path, tokenizer=change), 400)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="but only 10 rows"):
        tokens_of(folder_with(tmp_path), 10)
    (tmp_path / "model/tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected an object"):
        tokens_of(tmp_path / "model")
    (tmp_path / "model/tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not usable JSON"):
        tokens_of(tmp_path / "model")
    (tmp_path / "model/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        tokens_of(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rms_norm_eps": None}, "gives no attention.layer_norm_rms_epsilon: looked for rms_norm"),
        (
            {"hidden_activation": "silu"},
            "hidden_activation = 'silu', and llama.cpp's gemma4 computes",
        ),
        ({"use_double_wide_mlp": True}, "use_double_wide_mlp = True, and llama.cpp's"),
        ({"layer_types": ["linear", "full_attention"]}, "'linear' in layer 0"),
        ({"layer_types": ["sliding_attention"]}, "layer_types.last = 'sliding_attention'"),
        ({"head_dim": [16]}, r"\[16\] for attention.key_length_swa"),
        ({"per_layer_config": {}}, "gives no attention.key_length: looked for global_head_dim"),
        (
            {"rms_norm_eps": "1e-6"},
            'gives "1e-6" for attention.layer_norm_rms_.*, expected a number',
        ),
        (
            {"max_position_embeddings": -1},
            "gives -1 for context_length, expected a whole number fr",
        ),
    ],
)
def test_a_config_that_llama_cpp_would_misread_is_refused(change, message):
    config = json.loads((CONVERT / "text/config.json").read_text()) | change
    with pytest.raises(CheckpointError, match=message):
        model_metadata(family_of(config), config, (), "x", 1)


WITHOUT = tuple(family.name for family in families() if not family.gguf)


def test_a_family_without_a_table_says_what_to_do_instead():
    family = replace(families()[0], gguf=None)
    with pytest.raises(FamilyError, match=r"no \[gguf\] table.*--to safetensors.*families/"):
        gguf_rules(family)


@pytest.mark.parametrize("name", WITHOUT)
def test_no_gguf_is_planned_of_such_a_family(name, tiny, run):
    checkpoint = tiny(name)
    told = run("plan", checkpoint.config_file, experts=4, types="Q4_K_M", to="gguf")
    assert told.code == 2
    (line,) = told.err.splitlines()
    assert f"the family '{name}' has no [gguf] table" in line
    assert run("plan", checkpoint.config_file, experts=4, to="safetensors").code == 0


def test_a_folder_without_generation_config_has_no_sampling(tmp_path):
    assert sampling_metadata(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text("nonsense")
    with pytest.raises(CheckpointError, match="is not usable JSON"):
        sampling_metadata(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"top_k": 64.5}')
    with pytest.raises(CheckpointError, match=r"_config.json gives 64.5 for top_k, expected a who"):
        sampling_metadata(tmp_path)
