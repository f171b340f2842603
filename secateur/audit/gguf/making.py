"""The ways in which a GGUF may have been made: file types, recipes, llama.cpp of another time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from secateur.audit.gguf.shape import Bytes, Shape
from secateur.errors import PlanError
from secateur.formats.gguf.container import TensorInfo
from secateur.outputs.registry import format_of
from secateur.recipes.assign import match
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.llama_types import TypeChoice, TypeRequest, choose_types
from secateur.recipes.older_llama_cpp import as_in_spring_2026
from secateur.recipes.recipe import LARGE, Recipe, find_recipe, shipped_recipes


@dataclass(frozen=True)
class Way:
    """One way of making a file: what was asked of llama-quantize, and how a person says it.

    `stock` marks a file type of llama.cpp alone, without rules or types of one's own.
    """

    name: str
    request: TypeRequest = field(repr=False)
    stock: bool
    old: bool = False

    def sentence(self) -> str:
        """As in "Q4_K_M with an imatrix"."""
        matrix = "with" if self.request.has_imatrix else "without"
        parts = [f"{self.name} {matrix} an imatrix"]
        if self.stock and self.request.embedding:
            parts.append(f"token embedding {self.request.embedding}")
        if self.stock and self.request.output:
            parts.append(f"output {self.request.output}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Made:
    """What a way makes of a shape."""

    way: Way
    choices: tuple[TypeChoice, ...] = field(repr=False)
    infos: tuple[TensorInfo, ...] = field(repr=False)
    size: Bytes

    @property
    def data(self) -> int:
        """Bytes of the tensors, without header and padding: what llama-quantize prints."""
        return sum(info.nbytes for info in self.infos)

    @property
    def fallbacks(self) -> tuple[TypeChoice, ...]:
        """The tensors whose rows did not fit the type that the rule gave."""
        return tuple(choice for choice in self.choices if choice.fallback_from)


def make(shape: Shape, experts: int, way: Way) -> Made:
    """The types and bytes of a shape made in a way. Raises PlanError where llama.cpp would fail."""
    tensors = shape.with_experts(experts)
    choices = choose_types(tensors, shape.traits(experts), way.request)
    infos = tuple(
        replace(info, type=choice.type) for info, choice in zip(tensors, choices, strict=True)
    )
    return Made(way, tuple(choices), infos, shape.file_bytes(infos))


def stock_ways(
    name: str, embeddings: Sequence[str | None] = (None,), outputs: Sequence[str | None] = (None,)
) -> Iterator[Way]:
    """A file type of llama.cpp, with and without an imatrix, and with types of the ends."""
    for embedding in embeddings:
        for output in outputs:
            for imatrix in (False, True):
                request = TypeRequest(name, imatrix, embedding=embedding, output=output)
                yield Way(name, request, True)


def large_ways(name: str) -> Iterator[Way]:
    """A name that means a file type with larger ends, such as Q4_K_L."""
    yield from (
        replace(way, name=name, stock=False)
        for way in stock_ways(LARGE[name], ("Q8_0",), ("Q8_0",))
    )


def recipe_ways(
    recipe: Recipe, shape: Shape, importance: Sequence[float] | None = None
) -> Iterator[Way]:
    """A recipe as its rules say it; as llama-quantize's unanchored overrides; and in spring 2026.

    Then an override equal to the file type's default was passed over, and a later one that is
    found in the name decided. Nothing comes of a recipe that does not fit the shape.
    """
    targets = shape.targets()
    try:
        matched = match(recipe, targets, shape.layers, importance)
    except PlanError:
        return
    if any(
        not names and not rule.if_present for rule, names in zip(recipe.rules, matched, strict=True)
    ):
        return
    named: dict[str, tuple[str, str]] = {}
    for rule, names in zip(recipe.rules, matched, strict=True):
        for name in names:
            named.setdefault(name, (rule.type, f"recipe: {rule.sentence()}"))
    lines = [(re.escape(name.removesuffix(".weight")), kind) for name, (kind, _) in named.items()]
    if recipe.output:
        lines.append((r"output\.weight", recipe.output))
    for imatrix in (True,) if recipe.imatrix else (False, True):
        asked = TypeRequest(
            recipe.base,
            imatrix,
            embedding=recipe.embedding,
            output=recipe.output,
            patterns=recipe.patterns,
            named=named,
        )
        yield Way(recipe.name, asked, False)
        # The output has its own line among the patterns, and then no option of its own.
        loose = replace(asked, named={}, output=None, patterns=(*lines, *recipe.patterns))
        yield Way(f"{recipe.name}, as unanchored overrides", loose, False)
        yield Way(
            f"{recipe.name}, as unanchored overrides in llama.cpp of spring 2026",
            as_in_spring_2026(loose),
            False,
            old=True,
        )


@cache
def gguf_recipes() -> tuple[Recipe, ...]:
    """The shipped recipes that make a GGUF of unwidened rows."""
    found = map(find_recipe, shipped_recipes())
    return tuple(recipe for recipe in found if format_of(recipe).llama_quantize and not recipe.pad)


def ways_of_label(
    label: str, shape: Shape, importance: Sequence[float] | None = None
) -> tuple[Way, ...]:
    """The ways that a quantization's name can mean; none for an unknown name."""
    upper = label.upper()
    if upper in FILE_TYPES:
        return tuple(stock_ways(upper))
    if upper in LARGE:
        return tuple(large_ways(upper))
    for recipe in gguf_recipes():
        if recipe.name.upper() == upper:
            return tuple(recipe_ways(recipe, shape, importance))
    return ()


@cache
def labels() -> tuple[str, ...]:
    """Every name that `ways_of_label` knows, longest first."""
    known = {*FILE_TYPES, *LARGE, *(recipe.name for recipe in gguf_recipes())}
    return tuple(sorted(known, key=lambda name: (-len(name), name)))
