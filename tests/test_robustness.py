"""Degenerate replies are found, from where they begin; what only looks so is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelled_texts import Labelled, labelled
from text_material import prose

from secateur.errors import CorpusError, InputError
from secateur.evaluation.robustness.detectors.base import Call, Exchange, Finding
from secateur.evaluation.robustness.plan import plan_names
from secateur.evaluation.robustness.prompts import loop_prompts, share
from secateur.evaluation.robustness.registry import all_detectors
from secateur.evaluation.robustness.verdict import Verdict, judge

HARD = {"cases", "inserts", "accessors", "schedule", "log", "json_array", "tests"}
"""Sound texts of which some are taken for loops (benchmarks/loops.json says how many)."""


def kinds() -> dict[str, list[Labelled]]:
    found: dict[str, list[Labelled]] = {}
    for one in labelled(4, seed=5):
        found.setdefault(one.kind, []).append(one)
    return found


KINDS = kinds()


def finding(verdict: Verdict, name: str) -> Finding:
    return next(one for one in verdict.findings if one.detector == name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_labelled_reply_is_judged_as_its_label_says(kind: str) -> None:
    for one in KINDS[kind]:
        verdict = judge(one.exchange)
        if one.label:
            assert verdict.word == one.label, verdict
        elif kind not in HARD:
            cut = one.exchange.finish == "length"
            assert verdict.word == ("truncated" if cut else "sound"), verdict


def test_every_detector_says_where_and_why() -> None:
    """And each finds something among the labelled replies, so that none is there for nothing."""
    found: dict[str, Finding] = {}
    for one in (one for of in KINDS.values() for one in of):
        for seen in judge(one.exchange).findings:
            found[seen.detector] = seen
            text = dict(one.exchange.texts()).get(seen.part, "")
            assert 0 <= seen.begins <= max(len(text), len(one.exchange.calls))
            assert seen.why and "\n" not in seen.why
    assert set(found) == {detector.name for detector in all_detectors()}


def test_a_loop_begins_where_its_first_copy_does() -> None:
    start = "First we read the file and count its lines, which takes a moment. "
    text = start + "So I should check the lines again. " * 9 + "So I should ch"
    verdict = judge(Exchange("How many lines?", text, finish="length"))
    begins = finding(verdict, "repeated_suffix").begins
    assert abs(begins - len(start)) <= 2  # the point before it is the last copy's point too
    assert not verdict.ended and verdict.word == "loop"


def test_a_run_is_found_in_the_middle_of_a_reply() -> None:
    text = "It is " + "own " * 30 + "and that was all that there was to say."
    found = finding(judge(Exchange("What is it?", text)), "single_token_run")
    assert (found.begins, found.strength) == (6, 30)
    assert '"own" 30 times' in found.why


def test_a_loop_without_blanks_is_one() -> None:
    for unit in ("_is", "ab", "0x1f,", "の中の"):
        assert judge(Exchange("Go on.", unit * 60, finish="length")).word == "loop", unit


def test_a_loop_that_was_left_is_a_loop_and_says_that_the_reply_ended() -> None:
    import random

    chance = random.Random(1)
    text = "We look at the second row once more and add it. " * 20 + prose(chance, 80)
    verdict = judge(Exchange("Add the rows.", text))
    assert verdict.word == "loop" and verdict.ended
    assert not verdict.found("repeated_suffix") and verdict.found("repeated_ngrams")


def test_what_was_asked_to_be_repeated_is_no_loop_until_it_goes_on() -> None:
    line = "The lamp is by the window and nobody moved it.\n"
    asked = "Write the sentence exactly 12 times."
    assert judge(Exchange(asked, line * 12, copies=12)).word == "sound"
    assert judge(Exchange(asked, line * 60, finish="length", copies=12)).word == "loop"


def test_a_limit_inside_the_thought_is_no_answer_but_no_unclosed_thought() -> None:
    thought = "One has to look at the middle first, because it decides what follows."
    cut = judge(Exchange("Why?", "", thought, finish="length"))
    ended = judge(Exchange("Why?", "", thought, finish="stop"))
    assert cut.word == ended.word == "no_answer"
    assert not cut.found("unclosed_thought") and ended.found("unclosed_thought")


def test_text_that_the_server_swallowed_may_loop_and_is_no_answer() -> None:
    kept_back = Exchange("Why?", swallowed="It is so because of it. " * 20, finish="length")
    assert judge(kept_back).word == "loop" and judge(kept_back).found("no_answer")


def test_calls_are_the_same_whatever_the_order_of_their_arguments() -> None:
    calls = (Call("get", '{"a": 1, "b": 2}'), Call("get", '{"b":2,"a":1}'))
    found = judge(Exchange("Get it.", calls=calls, earlier_calls=calls[:1]))
    assert finding(found, "repeated_tool_calls").strength == 3
    other = (Call("get", '{"a": 2}'),)
    assert judge(Exchange("Get it.", calls=calls, earlier_calls=(*calls, *other))).word == "sound"


def test_the_shipped_plan_has_hundreds_of_different_prompts_in_five_domains() -> None:
    found = loop_prompts("general", 300, seed=0)
    texts = [str(prompt.messages[0]["content"]) for prompt in found.prompts]
    assert len(set(texts)) == 300 and not any("{" in text for text in texts)
    domains = [prompt.domain for prompt in found.prompts]
    assert {domain: domains.count(domain) for domain in domains} == dict.fromkeys(
        ("coding", "math_reasoning", "philosophy", "long_context", "repetition_stress"), 60
    )
    assert found.prompts == loop_prompts("general", 300, seed=0).prompts
    assert found.prompts != loop_prompts("general", 300, seed=1).prompts
    assert min(len(text) for text, domain in zip(texts, domains, strict=True)
               if domain == "long_context") > 5000  # fmt: skip


def test_a_plan_of_ones_own_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "domains:\n  sums:\n    templates: ['What is {a} + {b}?']\n"
        "    slots: {a: [1, 2], b: [3, '{a}4']}\n"
    )
    found = loop_prompts(str(path), 4, seed=0)
    assert len({prompt.messages[0]["content"] for prompt in found.prompts}) == 4
    with pytest.raises(InputError, match="different prompts of sums"):
        loop_prompts(str(path), 40, seed=0)
    path.write_text("domains: {sums: {templates: ['{c}'], slots: {a: [1]}}}")
    with pytest.raises(InputError, match="no slot 'c'"):
        loop_prompts(str(path), 1, seed=0)
    path.write_text("domains: {sums: {templates: ['{a}'], slots: {a: ['{a}']}}}")
    with pytest.raises(InputError, match="without end"):
        loop_prompts(str(path), 1, seed=0)
    with pytest.raises(InputError, match=", ".join(plan_names())):
        loop_prompts("no-such-plan", 1, seed=0)


def test_prompts_of_ones_own_lose_the_answer_and_are_shared_among_domains(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    line = '{"domain": "%s", "messages": [{"role": "user", "content": "q%d"}, %s]}\n'
    answer = '{"role": "assistant", "content": "a"}'
    path.write_text("".join(line % ("ab"[n > 0], n, answer) for n in range(6)))
    found = loop_prompts(str(path), 4, seed=0)
    assert [prompt.domain for prompt in found.prompts] == ["a", "b", "b", "b"]
    assert all(len(prompt.messages) == 1 for prompt in found.prompts)
    assert share({"a": 9, "b": 1, "c": 9}, 8) == {"a": 4, "b": 1, "c": 3}
    named = '{"id": "x", "messages": [{"role": "user", "content": "q%d"}]}\n'
    path.write_text("".join(named % n for n in range(2)))
    with pytest.raises(CorpusError, match=r"own.jsonl:2: another conversation of all has the id"):
        loop_prompts(str(path), 2, seed=0)  # two prompts would count as one
