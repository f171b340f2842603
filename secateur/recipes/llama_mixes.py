"""llama.cpp's quantization mixes: the type a file type gives to each kind of tensor.

Restates `llama_tensor_get_type_impl` of llama.cpp's src/llama-quant.cpp (0c1e57098), branch by
branch, without the two branches that only dense architectures reach. Nothing here looks at
shapes except where llama.cpp does; fallbacks are `llama_types.py`'s part.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from secateur.errors import PlanError
from secateur.families.expressions import evaluate


class FileType(NamedTuple):
    """A file type of llama-quantize: its number in `general.file_type`, and its default type."""

    number: int
    default: str


FILE_TYPES: dict[str, FileType] = {
    "F32": FileType(0, "F32"),
    "F16": FileType(1, "F16"),
    "BF16": FileType(32, "BF16"),
    "Q8_0": FileType(7, "Q8_0"),
    "Q6_K": FileType(18, "Q6_K"),
    "Q5_K_M": FileType(17, "Q5_K"),
    "Q5_K_S": FileType(16, "Q5_K"),
    "Q5_1": FileType(9, "Q5_1"),
    "Q5_0": FileType(8, "Q5_0"),
    "Q4_K_M": FileType(15, "Q4_K"),
    "Q4_K_S": FileType(14, "Q4_K"),
    "Q4_1": FileType(3, "Q4_1"),
    "Q4_0": FileType(2, "Q4_0"),
    "IQ4_NL": FileType(25, "IQ4_NL"),
    "IQ4_XS": FileType(30, "IQ4_XS"),
    "MXFP4_MOE": FileType(38, "MXFP4"),
    "Q3_K_L": FileType(13, "Q3_K"),
    "Q3_K_M": FileType(12, "Q3_K"),
    "Q3_K_S": FileType(11, "Q3_K"),
    "IQ3_M": FileType(27, "IQ3_S"),
    "IQ3_S": FileType(26, "IQ3_S"),
    "IQ3_XS": FileType(22, "IQ3_S"),
    "IQ3_XXS": FileType(23, "IQ3_XXS"),
    "Q2_K": FileType(10, "Q2_K"),
    "Q2_K_S": FileType(21, "Q2_K"),
    "IQ2_M": FileType(29, "IQ2_S"),
    "IQ2_S": FileType(28, "IQ2_XS"),
    "IQ2_XS": FileType(20, "IQ2_XS"),
    "IQ2_XXS": FileType(19, "IQ2_XXS"),
    "TQ2_0": FileType(37, "TQ2_0"),
    "TQ1_0": FileType(36, "TQ1_0"),
    "Q2_0": FileType(41, "Q2_0"),
    "IQ1_M": FileType(31, "IQ1_M"),
    "IQ1_S": FileType(24, "IQ1_S"),
    "Q1_0": FileType(40, "Q1_0"),
}
"""Every file type that llama-quantize makes, from large to small."""

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""llama-quantize's other names for file types."""


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What the rules need to know of a model beyond its tensors.

    `heads` and `kv_heads` are those of the first layer. The last four fields are the rules that
    llama.cpp ties to single architectures; a family's data may set them.
    """

    layers: int
    experts: int
    heads: int
    kv_heads: int
    shared_value_heads: bool = False
    """Value tensors of 80-layer grouped-query models get Q5_K instead of Q3_K and Q4_K."""
    experts_by_role: bool = False
    """MXFP4_MOE takes only ffn tensors for experts, because attention tensors have three axes."""
    kept: tuple[str, ...] = ()
    """Parts of names that are never quantized."""
    at_least_q8: tuple[str, ...] = ()
    """Parts of names that become Q8_0 whatever the file type."""


def model_traits(
    layers: int, experts: int, heads: int, kv_heads: int, rules: Mapping[str, Any]
) -> ModelTraits:
    """The traits of a model of a family whose `[gguf.quantize]` table is `rules`.

    A text in it is an expression of the four numbers. Raises FamilyError for one that is none.
    """
    numbers = {"layers": layers, "experts": experts, "heads": heads, "kv_heads": kv_heads}
    words: dict[str, Any] = {
        key: evaluate(value, numbers.get) if isinstance(value, str) else value
        for key, value in rules.items()
    }
    words = {key: tuple(word) if isinstance(word, list) else word for key, word in words.items()}
    return ModelTraits(layers, experts, heads, kv_heads, **words)


class Place(NamedTuple):
    """A tensor as the rules see it."""

    name: str
    category: str
    shape: tuple[int, ...]


def file_type(name: str) -> str:
    """The canonical name of a file type. Raises PlanError that lists the known names."""
    upper = name.upper()
    known = ALIASES.get(upper, upper)
    if known not in FILE_TYPES:
        raise PlanError(f"unknown file type {name!r}, known are: {', '.join(FILE_TYPES)}")
    return known


_CATEGORIES_BY_PART = (
    ("attn_qkv.weight", "value"),
    ("attn_kv_b.weight", "value"),
    ("attn_v.weight", "value"),
    ("attn_k.weight", "key"),
    ("attn_q.weight", "query"),
    ("attn_output.weight", "attention output"),
    ("ffn_up", "up"),
    ("ffn_gate", "gate"),
    ("ffn_down", "down"),
)
"""The first part found in a name decides; fused query-key-value counts as value."""


def category_of(name: str) -> str:
    """The kind of tensor, by its GGUF name; "other" has no rule."""
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "embedding"
    return next((category for part, category in _CATEGORIES_BY_PART if part in name), "other")


_TWO_BITS_AND_LESS = frozenset({"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ1_S", "IQ1_M"})

Rules = dict[str, tuple[tuple[str, str], ...]]
"""File type -> rows of (facts that must all hold, type); the first row that holds decides."""

_EMBEDDING: Rules = {
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"), (("", "Q2_K"),)),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), (("", "IQ3_S"),)),
    **dict.fromkeys(("TQ1_0", "TQ2_0", "Q2_0"), (("", "Q4_K"),)),
}
_VALUE: Rules = {
    **dict.fromkeys(
        ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"), (("wide", "Q4_K"), ("many", "Q4_K"), ("", "Q2_K"))
    ),
    **dict.fromkeys(("IQ2_S", "IQ2_M"), (("wide", "Q4_K"), ("many", "Q4_K"), ("", "IQ3_S"))),
    "Q2_K": (("eight", "Q8_0"), ("wide", "Q4_K"), ("", "Q3_K")),
    "IQ3_XXS": (("eight", "Q8_0"), ("wide", "Q4_K"), ("imatrix", "IQ3_XXS"), ("", "IQ3_S")),
    **dict.fromkeys(("Q2_K_S", "IQ3_XS", "IQ3_S"), (("eight", "Q8_0"), ("wide", "Q4_K"))),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), (("eight", "Q8_0"), ("wide", "Q5_K"))),
    "IQ3_M": (("eight", "Q8_0"), ("", "Q4_K")),
    "Q3_K_M": (("eight", "Q8_0"), ("first2", "Q5_K"), ("", "Q4_K")),
    "Q3_K_L": (("eight", "Q8_0"), ("", "Q5_K")),
    **dict.fromkeys(("Q4_K_M", "Q5_K_M"), (("eight", "Q8_0"), ("more", "Q6_K"))),
    "Q4_K_S": (("eight", "Q8_0"), ("first4", "Q5_K")),
    "*": (("eight", "Q8_0"),),
}
_KEY: Rules = {
    **dict.fromkeys(_TWO_BITS_AND_LESS, (("eight", "Q4_K"),)),
    "IQ3_XS": (("eight", "Q8_0"), ("", "IQ3_XXS")),
    "IQ3_XXS": (("eight", "Q8_0"), ("", "IQ2_S")),
    "*": (("eight", "Q8_0"),),
}
_QUERY: Rules = {"IQ3_XS": (("", "IQ3_XXS"),), "IQ3_XXS": (("", "IQ2_S"),)}
_ATTENTION_OUTPUT: Rules = {
    **dict.fromkeys(("IQ1_S", "IQ1_M"), (("eight", "Q5_K"), ("", "IQ2_XXS"))),
    **dict.fromkeys(("IQ2_S", "IQ2_M"), (("eight", "Q5_K"), ("", "IQ3_S"))),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS"), (("eight", "Q5_K"),)),
    "Q2_K": (("eight", "Q5_K"), ("", "Q3_K")),
    "IQ3_XXS": (("eight", "Q5_K"), ("", "IQ3_S")),
    **dict.fromkeys(("Q3_K_M", "IQ3_M"), (("eight", "Q5_K"), ("", "Q4_K"))),
    "Q3_K_L": (("not-eight", "Q5_K"),),
    **dict.fromkeys(
        ("IQ3_XS", "Q3_K_S", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ4_XS"), (("eight", "Q5_K"),)
    ),
}
_DOWN: Rules = {
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"), (("early", "Q2_K"),)),
    **dict.fromkeys(("IQ2_S", "IQ2_M"), (("early", "IQ3_S"),)),
    "Q2_K": (("", "Q3_K"),),
    "Q2_K_S": (("early", "Q4_K"),),
    "IQ3_XXS": (("no-imatrix early", "Q4_K"), ("no-imatrix", "Q3_K")),
    "Q3_K_M": (("earliest", "Q5_K"), ("", "Q4_K")),
    "Q3_K_L": (("", "Q5_K"),),
    "IQ3_M": (("early", "Q4_K"), ("eight more", "Q4_K")),
    **dict.fromkeys(("Q4_K_M", "Q5_K_M"), (("more", "Q6_K"),)),
    "Q4_K_S": (("early", "Q5_K"),),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), (("no-imatrix early", "Q5_K"),)),
    "Q4_0": (("imatrix early", "Q4_1"),),
    "Q5_0": (("imatrix early", "Q5_1"),),
}
_GATE_AND_UP: Rules = {"IQ3_XS": (("middle", "IQ3_XXS"),)}

_RULES: dict[str, Rules] = {
    "embedding": _EMBEDDING,
    "value": _VALUE,
    "key": _KEY,
    "query": _QUERY,
    "attention output": _ATTENTION_OUTPUT,
    "down": _DOWN,
    "gate": _GATE_AND_UP,
    "up": _GATE_AND_UP,
    "other": {},
}
"""Category -> its rules; "*" stands for the file types without a row of their own."""

_FFN = ("down", "gate", "up")


class Mix:
    """One file type applied to one model's tensors, in llama-quantize's order.

    The rules count the tensors they have met, so `type_of` must be called once per tensor that
    takes part, in order: a tensor with a type of its own does not take part.
    """

    def __init__(
        self, ftype: str, model: ModelTraits, has_imatrix: bool, tied: bool, values: int
    ) -> None:
        """`tied`: there is no output.weight. `values`: how many tensors are of category value."""
        self.ftype = ftype
        self.model = model
        self.has_imatrix = has_imatrix
        self.tied = tied
        self.values = values
        self.seen: Counter[str] = Counter()

    def type_of(self, place: Place, row_divides: bool, output_type: str | None) -> str:
        """The type before fallbacks. `row_divides`: whether the default type fits the row.

        Raises PlanError if a tensor of a layer's ffn does not say which layer it is in.
        """
        default = FILE_TYPES[self.ftype].default
        if any(part in place.name for part in self.model.at_least_q8):
            return "Q8_0"
        if place.category == "output" or (self.tied and place.category == "embedding"):
            return output_type or self._output(default, row_divides)
        if self.ftype == "MXFP4_MOE":
            return self._mxfp4(place)
        rules = _RULES[place.category]
        facts = self._facts(place)
        for needed, chosen in rules.get(self.ftype, rules.get("*", ())):
            if facts.issuperset(needed.split()):
                return self._shared(place, chosen)
        return self._shared(place, default)

    def _output(self, default: str, row_divides: bool) -> str:
        if not row_divides or self.ftype == "MXFP4_MOE" or default == "Q8_0":
            return "Q8_0"
        return "Q5_K" if self.ftype in {*_TWO_BITS_AND_LESS, "IQ3_XXS"} else "Q6_K"

    def _mxfp4(self, place: Place) -> str:
        stacked = len(place.shape) >= 3 and place.shape[-3] > 1
        expert = place.category in _FFN or not self.model.experts_by_role
        return "MXFP4" if stacked and expert else "Q8_0"

    def _shared(self, place: Place, chosen: str) -> str:
        bumped = self.model.shared_value_heads and self.ftype not in _TWO_BITS_AND_LESS
        if bumped and place.category == "value" and chosen in ("Q3_K", "Q4_K"):
            return "Q5_K"
        return chosen

    def _facts(self, place: Place) -> set[str]:
        """The names of the conditions that hold for this tensor; counts it as met."""
        model = self.model
        at = self.seen[place.category]
        self.seen[place.category] += 1
        count = self.values if place.category == "value" else model.layers
        if place.category in _FFN and self.ftype not in _TWO_BITS_AND_LESS and model.experts > 1:
            at = self._layer(place.name)
        holds = {
            "imatrix": self.has_imatrix,
            "no-imatrix": not self.has_imatrix,
            "wide": model.kv_heads > 0 and model.heads // model.kv_heads >= 4,
            "many": model.experts >= 4,
            "eight": model.experts == 8,
            "not-eight": model.experts != 8,
            "first2": at < 2,
            "first4": at < 4,
            "earliest": at < count // 16,
            "early": at < count // 8,
            "middle": count // 8 <= at < 7 * count // 8,
            "more": not count // 8 <= at < 7 * count // 8 or (at - count // 8) % 3 == 2,
        }
        return {fact for fact, true in holds.items() if true}

    def _layer(self, name: str) -> int:
        found = re.match(r"blk\.(\d+)", name)
        if found is None or int(found[1]) >= self.model.layers:
            raise PlanError(
                f"tensor {name!r} is not in one of the {self.model.layers} layers, "
                "llama.cpp's type rules cannot place it"
            )
        return int(found[1])
