"""The memory that llama.cpp takes to run a model: weights, key-value cache, and a rule of thumb.

Counted as llama.cpp does by default for one sequence (src/llama-context.cpp, llama-kv-cache.cpp,
llama-kv-cache-iswa.cpp): keys and values in F16; the context padded to 256 cells; a layer with a
sliding window keeps the window and one micro-batch of 512 tokens, padded to 256, if that is less.
A layer that takes its keys from another has no cells. What a family keeps of a token is in its
`[memory]` table, as expressions (checkpoint/expected_tensors.py says what names mean):

    keys, values      elements per token in a layer
    cached            whether the layer has cells of its own (default: it has)
    window            its sliding window in tokens, 0 or absent for the whole context

The compute buffer depends on the device and on options; it is not counted, except for what is
mostly its largest part, the logits of one micro-batch in F32. That is an estimate: for gemmule
llama.cpp's buffer was 0.97 to 1.19 times as large (contexts of 300 to 2048 tokens).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from secateur.checkpoint.expected_tensors import Facts
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import FamilyError, PlanError
from secateur.families.schema import MemoryRules
from secateur.formats.gguf.container import padded

CONTEXT = 32768
"""Tokens of context that are counted when none are named; fewer if the model has fewer."""

MICRO_BATCH = 512
"""llama.cpp's n_ubatch."""

_CELLS = 256
_F16, _F32 = 2, 4


@dataclass(frozen=True)
class Cells:
    """Layers of one kind: how many, how many tokens each keeps, and what that takes in bytes."""

    layers: int
    window: int
    tokens: int
    bytes: int


@dataclass(frozen=True)
class ContextMemory:
    """What a context takes besides the weights, in bytes; `shared` layers have no cells."""

    context: int
    cells: tuple[Cells, ...]
    shared: int
    logits: int

    @property
    def cache(self) -> int:
        """Bytes of the key-value cache."""
        return sum(kind.bytes for kind in self.cells)

    @property
    def bytes(self) -> int:
        """Bytes of all that is counted here."""
        return self.cache + self.logits

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "context": self.context,
            "kv_cache_bytes": self.cache,
            "kv_cache": [
                {"layers": c.layers, "window": c.window, "tokens": c.tokens, "bytes": c.bytes}
                for c in self.cells
            ],
            "layers_without_cache": self.shared,
            "logits_bytes": self.logits,
            "rule": RULE,
        }


RULE = (
    "keys and values in F16, one sequence, micro-batches of 512 tokens; of the compute buffer only "
    "the logits of one micro-batch in F32"
)
"""What the numbers rest on, for people."""


def context_memory(checkpoint: Checkpoint, context: int | None = None) -> ContextMemory:
    """What llama.cpp takes for a context of so many tokens (default: CONTEXT or the model's own).

    Raises PlanError for a context that the model does not have, FamilyError for a family without
    a [memory] table.
    """
    facts = Facts(checkpoint.family, checkpoint.config)
    wanted = _context(facts, context)
    table = checkpoint.family.memory
    if table is None:
        raise FamilyError(
            f"the family {checkpoint.family.name!r} has no [memory] table, so its cache is not "
            f"known: add one to {checkpoint.family.file}"
        )
    cells, layers, shared = padded(wanted, _CELLS), Counter[tuple[int, int, int]](), 0
    for layer in range(checkpoint.layers):
        if not facts.value(table.cached, layer):
            shared += 1
            continue
        window = facts.size(table.window, layer) if facts.value(table.window, layer) else 0
        kept = padded(min(cells, window + MICRO_BATCH), _CELLS) if window else cells
        layers[window, kept, _per_token(facts, table, layer)] += 1
    return ContextMemory(
        context=wanted,
        cells=tuple(
            Cells(count, window, kept, count * kept * elements * _F16)
            for (window, kept, elements), count in sorted(layers.items())
        ),
        shared=shared,
        logits=min(MICRO_BATCH, wanted) * facts.size("vocab") * _F32,
    )


def _per_token(facts: Facts, table: MemoryRules, layer: int) -> int:
    """Elements that a layer keeps of a token."""
    return sum(int(facts.value(size, layer)) for size in (table.keys, table.values))


def _context(facts: Facts, wanted: int | None) -> int:
    longest = facts.value("max_position_embeddings")
    if wanted is None:
        return min(CONTEXT, longest) if type(longest) is int and longest > 0 else CONTEXT
    if wanted < 1:
        raise PlanError(f"--context is {wanted}, expected at least 1 token")
    if type(longest) is int and wanted > longest:
        raise PlanError(
            f"--context is {wanted}, but the model was made for at most {longest} tokens "
            "(max_position_embeddings)"
        )
    return wanted
