"""What an output was measured on, in sentences: who wrote it, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from secateur.system.sizes import show_count

KINDS: Mapping[Literal["answers", "turns", "documents"], str] = {
    "answers": "answers of the original",
    "turns": "conversations of the corpus (its own assistant turns)",
    "documents": "documents of plain text",
}
"""What can be measured on, in the order in which numbers count, and what it is called."""


def describe_measured_on(answers: Mapping[str, Any]) -> list[str]:
    """Sentences of a report's `answers`, without their full stops."""
    provenance = answers.get("provenance", {})
    counts = [f"{answers[kind]:,} {name}" for kind, name in KINDS.items() if answers.get(kind)]
    return [
        f"measured on {', and apart from them '.join(counts)} ({answers['tokens']:,} tokens)",
        *_held_out(provenance.get("held_out")),
        *_written_by(answers, provenance.get("written_by")),
    ]


def _held_out(facts: Mapping[str, Any] | None) -> list[str]:
    """Where they come from, when a corpus held them out."""
    if facts is None:
        return []
    corpora = facts.get("corpora", [facts])
    found = [
        f"{one['share']:.3g} of the documents of {one['corpus']}, held out before calibration: "
        f"{show_count(one['documents'], 'document')}, {one['tokens']:,} tokens"
        for one in corpora
    ]
    if facts.get("seen_left_out"):
        found.append(
            f"{facts['seen_left_out']:,} of these are left out, because the statistics saw them"
        )
    return found


def _written_by(answers: Mapping[str, Any], writer: Any) -> list[str]:
    """Who wrote the answers, and how many were cut."""
    if not answers.get("answers"):
        return []
    found = []
    if isinstance(writer, Mapping):
        source = (
            f"came from {writer['model']} at {writer['server']}"
            if "server" in writer
            else f"was written by a GGUF of the original ({writer['gguf']}, sha256 "
            f"{writer['sha256'][:12]})"
        )
        found.append(
            f"the text of the answers {source}; the probabilities are those of the original itself"
        )
    if cut := answers.get("finishes", {}).get("length"):
        found.append(f"{cut:,} of the answers were cut at the longest that was allowed")
    return found
