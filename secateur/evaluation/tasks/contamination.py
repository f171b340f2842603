"""Was the model calibrated on what it is asked? The questions of a task, looked for in the text.

Calibration chooses which experts stay. Where it saw the questions, the score says how well the
model answers those, and not how well it answers others. An item is looked for in two ways: all its
words as a passage of the calibration (a document, or one turn), and its runs of 13 words. What was
looked in is kept as hashes next to the statistics (corpus.text_hashes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from secateur.corpus.text_hashes import (
    LENGTH,
    RunHasher,
    TextHashes,
    find_runs,
    has_passage,
    split_words,
)
from secateur.evaluation.measurement import Measurement
from secateur.system.sizes import show_count

NOT_CHECKED = (
    "overlap with the calibration was not checked: the output holds no hashes of its text "
    "(it was not calibrated here, the statistics of its plan were gone, or it is of an older "
    "version)"
)
_WORST = 5
"""Items that are named."""


class ItemOverlap(NamedTuple):
    """An item, the share of its runs that are in the calibration (None where it has none that
    could be looked for), and whether all of it is a passage there."""

    item: str
    share: float | None
    whole: bool


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of a task's items is in the calibration's text.

    `found` are the items with anything in it, the worst first. `words` and `text_words` are the
    sizes of both sides; `sampled` is the share of the text's runs that were kept to look in.
    """

    task: str
    items: int
    words: int
    found: tuple[ItemOverlap, ...]
    documents: int
    text_words: int
    sampled: float

    @property
    def share(self) -> float:
        """Items with anything of them in the calibration, as a share of all."""
        return len(self.found) / self.items if self.items else 0.0

    def describe(self) -> str:
        """One line, to be printed with the score."""
        whole = sum(item.whole for item in self.found)
        questions = show_count(self.items, "question")
        if self.found:
            worst = self.found[0]
            much = "all of it" if worst.whole else f"{100 * (worst.share or 0):.0f} % of its runs"
            said = (
                f"{len(self.found)} of {questions} overlap with the calibration, "
                f"{whole} of them are in it as a whole; most of {worst.item}: {much}"
            )
        else:
            said = f"none of {questions} is in the calibration"
        sample = "" if self.sampled == 1 else f", {100 * self.sampled:.3g} % of its runs looked in"
        return (
            f"{self.task}: {said} (looked for as a whole and by {LENGTH} words in a row: "
            f"{self.words:,} words of questions in {self.text_words:,} words of "
            f"{show_count(self.documents, 'document')}{sample})"
        )

    def measurement(self) -> Measurement:
        """The share of items with an overlap, of the kind "tasks"."""
        n = {"items": self.items, "documents": self.documents}
        return Measurement(
            "calibration_overlap", self.share, "share of items", n, domain=self.task, kind="tasks"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON: the sizes, and the worst items by name."""
        return {
            "task": self.task,
            "items": self.items,
            "items_found": len(self.found),
            "items_found_whole": sum(item.whole for item in self.found),
            "worst": [item._asdict() for item in self.found[:_WORST]],
            "words": self.words,
            "calibration_documents": self.documents,
            "calibration_words": self.text_words,
            "calibration_runs_looked_in": self.sampled,
            "run_length": LENGTH,
        }


def find_overlap(task: str, items: Mapping[str, str], text: TextHashes) -> Overlap:
    """Look for the items of a task, {id: text}, in what was calibrated on."""
    hasher = RunHasher()
    found: list[ItemOverlap] = []
    size = 0
    for item, content in items.items():
        words = split_words(content)
        size += len(words)
        whole = has_passage(words, text)
        same, looked_for = find_runs(words, text, hasher)
        if whole or same:
            found.append(ItemOverlap(item, same / looked_for if looked_for else None, whole))
    found.sort(key=lambda one: (not one.whole, -(one.share or 0.0), one.item))
    kept = len(text.runs) / text.all_runs if text.all_runs else 1.0
    return Overlap(task, len(items), size, tuple(found), text.documents, text.words, kept)


def text_of_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """What is looked for of a question: the text of its last user turn, without a system prompt,
    examples before it, and tools, which many items share."""
    for message in reversed(messages):
        content = message.get("content")
        if message.get("role") == "user" and isinstance(content, str):
            return content
        if message.get("role") == "user" and isinstance(content, list):
            return "\n".join(str(part.get("text", "")) for part in content)
    return ""
