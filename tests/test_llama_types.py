"""llama-quantize's types: replayed from the real tool's answers, and each rule that has a name."""

import json
from itertools import groupby
from pathlib import Path

import pytest

from secateur.errors import PlanError
from secateur.formats.ggml.types import bytes_of
from secateur.formats.gguf.container import TensorInfo, file_bytes
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.tensors import file_order
from secateur.recipes.llama_mixes import FILE_TYPES, ModelTraits
from secateur.recipes.llama_types import TypeRequest, choose_types

GOLDEN = json.loads((Path(__file__).parent / "golden/llama_types.json").read_text())


def tensors_of(shape):
    """The tensors of a small GGUF file of one of three layouts, as llama.cpp's converter has them.

    `shape` holds: layout, layers, experts, hidden, dense, expert, query, key, tied, source.
    """
    out = [
        TensorInfo("token_embd.weight", shape["source"], (128, shape["hidden"])),
        TensorInfo("output_norm.weight", "F32", (shape["hidden"],)),
    ]
    if not shape["tied"]:
        out.append(TensorInfo("output.weight", shape["source"], (128, shape["hidden"])))
    for layer in range(shape["layers"]):
        for name, size in layer_shapes(shape, layer).items():
            vector = len(size) == 1 or name == "ffn_gate_inp.weight"
            kind = "F32" if vector else shape["source"]
            out.append(TensorInfo(f"blk.{layer}.{name}", kind, size))
    return out


def layer_shapes(shape, layer):
    hidden, dense, expert = shape["hidden"], shape["dense"], shape["expert"]
    experts, query, key = shape["experts"], shape["query"], shape["key"]
    fused = shape["layout"] == "fused"
    out = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (query, hidden),
        "attn_k.weight": (key, hidden),
        "attn_output.weight": (hidden, query),
        "ffn_norm.weight": (hidden,),
    }
    if not fused or layer % 6 != 5:
        out["attn_v.weight"] = (key, hidden)
    if fused or not experts:
        out |= {"ffn_gate.weight": (dense, hidden), "ffn_up.weight": (dense, hidden)}
        out["ffn_down.weight"] = (hidden, dense)
    if experts:
        out["ffn_gate_inp.weight"] = (experts, hidden)
        out["ffn_down_exps.weight"] = (experts, hidden, expert)
        if fused:
            out["ffn_gate_up_exps.weight"] = (experts, 2 * expert, hidden)
            out["ffn_down_exps.scale"] = (experts,)
        else:
            out["ffn_gate_exps.weight"] = (experts, expert, hidden)
            out["ffn_up_exps.weight"] = (experts, expert, hidden)
    return out


def request_of(case):
    asked = case["request"]
    return TypeRequest(**{**asked, "patterns": tuple(map(tuple, asked.get("patterns", ())))})


def traits_of(case):
    shape = case["shape"]
    return ModelTraits(
        layers=shape["layers"],
        experts=shape["experts"],
        heads=shape["heads"],
        kv_heads=shape["kv_heads"],
        shared_value_heads=case.get("shared_value_heads", False),
    )


def summary(names_and_types):
    """Types by tensor kind, in layer order, as runs: {"ffn_down.weight": "Q6_K*3 Q5_0*5"}."""
    kinds = {}
    for name, kind in sorted(names_and_types, key=lambda pair: file_order(pair[0])):
        part = name.split(".", 2)[2] if name.startswith("blk.") else name
        kinds.setdefault(part, []).append(kind)
    return {
        part: " ".join(f"{kind}*{len(list(run))}" for kind, run in groupby(types))
        for part, types in kinds.items()
        if not part.endswith(("norm.weight", "inp.weight", "scale"))
    }


@pytest.mark.parametrize("number", range(0, len(GOLDEN["cases"]), 40))
def test_types_equal_llama_quantizes(number):
    for case in GOLDEN["cases"][number : number + 40]:
        tensors = tensors_of(case["shape"])
        if "error" in case:
            with pytest.raises(PlanError):
                choose_types(tensors, traits_of(case), request_of(case))
            continue
        choices = choose_types(tensors, traits_of(case), request_of(case))
        assert summary((c.name, c.type) for c in choices) == case["types"], case
        needed = any(c.needs_importance for c in choices) and not case["request"]["has_imatrix"]
        assert needed == case["needs_imatrix"], case
        assert sum(c.fallback_from is not None for c in choices) == case["fallbacks"], case
        for tensor, choice in zip(tensors, choices, strict=True):
            assert bytes_of(choice.type, tensor.shape, tensor.name) > 0


def test_the_golden_cases_reach_every_file_type_and_layout():
    cases = GOLDEN["cases"]
    assert len(cases) >= 500
    assert {case["request"]["ftype"] for case in cases} >= set(FILE_TYPES)
    assert {case["shape"]["layout"] for case in cases} == {"fused", "split", "mixtral"}


REAL = {
    "layout": "fused",
    "layers": 30,
    "experts": 128,
    "heads": 16,
    "kv_heads": 8,
    "hidden": 2816,
    "dense": 2112,
    "expert": 704,
}
REAL_TRAITS = ModelTraits(layers=30, experts=128, heads=16, kv_heads=8)


def real_tensors():
    """The 658 tensors of Gemma 4 26B-A4B."""
    hidden, out = 2816, []

    def add(name, kind, *shape):
        out.append(TensorInfo(name, kind, shape))

    add("token_embd.weight", "F16", 262144, hidden)
    add("output_norm.weight", "F32", hidden)
    add("rope_freqs.weight", "F32", 256)
    for layer in range(30):
        full = layer % 6 == 5
        head, keys = (512, 1024) if full else (256, 2048)
        at = f"blk.{layer}"
        add(f"{at}.attn_q.weight", "F16", 16 * head, hidden)
        add(f"{at}.attn_k.weight", "F16", keys, hidden)
        if not full:
            add(f"{at}.attn_v.weight", "F16", keys, hidden)
        add(f"{at}.attn_output.weight", "F16", hidden, 16 * head)
        add(f"{at}.attn_q_norm.weight", "F32", head)
        add(f"{at}.attn_k_norm.weight", "F32", head)
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            add(f"{at}.{norm}.weight", "F32", hidden)
        for norm in ("post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2"):
            add(f"{at}.{norm}.weight", "F32", hidden)
        add(f"{at}.layer_output_scale.weight", "F32", 1)
        for name, shape in layer_shapes(REAL | {"query": 1, "key": 1}, layer).items():
            if name.startswith("ffn_") and "norm" not in name:
                add(f"{at}.{name}", "F32" if "inp" in name or len(shape) < 2 else "F16", *shape)
        add(f"{at}.ffn_gate_inp.scale", "F32", hidden)
    return out


def test_the_real_model_has_the_published_sizes(real: Path):
    """Bytes of the stock files of Gemma 4 26B-A4B on the Hub."""
    vocabulary = read_gguf(real / "vocabulary.gguf")
    tensors = real_tensors()
    assert len(tensors) == 658
    sizes = {}
    for ftype in ("F16", "Q8_0", "Q4_K_M"):
        choices = choose_types(tensors, REAL_TRAITS, TypeRequest(ftype))
        infos = [TensorInfo(t.name, c.type, t.shape) for t, c in zip(tensors, choices, strict=True)]
        sizes[ftype] = file_bytes(vocabulary.metadata, infos)
    assert sizes == {"F16": 50_505_130_016, "Q8_0": 26_859_853_856, "Q4_K_M": 16_796_010_528}


def test_the_fallbacks_of_the_real_model_are_its_sixty_down_projections():
    choices = choose_types(real_tensors(), REAL_TRAITS, TypeRequest("Q4_K_M"))
    fallen = [choice for choice in choices if choice.fallback_from]
    assert len(fallen) == 60
    assert {choice.name.split(".")[2] for choice in fallen} == {"ffn_down", "ffn_down_exps"}
    first = next(choice for choice in fallen if choice.name == "blk.3.ffn_down_exps.weight")
    assert (first.type, first.fallback_from) == ("Q5_0", "Q4_K")
    assert first.reason == ("file type Q4_K_M, rule for down; rows of 704 do not divide by 256")


def choice_of(name, shape, **request):
    tensors = [TensorInfo(name, "F16", shape)]
    return choose_types(tensors, REAL_TRAITS, TypeRequest(**request))[0]


def test_each_choice_says_which_rule_made_it():
    weight = ("blk.0.attn_q.weight", (256, 256))
    assert choice_of(*weight, ftype="F16").reason == "file type F16"
    assert choice_of(*weight, ftype="Q4_K", pure=True).reason == "pure Q4_K_M"
    override = choice_of(*weight, ftype="Q4_K_M", patterns=(("ATTN_Q", "q8_0"),))
    assert (override.type, override.reason) == ("Q8_0", "override 'attn_q'")
    assert choice_of("blk.0.attn_norm.weight", (256,), ftype="Q4_0").reason.startswith("not quant")
    embedding = choice_of("token_embd.weight", (9, 256), ftype="Q4_0", embedding="q6_k")
    assert (embedding.type, embedding.reason) == ("Q6_K", "token embedding type")
    output = choice_of("output.weight", (9, 256), ftype="Q4_0", output="Q8_0")
    assert (output.type, output.reason) == ("Q8_0", "output tensor type")


def test_the_order_given_changes_nothing():
    tensors = real_tensors()
    forward = choose_types(tensors, REAL_TRAITS, TypeRequest("IQ2_M"))
    backward = choose_types(tensors[::-1], REAL_TRAITS, TypeRequest("IQ2_M"))
    assert forward == backward[::-1]


def test_rules_of_single_architectures_are_data():
    kept = ModelTraits(30, 128, 16, 8, kept=("attn_q",), at_least_q8=("attn_k",))
    tensors = [
        TensorInfo("blk.0.attn_q.weight", "F16", (256, 256)),
        TensorInfo("blk.0.attn_k.weight", "F16", (256, 256)),
        TensorInfo("blk.0.attn_v_b.weight", "F16", (4, 256, 256)),
        TensorInfo("blk.0.ffn_up_exps.weight", "F16", (4, 256, 256)),
    ]
    types = [c.type for c in choose_types(tensors, kept, TypeRequest("IQ3_XXS"))]
    assert types == ["F16", "Q8_0", "IQ3_XXS", "IQ3_XXS"]
    by_role = ModelTraits(30, 128, 16, 8, experts_by_role=True)
    types = [c.type for c in choose_types(tensors, by_role, TypeRequest("MXFP4_MOE"))]
    assert types == ["Q8_0", "Q8_0", "Q8_0", "MXFP4"]


@pytest.mark.parametrize(
    ("name", "shape", "request_fields", "message"),
    [
        ("x.weight", (2, 256), {"ftype": "Q9"}, "unknown file type 'Q9', known are: F32, F16"),
        ("blk.0.x.weight", (2, 96), {"ftype": "Q1_0"}, "no fallback for Q1_0"),
        ("token_embd.weight", (2, 96), {"ftype": "Q8_0", "embedding": "Q4_K"}, "rows of 96"),
        ("ffn_down.weight", (2, 256), {"ftype": "Q4_K_M"}, "not in one of the 30 layers"),
        ("blk.30.ffn_up.weight", (2, 256), {"ftype": "Q4_K_M"}, "not in one of the 30 layers"),
        ("x.weight", (2, 256), {"ftype": "Q8_0", "patterns": (("(", "Q8_0"),)}, "no regular"),
        ("x.weight", (2, 256), {"ftype": "Q8_0", "patterns": (("[[:digit:]]", "F16"),)}, "POSIX"),
    ],
)
def test_what_llama_quantize_would_break_on_is_a_plan_error(name, shape, request_fields, message):
    with pytest.raises(PlanError, match=message):
        choice_of(name, shape, **request_fields)
