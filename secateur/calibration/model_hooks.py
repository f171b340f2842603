"""The hooks on a decoder layer that see what no interface passes on.

The experts are observed through forward.experts; the inputs of dense linears through one pre-hook
each, the router's scores through one hook on the router.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from secateur.calibration.device_observer import DeviceObserver
from secateur.calibration.group_observer import GroupObserver
from secateur.calibration.linear_names import name_linears
from secateur.families.schema import Family
from secateur.forward.experts import CURRENT_MEMBER, is_experts


def hook_layer(module: nn.Module, prefix: str, family: Family, layer: int) -> ExitStack:
    """Watch a loaded decoder layer; close the stack to stop.

    Puts the router's scores and the linears' inputs into the group's observer.
    """
    stack = ExitStack()
    router = family.fill(family.router.module, layer).removeprefix(prefix + ".")
    as_logits = torch.log if family.router.output == "probabilities" else (lambda scores: scores)

    def note_scores(_: nn.Module, __: Any, output: Any) -> None:
        observer, member = _find_member()
        if observer is not None:
            observer.scored(member, as_logits(output[0].float()))

    def note_inputs(name: str) -> Callable[[nn.Module, Any], None]:
        def note(_: nn.Module, arguments: Any) -> None:
            observer, member = _find_member()
            if observer is not None:
                observer.linear(member, name, arguments[0])
                if not name.startswith(f"{prefix}.{router}"):  # never rounded to a few bits
                    observer.gram_inputs(member, name, arguments[0])

        return note

    def note_expert_inputs(_: nn.Module, arguments: Any) -> None:
        observer, member = _find_member()
        if observer is not None and observer.gram is not None:
            observer.gram_inputs(member, observer.gram.outer_name, arguments[0])

    for child, name in name_linears(module, prefix).items():
        stack.callback(child.register_forward_pre_hook(note_inputs(name)).remove)
    for path, child in module.named_modules():
        if path == router and any(is_experts(other) for other in module.modules()):
            stack.callback(child.register_forward_hook(note_scores).remove)
        if is_experts(child):
            stack.callback(child.register_forward_pre_hook(note_expert_inputs).remove)
    return stack


def _find_member() -> tuple[GroupObserver | DeviceObserver | None, int]:
    """The observer of the group that this thread's micro-batch belongs to, and its number there."""
    member = CURRENT_MEMBER.get()
    if member is not None and isinstance(member.observer, GroupObserver | DeviceObserver):
        return member.observer, member.number
    return None, 0
