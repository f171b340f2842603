"""What is measured on is found in the text that an artefact was calibrated on, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_contamination import hashes_of
from tiny_tokenizer import save_tokenizer

from secateur.corpus.text_hashes import control_ids, read_turns
from secateur.corpus.tokenizer import load_tokenizer
from secateur.evaluation.seen_text import find_seen
from secateur.evaluation.tokens.answers import Answer, AnswerSet, Kind

QUESTION = " ".join(f"q{number}" for number in range(20))
REPLY = " ".join(f"r{number}" for number in range(60))
RULES = " ".join(f"s{number}" for number in range(40))


@pytest.mark.parametrize(
    ("calibrated", "kind", "seen"),
    [
        (QUESTION, "answers", True),
        (f"{RULES} {QUESTION} {REPLY}", "answers", True),
        (REPLY, "answers", False),  # the original wrote its own
        (RULES, "answers", False),  # a system prompt that many share
        (REPLY, "turns", True),
        (" ".join(REPLY.split()[:20]), "turns", False),  # a phrase of it
        (RULES, "turns", False),
        ("something else", "documents", False),
    ],
)
def test_what_counts_as_seen(calibrated: str, kind: Kind, seen: bool, tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    before = f"<|turn>system\n{RULES}<turn|>\n<|turn>user\n{QUESTION}<turn|>\n<|turn>model\n"
    ids = tokenizer(before + f"{REPLY}<turn|>")["input_ids"]
    begin = len(tokenizer(before)["input_ids"])
    answers = AnswerSet((Answer("a", "all", kind, tuple(ids), begin, "stop"),), {})
    found = find_seen("out", answers, tokenizer, hashes_of([calibrated]))
    assert (found.measured_on, found.seen) == (1, int(seen))
    assert ("measure on text that it did not see" in found.describe()) is seen


def test_a_few_short_questions_that_are_asked_again_decide_nothing(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    texts = [f"what is {number}" for number in range(100)]
    answers = AnswerSet(
        tuple(
            Answer(text, "all", "documents", tuple(tokenizer(text)["input_ids"]), 1, "given")
            for text in texts
        ),
        {},
    )
    said = find_seen("out", answers, tokenizer, hashes_of(texts[:2])).describe()
    assert said == "out was calibrated on 2 of the 100 texts that are measured on here"
    assert "none of" in find_seen("out", answers, tokenizer, hashes_of(["no"])).describe()
    assert "better than" in find_seen("out", answers, tokenizer, hashes_of(texts[:3])).describe()


def test_turns_come_with_their_roles(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer("<|turn>user\nHow?<turn|>\n<|turn>model\nSo.<turn|>\nuser of it")["input_ids"]
    turns = read_turns(np.array(ids, np.int64), tokenizer, control_ids(tokenizer))
    assert turns == [("user", "How?"), ("model", "So."), ("", "\nuser of it")]
