"""Selecting experts, proved by what the selected model computes.

Permuting the experts must leave the logits as they are, and dropping some must give what the
whole model gives when its router cannot choose them. Together they notice any tensor with an
expert axis that a family's rows forget, which the third test proves by forgetting each in turn.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import EXPERTS, FORMS, GROUPS, TOP_K, difference, load, logits
from torch.overrides import TorchFunctionMode

from secateur.checkpoint.byte_ranges import SlicedTensor
from secateur.checkpoint.companion_files import copy_companion_files
from secateur.checkpoint.config_edit import with_experts
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.checkpoint.writer import lay_out, write_shards
from secateur.errors import PlanError
from secateur.families.schema import EXPERT
from secateur.pruning.expert_slices import arrange_experts, check_keep, select_experts

TINY = Callable[[str], Checkpoint]
TOLERANCE = 1e-5


def write(checkpoint: Checkpoint, tensors: Sequence[SlicedTensor], experts: int, to: Path) -> Path:
    to.mkdir()
    write_shards(to, lay_out(tensors, shard_limit=60_000))
    text = (checkpoint.path / "config.json").read_text()
    (to / "config.json").write_text(with_experts(text, checkpoint.family, experts))
    copy_companion_files(checkpoint.path, to)
    return to


def shuffled(seed: int) -> list[int]:
    """Every expert moves, none out of its group."""
    size = EXPERTS // GROUPS
    order: list[int] = []
    for group in range(GROUPS):
        members = list(range(group * size, (group + 1) * size))
        shift = 1 + seed % (size - 1)
        order += members[shift:] + members[:shift]
    return order


def half(layer: int) -> list[int]:
    """Half the experts of each group, others in every layer."""
    size = EXPERTS // GROUPS
    chosen = [
        group * size + member
        for group in range(GROUPS)
        for member in random.Random(f"{layer} {group}").sample(range(size), size // 2)
    ]
    return sorted(chosen)


class Masked(TorchFunctionMode):
    """Gives the dropped experts a router logit of minus infinity, whatever the router's code.

    Routers of all families multiply by their weight in `linear`; the weight identifies them.
    """

    def __init__(self, dropped: dict[int, list[int]]) -> None:
        super().__init__()
        self.dropped = dropped
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.linear and args[1].data_ptr() in self.dropped:
            self.calls += 1
            result[..., self.dropped[args[1].data_ptr()]] = float("-inf")
        return result


def masked_logits(checkpoint: Checkpoint, keep: dict[int, list[int]]) -> torch.Tensor:
    model = load(checkpoint.path)
    state = model.state_dict()
    dropped: dict[int, list[int]] = {}
    for layer in checkpoint.moe_layers:
        rest = sorted(set(range(EXPERTS)) - set(keep[layer]))
        names = [
            name
            for name in state
            if re.search(rf"layers\.{layer}\..*(router\.proj|router|gate)\.weight$", name)
            and state[name].shape[0] == EXPERTS
        ]
        assert len(names) == 1, names
        dropped[state[names[0]].data_ptr()] = rest
        if checkpoint.family.router.bias is not None:
            # The choice adds this to the masked score, so it must be minus infinity as well.
            state[checkpoint.family.fill(checkpoint.family.router.bias, layer)][rest] = -torch.inf
    with Masked(dropped) as masked:
        result = logits(model)
    assert masked.calls == len(dropped)
    return result


@pytest.mark.parametrize("form", FORMS)
def test_permuting_experts_keeps_logits(form: str, tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny(form)
    order = {layer: shuffled(layer) for layer in checkpoint.moe_layers}
    folder = write(checkpoint, list(arrange_experts(checkpoint, order)), EXPERTS, tmp_path / "out")
    assert difference(logits(load(folder)), logits(load(checkpoint.path))) <= TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_pruning_equals_masking_the_router(form: str, tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny(form)
    keep = {layer: half(layer) for layer in checkpoint.moe_layers}
    folder = write(checkpoint, list(select_experts(checkpoint, keep)), EXPERTS // 2, tmp_path / "o")
    expected = masked_logits(checkpoint, keep)
    assert difference(logits(load(folder)), expected) <= TOLERANCE
    assert difference(logits(load(checkpoint.path)), expected) > 1e-2
    assert open_checkpoint(folder).experts == EXPERTS // 2


@pytest.mark.parametrize("form", FORMS)
def test_forgetting_any_expert_row_is_noticed(form: str, tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny(form)
    expected = logits(load(checkpoint.path))
    order = {layer: shuffled(layer) for layer in checkpoint.moe_layers}
    rows = {
        place.row.name
        for place in checkpoint.matches.values()
        if place.expert is not None or place.row.expert_axis is not None
    }
    assert len(rows) >= 3
    for number, template in enumerate(sorted(rows)):
        forgotten = {
            name: replace(
                place,
                expert=None,
                row=replace(place.row, axes=tuple(a for a in place.row.axes if a != EXPERT)),
            )
            for name, place in checkpoint.matches.items()
            if place.row.name == template
        }
        blind = replace(checkpoint, matches={**checkpoint.matches, **forgotten})
        to = tmp_path / str(number)
        folder = write(checkpoint, list(arrange_experts(blind, order)), EXPERTS, to)
        assert difference(logits(load(folder)), expected) > 1e-2, template


@pytest.mark.parametrize("form", FORMS)
def test_everything_else_is_byte_identical(form: str, tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny(form)
    keep = {layer: half(layer) for layer in checkpoint.moe_layers}
    folder = write(checkpoint, list(select_experts(checkpoint, keep)), EXPERTS // 2, tmp_path / "o")
    pruned = open_checkpoint(folder)
    untouched = [
        name
        for name, place in checkpoint.matches.items()
        if place.row.expert_axis is None and place.expert is None
    ]
    assert untouched
    for name in untouched:
        assert checkpoint.read(name).array.tobytes() == pruned.read(name).array.tobytes()
        assert checkpoint.specs[name].shape == pruned.specs[name].shape
    for role in ("vision", "audio"):
        carried = [n for n, place in checkpoint.matches.items() if place.role == role]
        assert bool(carried) == (form == "gemma4_wrapper")
        assert set(carried) <= set(untouched)


@pytest.mark.parametrize("form", FORMS)
def test_kept_experts_are_the_sources_slices(form: str, tiny: TINY, tmp_path: Path) -> None:
    checkpoint = tiny(form)
    keep = {layer: half(layer) for layer in checkpoint.moe_layers}
    folder = write(checkpoint, list(select_experts(checkpoint, keep)), EXPERTS // 2, tmp_path / "o")
    pruned = open_checkpoint(folder)
    for name, place in pruned.matches.items():
        if place.layer is None or place.layer not in keep:
            continue
        if place.row.expert_axis is not None:
            source = checkpoint.read(name).array.take(keep[place.layer], place.row.expert_axis)
        elif place.expert is not None:
            old = keep[place.layer][place.expert]
            source = checkpoint.read(
                re.sub(rf"experts\.{place.expert}\.", f"experts.{old}.", name)
            ).array
        else:
            continue
        assert source.tobytes() == pruned.read(name).array.tobytes()


def test_a_later_expert_axis_becomes_many_pieces(tiny: TINY) -> None:
    checkpoint = tiny("gemma4")
    name = "model.layers.0.experts.down_proj"
    place = checkpoint.matches[name]
    # Read the same bytes as (32, 8, 16): now the experts lie on the second axis.
    spec = replace(checkpoint.specs[name], shape=(32, 8, 16))
    row = replace(place.row, axes=("hidden", EXPERT, "ffn"))
    turned = replace(
        checkpoint,
        specs={name: spec},
        matches={name: replace(place, row=row)},
    )
    (tensor,) = arrange_experts(turned, {0: [1, 2, 6]})
    assert tensor.shape == (32, 3, 16)
    assert len(tensor.pieces) == 64  # 1 and 2 are neighbours
    data = b"".join(
        piece.path.read_bytes()[piece.offset : piece.offset + piece.nbytes]
        for piece in tensor.pieces
    )
    array = checkpoint.read(name).array.reshape(32, 8, 16)
    assert data == array[:, [1, 2, 6]].tobytes()


@settings(deadline=None)
@given(st.data())
def test_neighbouring_experts_share_a_piece(tiny: TINY, data: st.DataObject) -> None:
    checkpoint = tiny("gemma4")
    kept = sorted(data.draw(st.sets(st.integers(0, EXPERTS - 1), min_size=TOP_K)))
    runs = sum(expert - 1 not in kept for expert in kept)
    for tensor in select_experts(checkpoint, dict.fromkeys(checkpoint.moe_layers, kept)):
        expected = runs if checkpoint.matches[tensor.name].row.expert_axis is not None else 1
        assert len(tensor.pieces) == expected
        assert sum(piece.nbytes for piece in tensor.pieces) == tensor.nbytes


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("gemma4", {1: None}, "layer 1 is missing"),
        ("gemma4", {7: [0, 1, 2, 3]}, "layer 7 has no routed experts"),
        ("gemma4", {1: [0, 1, 2]}, "layer 1 keeps 3 experts and layer 0 keeps 4"),
        ("gemma4", {1: [0, 1, 1, 2]}, "layer 1 keeps expert 1 twice"),
        ("gemma4", {1: [0, 1, 2, 8]}, "layer 1 keeps expert 8"),
        ("gemma4", {1: [-1, 1, 2, 3]}, "layer 1 keeps expert -1"),
        ("gemma4", {1: [3, 2, 1, 0]}, "must ascend"),
        ("gemma4", {0: [1], 1: [1], 2: [1]}, "each token is sent to 2: keep at least 2"),
        ("deepseek_v3", {1: [0, 1, 2, 7]}, r"keeps \[3, 1\] experts of its 2 groups"),
        (
            "deepseek_v3",
            {1: [0, 1, 4], 2: [0, 1, 4]},
            "by 2 groups of equal size: keep 4",
        ),
        (
            "deepseek_v3",
            {1: [0, 4], 2: [0, 4]},
            "leave 1 in each of 2 groups.*keep at least 4",
        ),
    ],
)
def test_a_selection_that_does_not_fit_is_refused(
    form: str, change: dict[int, list[int] | None], message: str, tiny: TINY
) -> None:
    checkpoint = tiny(form)
    keep: dict[int, list[int]] = {layer: [0, 1, 4, 5] for layer in checkpoint.moe_layers}
    for layer, kept in change.items():
        if kept is None:
            del keep[layer]
        else:
            keep[layer] = kept
    with pytest.raises(PlanError, match=message) as caught:
        list(select_experts(checkpoint, keep))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_group_must_hold_as_many_as_the_router_ranks_it_by(tiny: TINY) -> None:
    checkpoint = tiny("deepseek_v3")
    config = {**checkpoint.config, "num_experts_per_tok": 1}
    with pytest.raises(PlanError, match="by the best 2 of each"):
        check_keep(replace(checkpoint, config=config), {1: [0, 4], 2: [0, 4]})


def test_the_edited_config_says_nothing_else(tiny: TINY) -> None:
    checkpoint = tiny("gemma4_wrapper")
    text = (checkpoint.path / "config.json").read_text()
    edited = json.loads(with_experts(text, checkpoint.family, 4))
    before = json.loads(text)
    assert edited["vision_config"] == before["vision_config"]
    assert edited["text_config"].pop("num_experts") == 4
