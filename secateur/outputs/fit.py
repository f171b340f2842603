"""What fits in a given memory: numbers of experts and file types, sized to the byte.

Sizes do not depend on which experts are kept, so the first ones of each layer are taken; no
weights are read, and a config alone is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.formats.gguf.container import alignment_of, padded
from secateur.outputs.base import DEFAULT_ASSUMPTIONS, PlanningAssumptions
from secateur.outputs.gguf.format import GgufFormat
from secateur.outputs.gguf.layout import GgufBase, GgufLayout, gguf_base, typed_layout
from secateur.outputs.gguf.tokenizer_keys import tokenizer_keys
from secateur.planning.memory import ContextMemory, context_memory
from secateur.pruning.choose import first_experts
from secateur.pruning.selection import kept_count
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.recipe import Recipe

SHARES = (0.0, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50)
"""Shares of the experts to drop, where no counts are named; of 128 experts 128 to 64 are kept."""


@dataclass(frozen=True, slots=True)
class FitRow:
    """One combination. All sizes in bytes: `weights` of the tensors, `file` of the GGUF (None
    without a tokenizer), `total` with the cache and the logits of the context."""

    experts: int
    type: str
    weights: int
    file: int | None
    total: int
    bits_per_weight: float
    fallback_tensors: int
    needs_imatrix: bool


@dataclass(frozen=True)
class Fit:
    """The combinations that fit in `available` bytes, the largest first, of `tried` ones."""

    source: str
    available: int
    memory: ContextMemory
    tried: int
    rows: tuple[FitRow, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "source": self.source,
            "available_bytes": self.available,
            "memory": self.memory.to_json(),
            "tried": self.tried,
            "rows": [asdict(row) for row in self.rows],
            "notes": list(self.notes),
        }


def fit(
    checkpoint: Checkpoint,
    available: int,
    *,
    counts: Sequence[int] = (),
    recipes: Sequence[Recipe] = (),
    assumptions: PlanningAssumptions = DEFAULT_ASSUMPTIONS,
) -> Fit:
    """All combinations that llama.cpp can run in `available` bytes.

    `counts` of experts and `recipes` are what to try; without them SHARES and all file types.
    A file type that cannot be had without an importance matrix is typed as with one. Raises
    PlanError for a count that the model cannot have.
    """
    memory = context_memory(checkpoint, assumptions.context)
    tokenizer = tokenizer_keys(checkpoint, assumptions.tokenizer)
    wanted = recipes or [Recipe(name, name) for name in FILE_TYPES]
    rows: list[FitRow] = []
    refused: dict[str, str] = {}
    numbers = sorted({*counts} or set(_useful_counts(checkpoint)), reverse=True)
    for count in numbers:
        base = gguf_base(checkpoint, first_experts(checkpoint, count), tokenizer)
        header: int | None = None
        for recipe in wanted:
            if recipe.to != GgufFormat.name:
                refused[recipe.name] = f"it is for {recipe.to}, and what fits is that of llama.cpp"
                continue
            try:
                layout = _decide_layout(base, recipe, assumptions.imatrix)
                # A header's size is the same for all types.
                header = _header_bytes(layout) if header is None else header
                rows.append(_make_row(base, layout, recipe, count, memory.bytes, header))
            except PlanError as error:
                refused[recipe.name] = str(error)
    if not rows and refused:
        raise PlanError(next(iter(refused.values())))
    notes = [f"{name} is left out: {why}" for name, why in refused.items()]
    if tokenizer.nbytes is None:
        notes.append("there is no tokenizer, so the size of files is not known (--tokenizer)")
    fitting = [row for row in rows if row.total <= available]
    return Fit(
        source=checkpoint.name,
        available=available,
        memory=memory,
        tried=len(rows),
        rows=tuple(sorted(fitting, key=lambda row: (-row.weights, row.type, -row.experts))),
        notes=(*checkpoint.notes, *notes),
    )


def _useful_counts(checkpoint: Checkpoint) -> Iterator[int]:
    """Expert counts worth a look that the model's router can have."""
    for share in SHARES:
        count = kept_count(checkpoint.experts, drop=share)
        try:
            first_experts(checkpoint, count)
        except PlanError:
            continue
        yield count


def _decide_layout(base: GgufBase, recipe: Recipe, imatrix: bool) -> GgufLayout:
    """The recipe's file, as with an importance matrix if it cannot do without."""
    layout = typed_layout(base, recipe, assume_imatrix=imatrix)
    if not imatrix and (recipe.imatrix or layout.needing_importance):
        return typed_layout(base, recipe, assume_imatrix=True)
    return layout


def _header_bytes(layout: GgufLayout) -> int | None:
    (size,) = layout.files.values()
    return None if size is None else size - _data_bytes(layout)


def _data_bytes(layout: GgufLayout) -> int:
    """Bytes of the tensors as they lie in the file, padding included."""
    alignment = alignment_of(layout.metadata)
    return sum(padded(info.nbytes, alignment) for info in layout.infos)


def _make_row(
    base: GgufBase,
    layout: GgufLayout,
    recipe: Recipe,
    count: int,
    context_bytes: int,
    header: int | None,
) -> FitRow:
    weights = sum(info.nbytes for info in layout.infos)
    return FitRow(
        experts=count,
        type=recipe.name,
        weights=weights,
        file=None if header is None else header + _data_bytes(layout),
        total=weights + context_bytes,
        bits_per_weight=8 * weights / base.parameters,
        fallback_tensors=sum(choice.fallback_from is not None for choice in layout.choices),
        needs_imatrix=recipe.imatrix or bool(layout.needing_importance),
    )
