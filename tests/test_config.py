"""config.json edited as text: what must change changes, every other byte stays, and it loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import EXPERTS, FORMS, difference, load, logits

from secateur.checkpoint.config_edit import with_experts
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import CheckpointError, FamilyError
from secateur.families.registry import families, family_of

TINY = Callable[[str], Checkpoint]
ADDING = {name for family in families() if family.also for name in (family.name, "gemma4_wrapper")}
GEMMA4 = family_of({"model_type": "gemma4"})
QWEN3 = family_of({"model_type": "qwen3_moe"})


def text_of(checkpoint: Checkpoint) -> str:
    return (checkpoint.path / "config.json").read_bytes().decode()


@pytest.mark.parametrize("form", [form for form in FORMS if FORMS[form][0] not in ADDING])
def test_only_the_digits_of_the_count_change(form: str, tiny: TINY) -> None:
    checkpoint = tiny(form)
    text = text_of(checkpoint)
    key, _ = checkpoint.family.find(checkpoint.config, "experts") or ("", 0)
    old, new = f'"{key}": {EXPERTS}', f'"{key}": 123'
    assert text.count(old) == 1
    expected = text.replace(old, new)
    # transformers saves this key, and never the block that it promises.
    expected = expected.replace('"num_nextn_predict_layers": 1', '"num_nextn_predict_layers": 0')
    assert with_experts(text, checkpoint.family, 123) == expected


def test_gemma4_gains_the_keys_that_other_readers_need(tiny: TINY) -> None:
    text = text_of(tiny("gemma4"))
    expected = text.replace(f'"num_experts": {EXPERTS}', '"num_experts": 4').replace(
        '"vocab_size_per_layer_input": 64\n',
        '"vocab_size_per_layer_input": 64,\n'
        '  "global_head_dim": 32,\n'
        '  "num_global_key_value_heads": 1\n',
    )
    assert with_experts(text, GEMMA4, 4) == expected


def test_the_wrapper_is_edited_in_its_text_section(tiny: TINY) -> None:
    text = text_of(tiny("gemma4_wrapper"))
    edited = with_experts(text, GEMMA4, 4)
    start, end = text.index('"text_config"'), text.index('"tie_word_embeddings": true,\n  "trans')
    assert edited.startswith(text[:start])
    part = text[start:end].replace(f'"num_experts": {EXPERTS}', '"num_experts": 4')
    part = part.replace(
        '"vocab_size_per_layer_input": 64\n',
        '"vocab_size_per_layer_input": 64,\n'
        '    "global_head_dim": 32,\n'
        '    "num_global_key_value_heads": 1\n',
    )
    assert edited[start:].startswith(part)
    rest = text[end:].removesuffix("\n}\n") + ',\n  "vocab_size": 64\n}\n'
    assert edited[start + len(part) :] == rest
    assert json.loads(edited)["vision_config"] == json.loads(text)["vision_config"]


@pytest.mark.parametrize("form", ["gemma4", "gemma4_wrapper"])
def test_transformers_reads_both_forms_alike(form: str, tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny(form)
    expected = logits(load(checkpoint.path))
    both = json.loads(with_experts(text_of(checkpoint), GEMMA4, EXPERTS))
    part = both.get("text_config", both)
    flat = json.loads(json.dumps(both))
    del flat.get("text_config", flat)["per_layer_config"]
    assert part["per_layer_config"] == {"2": {"head_dim": 32, "num_key_value_heads": 1}}
    for name, config in (("both", both), ("flat", flat)):
        folder = tmp_path / name
        folder.mkdir()
        for path in checkpoint.path.iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(config))
        assert difference(logits(load(folder)), expected) == 0


def test_a_config_that_has_the_flat_keys_keeps_its_form() -> None:
    text = '{"model_type": "gemma4_text", "num_hidden_layers": 2, "num_experts": 8, '
    text += '"global_head_dim": 512, "num_global_key_value_heads": 2, "vocab_size": 64}'
    assert with_experts(text, GEMMA4, 6) == text.replace('"num_experts": 8', '"num_experts": 6')


def test_full_layers_without_an_override_have_the_common_value() -> None:
    config = {
        "num_hidden_layers": 2,
        "num_experts": 8,
        "head_dim": 256,
        "num_key_value_heads": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "per_layer_config": {"1": {"head_dim": 512}},
        "vocab_size": 64,
    }
    edited = json.loads(with_experts(json.dumps(config), GEMMA4, 6))
    assert edited["global_head_dim"] == 512
    assert edited["num_global_key_value_heads"] == 4


def test_layer_numbers_may_be_padded(tmp_path: Path) -> None:
    from transformers import Gemma4TextConfig

    Gemma4TextConfig(
        num_hidden_layers=12,
        num_experts=8,
        head_dim=256,
        global_head_dim=384,
        num_key_value_heads=4,
        num_global_key_value_heads=2,
        attention_k_eq_v=True,
    ).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert set(json.loads(text)["per_layer_config"]) == {"05", "11"}
    edited = json.loads(with_experts(text, GEMMA4, 6))
    assert edited["global_head_dim"] == 384
    assert edited["num_global_key_value_heads"] == 2


def test_full_layers_that_differ_cannot_be_told_to_other_readers() -> None:
    config = {
        "num_hidden_layers": 2,
        "num_experts": 8,
        "head_dim": 256,
        "num_key_value_heads": 4,
        "layer_types": ["full_attention", "full_attention"],
        "per_layer_config": {"0": {"head_dim": 512}},
    }
    with pytest.raises(CheckpointError, match="256 in layer 1 and 512 in layer 0") as caught:
        with_experts(json.dumps(config), GEMMA4, 6)
    assert "\n" not in str(caught.value)


def test_every_count_key_that_is_present_is_set() -> None:
    text = '{"num_hidden_layers": 1, "num_experts": 8, "num_local_experts": 8}'
    edited = json.loads(with_experts(text, QWEN3, 5))
    assert (edited["num_experts"], edited["num_local_experts"]) == (5, 5)


def test_count_keys_that_disagree_are_refused() -> None:
    text = '{"num_hidden_layers": 1, "num_experts": 8, "num_local_experts": 16}'
    with pytest.raises(CheckpointError, match="several expert counts"):
        with_experts(text, QWEN3, 5)


def test_a_config_without_a_count_is_refused() -> None:
    with pytest.raises(FamilyError, match="names no experts"):
        with_experts('{"num_hidden_layers": 1}', QWEN3, 5)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    others=st.dictionaries(st.text(), _VALUES, max_size=5),
    indent=st.sampled_from([None, 0, 1, 4, "\t"]),
    ascii_only=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
    nested=st.booleans(),
)
def test_any_layout_of_the_file_is_kept(
    others: dict[str, object],
    indent: int | str | None,
    ascii_only: bool,
    newline: str,
    nested: bool,
) -> None:
    part = {
        **others,
        "num_hidden_layers": 2,
        "num_experts": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "per_layer_config": {"1": {"head_dim": 32, "num_key_value_heads": 1}},
        "vocab_size": 64,
    }
    added = {"global_head_dim": 32, "num_global_key_value_heads": 1}
    whole = {"num_experts": 77, "text_config": part, "x": "}"} if nested else part

    def dump(config: object) -> str:
        text = json.dumps(config, indent=indent, ensure_ascii=ascii_only)
        return text.replace("\n", newline) + newline

    edited = with_experts(dump(whole), GEMMA4, 6)
    wanted = {**part, "num_experts": 6, **added}
    top = {**whole, "text_config": wanted, "vocab_size": 64} if nested else wanted
    assert edited == dump(top)
