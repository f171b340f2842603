"""What a detector of degenerate replies is: a number per reply, and from where on it counts.

A detector is one file in this folder (docs/extending.md has a worked example) with a tuple
`DETECTORS`; `registry.py` finds it, and rates, reports and the benchmark of detectors follow. It
looks at the text alone, never at why a reply ended: a reply that was cut at its limit is no loop
for that, and a loop is one although the model got out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Part = Literal["reasoning", "content", "swallowed", "tool_calls"]
Group = Literal["loop", "no_answer", "echo", "drift"]
GROUPS: tuple[Group, ...] = ("loop", "no_answer", "echo", "drift")
"""What a finding means, the gravest first: a reply that loops is not also counted as empty."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call: the tool's name, and its arguments as text (JSON where the model obeyed)."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A reply, and what it answers: all that detectors see.

    `prompt` is the text of the last message before the reply, `earlier_calls` the calls that the
    conversation ends with, made one after the other with nothing else between. `swallowed` is text
    that the model wrote and the server kept back: it may loop, but is no answer. `finish` is the
    server's word ("stop", "length", "tool_calls"). `copies`: how often the prompt itself asks for
    something to be repeated, 1 where it does not.
    """

    prompt: str
    content: str = ""
    reasoning: str = ""
    swallowed: str = ""
    calls: tuple[Call, ...] = ()
    earlier_calls: tuple[Call, ...] = ()
    finish: str = "stop"
    copies: int = 1

    def texts(self) -> tuple[tuple[Part, str], ...]:
        """The texts that the model wrote, in its order, without those that are empty."""
        written: tuple[tuple[Part, str], ...] = (
            ("reasoning", self.reasoning),
            ("content", self.content),
            ("swallowed", self.swallowed),
        )
        return tuple((part, text) for part, text in written if text)


@dataclass(frozen=True, slots=True)
class Finding:
    """The strongest sign of one kind in a reply, be it strong enough or not.

    `begins` is where in `part` it begins: a character of the text, or the number of a call.
    `why` says in words what was seen there.
    """

    detector: str
    strength: float
    part: Part
    begins: int
    why: str

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {
            "detector": self.detector,
            "strength": round(self.strength, 4),
            "part": self.part,
            "begins": self.begins,
            "why": self.why,
        }


class Detector(Protocol):
    """One way in which a reply can be degenerate."""

    @property
    def name(self) -> str:
        """As in reports: `repeated_suffix`."""
        ...

    @property
    def title(self) -> str:
        """What it finds, in a few words: "ends in a repetition"."""
        ...

    @property
    def unit(self) -> str:
        """What `strength` counts."""
        ...

    @property
    def group(self) -> Group:
        """What a finding means."""
        ...

    @property
    def threshold(self) -> float:
        """The strength from which a finding counts, chosen on one half of labelled texts and tried
        on the other (benchmarks/loops.json)."""
        ...

    def find(self, exchange: Exchange) -> Finding | None:
        """The strongest sign in a reply; None where there is not the least."""
        ...


def strongest(findings: Mapping[Part, Finding | None]) -> Finding | None:
    """The finding of the greatest strength, the earlier part first."""
    found = [finding for finding in findings.values() if finding is not None]
    return max(found, key=lambda finding: finding.strength, default=None)


def quote(text: str, most: int = 60) -> str:
    """The beginning of a text for a message, on one line."""
    flat = " ".join(text.split())
    return f'"{flat[:most]}…"' if len(flat) > most else f'"{flat}"'
