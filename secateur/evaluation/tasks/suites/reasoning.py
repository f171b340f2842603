"""Reasoning, procedurally generated: chosen generators of reasoning-gym, with its verifiers.

reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760) makes an item of a generator from a seed
and checks answers by computing; nothing is downloaded, and no list of the questions can have been
trained on. Chosen are generators whose answer is a word, a number or a short list, whatever its
layout. An answer is right when the verifier gives it all points, or when it is the reference but
for case and a full stop; the verifiers' parts of points do not count.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.errors import RequestError
from secateur.evaluation.tasks.suites.base import Answer, Item, Score, ask

GENERATORS: Mapping[str, Mapping[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 5, "max_digits": 3},
    "basic_arithmetic": {"max_terms": 4, "max_digits": 2},
    "gcd": {},
    "simple_equations": {},
    "number_sequence": {},
    "base_conversion": {"max_base": 10},
    "calendar_arithmetic": {},
    "leg_counting": {"max_animals": 5},
    "letter_counting": {},
    "spell_backward": {},
    "caesar_cipher": {"max_words": 8},
    "word_sorting": {"max_words": 6},
    "syllogism": {},
    "family_relationships": {},
    "knights_knaves": {"n_people": 2},
    "zebra_puzzles": {"num_people": 3, "num_characteristics": 3},
    "course_schedule": {},
    "self_reference": {"difficulty": 3},
    "aiw": {},
    "maze": {"max_grid_size": 7, "max_dist": 8},
}
"""Generators in the order in which items are drawn from them, and how hard their items are."""

ASKED = (
    "{}\n\nThink step by step. Write the final answer, and nothing else, between <answer> and "
    "</answer>."
)
MISSING = "the suite reasoning needs reasoning-gym: pip install 'secateur[tasks]'"
_TOKENS = 2048
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Sums, dates, words, puzzles and logic, each item made and checked by a program."""

    name: str = "reasoning"
    title: str = "procedurally generated reasoning (reasoning-gym): sums, dates, words, logic"
    version: int = 1

    def items(self, seed: int, count: int) -> tuple[Item, ...]:
        """In turn from every generator."""
        if count < 1 or seed < 0:
            raise RequestError(f"{self.name}: {count} items of seed {seed}, expected at least 1")
        found = []
        for number in range(count):
            kind = tuple(GENERATORS)[number % len(GENERATORS)]
            index = number // len(GENERATORS)
            entry = _dataset(kind, seed, index)[index]
            expected = {"seed": seed, "index": index, "answer": entry["answer"]}
            messages = ask(ASKED.format(entry["question"].strip()))
            found.append(
                Item(f"{self.name}-{seed}-{number}", messages, expected, kind, tokens=_TOKENS)
            )
        return tuple(found)

    def score(self, item: Item, answer: Answer) -> Score:
        read = read_answer(answer.content)
        if read is None:
            return Score(0.0, None)
        seed, index = item.expected["seed"], item.expected["index"]
        data = _dataset(item.kind, seed, index)
        try:
            points = data.score_answer(read, data[index])
        except Exception:  # a verifier of somebody else's, given any text
            points = 0.0
        same = _plain(read) == _plain(str(item.expected["answer"]))
        return Score(float(same or points >= 1), read)


def read_answer(content: str) -> str | None:
    """What stands in the last pair of tags; None without one."""
    found = _ANSWER.findall(content)
    return found[-1].strip() if found else None


def _dataset(kind: str, seed: int, index: int) -> Any:
    try:
        module: Any = importlib.import_module("reasoning_gym")
    except ImportError:
        raise RequestError(MISSING) from None
    return module.create_dataset(kind, size=index + 1, seed=seed, **GENERATORS[kind])


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()


SUITES = (Reasoning(),)
