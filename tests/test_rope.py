"""One reader of a config's kind of rotary embedding: every spelling, for every format's guard."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import CheckpointError
from secateur.families.registry import families
from secateur.families.rope import ALL, rope_kinds
from secateur.formats.gguf.metadata import model_metadata
from secateur.formats.mlx.rules import check_config

TINY = Callable[[str], Checkpoint]
GUARDED = [family.name for family in families() if family.gguf and family.mlx]
SCALED = {"factor": 4.0, "original_max_position_embeddings": 16}


def spelled(part: dict[str, Any], place: str, key: str, kind: str) -> None:
    """Ask for a kind of rotary embedding in one of the ways that transformers reads."""
    by_type = {k: v for k, v in part["rope_parameters"].items() if isinstance(v, dict)}
    if by_type and place == "rope_parameters":
        for settings in by_type.values():
            settings.pop("rope_type", None)
            settings |= {key: kind, **SCALED}
        return
    theta = part["rope_parameters"].get("rope_theta", 10000.0)
    if not by_type:
        del part["rope_parameters"]
    part[place] = {key: kind, "rope_theta": theta, **SCALED}


def allowed(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config, changed to what both formats compute."""
    config, family = deepcopy(dict(checkpoint.config)), checkpoint.family
    for rules in (family.gguf, family.mlx):
        assert rules is not None
        for key, values in rules.expect.items():
            if key in config:
                config[key] = values[0] if values else None
    return config


@pytest.mark.parametrize("kind", ["linear", "yarn"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", GUARDED)
def test_no_format_is_made_of_a_scaling_that_it_does_not_compute(
    name: str, place: str, key: str, kind: str, tiny: TINY
) -> None:
    checkpoint = tiny(name)
    config = allowed(checkpoint)
    spelled(config, place, key, kind)
    refused = f"asks for the rotary embedding '{kind}'"
    with pytest.raises(CheckpointError, match=f"{refused}.*, and mlx-lm"):
        check_config(checkpoint.family, config)
    assert checkpoint.family.gguf is not None
    if kind in checkpoint.family.gguf.rope.get(ALL, ()):
        made = model_metadata(checkpoint.family, config, (), "x", 1)
        assert made[f"{checkpoint.family.gguf.architecture}.rope.scaling.type"].value == kind
        return
    with pytest.raises(CheckpointError, match=f"{refused}.*, and llama.cpp's"):
        model_metadata(checkpoint.family, config, (), "x", 1)


@pytest.mark.parametrize("name", GUARDED)
def test_the_families_own_kind_passes(name: str, tiny: TINY) -> None:
    checkpoint = tiny(name)
    config = allowed(checkpoint)
    model_metadata(checkpoint.family, config, (), "x", 1)
    try:
        check_config(checkpoint.family, config)
    except CheckpointError as error:
        assert "rotary" not in str(error)


def test_the_kind_is_found_in_every_spelling() -> None:
    assert rope_kinds({}) == {}
    assert rope_kinds({"rope_scaling": None, "rope_theta": 1.0}) == {}
    assert rope_kinds({"rope_scaling": {"type": "linear", "factor": 2}}) == {"all": "linear"}
    assert rope_kinds({"rope_parameters": {"rope_theta": 1.0}}) == {"all": "default"}
    both = {"rope_parameters": {"rope_type": "yarn"}, "rope_scaling": {"type": "yarn"}}
    assert rope_kinds(both) == {"all": "yarn"}
    by_layer = {"full_attention": {"type": "yarn", "factor": 2}, "sliding_attention": {}}
    assert rope_kinds({"rope_parameters": by_layer}) == {
        "full_attention": "yarn",
        "sliding_attention": "default",
    }
    flat = {**by_layer, "type": "linear", "factor": 3}
    assert rope_kinds({"rope_parameters": flat})["all"] == "linear"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.factor and no kind of rotary"),
        ({"rope_scaling": {"rope_kind": "yarn"}}, "rope_scaling.rope_kind and no kind"),
        ({"rope_scaling": {"type": "default", "factor": 2.0}}, "factor and no kind"),
        ({"rope_scaling": {"type": "yarn", "rope_type": "linear"}}, "several kinds of rotary"),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "yarn"}},
            "several kinds of rotary",
        ),
        ({"rope_scaling": "yarn"}, "rope_scaling = 'yarn', expected an object"),
        ({"rope_scaling": {"type": 3}}, "rope_scaling.type = 3, expected text"),
    ],
)
def test_what_is_not_understood_never_passes(part: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        rope_kinds(part)
