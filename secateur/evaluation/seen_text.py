"""Was an artefact calibrated on what divergence is measured on?

Calibration chooses which experts stay, and what they lose least on is what it saw. An output's own
calibration holds out what it is measured on; answers that were named, and those that another
output held out, may be in it all the same. They are looked for as the questions of tasks are
(evaluation.tasks.contamination): in hashes of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.corpus.text_hashes import TextHashes, Turn, control_ids, read_turns
from secateur.evaluation.tasks.contamination import find_overlap
from secateur.evaluation.tokens.answers import Answer, AnswerSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_OF_IT = 0.5
"""Share of a text's runs of words from which on it counts as seen: phrases that many texts share
are no copy."""
_FEW = 0.02
"""Share of texts up to which it does not decide the numbers: short questions are asked again."""
_NOT_SAID = ("system", "developer", "tool")
"""Roles whose text many conversations share."""


@dataclass(frozen=True, slots=True)
class SeenText:
    """How many of the answers, turns or documents that are measured on an artefact was calibrated
    on; `seen` is None where the text of its calibration is not known."""

    artefact: str
    measured_on: int
    seen: int | None

    def describe(self) -> str:
        """One line."""
        if self.seen is None:
            return (
                f"{self.artefact}: whether it was calibrated on what is measured on here is not "
                "known (no hashes of its calibration's text lie beside it)"
            )
        if not self.seen:
            return f"{self.artefact} was calibrated on none of what is measured on here"
        said = (
            f"{self.artefact} was calibrated on {self.seen} of the {self.measured_on} texts that "
            "are measured on here"
        )
        if self.seen <= _FEW * self.measured_on:
            return said
        return (
            f"{said}: its numbers are better than they would be on others; measure on text that "
            "it did not see (--corpus, --prompts or --answers)"
        )

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {"artefact": self.artefact, "measured_on": self.measured_on, "seen": self.seen}


def find_seen(
    artefact: str,
    answers: AnswerSet,
    tokenizer: PreTrainedTokenizerBase,
    calibrated: TextHashes,
) -> SeenText:
    """Look for what is measured on in the text that an artefact was calibrated on.

    Of an answer of the original it is the conversation before it that is looked for, of turns and
    documents all that is said, but for what stands before the first user's turn. Seen is what is a
    passage there, or has half of its runs of words in it.
    """
    control = control_ids(tokenizer)
    texts = {}
    for number, answer in enumerate(answers.answers):
        ids = answer.input_ids[: answer.begin if answer.kind == "answers" else None]
        turns = read_turns(np.array(ids, np.int64), tokenizer, control)
        texts[str(number)] = _said(answer, turns)
    found = find_overlap(artefact, texts, calibrated).found
    seen = [one for one in found if one.whole or (one.share or 0.0) >= MOST_OF_IT]
    return SeenText(artefact, len(answers.answers), len(seen))


def _said(answer: Answer, turns: list[Turn]) -> str:
    """What a conversation says of its own: instructions and declarations of tools, before its first
    user's turn, are those of many. What is asked of the original ends with the last one."""
    asked = [place for place, turn in enumerate(turns) if turn.role == "user"]
    begin = asked[0] if asked else 0
    end = asked[-1] + 1 if asked and answer.kind == "answers" else len(turns)
    return " ".join(turn.text for turn in turns[begin:end] if turn.role not in _NOT_SAID)
