"""Tasks: put to a served model, accounted for, and compared with the original."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai_server import openai_server
from tiny_line import Run
from vllm_server import answer_as_vllm

from secateur.errors import RequestError
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.protocol import Protocol, SecondPass, find_protocol, protocols
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Outcome, Reply, reply_of
from secateur.evaluation.asking.server import ask_engine, ask_url
from secateur.evaluation.tasks.accounting import Account
from secateur.evaluation.tasks.asker import Asker
from secateur.evaluation.tasks.find import find_tasks
from secateur.evaluation.tasks.result import ItemResult, TaskResult
from secateur.evaluation.tasks.second_pass import ask_again, most_probable
from secateur.evaluation.tasks.suite_task import ask_suite
from secateur.evaluation.tasks.suites.registry import SUITES
from secateur.release.evidence import read_evidence, read_items
from secateur.release.manifest import verify
from secateur.serving.answer_facts import AnswerFacts
from secateur.serving.engine_server import EngineServer
from secateur.serving.settings import Thinking

GREEDY = Protocol("greedy", thinking=Thinking(enabled=False))


def result(*outcomes: tuple[Outcome, float | None, float | None]) -> TaskResult:
    items = tuple(
        ItemResult(
            "t", str(number), outcome, score, patched=patched, facts={"completion_tokens": 7}
        )
        for number, (outcome, score, patched) in enumerate(outcomes)
    )
    return TaskResult("t", items, "hash", "1")


def test_every_question_is_accounted_for_before_there_is_an_accuracy() -> None:
    account = Account(
        result(
            (Outcome.ANSWERED, 1.0, None),
            (Outcome.BUDGET, 0.0, None),
            (Outcome.EMPTY, None, 1.0),
            (Outcome.TRUNCATED, None, 0.0),
            (Outcome.SWALLOWED, 1.0, None),
            (Outcome.SERVER_ERROR, None, None),
        )
    )
    assert sum(account.counts.values()) == 6 and account.counts[Outcome.UNPARSED] == 0
    assert account.accuracy.value == pytest.approx(1 / 6)
    assert account.as_read == pytest.approx(2 / 6)  # half of an answer was there, and right
    assert account.best == pytest.approx(5 / 6)
    assert account.patched is not None and account.patched.value == pytest.approx(2 / 6)
    named = {entry.name: entry for entry in account.measurements()}
    assert (named["patched_items"].value, named["completion_tokens_median"].value) == (2, 7)
    assert {entry.domain for entry in named.values()} == {"t"}
    assert Account(result((Outcome.ANSWERED, 0.5, None))).patched is None
    with pytest.raises(ValueError, match="no questions"):
        Account(result())


def test_lengths_say_of_how_many_replies_they_are_and_count_those_without_a_thought() -> None:
    facts = [{"thought_tokens": tokens} for tokens in (0, 0, 300)] + [{}]
    items = [
        ItemResult("t", str(n), Outcome.ANSWERED, 1.0, facts=one) for n, one in enumerate(facts)
    ]
    named = {
        entry.name: entry for entry in Account(TaskResult("t", tuple(items), "", "")).measurements()
    }
    median = named["thought_tokens_median"]
    assert (median.value, median.n) == (0, {"items": 3})
    assert named["accuracy"].n == {"items": 4}
    silent = Account(TaskResult("t", tuple(items[:2]), "", "")).measurements()
    assert not any(entry.name.startswith("thought_tokens") for entry in silent)  # nobody thought
    answer = {"choices": [{"message": {"content": "B"}}], "usage": {}}
    assert reply_of(answer, AnswerFacts(thought_tokens=0), 0.0).thought_tokens == 0


def test_a_suite_is_asked_and_checked(gemmule_server: EngineServer, tmp_path: Path) -> None:
    suite = SUITES["gemmule-arithmetic"]
    with ask_engine(gemmule_server) as server, Ledger(tmp_path / "l") as ledger:
        lock = RunLock("m", server.identity, GREEDY.sent())
        asker = Asker(server, lock, ledger, GREEDY)
        found = ask_suite(suite, asker, 0, 6)
        assert ask_suite(suite, asker, 0, 6) == found
    assert [item.item for item in found.items] == [item.id for item in suite.items(0, 6)]
    account = Account(found)
    assert account.counts[Outcome.ANSWERED] > 4
    assert 0 < account.accuracy.value < 1  # as good as gemmule is at it, and no better


def test_a_question_that_does_not_fit_into_a_slot_is_refused(
    gemmule_server: EngineServer, tmp_path: Path
) -> None:
    protocol = Protocol("long", max_tokens=1000)
    with ask_engine(gemmule_server) as server, Ledger(tmp_path / "l") as ledger:
        asker = Asker(server, RunLock("m", {}, protocol.sent()), ledger, protocol)
        with pytest.raises(RequestError, match="longest question of gemmule-chat needs 10"):
            ask_suite(SUITES["gemmule-chat"], asker, 0, 3)


def test_the_cards_protocols_are_what_the_cards_say() -> None:
    first = find_protocol("gpqa-thinking-16k")
    sampler = first.sampler
    assert (sampler.temperature, sampler.top_p, sampler.top_k) == (1.0, 0.95, 64)
    assert (sampler.dry_multiplier, sampler.seed) == (0.5, 42)
    assert (first.thinking.budget, first.max_tokens, first.context) == (16384, 24576, 32768)
    assert first.second_pass is not None and first.second_pass.prefill == "The answer is ("
    assert first.sent()["reasoning_budget_tokens"] == 16384
    second = find_protocol("generative-50")
    assert (second.limit, second.shots, second.thought_end) == (50, 0, "<channel|>")
    assert second.thinking.enabled is True


def test_a_protocol_is_read_strictly(tmp_path: Path) -> None:
    assert all(find_protocol(name).title for name in protocols())
    path = tmp_path / "mine.yaml"
    path.write_text("title: mine\nsampler: {temperatur: 1}\n")
    with pytest.raises(RequestError, match=r"mine.yaml:2.*did you mean 'temperature'"):
        find_protocol(str(path))
    path.write_text("title: mine\nsecond_pass: {of: [nothing]}\n")
    with pytest.raises(RequestError, match="expected some of answered, budget hit"):
        find_protocol(str(path))
    with pytest.raises(RequestError, match="there is no protocol 'gpqa'; there are default"):
        find_protocol("gpqa")


def test_the_tokens_of_an_answer_leave_room_for_the_thought() -> None:
    assert GREEDY.tokens(100, 2048) == 100
    assert Protocol("p").tokens(100, 2048) == 100 + 1024
    assert Protocol("p", thinking=Thinking(budget=50)).tokens(100, 2048) == 150
    assert Protocol("p", max_tokens=7).tokens(100, 2048) == 7


def test_names_are_sorted_by_where_tasks_come_from(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("task: mine\n")
    found = find_tasks(("reasoning", str(mine), "gsm8k"))
    assert [suite.name for suite in found.suites] == ["reasoning"]
    assert (found.files, found.harness) == ((mine,), ("gsm8k",))
    with pytest.raises(RequestError, match="expected a task of lm-eval in YAML"):
        find_tasks(("nowhere.yaml",))


def test_the_second_pass_takes_the_most_probable_letter_of_what_gave_no_answer(
    gemmule_server: EngineServer, tmp_path: Path
) -> None:
    protocol = Protocol("two passes", second_pass=SecondPass())
    text = "Which is a fruit? (A) apple (B) stone (C) 7 (D) rain"
    asked = Question("t", "0", ({"role": "user", "content": text},))
    kinds = (Outcome.EMPTY, Outcome.ANSWERED, Outcome.TRUNCATED, Outcome.UNPARSED)
    items = tuple(
        ItemResult("t", str(n), kind, None, expected="(A)", question=replace(asked, id=str(n)))
        for n, kind in enumerate(kinds)
    )
    with ask_engine(gemmule_server) as server, Ledger(tmp_path / "l") as ledger:
        asker = Asker(server, RunLock("m", server.identity, protocol.sent()), ledger, protocol)
        found = ask_again(TaskResult("t", items, "hash", "1"), asker)
        words = replace(items[0], expected="apple")
        same = TaskResult("t", (words,), "hash", "1")
        assert ask_again(same, asker) == same
    patched = [item.patched for item in found.items]
    assert patched[0] == patched[2] is not None and patched[1] is patched[3] is None
    assert most_probable(Reply(first_token={"B": -3, " B": -3, "A)": -2.5, "x": -1}), "AB") == "B"
    assert most_probable(Reply(first_token={"x": -1}), "AB") is None


def test_the_second_pass_is_what_vllm_takes(tmp_path: Path) -> None:
    protocol = Protocol("two passes", second_pass=SecondPass())
    asked = Question("t", "0", ({"role": "user", "content": "Which? (A) x (B) y"},))
    items = tuple(
        ItemResult("t", str(n), Outcome.EMPTY, None, expected="(B)", question=replace(asked, id=n))
        for n in "01"
    )
    chances = {"A": 0.3, " B": 0.3, "B": 0.25, "no": 0.1}

    def answer(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if request["messages"][0]["content"] == "refuse":
            return 400, {"error": {"message": "no probabilities here"}}
        return answer_as_vllm(request, chances, "")

    with (
        openai_server(answer) as server,
        ask_url(server.url) as connected,
        Ledger(tmp_path / "l") as ledger,
    ):
        asker = Asker(connected, RunLock("m", {}, protocol.sent()), ledger, protocol)
        refused = replace(asked, messages=({"role": "user", "content": "refuse"},))
        found = ask_again(
            TaskResult("t", (items[0], replace(items[1], question=refused)), "hash", "1"), asker
        )
    # 0.55 for B in two ways of writing it. What is not answered is not patched.
    assert [item.patched for item in found.items] == [1.0, None]
    (request, *_) = server.asked
    assert request["messages"][-1] == {"role": "assistant", "content": "The answer is ("}
    assert (request["add_generation_prompt"], request["continue_final_message"]) == (False, True)
    assert request["max_tokens"] == 1


@pytest.mark.slow
def test_tasks_are_measured_and_written_with_everything_else(
    gemmule_gguf: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(gemmule_gguf.parent, out)
    words = (
        f"measure {out} --against gemmule --tasks gemmule-arithmetic,gemmule-chat --task-limit 8 "
        "--slots 2 --workers 1 --per-domain 1 --answer-tokens 8"
    ).split()
    code, printed, errors = run(*words)
    assert code == 0, errors
    assert "what became of every question" in printed
    assert "overlap with the calibration was not checked" in " ".join(printed.split())
    evidence = read_evidence(out, "tasks")
    assert evidence is not None
    assert [one.name for one in evidence.artefacts] == ["original", gemmule_gguf.name]
    original, artefact = evidence.artefacts
    assert original.value("accuracy_difference", "gemmule-chat", "tasks") is None
    assert artefact.value("accuracy_difference", "gemmule-chat", "tasks") is not None
    assert artefact.facts["lock"]["sha256"] == original.facts["lock"]["sha256"]
    assert len(read_items(out, "tasks", "original/gemmule-chat")) == 8
    assert not verify(out)
    first = (out / "evidence/tasks.json").read_bytes()
    code, printed, errors = run(*words, "--json")
    assert code == 0, errors
    assert json.loads(printed)["tasks"]["facts"]["protocol"] == "default"
    assert (out / "evidence/tasks.json").read_bytes() == first
