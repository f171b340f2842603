"""The linter: each kind of finding with its exact bytes, on small models where one can count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from shapes import context, save_shape
from test_recipes import card_000
from tiny_line import Run

from secateur.api.recipes import export_recipe, lint_recipe
from secateur.errors import PlanError
from secateur.formats.ggml.types import bytes_of
from secateur.formats.gguf.container import TensorInfo
from secateur.recipes.assign import Target
from secateur.recipes.lint import Finding, LintReport, lint
from secateur.recipes.llama_mixes import ModelTraits
from secateur.recipes.recipe import Recipe, Rule, recipe_of_types
from secateur.recipes.rule_lines import LintContext

ROLES = {
    "attn_q.weight": ("attention.q", (256, 256)),
    "attn_output.weight": ("attention.o", (256, 256)),
    "ffn_gate.weight": ("dense.gate", (512, 256)),
    "ffn_gate_inp.weight": ("router", (8, 256)),
    "ffn_gate_up_exps.weight": ("expert.gate_up", (8, 1024, 256)),
    "ffn_down_exps.weight": ("expert.down", (8, 256, 96)),
}
LAYERS = 12


def small() -> LintContext:
    """Twelve layers with fused experts, whose down projections have rows of 96; tied."""
    infos, targets = [TensorInfo("token_embd.weight", "F16", (128, 256))], []
    targets.append(Target("token_embd.weight", "embedding", None))
    for layer in range(LAYERS):
        for name, (role, shape) in ROLES.items():
            kind = "F32" if role == "router" else "F16"
            infos.append(TensorInfo(f"blk.{layer}.{name}", kind, shape))
            targets.append(Target(f"blk.{layer}.{name}", role, layer))
    known = frozenset([*(info.name for info in infos), "output.weight"])
    return LintContext(tuple(infos), tuple(targets), ModelTraits(LAYERS, 8, 8, 4), known)


def patterns(*rules: tuple[str, str], base: str = "Q8_0", imatrix: bool = True) -> LintReport:
    return lint(Recipe("x", base, patterns=rules), small(), has_imatrix=imatrix)


def only(report: LintReport, kind: str) -> Finding:
    found = [finding for finding in report.findings if finding.kind == kind]
    assert len(found) == 1, report.findings
    return found[0]


def size(kind: str, name: str) -> int:
    return bytes_of(kind, ROLES[name][1])


def test_a_rule_that_is_right_is_no_finding() -> None:
    report = patterns((r"^blk\.3\.attn_q\.weight$", "Q4_K"))
    assert report.findings == ()
    plain = patterns()
    saved = size("Q8_0", "attn_q.weight") - size("Q4_K", "attn_q.weight")
    assert plain.tensor_bytes - report.tensor_bytes == saved


def test_a_pattern_that_meets_nothing() -> None:
    found = only(patterns(("blk.0.ffn_up_gate_exps", "Q4_K")), "unmatched")
    assert (found.tensors, found.bytes, found.problem) == (0, 0, True)
    assert "the nearest is blk.0.ffn_gate_up_exps" in found.text
    absent = only(patterns((r"^output\.weight$", "Q4_K")), "unmatched")
    assert absent.text.endswith("this model has no such tensor")


def test_an_unbound_pattern_meets_what_it_does_not_name() -> None:
    """ffn_gate inside ffn_gate_up_exps; the router beside it stays as it is."""
    found = only(patterns(("blk.5.ffn_gate", "Q4_K")), "collision")
    assert (found.tensors, found.first) == (1, "blk.5.ffn_gate_up_exps.weight")
    name = "ffn_gate_up_exps.weight"
    assert found.bytes == size("Q4_K", name) - size("Q8_0", name)
    assert found.stored == size("Q4_K", name)
    assert "is only a part of the name" in found.text


def test_the_accidental_hit_falls_to_the_rules_after_it() -> None:
    found = only(
        patterns(("ffn_gate", "Q4_K"), (r"ffn_gate_up_exps\.weight$", "Q6_K")), "collision"
    )
    name = "ffn_gate_up_exps.weight"
    assert found.tensors == LAYERS
    assert found.bytes == LAYERS * (size("Q4_K", name) - size("Q6_K", name))


def test_output_weight_inside_attn_output_weight() -> None:
    found = only(patterns(("output.weight", "Q4_K")), "collision")
    assert "names no tensor of this model" in found.text
    name = "attn_output.weight"
    assert found.bytes == LAYERS * (size("Q4_K", name) - size("Q8_0", name))


def test_a_layer_number_inside_another() -> None:
    found = only(patterns((r"blk\.1", "Q4_K")), "collision")
    assert found.tensors == 2 * 5  # layers 10 and 11, routers aside
    assert found.first == "blk.10.attn_q.weight"


@pytest.mark.parametrize(
    "pattern", ["exps", "attn_.*", r"blk\.1\.", "ffn_gate_up_exps", r"ffn_gate\.weight", "_q"]
)
def test_fragments_on_purpose_and_whole_parts_are_no_collisions(pattern: str) -> None:
    kinds = {finding.kind for finding in patterns((pattern, "Q5_1")).findings}
    assert not kinds & {"collision", "unmatched"}


def test_a_rule_whose_tensors_are_taken() -> None:
    found = only(patterns(("attn_q", "Q4_K"), (r"blk\.2\.attn_q", "Q6_K")), "shadowed")
    assert (found.tensors, found.first) == (1, "blk.2.attn_q.weight")
    assert found.bytes == size("Q4_K", "attn_q.weight") - size("Q6_K", "attn_q.weight")
    assert "`attn_q=q4_k` comes first" in found.text


def test_a_rule_for_what_llama_cpp_keeps() -> None:
    found = only(patterns(("ffn_gate_inp", "Q8_0")), "no-effect")
    assert (found.tensors, found.bytes) == (LAYERS, 0)
    kept = LAYERS * size("F32", "ffn_gate_inp.weight")
    asked = LAYERS * size("Q8_0", "ffn_gate_inp.weight")
    assert f"({kept:,} bytes; Q8_0 would be {asked:,})" in found.text


def test_a_rule_that_an_option_beats() -> None:
    recipe = Recipe("x", "Q8_0", embedding="Q6_K", patterns=(("token_embd", "Q4_K"),))
    found = only(lint(recipe, small()), "no-effect")
    assert "token embedding type decides" in found.text


def test_no_rule_has_an_effect_over_an_unquantized_base() -> None:
    found = only(patterns(("attn_q", "Q4_K"), base="F16"), "no-effect")
    assert "ignores every rule when the base is F16" in found.text
    assert (
        patterns(("attn_q", "Q4_K"), base="F16").tensor_bytes == patterns(base="F16").tensor_bytes
    )


def test_what_becomes_of_rows_that_do_not_divide() -> None:
    name = "ffn_down_exps.weight"
    found = only(patterns(("ffn_down_exps", "Q4_K")), "fallback")
    elements = 8 * 256 * 96
    assert found.bytes == LAYERS * (size("Q5_0", name) - elements * 144 // 256)
    assert not found.problem
    base = only(patterns(base="Q6_K"), "fallback")
    assert base.rule == "base Q6_K"
    assert base.bytes == LAYERS * (size("Q8_0", name) - elements * 210 // 256)


def test_types_that_need_an_importance_matrix() -> None:
    rule = ("ffn_gate_up_exps", "IQ2_S")
    found = only(patterns(rule, imatrix=False), "imatrix")
    assert (found.tensors, found.bytes) == (LAYERS, 0)
    assert found.stored == LAYERS * size("IQ2_S", "ffn_gate_up_exps.weight")
    assert patterns(rule).problems == ()


def test_a_rule_that_says_what_the_base_does() -> None:
    found = only(patterns((r"blk\.4\.attn_q\.weight", "Q8_0")), "redundant")
    assert (found.tensors, found.bytes, found.problem) == (1, 0, False)
    # A rule that keeps a later one away is needed, though it equals the base.
    kinds = [f.kind for f in patterns((r"blk\.4\.attn_q\.", "Q8_0"), ("attn_q", "Q4_K")).findings]
    assert "redundant" not in kinds


def test_the_rules_that_an_old_llama_cpp_ignored() -> None:
    """An override equal to the base's default fell through to the next pattern that met it."""
    report = patterns((r"ffn_gate_up_exps", "Q8_0"), ("ffn_gate", "Q4_K"))
    found = only(report, "older-llama.cpp")
    name = "ffn_gate_up_exps.weight"
    assert found.tensors == LAYERS
    assert found.bytes == LAYERS * (size("Q4_K", name) - size("Q8_0", name))
    assert f"{report.tensor_bytes + found.bytes:,} bytes" in found.text


def test_rules_of_a_recipe_are_judged_too() -> None:
    rules = (
        Rule("Q4_K", ("expert",)),
        Rule("Q6_K", ("expert.gate_up",), "first 2"),
        Rule("Q8_0", ("router",)),
        Rule("Q8_0", ("shared",)),
        Rule("Q8_0", ("shared",), if_present=True),
    )
    report = lint(Recipe("x", "Q8_0", rules=rules), small())
    assert [finding.kind for finding in report.problems] == ["shadowed", "no-effect", "unmatched"]


@pytest.mark.slow
def test_card_000_is_told_as_its_map_says(tmp_path: Path) -> None:
    found = context("gemma26", tmp_path, 90)
    report = lint(recipe_of_types(card_000(tmp_path), "Q3_K_M"), found, has_imatrix=True)
    assert {f.kind for f in report.problems} == {"no-effect"}
    assert len(report.problems) == 30
    assert all("ffn_gate_inp" in finding.rule for finding in report.problems)
    fallen = [finding for finding in report.findings if finding.kind == "fallback"]
    assert sum(finding.tensors for finding in fallen) == 60
    assert sum(finding.bytes for finding in fallen) == 730_228_224
    then = only(report, "older-llama.cpp")
    assert round((report.tensor_bytes + then.bytes) / 2**20, 2) == 11_149.34
    assert then.tensors == 104


def test_apex_names_meet_nothing_in_a_fused_model(tmp_path: Path) -> None:
    """mudler's generator names split and shared experts; Gemma 4 has neither (apex.md, 3a)."""
    names = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_shexp", "attn_qkv")
    rules = tuple((f"blk.{layer}.{name}", "Q3_K") for layer in range(30) for name in names)
    report = lint(Recipe("micro", "IQ1_M", patterns=rules), context("gemma26", tmp_path, 128))
    unmatched = [finding for finding in report.findings if finding.kind == "unmatched"]
    assert len(unmatched) == 120
    assert "the nearest is blk.0.ffn_gate_up_exps" in unmatched[0].text


def test_the_lint_command(tmp_path: Path, run: Run) -> None:
    model = save_shape("gemma26", tmp_path)
    types = card_000(tmp_path)
    types.write_text("".join(types.read_text().splitlines(keepends=True)[:20]))
    request = {"base": "Q3_K_M", "experts": 90, "with_imatrix": True}
    done = run("recipe", "lint", types, model, **request)
    assert done.code == 0
    assert "problem no-effect: `line 1: blk.0.ffn_gate_inp=q8_0`" in done.out
    assert "and 1 rule like it" in done.out
    strict = run("recipe", "lint", types, model, strict=True, json=True, **request)
    assert strict.code == 3
    assert strict.json["problems"] == 2
    assert {"kind", "rule", "tensors", "first", "bytes", "stored", "text"} == set(
        strict.json["findings"][0]
    )
    assert "2 problems" in strict.err
    assert run("recipe", "lint", "apex-quality", model, strict=True).code == 0
    for words, message in (
        ((types, model), "--base"),
        (("apex-mini", model, "--experts", "4"), "expected 8"),
        (("cd-q6_k", model), "name statistics with --stats"),
        (("mlx-mixed-4-8", model), "makes mlx"),
    ):
        refused = run("recipe", "lint", *words)
        assert refused.code == 2
        assert message in refused.err


def test_padded_rows_fall_back_no_more(tmp_path: Path) -> None:
    model = save_shape("gemma26", tmp_path)
    plain = Recipe("x", "Q3_K_S")
    kinds = {finding.kind for finding in lint_recipe(plain, model).findings}
    padded = lint_recipe(replace(plain, pad=True), model)
    assert (kinds, padded.findings) == ({"fallback"}, ())
    with pytest.raises(PlanError, match="which llama-quantize cannot"):
        export_recipe(replace(plain, pad=True), model)


def test_a_broken_pattern_is_an_error() -> None:
    with pytest.raises(PlanError, match="is no regular expression"):
        patterns(("(", "Q4_K"))
