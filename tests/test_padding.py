"""Widths padded with zeros: the same logits, the bytes foretold, no fallback, no needless zero."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_imatrix_plans import recorded
from tiny_line import VOCAB, Line, Run
from torch import Tensor

from secateur import Formats, Pruning, apply, open_checkpoint, plan, read_plan, save_plan
from secateur.checkpoint.reader import Checkpoint, open_shape
from secateur.checkpoint.tensors import to_float32
from secateur.errors import CheckpointError, FamilyError, PlanError
from secateur.families.schema import TensorRow
from secateur.formats.ggml.codec import ENCODABLE, decode, encode
from secateur.formats.gguf.metadata import model_metadata
from secateur.formats.gguf.padding import (
    NO_PADDING,
    Padding,
    Width,
    padded_entry,
    padded_rows,
    padded_shape,
    padding_of,
)
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.imatrix.file import save_imatrix
from secateur.formats.imatrix.matrix import ImatrixEntry
from secateur.forward.backends.cpu import WidenedWeights
from secateur.forward.skeleton import build_skeleton, fill_parameters
from secateur.outputs.base import WriteJob
from secateur.outputs.gguf.layout import GgufBase, GgufLayout, gguf_base, typed_layout
from secateur.outputs.gguf.padding import all_widths, padded_config, padded_tensors
from secateur.outputs.gguf.tokenizer_keys import tokenizer_keys
from secateur.outputs.gguf.write import write_ggufs
from secateur.outputs.registry import open_artefact
from secateur.pruning.selection import Keep
from secateur.recipes.recipe import Rule, find_recipe
from secateur.serving.llama_server import llama_server

KEEP = {0: (0, 2, 3, 5, 6, 7), 1: (1, 2, 3, 4, 6, 7)}
PROMPTS = ([20, 31, 42, 53, 64], [99, 98, 97, 96, 95, 94, 93])


def padded_form(base: GgufBase, form: GgufLayout) -> GgufLayout:
    """The form with every width padded, whether its types need it or not."""
    checkpoint = base.checkpoint
    widths = all_widths(checkpoint, base.tensors)
    config = padded_config(checkpoint, base.config, widths)
    keys = model_metadata(checkpoint.family, config, base.infos, "", 0)
    wider = {key: value for key, value in keys.items() if not key.startswith("general.")}
    return replace(
        form,
        file=f"padded-{form.file}",
        metadata={**form.metadata, **wider},
        tensors=padded_tensors(checkpoint, base.tensors, widths),
    )


@pytest.fixture(scope="module")
def twins(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Path]]:
    """{type: (a pruned model's GGUF, the same padded)}."""
    folder = tmp_path_factory.mktemp("twins")
    checkpoint = open_checkpoint(line.model)
    base = gguf_base(checkpoint, KEEP, tokenizer_keys(checkpoint))
    made = {}
    for kind in ("F16", "Q8_0"):
        plain = typed_layout(base, find_recipe(kind))
        forms = [plain, padded_form(base, plain)]
        write_ggufs(forms, WriteJob(checkpoint, KEEP, folder, ""))
        for form in forms:
            assert {form.file: (folder / form.file).stat().st_size} == form.files
        made[kind] = (folder / forms[0].file, folder / forms[1].file)
    return made


def test_a_padded_file_is_wider_and_says_so(twins: Mapping[str, tuple[Path, Path]]) -> None:
    plain, padded = map(read_gguf, twins["F16"])
    assert plain.value("gemma4.expert_feed_forward_length") == 16
    assert padded.value("gemma4.expert_feed_forward_length") == 256
    assert padded.value("gemma4.feed_forward_length") == 256
    changed = {n for n in plain.tensors if plain.tensors[n].shape != padded.tensors[n].shape}
    assert {name.split(".", 2)[2] for name in changed} == {
        "ffn_down.weight", "ffn_down_exps.weight", "ffn_gate.weight", "ffn_gate_up_exps.weight",
        "ffn_up.weight",
    }  # fmt: skip
    for name in changed:
        small, large = plain.tensors[name].shape, padded.tensors[name].shape
        values = padded.data(name).view(np.float16).reshape(large)
        kept = plain.data(name).view(np.float16).reshape(small)
        if "gate_up" in name:
            halves = values.reshape(*large[:-2], 2, 256, large[-1])
            np.testing.assert_array_equal(halves[..., :16, :].reshape(small), kept)
            assert not halves[..., 16:, :].any()
        else:
            np.testing.assert_array_equal(values[..., : small[-2], : small[-1]], kept)
            assert np.count_nonzero(values) == np.count_nonzero(kept)


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_llama_cpp_gives_the_same_logits(kind: str, twins: Mapping[str, tuple[Path, Path]]) -> None:
    """Log-probabilities of the whole vocabulary, over prompts and four tokens after each."""
    said = []
    for path in twins[kind]:
        with llama_server(path, context=64) as server:
            said.append([server.complete(prompt, 4, top=VOCAB) for prompt in PROMPTS])
    for plain, padded in zip(said[0], said[1], strict=True):
        assert len(plain) == len(padded) >= 2  # an end of text ends it
        for one, other in zip(plain, padded, strict=True):
            assert len(one.top) == VOCAB
            first = dict(zip(one.top_ids, one.top, strict=True))
            second = dict(zip(other.top_ids, other.top, strict=True))
            assert first.keys() == second.keys()
            gap = max(abs(first[token] - second[token]) for token in first)
            assert gap == 0 if kind == "F16" else gap < 1e-5


def logits(path: Path, original: Checkpoint) -> list[Tensor]:
    """[T, V] of every prompt, by the artefact's decoded weights."""
    source = WidenedWeights(open_artefact(path, original).source)
    model = build_skeleton(source)
    present = set(source.names())
    names = {name: name for name in model.state_dict() if name in present}
    with fill_parameters(model, names, source), torch.no_grad():
        model.lm_head.weight = model.get_input_embeddings().weight
        return [model(torch.tensor([prompt])).logits[0].double() for prompt in PROMPTS]


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_our_own_forward_gives_the_same_logits(
    kind: str, line: Line, twins: Mapping[str, tuple[Path, Path]]
) -> None:
    """torch may sum a longer row in another order, hence the tolerance: rounding of float32."""
    original = open_checkpoint(line.model)
    plain, padded = (logits(path, original) for path in twins[kind])
    for one, other in zip(plain, padded, strict=True):
        assert one.std() > 0.1
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def gemmule_plan(kinds: tuple[str, ...], pad: bool, **words: Any) -> Any:
    recipes = tuple(
        replace(find_recipe(kind), pad=pad, name=f"{kind}-padded" if pad else kind)
        for kind in kinds
    )
    return plan("gemmule", Pruning(drop=0.0), Formats("gguf", recipes=recipes), **words)


def test_padding_takes_the_place_of_fallbacks() -> None:
    """gemmule's widths, 96 and 288, are no multiples of 256."""
    plain, padded = gemmule_plan(("Q4_K_M",), False), gemmule_plan(("Q4_K_M",), True)
    form, wider = "gguf-Q4_K_M", "gguf-Q4_K_M-padded"
    assert any(tensor.fallback_from for tensor in plain.of(form))
    assert not any(tensor.fallback_from for tensor in padded.of(wider))
    down = next(t for t in padded.of(wider) if t.name == "blk.0.ffn_down_exps.weight")
    fell = next(t for t in plain.of(form) if t.name == down.name)
    assert (down.action, down.type, down.shape) == ("pad+convert", "Q4_K", (32, 256, 256))
    assert down.type == fell.fallback_from
    assert str(down.reason).endswith("columns padded from 96 to 256")
    gate_up = next(t for t in padded.of(wider) if t.name == "blk.0.ffn_gate_up_exps.weight")
    assert gate_up.shape == (32, 512, 256)
    assert str(gate_up.reason).endswith("rows padded from 192 to 512 (160 in each half)")
    change = padded.tensor_bytes(wider) - plain.tensor_bytes(form)
    (said,) = [note for note in padded.notes if "padded with zeros" in note]
    assert f"{change:,} bytes ({change / plain.tensor_bytes(form):.1%}) larger" in said
    assert "experts from 96 to 256" in said
    assert "the dense layers from 288 to 512" in said


def test_only_what_a_type_needs_is_padded() -> None:
    whole = gemmule_plan(("Q8_0",), True)
    assert not any("pad" in tensor.action for tensor in whole.tensors)
    assert "gguf-Q8_0-padded: nothing is padded" in " ".join(whole.notes)
    # Dense in K-quants, experts in blocks of 32: only the dense layers are widened.
    text = find_recipe("Q8_0")
    mixed = replace(
        text, name="mixed", pad=True, rules=(Rule("Q4_K", roles=("dense.down",), layers="2"),)
    )
    decided = plan("gemmule", Pruning(drop=0.0), Formats("gguf", recipes=(mixed,)))
    widened = {t.name.split(".", 2)[2] for t in decided.tensors if "pad" in t.action}
    assert widened == {"ffn_down.weight", "ffn_gate.weight", "ffn_up.weight"}
    assert sum("pad" in tensor.action for tensor in decided.tensors) == 3 * 6


def test_a_type_without_fallback_needs_the_padding() -> None:
    with pytest.raises(PlanError, match="no fallback for Q1_0"):
        gemmule_plan(("Q1_0",), False)
    decided = gemmule_plan(("Q1_0",), True)
    assert any("cannot be made without" in note for note in decided.notes)


def test_a_padded_plan_is_applied_with_a_pruned_imatrix(line: Line, tmp_path: Path) -> None:
    """Types whose blocks fit the tiny model's rows are few, so its down alone is made Q4_K."""
    checkpoint = open_checkpoint(line.model)
    drops = tmp_path / "drops.json"
    keep = {str(layer): {"keep": list(kept)} for layer, kept in KEEP.items()}
    drops.write_text(json.dumps({"layers": keep}))
    theirs = recorded(checkpoint, {1: 3})
    save_imatrix(tmp_path / "theirs.gguf", theirs)
    recipe = replace(
        find_recipe("Q8_0"),
        name="small-down",
        pad=True,
        rules=(Rule("IQ2_XS", roles=("expert.down",)),),
    )
    decided = plan(
        line.model,
        Pruning(drop_map=drops),
        Formats("gguf", recipes=(recipe,)),
        imatrix=tmp_path / "theirs.gguf",
    )
    save_plan(decided, tmp_path / "plan.json")
    out = tmp_path / "out"
    apply(read_plan(tmp_path / "plan.json"), out, imatrix=tmp_path / "theirs.gguf")
    (path,) = out.glob("*small-down*.gguf")
    file = read_gguf(path)
    assert path.stat().st_size == decided.file_bytes("gguf-small-down")
    name = "blk.1.ffn_down_exps.weight"
    info = file.tensors[name]
    assert (info.type, info.shape[0], info.shape[2]) == ("IQ2_XS", 6, 256)
    action = next(t.action for t in decided.tensors if t.name == name)
    assert action == "select+pad+convert"
    source = to_float32(checkpoint.read("model.layers.1.experts.down_proj"))
    # Importance of the zeros is zero; an expert without data is flat all along the row.
    for place, expert in enumerate(KEEP[1]):
        rows = padded_rows(np.ascontiguousarray(source[expert]), 0, 240)
        entry = theirs.entries[name]
        one = ImatrixEntry(entry.in_sum2[expert : expert + 1], entry.counts[expert : expert + 1])
        weights = padded_entry(one, 240).means()[0]
        assert bool(weights[16:].any()) == (expert == 3)
        right = encode(rows, "IQ2_XS", weights)
        np.testing.assert_array_equal(file.data(name).reshape(6, -1)[place], right.reshape(-1))
    edited = replace(
        decided,
        tensors=tuple(replace(t, shape=(*t.shape[:-1], 512)) if t.name == name else t
                      for t in decided.tensors),
    )  # fmt: skip
    with pytest.raises(PlanError, match=f"{name}.* the (bytes|shape)"):
        apply(edited, tmp_path / "no", imatrix=tmp_path / "theirs.gguf")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind in ("IQ1_S", "IQ1_M", "IQ2_S")))
     for kind in ENCODABLE],
)  # fmt: skip
def test_zeros_stay_zeros_in_every_type(kind: str) -> None:
    """Whole rows of zeros, and a row's end of zeros whose importance is zero."""
    random = np.random.default_rng(3)
    rows = padded_rows(random.normal(size=(3, 192)).astype(np.float32), 2, 64)
    weights = padded_entry(
        ImatrixEntry(random.uniform(1, 9, (1, 192)).astype(np.float32), np.float32([1])), 64
    ).means()[0]
    back = decode(encode(rows, kind, weights), kind, rows.shape)
    assert np.isfinite(back).all()
    assert not back[3:].any()
    assert np.abs(back[:3, :192] - rows[:3, :192]).mean() < 0.8
    nothing = encode(rows, kind, np.zeros(256, np.float32))
    assert np.isfinite(decode(nothing, kind, rows.shape)).all()


def row(*axes: str) -> TensorRow:
    return TensorRow("x", "expert.x", axes, re.compile("x"))


def test_what_is_widened_follows_from_the_axes() -> None:
    widths = {"expert_width": Width(96, 256)}
    stack = padding_of(row("expert", "gate|up", "hidden"), (4, 192, 8), widths)
    assert stack == Padding(parts=2, below=160)
    assert padded_shape((4, 192, 8), stack) == (4, 512, 8)
    down = padding_of(row("hidden", "ffn"), (4, 8, 96), widths)
    assert (down, padded_shape((4, 8, 96), down)) == (Padding(right=160), (4, 8, 256))
    assert padding_of(row("hidden", "dense_ffn"), (8, 96), widths) == NO_PADDING
    with pytest.raises(CheckpointError, match="100 along its axis 'ffn', expected 96"):
        padding_of(row("hidden", "ffn"), (8, 100), widths)
    with pytest.raises(FamilyError, match="does not know how to widen its axis 'gate|up'"):
        padding_of(row("expert", "gate|up"), (4, 192), widths)


def test_the_command_line_pads(run: Run) -> None:
    done = run("plan", "gemmule", drop=0, types="IQ4_XS", pad=True)
    assert done.code == 0
    assert "gguf-IQ4_XS-padded" in done.out
    assert "padded with zeros, which changes no logit" in done.out


def keep_all(checkpoint: Checkpoint) -> Keep:
    return dict.fromkeys(checkpoint.moe_layers, tuple(range(checkpoint.experts)))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("IQ2_M", "-11.3%"), ("IQ3_XXS", "-5.2%"), ("Q2_K", "-2.5%"), ("Q3_K_S", "-1.0%"),
        ("Q4_K_M", "-0.7%"), ("Q6_K", "-0.6%"), ("IQ4_XS", "+6.4%"), ("Q5_K_S", "+5.4%"),
    ],
)  # fmt: skip
def test_what_the_cards_model_gains_and_pays(kind: str, change: str, real: Path) -> None:
    """A 26B model of 128 experts of width 704, dense 2112 ."""
    cards = open_shape(real)
    vocabulary = real / "vocabulary.gguf"
    base = gguf_base(cards, keep_all(cards), tokenizer_keys(cards, vocabulary))
    plain = typed_layout(base, find_recipe(kind), assume_imatrix=True)
    padded = typed_layout(base, replace(find_recipe(kind), pad=True), assume_imatrix=True)
    assert {(w.old, w.new) for w in padded.widths.values()} == {(704, 768), (2112, 2304)}
    assert f"{padded.nbytes / plain.nbytes - 1:+.1%}" == change
