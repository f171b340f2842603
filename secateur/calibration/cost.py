"""What a calibration will cost, known before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.calibration.block_error import most_tokens
from secateur.calibration.removal_search import count_flops
from secateur.calibration.routing import routing_of
from secateur.checkpoint.inspection import inspect_checkpoint
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus
from secateur.statistics.token_sample import REROUTE_TOKENS


@dataclass(frozen=True)
class Cost:
    """Floating point operations of a calibration.

    `forward` is the pass itself (two per active parameter and token, attention over the context
    left out), `reroute` what the criterion `rerouted` adds.
    """

    forward: float
    reroute: float

    def sentence(self) -> str:
        """For a person, before the run."""
        text = f"about {self.forward / 1e12:.3g} TFLOP for the pass"
        if not self.reroute:
            return text
        return text + (
            f" and {self.reroute / 1e12:.3g} TFLOP ({self.reroute / self.forward:.2f} times that) "
            "to solve the criterion 'rerouted'"
        )


def cost_of(checkpoint: Checkpoint, corpus: Corpus, reroute_tokens: int = REROUTE_TOKENS) -> Cost:
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
    return Cost(
        forward=2.0 * active * corpus.tokens,
        reroute=per_layer * len(checkpoint.moe_layers) if sampled else 0.0,
    )


def limit_sample(checkpoint: Checkpoint, tokens: int) -> int:
    """As many of the wanted sample tokens as fit into block_error's memory limit."""
    ranks = routing_of(checkpoint.family, checkpoint.config).ranks(checkpoint.experts)
    return min(tokens, most_tokens(ranks, norm=checkpoint.family.post_norm is not None))


def _is_gated(checkpoint: Checkpoint) -> bool:
    """True when the experts have a gate projection, alone or with the up projection."""
    return any(row.role in ("expert.gate", "expert.gate_up") for row in checkpoint.family.rows)
