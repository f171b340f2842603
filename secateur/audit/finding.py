"""What an audit finds: a statement, what it must be, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "other unit", "wrong", "unproven", "unchecked"]
"""holds: it must be so. other unit: so in another unit than the one written (GiB for GB). wrong: it
cannot be so. unproven: the numbers given do not carry it. unchecked: nothing here decides it."""

VERDICTS: tuple[Verdict, ...] = ("wrong", "unproven", "other unit", "holds", "unchecked")
"""In the order in which people want to see them."""


@dataclass(frozen=True)
class Finding:
    """One statement and what became of it.

    `topic` is the kind of statement ("file size", "template"), `said` the words, `line` where they
    stand in the card (None: in the file itself), `must` what the shape gives, `reason` how.
    """

    topic: str
    said: str
    verdict: Verdict
    must: str
    reason: str
    line: int | None = None

    def sentence(self) -> str:
        """One line for people."""
        where = f"line {self.line}: " if self.line is not None else ""
        must = f" -> {self.must}" if self.must else ""
        return f"{where}{self.said}{must} ({self.reason})"


def sorted_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """Once each, the gravest first, then by line."""
    unique = dict.fromkeys(findings)
    return tuple(
        sorted(unique, key=lambda f: (VERDICTS.index(f.verdict), f.line or 0, f.topic, f.said))
    )
