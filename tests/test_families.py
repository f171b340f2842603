"""Families as data: every tensor that transformers writes has its row, and only one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_models import EXPERTS, FAMILIES, FORMS, MODELS, MOE_LAYERS, TOP_K, load

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import FamilyError
from secateur.families.registry import families, family_of

TINY = Callable[[str], Checkpoint]


def test_every_family_has_a_tiny_model() -> None:
    assert set(FAMILIES) <= set(MODELS)


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_matches_exactly_one_row(form: str, tiny: TINY) -> None:
    checkpoint = tiny(form)
    for name, spec in checkpoint.specs.items():
        rows = [row for row in checkpoint.family.rows if row.pattern.fullmatch(name)]
        assert len(rows) == 1, name
        if rows[0].axes:
            assert len(rows[0].axes) == len(spec.shape)


@pytest.mark.parametrize("form", FORMS)
def test_running_names_are_those_of_the_running_model(form: str, tiny: TINY) -> None:
    checkpoint = tiny(form)
    if form == "gemma4_wrapper":
        text = tiny("gemma4")
        names = set(text.specs)
    else:
        names = set(load(checkpoint.path).state_dict())
    ours = {
        checkpoint.family.running_name(place)
        for place in checkpoint.matches.values()
        if place.role not in ("vision", "audio")
    }
    # A tied head is in the running model and not in the file.
    assert ours == names - ({"lm_head.weight"} - ours)


@pytest.mark.parametrize("form", FORMS)
def test_the_router_rule_names_what_exists(form: str, tiny: TINY) -> None:
    checkpoint = tiny(form)
    family = checkpoint.family
    model = load(tiny("gemma4").path if form == "gemma4_wrapper" else checkpoint.path)
    modules, state = dict(model.named_modules()), model.state_dict()
    for layer in checkpoint.moe_layers:
        assert family.fill(family.router.module, layer) in modules
        if family.router.bias:
            assert state[family.fill(family.router.bias, layer)].shape == (EXPERTS,)
        if family.post_norm:
            assert family.fill(family.post_norm, layer) in modules


@pytest.mark.parametrize("form", FORMS)
def test_numbers_come_from_the_config(form: str, tiny: TINY) -> None:
    checkpoint = tiny(form)
    assert (checkpoint.layers, checkpoint.experts, checkpoint.top_k) == (3, EXPERTS, TOP_K)
    assert checkpoint.moe_layers == MOE_LAYERS.get(FORMS[form][0], (0, 1, 2))


def test_an_unknown_tensor_names_the_nearest_row() -> None:
    family = family_of({"model_type": "mixtral"})
    with pytest.raises(FamilyError) as caught:
        family.classify("model.layers.3.mlp.gate.bias")
    assert "'model.layers.3.mlp.gate.bias'" in str(caught.value)
    assert "nearest row: model.layers.{layer}.mlp.gate.weight" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_name_is_matched_whole() -> None:
    family = family_of({"model_type": "mixtral"})
    for name in ("xmodel.norm.weight", "model.norm.weight2", "model.norm_weight", "norm.weight"):
        with pytest.raises(FamilyError):
            family.classify(name)


def test_every_into_points_at_a_row() -> None:
    for family in families():
        for row in family.rows:
            if row.into is not None:
                assert family.fused_row(row.into).name == row.into


def test_an_expert_axis_and_an_expert_number_exclude_each_other() -> None:
    for family in families():
        for row in family.rows:
            assert not (row.per_expert and row.expert_axis is not None)


def test_no_model_type_belongs_to_two_families() -> None:
    kinds = [kind for family in families() for kind in family.model_types]
    assert len(kinds) == len(set(kinds))


def test_several_names_in_a_gguf_are_those_of_halves() -> None:
    """Rows that become two tensors hold two projections, one after the other; heads are rows."""
    for family in families():
        for row in family.rows:
            if len(row.gguf) > 1:
                assert [word.count("|") + 1 for word in row.axes if "|" in word] == [len(row.gguf)]
                assert "|" in row.axes[-2]
            if row.gguf_heads is not None:
                assert len(row.axes) == 2 and len(row.gguf) == 1
