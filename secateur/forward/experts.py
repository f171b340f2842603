"""The one experts function, which transformers calls for every family of fused experts.

transformers 5 sends every fused-experts module through ALL_EXPERTS_FUNCTIONS. Ours either runs
the experts at once, or, when the calling thread is a member of an ExpertBatch
(forward.expert_batch), dispatches the tokens of all members together: a product with 32 rows runs
at half the speed of one with 256, and each expert is widened once for all of them.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from torch import Tensor, nn

from secateur.forward.expert_work import ExpertInput, ExpertObserver, ExpertWork

IMPLEMENTATION = "secateur"
"""The name under which the function is registered with transformers."""


class BatchMember(Protocol):
    """A micro-batch that a backend runs."""

    @property
    def observer(self) -> ExpertObserver | None:
        """What sees the experts of its group."""

    number: int
    """Its place in the group."""

    def dispatch(self, module: nn.Module, given: ExpertInput) -> Tensor:
        """The experts' output for this input, [t, H]."""


CURRENT_MEMBER: ContextVar[BatchMember | None] = ContextVar("secateur_batch_member", default=None)
"""The member that this thread computes; None runs its experts alone."""


def dispatch_experts(
    self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """transformers' experts interface: hidden [T, H], index [T, K], weights [T, K] -> [T, H]."""
    given = ExpertInput(hidden_states, top_k_index, top_k_weights)
    member = CURRENT_MEMBER.get()
    if member is not None:
        return member.dispatch(self, given).to(hidden_states.dtype)
    work = ExpertWork(self, [given], None)
    work.help()
    return work.results()[0].to(hidden_states.dtype)


def register() -> None:
    """Make `experts_implementation="secateur"` known to transformers; safe to call again."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, dispatch_experts)


def is_experts(module: nn.Module) -> bool:
    """True for a fused-experts module that transformers dispatches through the interface."""
    return hasattr(module, "_apply_gate") and hasattr(module, "is_transposed")
