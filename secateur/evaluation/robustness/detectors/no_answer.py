"""Replies without an answer: the thought that is never closed, and nothing at all.

A text or a tool call is an answer, however bad. That the limit of tokens came inside the thought
counts too: a user got nothing. Whether the thought went in circles is for others to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from secateur.evaluation.robustness.detectors.base import Exchange, Finding, Group, Part


@dataclass(frozen=True)
class UnclosedThought:
    """The model ended its turn inside its thought, so that no answer can follow."""

    name: str = "unclosed_thought"
    title: str = "ends inside its thought"
    threshold: float = 1
    unit: str = "1 for yes"
    group: Group = "no_answer"

    def find(self, exchange: Exchange) -> Finding | None:
        if _is_answered(exchange) or exchange.finish == "length" or not exchange.reasoning.strip():
            return None
        why = f"the turn ends in its thought, after {len(exchange.reasoning):,} characters of it"
        return Finding(self.name, 1.0, "reasoning", len(exchange.reasoning), why)


@dataclass(frozen=True)
class NoAnswer:
    """No text and no call came before the end of the turn, or before the limit of tokens."""

    name: str = "no_answer"
    title: str = "never answers"
    threshold: float = 1
    unit: str = "1 for yes"
    group: Group = "no_answer"

    def find(self, exchange: Exchange) -> Finding | None:
        if _is_answered(exchange):
            return None
        part: Part = "reasoning" if exchange.reasoning.strip() else "content"
        cut = exchange.finish == "length"
        if part == "content":
            why = "nothing but blanks up to the limit" if cut else "an empty reply"
        elif cut:
            why = f"the limit came after {len(exchange.reasoning):,} characters of thought"
        else:
            why = "the turn ends without an answer to its thought"
        return Finding(self.name, 1.0, part, len(exchange.reasoning), why)


def _is_answered(exchange: Exchange) -> bool:
    return bool(exchange.content.strip() or exchange.calls)


DETECTORS = (UnclosedThought(), NoAnswer())
