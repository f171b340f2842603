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
TOOLS = " ".join(f"t{number}" for number in range(90))
RULES = " ".join(f"s{number}" for number in range(40))


@pytest.mark.parametrize(
    ("calibrated", "kind", "seen"),
    [
        (QUESTION, "answers", True),
        (f"{RULES} {QUESTION} {REPLY}", "answers", True),
        (REPLY, "answers", False),  # the original wrote its own
        (RULES, "answers", False),  # a system prompt that many share
        (TOOLS, "answers", False),  # and tools
        (REPLY, "turns", True),
        (" ".join(REPLY.split()[:20]), "turns", False),  # a phrase of it
        (RULES, "turns", False),
        ("something else", "documents", False),
    ],
)
def test_what_counts_as_seen(calibrated: str, kind: Kind, seen: bool, tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    rules = f"<|turn>system\n{RULES}<|tool>{TOOLS}<tool|><turn|>\n"
    before = f"{rules}<|turn>user\n{QUESTION}<turn|>\n<|turn>model\n<|channel>thought\n"
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


def test_a_short_question_is_found_as_a_whole(tmp_path: Path) -> None:
    """What a chat template writes for the answer to begin with is no part of it."""
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    asked = "<|turn>user\nHow late is it?<turn|>\n<|turn>model\n<|channel>thought\n"
    ids = tuple(tokenizer(asked)["input_ids"])
    answers = AnswerSet((Answer("a", "all", "answers", (*ids, 20), len(ids), "stop"),), {})
    assert find_seen("out", answers, tokenizer, hashes_of(["How late is it?"])).seen == 1
    assert find_seen("out", answers, tokenizer, hashes_of(["How late?"])).seen == 0
