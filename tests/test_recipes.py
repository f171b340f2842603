"""Recipes: what they give each tensor, what the cards' files hold, what llama-quantize reads."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from shapes import base_of, context, save_shape, shape_of
from test_llama_types import summary
from tiny_line import Line, Run

import secateur
from secateur.api.recipes import Layers, TensorTypes, export_plan, export_recipe
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import FormatError, InputError, PlanError
from secateur.formats.ggml.tensor_type_file import read_tensor_types, tensor_types_text
from secateur.outputs.gguf.layout import GgufLayout, typed_layout
from secateur.recipes.assign import Target, assign, match
from secateur.recipes.layer_importance import layer_importance
from secateur.recipes.layers import layers_named, tiers_of
from secateur.recipes.lint import lint
from secateur.recipes.llama_types import TypeRequest, choose_types, compiled_pattern
from secateur.recipes.older_llama_cpp import as_in_spring_2026
from secateur.recipes.recipe import (
    Recipe,
    Rule,
    find_recipe,
    read_recipe,
    recipe_of_types,
    shipped_recipes,
)
from secateur.recipes.suites import SUITES, find_recipes
from secateur.statistics import file as statistics_file

GOLDEN_FILE = Path(__file__).parent / "golden/tensor_types.json"
GOLDEN = json.loads(GOLDEN_FILE.read_text()) if GOLDEN_FILE.exists() else {"cases": [], "read": []}

CARD_LAYERS = [9.0, *[2.0] * 6, 1.0, 1.0, 1.0, 2.0, *[1.0] * 19]
"""Card 001: layer 0 first, then 1 to 6 and 10, then the other 22."""

GGUF = [name for name in shipped_recipes() if find_recipe(name).to == "gguf"]


class Case(NamedTuple):
    """A recipe on one of shapes.CONFIGS, with an importance matrix or without."""

    model: str
    recipe: str
    imatrix: bool = True


CASES = (
    *(Case("gemma26", name) for name in GGUF),
    *(Case("qwen", name) for name in ("apex-quality", "apex-micro", "cd-q3_k_m", "Q3_K_XL")),
    Case("gemma26", "Q4_K_L", imatrix=False),
    Case("gemma26", "IQ3_XXS"),
    Case("qwen", "Q5_K_M", imatrix=False),
)


def importance_of(checkpoint: Checkpoint) -> list[float]:
    return CARD_LAYERS[: checkpoint.layers]


def form_of(case: Case, folder: Path) -> GgufLayout:
    checkpoint = shape_of(case.model, folder)
    return typed_layout(
        base_of(checkpoint),
        find_recipe(case.recipe),
        assume_imatrix=case.imatrix,
        layer_importance=importance_of(checkpoint),
    )


def exported(case: Case, folder: Path) -> TensorTypes:
    checkpoint = shape_of(case.model, folder)
    file = folder / f"{case.model}.importance.json"
    file.write_text(json.dumps(importance_of(checkpoint)))
    return export_recipe(case.recipe, checkpoint, imatrix=case.imatrix, layers=Layers(file))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.recipe}")
def test_llama_quantize_makes_the_planned_types_of_the_exported_file(
    case: Case, tmp_path: Path
) -> None:
    recorded = [found for found in GOLDEN["cases"] if Case(*list(found.values())[:3]) == case]
    assert len(recorded) == 1, "record tests/golden/tensor_types.json again"
    text = exported(case, tmp_path).text
    assert hashlib.sha256(text.encode()).hexdigest() == recorded[0]["text"]
    choices = form_of(case, tmp_path).choices
    assert summary((choice.name, choice.type) for choice in choices) == recorded[0]["types"]
    assert sum(choice.fallback_from is not None for choice in choices) == recorded[0]["fallbacks"]


@pytest.mark.parametrize(("text", "accepted", "hits"), GOLDEN["read"], ids=lambda v: repr(v)[:30])
def test_tensor_type_files_are_read_as_llama_quantize_does(
    text: str, accepted: bool, hits: int, tmp_path: Path
) -> None:
    path = tmp_path / "types.txt"
    path.write_bytes(text.encode())
    if not accepted:
        with pytest.raises(InputError):
            for rule in read_tensor_types(path):
                compiled_pattern(rule.pattern)
        return
    base = base_of(shape_of("gemma26", tmp_path))
    plain = typed_layout(base, find_recipe("Q4_K_M")).choices
    ruled = typed_layout(base, recipe_of_types(path, "Q4_K_M")).choices
    overridden = [c for c in ruled if c.reason.startswith("override") and c.type != "Q4_K"]
    assert len(overridden) == hits
    assert all(a == b for a, b in zip(plain, ruled, strict=True) if b not in overridden)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"attn_q=q8_0 # no", "line 1: llama-quantize stops at '#'.*no comments"),
        (b"a=q8_0\nattn_q=Q4_K_M", "line 2: 'Q4_K_M' is no ggml type.*such as Q4_K"),
        (b"a=IQ3_M", "such as IQ3_S"),
        (b"a=nonsense", "known are: .*Q4_K"),
        (b"a=q8_k", "'q8_k' is no ggml type for weights"),
        (b"\xef\xbb\xbfa=q8_0", "byte order mark"),
        (b"\xff\xfe", "is text in UTF-16, expected NAME=TYPE words"),
    ],
)
def test_what_is_wrong_in_a_tensor_type_file_is_said(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "types.txt"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_tensor_types(path)


def test_exported_names_are_whole_and_read_back(tmp_path: Path) -> None:
    types = {"output.weight": "Q8_0", "blk.1.attn_q.weight": "Q4_K", "blk.11.attn_q.weight": "Q4_K"}
    text = tensor_types_text(types)
    assert text == ("^output\\.weight$=q8_0\n^blk\\.(1|11)\\.attn_q\\.weight$=q4_k\n")
    path = tmp_path / "types.txt"
    path.write_text(text)
    rules = read_tensor_types(path)
    assert [(rule.type, rule.line) for rule in rules] == [("Q8_0", 1), ("Q4_K", 2)]
    met = compiled_pattern(rules[0].pattern)
    assert not met.search("blk.0.attn_output.weight")


MIB, GIB = 2**20, 2**30
HEADER = 15_776_443 + 24 + 40_600
"""Bytes of the real model's header, to a kilobyte."""


def card_000(folder: Path) -> Path:
    """Benjamin-Wegener's gemma4_19b_REAP_heretic_mini.txt, without the comments at its head."""
    lines = []
    for layer in range(30):
        kinds = {"ffn_gate_inp": "Q8_0", "ffn_gate_up_exps": "Q3_K", "ffn_down_exps": "Q3_K"}
        kinds |= dict.fromkeys(
            ("ffn_gate", "ffn_up", "ffn_down"), "Q5_K" if layer < 3 or layer > 24 else "Q4_K"
        )
        kinds |= dict.fromkeys(
            ("attn_q", "attn_k", "attn_v", "attn_output"),
            "Q4_K" if layer < 3 or layer > 26 else "Q3_K",
        )
        if layer % 6 == 5:
            del kinds["attn_v"]
        lines += [f"blk.{layer}.{name}={kind}" for name, kind in kinds.items()]
    path = folder / "mini.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def contrib_dynamic(base: str, kinds: tuple[str, str, str]) -> Recipe:
    """The tensor-type files of card 001's CD rows, as their generator writes them."""
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names += ("ffn_gate_inp", "ffn_gate_up_exps", "ffn_down_exps")
    patterns = []
    for layer, weight in enumerate(CARD_LAYERS):
        kind = kinds[{9.0: 0, 2.0: 1, 1.0: 2}[weight]]
        patterns += [(f"blk.{layer}.{name}.weight", kind) for name in names]
    patterns += [("token_embd.weight", "Q8_0"), ("output.weight", "Q8_0")]
    return Recipe(f"CD-{base}", base, patterns=tuple(patterns))


def spring(recipe: Recipe, folder: Path, experts: int, old: bool) -> int:
    """Bytes of all tensors, by an llama.cpp of spring 2026 or by today's."""
    found = context("gemma26", folder, experts)
    request = TypeRequest(recipe.base, has_imatrix=True, patterns=recipe.patterns)
    request = as_in_spring_2026(request) if old else request
    choices = choose_types(found.infos, found.traits, request)
    return sum(
        replace(info, type=choice.type).nbytes
        for info, choice in zip(found.infos, choices, strict=True)
    )


def test_card_000_is_what_an_old_llama_cpp_made_of_its_map(tmp_path: Path) -> None:
    recipe = recipe_of_types(card_000(tmp_path), "Q3_K_M")
    assert round(spring(recipe, tmp_path, 90, old=True) / MIB, 2) == 11_149.34
    assert spring(recipe, tmp_path, 90, old=False) == 9_094_344_360


def test_our_form_of_card_000_gives_what_its_map_says(tmp_path: Path) -> None:
    found = context("gemma26", tmp_path, 90)
    ours = lint(find_recipe("apex-mini-wegener"), found, has_imatrix=True)
    assert ours.tensor_bytes == 9_094_344_360
    assert [finding.rule for finding in ours.problems] == ["router = Q8_0"]


@pytest.mark.parametrize(
    ("name", "kinds", "published", "today"),
    [
        ("Q6_K", ("Q8_0", "Q6_K", "Q5_K"), 15.80, 15.776),
        ("Q5_K_M", ("Q6_K", "Q5_K", "Q4_K"), 13.51, 13.282),
        ("Q4_K_M", ("Q5_K", "Q4_K", "Q3_K"), 11.08, 10.798),
        ("Q3_K_M", ("Q4_K", "Q3_K", "IQ3_S"), 10.37, 10.132),
    ],
)
def test_the_cd_rows_are_what_an_old_llama_cpp_made(
    name: str, kinds: tuple[str, str, str], published: float, today: float, tmp_path: Path
) -> None:
    recipe = contrib_dynamic(name, kinds)
    old = spring(recipe, tmp_path, 109, old=True) + HEADER
    assert old / GIB == pytest.approx(published, abs=0.0051)
    now = spring(recipe, tmp_path, 109, old=False)
    assert (now + HEADER) / GIB == pytest.approx(today, abs=0.0006)
    found = context("gemma26", tmp_path, 109)
    shipped = lint(find_recipe(f"CD-{name}"), found, importance=CARD_LAYERS)
    # The generator's `output.weight` also matches attn_output, and is never first to.
    assert shipped.tensor_bytes == now


@pytest.mark.parametrize("name", GGUF)
@pytest.mark.parametrize("form", ["gemma4", "qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss"])
def test_shipped_recipes_fit_every_family(form: str, name: str, tiny: Any) -> None:
    checkpoint = tiny(form)
    targets = [Target(name, place.role, place.layer) for name, place in checkpoint.matches.items()]
    found = assign(find_recipe(name), targets, checkpoint.layers, [1.0] * checkpoint.layers)
    for target in targets:
        if target.role.split(".")[0] in ("expert", "dense", "shared", "attention"):
            assert target.name in found


def test_apex_layers_of_thirty(tmp_path: Path) -> None:
    form = form_of(Case("gemma26", "apex-mini"), tmp_path)
    kinds = summary((c.name, c.fallback_from or c.type) for c in form.choices)
    assert kinds["ffn_gate_up_exps.weight"] == "Q3_K*10 IQ2_S*10 Q3_K*10"
    assert kinds["ffn_down.weight"] == "Q5_K*5 Q4_K*20 Q5_K*5"
    assert kinds["attn_q.weight"] == "Q4_K*3 Q3_K*24 Q4_K*3"
    assert kinds["token_embd.weight"] == "Q6_K*1"


@pytest.mark.parametrize(
    ("name", "gib"),
    [("apex-quality", 17.24), ("apex-balanced", 18.42), ("apex-compact", 12.64)]
    + [("apex-mini", 10.96), ("apex-micro", 9.74)],
)
def test_apex_files_have_the_sizes_that_were_meant(name: str, gib: float, tmp_path: Path) -> None:
    """The sizes that the recipes were published with, for 128 experts."""
    found = lint(find_recipe(name), context("gemma26", tmp_path), has_imatrix=True)
    assert found.tensor_bytes / GIB == pytest.approx(gib, abs=0.016)  # some count the header


def test_a_suite_is_many_recipes() -> None:
    bartowski = find_recipes("suite:bartowski")
    assert len(bartowski) == 24
    assert len({recipe.format for recipe in bartowski}) == 24
    extra = next(recipe for recipe in bartowski if recipe.name == "Q3_K_XL")
    assert (extra.base, extra.embedding, extra.output) == ("Q3_K_L", "Q8_0", "Q8_0")
    assert find_recipes("q4_k") == (find_recipe("Q4_K_M"),)
    assert {name: len(find_recipes(f"suite:{name}")) for name in SUITES} == {
        "bartowski": 24, "contrib-dynamic": 5, "apex": 6,
    }  # fmt: skip
    with pytest.raises(PlanError, match="unknown suite 'x': known are bartowski"):
        find_recipes("suite:x")


def targets() -> list[Target]:
    roles = {"attn_q": "attention.q", "ffn_down_exps": "expert.down", "ffn_gate_inp": "router"}
    return [
        Target(f"blk.{layer}.{name}.weight", role, layer)
        for layer in range(6)
        for name, role in roles.items()
    ] + [Target("output.weight", "head", None)]


def test_the_first_rule_that_matches_decides() -> None:
    rules = (
        Rule("Q8_0", name=r"blk\.3\..*"),
        Rule("Q6_K", ("expert",), "edge 1"),
        Rule("Q4_K", ("expert", "attention.q")),
        Rule("Q2_K", ("shared",), if_present=True),
    )
    found = assign(Recipe("x", "Q4_K_M", rules=rules), targets(), 6)
    assert found["blk.3.ffn_down_exps.weight"].type == "Q8_0"
    assert found["blk.0.ffn_down_exps.weight"].type == "Q6_K"
    assert found["blk.0.attn_q.weight"].type == "Q4_K"
    assert found["blk.5.ffn_down_exps.weight"].reason == "recipe: expert, layers edge 1 = Q6_K"
    assert "output.weight" not in found
    assert "blk.0.ffn_gate_inp.weight" not in found


def test_a_name_is_matched_whole() -> None:
    recipe = Recipe("x", "Q4_K_M", rules=(Rule("Q8_0", name=r"output\.weight"),))
    assert match(recipe, targets(), 6) == [["output.weight"]]


def test_layers_can_be_named_in_many_ways() -> None:
    none: dict[str, frozenset[int]] = {}
    assert layers_named("0-2,-1", 6, none) == {0, 1, 2, 5}
    assert layers_named("-2--1", 6, none) == {4, 5}
    assert layers_named("edge 2", 6, none) == {0, 1, 4, 5}
    assert layers_named("edge 9", 3, none) == {0, 1, 2}
    assert layers_named("last 2", 6, none) == {4, 5}
    assert layers_named("first 1, last 2", 6, none) == {0, 4, 5}
    assert layers_named("first 3, last 5", 2, none) == {0, 1}
    for text, message in (
        ("6", "no layer 6 among 6"),
        ("x", "expected numbers"),
        ("-7", "-1"),
        ("0-999999999", "no layer 999999999 among 6"),  # and a list of them is never made
        ("9" * 5000, "expected numbers"),
        ("4-1", "4-1 ends before it begins"),
        ("0,-1-2", "-1-2 ends before it begins among 6"),
    ):
        with pytest.raises(PlanError, match=message):
            layers_named(text, 6, none)


def test_tiers_take_the_most_important_layers_first() -> None:
    shares = {"high": 0.0333, "middle": 0.2333}
    found = tiers_of(shares, 30, CARD_LAYERS)
    assert found["high"] == {0}
    assert found["middle"] == {1, 2, 3, 4, 5, 6, 10}
    assert len(found["rest"]) == 22
    few = tiers_of(shares, 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (few["high"], few["middle"]) == ({5}, {4})
    assert tiers_of({"a": "0", "b": 0.5}, 4, [1.0] * 4)["b"] == {1, 2}
    for tiers, importance, message in (
        (shares, None, "importance, which is not known: name statistics"),
        ({"a": "0-1", "b": "1"}, None, "names layer 1, which another tier has"),
        ({"a": 1.5}, [1.0] * 4, "expected a share"),
        ({"a": math.nan}, [1.0] * 4, "expected a share"),
        ({"a": 0.75, "b": 0.5}, [1.0] * 4, "a share of 1.25 of the layers, expected at most 1"),
        ({"rest": 0.5}, [1.0] * 4, "cannot be called 'rest'"),
    ):
        with pytest.raises(PlanError, match=message):
            tiers_of(tiers, 4, importance)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", "base is missing"),
        ("base: Q9", "unknown file type 'Q9'"),
        ("base: Q4_K_M\nbases: 1", "unknown key 'bases'"),
        ("base: Q4_K_M\nrules: [{role: expert}]", r"rules\[0\]: type is missing"),
        ("base: Q4_K_M\nrules: [{role: [1], type: Q4_K}]", "expected a role or a list"),
        ("base: Q4_K_M\nrules: [{role: 5, type: Q4_K}]", "expected a role or a list"),
        ("base: Q4_K_M\nrules: [{role: {expert: 1}, type: Q4_K}]", "expected a role or a list"),
        ("name: ../../mine\nbase: Q4_K_M", "'../../mine': files are called by it"),
        ('name: "a\\nb"\nbase: Q4_K_M', "no control character"),
        ("base: Q4_K_M\nrules: [{name: '(', type: Q4_K}]", "is no regular expression"),
        ("base: Q4_K_M\nrules: [{layers: [1], type: Q4_K}]", r"layers is \[1\]"),
        ("base: Q4_K_M\nrules: [{rôle: x, type: Q4_K}]", "unknown key 'rôle'"),
        ("to: onnx\nbase: Q4_K_M", "to is 'onnx'"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_why(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message):
        read_recipe(path)


def test_a_rule_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("base: Q4_K_M\nrules: [{role: shared, type: Q8_0}]")
    with pytest.raises(PlanError, match=r"the rule `shared = Q8_0` matches no tensor"):
        typed_layout(base_of(shape_of("qwen", tmp_path)), read_recipe(path))


def test_a_misspelt_role_is_answered_with_the_roles_there_are(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("base: Q4_K_M\nrules: [{role: experts.down, type: Q8_0}]")
    recipe = read_recipe(path)
    hint = (
        r"'experts\.down' is no role of it \(did you mean 'expert\.down'\?\), its roles are .*norm"
    )
    with pytest.raises(PlanError, match=hint):
        typed_layout(base_of(shape_of("qwen", tmp_path)), recipe)
    report = lint(recipe, context("qwen", tmp_path))
    assert re.search(hint, report.problems[0].text)


def test_layer_importance_out_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "importance.json"
    for text in ("[3, 1.5]", '{"1": 1.5, "0": 3}'):
        path.write_text(text)
        assert layer_importance(path, None, 2) == (3.0, 1.5)
    for text, message in (
        ("[1]", "holds 1 number, expected a list of 2"),
        ('{"0": 1}', "names 1 layer, expected exactly 0 to 1"),
        ('[1, "2"]', "layer 1 has '2', expected a number"),
        ("[1, true]", "layer 1 has True"),
        ("[1, NaN]", "layer 1 has nan"),
        ("3", "holds a int"),
        ('{"0": 1, "0": 2}', "twice"),
        ("nonsense", "is not usable JSON"),
    ):
        path.write_text(text)
        with pytest.raises(PlanError, match=message):
            layer_importance(path, None, 2)
    with pytest.raises(PlanError, match="one of rerouted, contribution"):
        layer_importance(tmp_path / "absent", None, 2)


def test_layer_importance_out_of_statistics(stats: Path) -> None:
    found = statistics_file.load(stats)
    tokens = sum(found.tokens.values())
    sizes = [float(found.array(layer, "gate_norm").sum()) / tokens for layer in found.layers]
    assert layer_importance("contribution", found, 2) == pytest.approx(sizes)
    assert layer_importance("contribution", found, 3)[2] == math.inf  # type: ignore[index]
    half = found.experts // 2
    errors = [found.arrays[f"layer.{layer}.rerouted.pooled.errors"][half] for layer in (0, 1)]
    assert layer_importance(None, found, 2) == pytest.approx(errors)
    assert min(errors) > 0
    bare = replace(found, arrays={k: v for k, v in found.arrays.items() if ".rerouted." not in k})
    assert layer_importance(None, bare, 2) is None
    with pytest.raises(PlanError, match="no rerouted errors"):
        layer_importance("rerouted", bare, 2)
    with pytest.raises(PlanError, match="is measured: name statistics"):
        layer_importance("contribution", None, 2)
    assert np.isfinite(sizes).all()


def test_a_plan_by_tiers_says_which_layers_they_are(line: Line, stats: Path, run: Run) -> None:
    done = run("plan", line.model, experts=6, stats=stats, recipe="cd-q4_k_m", json=True)
    plan = done.json
    assert plan["formats"]["gguf-CD-Q4_K_M"]["base"] == "Q4_K_M"
    found = statistics_file.load(stats)
    order = np.argsort([-value for value in layer_importance(None, found, 2) or ()])
    told = f"gguf-CD-Q4_K_M: layers by tier: high {order[0]}; middle {order[1]}; rest none"
    assert told in plan["notes"]
    refused = run("plan", line.model, experts=8, recipe="cd-q4_k_m")
    assert refused.code == 2
    assert "name statistics with --stats" in refused.err


def test_a_tensor_type_file_goes_with_one_file_type(tmp_path: Path, run: Run) -> None:
    model = save_shape("gemma26", tmp_path)
    types = card_000(tmp_path)
    done = run("plan", model, experts=90, types="Q3_K_M", tensor_type_file=types, json=True)
    assert done.json["tensor_bytes"]["gguf-mini"] == 9_094_344_360
    assert any("29 of 295 rules do nothing either" in note for note in done.json["notes"])
    for options in ({}, {"types": "Q3_K_M,Q8_0"}):
        refused = run("plan", model, experts=90, tensor_type_file=types, **options)
        assert refused.code == 2
        assert "exactly one file type" in refused.err
    refused = run("plan", model, experts=90, tensor_type_file=types, types="F16")
    assert refused.code == 2
    assert "choose a quantized base" in refused.err


def test_a_plan_is_exported_with_its_own_types(tmp_path: Path, run: Run) -> None:
    model = save_shape("gemma26", tmp_path)
    request = secateur.Pruning(experts=90)
    plan = secateur.plan(model, request, secateur.Formats("gguf", ("Q4_K_M", "apex-compact")))
    types = export_plan(plan, "gguf-apex-compact")
    path = tmp_path / "types.txt"
    path.write_text(types.text)
    recipe = recipe_of_types(path, types.base)
    form = typed_layout(base_of(shape_of("gemma26", tmp_path), 90), recipe)
    again = {choice.name: choice.type for choice in form.choices}
    assert again == {tensor.name: tensor.type for tensor in plan.of("gguf-apex-compact")}
    with pytest.raises(PlanError, match="the plan has 2 GGUF formats"):
        export_plan(plan)
    with pytest.raises(PlanError, match="no GGUF format 'x'"):
        export_plan(plan, "x")


def test_the_recipe_commands(tmp_path: Path, run: Run) -> None:
    listed = run("recipe", "list", json=True).json
    assert set(GGUF) <= {name.lower() for name in listed["recipes"]}
    assert len(listed["suites"]["bartowski"]) == 24
    assert run("recipe", "show", "apex-mini", json=True).json["base"] == "Q3_K_M"
    assert "tier high: the next 3.3% of the layers" in run("recipe", "show", "cd-q6_k").out
    model = save_shape("gemma26", tmp_path)
    out = tmp_path / "types.txt"
    done = run("recipe", "export", "apex-mini", model, out=out)
    assert f"llama-quantize --tensor-type-file {out} MODEL-F16.gguf OUT.gguf Q3_K_M" in done.out
    printed = run("recipe", "export", "apex-mini", model, with_imatrix=True).out
    assert out.read_text() == printed
    assert run("recipe", "export", "apex-mini").code == 2
    assert run("recipe", "export", "F16", model).code == 2
    assert "--base" in run("recipe", "show", out).err
    plan = tmp_path / "plan.json"
    assert run("plan", model, experts=90, types="Q4_K_M", to="gguf", out=plan).code == 0
    whole = run("recipe", "export", plan, json=True).json
    assert whole["base"] == "Q4_K_M"
    assert whole["types"]["blk.0.ffn_down_exps.weight"] == "Q6_K"  # it becomes Q8_0
