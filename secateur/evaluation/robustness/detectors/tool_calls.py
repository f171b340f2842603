"""The same tool called with the same arguments over and over."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from secateur.evaluation.robustness.detectors.base import Call, Exchange, Finding, Group


@dataclass(frozen=True)
class RepeatedToolCalls:
    """`strength` is how often one call was made: in this reply, and in the turns right before it
    that consist of it alone."""

    name: str = "repeated_tool_calls"
    title: str = "repeats a tool call"
    threshold: float = 3
    unit: str = "times one call"
    group: Group = "loop"

    def find(self, exchange: Exchange) -> Finding | None:
        if not exchange.calls:
            return None
        calls = [_canonical(call) for call in exchange.calls]
        counts = Counter(calls)
        for call in reversed([_canonical(call) for call in exchange.earlier_calls]):
            if call not in counts:
                break
            counts[call] += 1
        call, count = counts.most_common(1)[0]
        if count < 2:
            return None
        why = f"{call[0]} {count} times with the arguments {call[1]:.60}"
        return Finding(self.name, float(count), "tool_calls", calls.index(call), why)


def _canonical(call: Call) -> tuple[str, str]:
    """Equal for calls that differ in blanks and the order of keys only."""
    try:
        return call.name, json.dumps(json.loads(call.arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return call.name, " ".join(call.arguments.split())


DETECTORS = (RepeatedToolCalls(),)
