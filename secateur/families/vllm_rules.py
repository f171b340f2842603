"""What a family's TOML says of vLLM: `[[vllm]]`.

vLLM reads tool calls and thoughts out of a reply with parsers that go by the marks of the chat
template; the one who serves a model has to name them. Models of one family can have templates with
other marks, so a row says which marks it is for, and where none fits, no parser is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VllmParsers:
    """[[vllm]]: the parsers for a chat template that holds the text `where`; the first row counts.

    `tool_call` is the name of `--tool-call-parser`, `reasoning` that of `--reasoning-parser`; one
    that vLLM needs not be told, or that is not known, is left out.
    """

    where: str
    tool_call: str | None = None
    reasoning: str | None = None


def find_parsers(rows: Iterable[VllmParsers], template: str) -> VllmParsers | None:
    """The parsers for a chat template; None where no row fits."""
    return next((row for row in rows if row.where in template), None)
