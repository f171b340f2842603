"""The type of every tensor, exactly as llama-quantize would choose it, and why.

Restates llama.cpp's src/llama-quant.cpp (0c1e57098): which tensors stay as they are, overrides,
the file type's mix (`llama_mixes.py`), and what happens when rows do not divide into blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from secateur.errors import PlanError
from secateur.formats.ggml.types import TYPES, ggml_type
from secateur.formats.gguf.container import TensorInfo
from secateur.formats.gguf.tensors import file_order
from secateur.recipes.llama_mixes import (
    FILE_TYPES,
    Mix,
    ModelTraits,
    Place,
    category_of,
    file_type,
)
from secateur.recipes.patterns import NamePattern, name_pattern

_KEPT_NAMES = frozenset({"position_embd.weight", "token_types.weight"})
_KEPT_PARTS = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    *(f"time_mix_{part}.weight" for part in ("first", "decay_w1", "decay_w2", "lerp_fused")),
    *(f"time_mix_{part}.weight" for part in ("w0", "w1", "w2", "v0", "v1", "v2")),
    *(f"time_mix_{part}.weight" for part in ("a0", "a1", "a2", "g1", "g2")),
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
"""Parts of the names of small or sensitive matrices: norms, routers, positions, recurrences."""

FALLBACKS = {
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"
    ),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""What a type becomes where its blocks do not divide the row; if this does not fit, F16."""

_FOREIGN = re.compile(r"\(\?(?![:=!])|\\[azg]|[*+?}]\+|\{(?!\d+(?:,\d*)?\})")
"""What Python's expressions have and ECMAScript's have not, or in another meaning."""

_REFUSED_WITHOUT_IMPORTANCE = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})


@dataclass(frozen=True, slots=True)
class TypeRequest:
    """What a user asks of llama-quantize.

    `ftype` is a name of FILE_TYPES or an alias. `patterns` are (regular expression, type), as of
    --tensor-type: lower-cased, searched anywhere in a name, the first match wins. `named` are
    (type, reason) by tensor name, tried before them: what anchored patterns would say. `embedding`
    and `output` are --token-embedding-type and --output-tensor-type; `pure` gives every matrix
    the default type; `quantize_output` false is --leave-output-tensor.
    """

    ftype: str
    has_imatrix: bool = False
    embedding: str | None = None
    output: str | None = None
    patterns: tuple[tuple[str, str], ...] = ()
    named: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    pure: bool = False
    quantize_output: bool = True


KEPT = "not quantized by llama.cpp"
"""The reason of a choice that no rule can change."""


@dataclass(frozen=True, slots=True)
class TypeChoice:
    """The type of one tensor and the rule that chose it.

    `fallback_from` is the type that did not fit the row; `needs_importance` tells that
    llama-quantize refuses to make this tensor without an importance matrix.
    """

    name: str
    type: str
    reason: str
    fallback_from: str | None = None
    needs_importance: bool = False


def choose_types(
    tensors: Sequence[TensorInfo], model: ModelTraits, request: TypeRequest
) -> list[TypeChoice]:
    """llama-quantize's types for the tensors of an unquantized file, in the order given.

    Raises PlanError for an unknown file type or pattern, and where llama-quantize would fail
    half-way: an explicit type that does not divide the row, a type without a fallback.
    """
    ftype = file_type(request.ftype)
    patterns = _compiled(request.patterns)
    categories = {info.name: category_of(info.name) for info in tensors}
    mix = Mix(
        ftype,
        model,
        request.has_imatrix,
        tied="output" not in categories.values(),
        values=list(categories.values()).count("value"),
    )
    choices = {}
    for info in sorted(tensors, key=lambda info: file_order(info.name)):
        place = Place(info.name, categories[info.name], info.shape)
        choice = _choose(info, place, mix, request, patterns)
        choices[info.name] = choice
    return [choices[info.name] for info in tensors]


def is_quantizable(info: TensorInfo, model: ModelTraits, quantize_output: bool = True) -> bool:
    """Whether llama-quantize may change the tensor's type at all."""
    name = info.name
    leading_ones = next((i for i, n in enumerate(info.shape) if n > 1), len(info.shape))
    if len(info.shape) - leading_ones < 2 or not name.endswith("weight") or name in _KEPT_NAMES:
        return False
    if name == "output.weight" and not quantize_output:
        return False
    return not any(part in name for part in (*_KEPT_PARTS, *model.kept))


Patterns = list[tuple[NamePattern, str]]


def _choose(
    info: TensorInfo, place: Place, mix: Mix, request: TypeRequest, patterns: Patterns
) -> TypeChoice:
    if not is_quantizable(info, mix.model, request.quantize_output):
        return TypeChoice(info.name, info.type, KEPT)
    default = FILE_TYPES[mix.ftype].default
    override = _override(info.name, request, patterns)
    explicit = _explicit(place, request, override is not None)
    if explicit is not None:
        _require_fit(info, explicit[0])
        return _with_importance(info.name, *explicit, None, mix.ftype)
    if not TYPES[default].quantized:
        return TypeChoice(info.name, default, f"file type {mix.ftype}")
    if override is not None:
        chosen, reason = override
    elif request.pure:
        chosen, reason = default, f"pure {mix.ftype}"
    else:
        divides = info.shape[-1] % TYPES[default].block == 0
        output = ggml_type(request.output).name if request.output else None
        chosen = mix.type_of(place, divides, output)
        reason = f"file type {mix.ftype}, rule for {place.category}"
    fitting = _fallback(info, chosen)
    if fitting == chosen:
        return _with_importance(info.name, chosen, reason, None, mix.ftype)
    reason += f"; rows of {info.shape[-1]} do not divide by {TYPES[chosen].block}"
    return _with_importance(info.name, fitting, reason, chosen, mix.ftype)


def _override(name: str, request: TypeRequest, patterns: Patterns) -> tuple[str, str] | None:
    """(type, reason) of the first override that matches the tensor."""
    if name in request.named:
        kind, reason = request.named[name]
        return ggml_type(kind).name, reason
    for pattern, kind in patterns:
        if pattern.search(name):
            return kind, f"override {pattern.pattern!r}"
    return None


def _explicit(place: Place, request: TypeRequest, named: bool) -> tuple[str, str] | None:
    """The type asked for the embedding or the output, which beats file type and fallback."""
    per_layer = place.name == "per_layer_token_embd.weight"
    if place.category == "embedding" and request.embedding and not (per_layer and named):
        return ggml_type(request.embedding).name, "token embedding type"
    if place.category == "output" and request.output:
        return ggml_type(request.output).name, "output tensor type"
    return None


def _fallback(info: TensorInfo, chosen: str) -> str:
    row = info.shape[-1]
    if row % TYPES[chosen].block == 0:
        return chosen
    fitting = FALLBACKS.get(chosen, chosen)
    if fitting == chosen and TYPES[chosen].block > 32:
        raise PlanError(
            f"tensor {info.name!r}: rows of {row} do not divide by {TYPES[chosen].block}, and "
            f"llama.cpp has no fallback for {chosen}: choose another type for it"
        )
    return fitting if row % TYPES[fitting].block == 0 else "F16"


def _require_fit(info: TensorInfo, type_name: str) -> None:
    if info.shape[-1] % TYPES[type_name].block:
        raise PlanError(
            f"tensor {info.name!r} has rows of {info.shape[-1]}, which {type_name} (blocks of "
            f"{TYPES[type_name].block}) does not divide, and an explicit type has no fallback"
        )


def _with_importance(
    name: str, type_name: str, reason: str, fallback_from: str | None, ftype: str
) -> TypeChoice:
    whole = category_of(name) in ("embedding", "output")
    needs = needs_importance(type_name) or (type_name == "Q2_K" and ftype == "Q2_K_S")
    return TypeChoice(name, type_name, reason, fallback_from, needs and not whole)


def needs_importance(type_name: str) -> bool:
    """Whether llama-quantize refuses to make a type without an importance matrix."""
    return type_name in _REFUSED_WITHOUT_IMPORTANCE


def compiled_pattern(pattern: str) -> NamePattern:
    """llama-quantize's regular expression: lower-cased, of ECMAScript's kind.

    Raises PlanError for one that is broken, or that the two kinds read differently.
    """
    if "[[:" in pattern:
        raise PlanError(f"override {pattern!r}: write [0-9] instead of a POSIX class")
    if odd := _FOREIGN.search(pattern.lower()):
        raise PlanError(f"override {pattern!r}: llama-quantize reads {odd[0]!r} in another way")
    try:
        return name_pattern(pattern.lower())
    except ValueError as error:
        raise PlanError(f"override {pattern!r} is no regular expression: {error}") from error


def _compiled(patterns: Sequence[tuple[str, str]]) -> Patterns:
    return [(compiled_pattern(pattern), ggml_type(kind).name) for pattern, kind in patterns]
