"""What a calibration will cost, known before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from secateur.calibration.block_error import most_tokens
from secateur.calibration.removal_search import count_flops
from secateur.calibration.routing import routing_of
from secateur.checkpoint.inspection import inspect_checkpoint
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus
from secateur.statistics.gram import GramKind, stored_numbers
from secateur.statistics.token_sample import GRAM_TOKENS, REROUTE_TOKENS
from secateur.system.sizes import show_bytes


@dataclass(frozen=True)
class Cost:
    """Floating point operations of a calibration.

    `forward` is the pass itself (two per active parameter and token, attention over the context
    left out), `reroute` what the criterion `rerouted` adds, and `gram` the Gram matrices, of which
    a file of about `gram_bytes` is made.
    """

    forward: float
    reroute: float
    gram: float = 0.0
    gram_bytes: int = 0

    def sentence(self) -> str:
        """For a person, before the run."""
        text = f"about {self.forward / 1e12:.3g} TFLOP for the pass"
        more = []
        if self.gram:
            more.append(f"{self._share(self.gram)} for Gram matrices")
        if self.reroute:
            more.append(f"{self._share(self.reroute)} to solve the criterion 'rerouted'")
        text = " and ".join([text, *more])
        if self.gram:
            text += f"; the Gram matrices take about {show_bytes(self.gram_bytes)} of disk"
        return text

    def _share(self, flops: float) -> str:
        return f"{flops / 1e12:.3g} TFLOP ({flops / self.forward:.2f} times that)"


def cost_of(
    checkpoint: Checkpoint,
    corpus: Corpus,
    reroute_tokens: int = REROUTE_TOKENS,
    gram: GramKind | None = None,
    gram_tokens: int = GRAM_TOKENS,
) -> Cost:
    """What calibrating a checkpoint on a corpus will cost. Reads headers only."""
    family, config = checkpoint.family, checkpoint.config
    sampled = min(limit_sample(checkpoint, reroute_tokens), corpus.tokens)
    per_layer = count_flops(
        routing_of(family, config).ranks(checkpoint.experts),
        sampled,
        family.number(config, "hidden"),
        family.number(config, "expert_width"),
        gated=_is_gated(checkpoint),
        norm=family.post_norm is not None,
    )
    embedding = family.number(config, "vocab") * family.number(config, "hidden")
    active = inspect_checkpoint(checkpoint).active - embedding
    inputs = () if gram is None else list_inputs(checkpoint, gram)
    counted = min(gram_tokens or corpus.tokens, corpus.tokens)
    return Cost(
        forward=2.0 * active * corpus.tokens,
        reroute=per_layer * len(checkpoint.moe_layers) if sampled else 0.0,
        gram=sum(
            2.0 * stored_numbers(one.columns) * (one.each * corpus.tokens if one.each else counted)
            for one in inputs
        ),
        gram_bytes=sum(8 * one.matrices * stored_numbers(one.columns) for one in inputs),
    )


class LinearInput(NamedTuple):
    """An input that linear layers share: its columns, its Gram matrices, and into how many of an
    expert's every token goes; 0: the input is the layer's, of the tokens that are chosen."""

    columns: int
    matrices: int
    each: int


def list_inputs(checkpoint: Checkpoint, kind: GramKind) -> list[LinearInput]:
    """The inputs of all linear layers, as the names and shapes of their weights tell: those of one
    module with as many columns are taken to be one, except for what leads out of it."""
    found: dict[tuple[int, str, bool, int], LinearInput] = {}
    for name, place in checkpoint.matches.items():
        shape = checkpoint.specs[name].shape
        if place.layer is None or len(shape) < 2 or place.role.split(".")[0] not in _ROUNDED:
            continue
        module = checkpoint.family.running_name(place).removesuffix(".weight").rpartition(".")[0]
        experts, _, part = place.role.rpartition(".")
        inner = experts == "expert" and part == "down"
        if inner and kind == "shared":
            continue
        one = LinearInput(
            shape[-1], checkpoint.experts if inner else 1, checkpoint.top_k if inner else 0
        )
        found[place.layer, module, part in ("o", "down"), shape[-1]] = one
    return list(found.values())


_ROUNDED = ("attention", "dense", "shared", "expert")
"""Roles, before the dot, of the weights that are rounded to a few bits."""


def limit_sample(checkpoint: Checkpoint, tokens: int) -> int:
    """As many of the wanted sample tokens as fit into make_grams' memory limit."""
    ranks = routing_of(checkpoint.family, checkpoint.config).ranks(checkpoint.experts)
    return min(tokens, most_tokens(ranks, norm=checkpoint.family.post_norm is not None))


def _is_gated(checkpoint: Checkpoint) -> bool:
    """True when the experts have a gate projection, alone or with the up projection."""
    return any(row.role in ("expert.gate", "expert.gate_up") for row in checkpoint.family.rows)
