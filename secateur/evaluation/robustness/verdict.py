"""What became of a reply, in one word, with what was found in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from secateur.evaluation.robustness.detectors.base import GROUPS, Detector, Exchange, Finding
from secateur.evaluation.robustness.registry import all_detectors

Word = Literal["loop", "no_answer", "echo", "drift", "truncated", "sound"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word` is the gravest group that was found; where none was, "truncated" for a reply that was
    cut at its limit of tokens, and "sound" for one that ended by itself.

    `ended`: whether the model ended its reply; a loop that it left by itself is one still.
    """

    word: Word
    findings: tuple[Finding, ...]
    ended: bool

    def found(self, name: str) -> bool:
        """Whether the detector of that name found something."""
        return any(finding.detector == name for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {
            "verdict": self.word,
            "ended": self.ended,
            "findings": [finding.to_json() for finding in self.findings],
        }


def judge(exchange: Exchange, detectors: Sequence[Detector] | None = None) -> Verdict:
    """All that detectors (default: every one) find in a reply, and what it comes to."""
    named = all_detectors() if detectors is None else detectors
    found = [(detector, detector.find(exchange)) for detector in named]
    counted = [(one.group, finding) for one, finding in found if finding and counts(one, finding)]
    ended = exchange.finish != "length"
    groups = {group for group, _ in counted}
    word: Word = next(
        (group for group in GROUPS if group in groups), "sound" if ended else "truncated"
    )
    return Verdict(word, tuple(finding for _, finding in counted), ended)


def counts(detector: Detector, finding: Finding) -> bool:
    """Whether a finding is strong enough."""
    return finding.strength >= detector.threshold
