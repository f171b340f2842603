"""Thinking as it is asked for: the probe, by ids of tokens, and what an answer does not say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from documented_keys import unknown, unused
from openai_server import completion, openai_server

from secateur.api.subjects import Asked, url_subject
from secateur.api.tasks import measure_tasks
from secateur.evaluation.asking.probed import probe_once, rules_of
from secateur.evaluation.asking.request import Serving
from secateur.evaluation.asking.server import ask_engine, ask_url
from secateur.evaluation.tasks.request import Tasks
from secateur.release.keys import EVIDENCE_KEYS
from secateur.serving.answer_facts import WHOLE, message_of, read_facts
from secateur.serving.engine_server import EngineServer, serve_model
from secateur.serving.probe import Finding, _same_tokens, probe_by_text, probe_thinking
from secateur.serving.settings import ServerSettings, Thinking
from secateur.serving.thought_marks import ThoughtMarks, find_marks, tokenize

QUESTION = [{"role": "user", "content": "What is 12 + 7?"}]
DEFAULT = Thinking()
MARKS = ThoughtMarks((100, 651, 1652), 101, "<|channel>thought", "<channel|>")


def ask(server: EngineServer, thinking: Thinking = DEFAULT, **more: Any) -> Mapping[str, Any]:
    body = {"messages": QUESTION, "temperature": 0, **WHOLE, **thinking.request(), **more}
    found: Mapping[str, Any] = server.ask("/v1/chat/completions", body)
    return found


def without_ids(answer: Mapping[str, Any]) -> dict[str, Any]:
    """As a server answers that knows nothing of `verbose`."""
    return {key: value for key, value in answer.items() if key != "__verbose"}


def test_marks_are_the_models_own_tokens(gemmule_server: EngineServer) -> None:
    assert find_marks(gemmule_server) == MARKS
    assert MARKS.split((100, 651, 1652, 5, 23, 101, 7)) == ((5, 23), (7,))
    assert MARKS.split((5, 23, 101, 7)) == ((5, 23), (7,))  # the template opened it
    assert MARKS.split((100, 651, 1652, 5, 23)) == ((5, 23), None)
    assert MARKS.split((5, 23)) is None


def test_a_budget_is_proven_by_the_ids_of_tokens(gemmule_gguf: Path) -> None:
    thinking = Thinking(True, 12, " OK.")
    settings = ServerSettings(1024, workers=1, thinking=thinking)
    with serve_model(gemmule_gguf, settings) as server:
        found = probe_thinking(server, thinking)
        assert [finding.what for finding in found.findings] == [
            "thinking on", "budget of 8", "budget of 12 as the server is set",
        ]  # fmt: skip
        assert found.verdict == "yes"
        assert found.compared == "token ids"
        # A server that was set otherwise is found out.
        other = probe_thinking(server, replace(thinking, budget=11))
        assert other.verdict == "no"
        assert "DOES NOT HOLD" in other.sentences()[-1]
        longer = probe_thinking(server, replace(thinking, budget=16384))
        assert longer.verdict == "unknown"
        assert "not reached" in longer.findings[-1].seen


def test_a_budget_of_every_request_is_proven_before_the_first_question(
    gemmule_server: EngineServer, tmp_path: Path
) -> None:
    long, off = Thinking(True, 16384, " OK."), Thinking(False)
    with ask_engine(gemmule_server) as server:
        found = probe_once(server, "hash", long, tmp_path)
        assert found is not None and (found.verdict, found.compared) == ("yes", "token ids")
        assert [one.what for one in found.findings] == ["thinking on", "budget of 8"]
        assert probe_once(server, "hash", off, tmp_path).verdict == "yes"  # type: ignore[union-attr]
        assert probe_once(server, "hash", Thinking(), tmp_path) is None
        assert rules_of(found) == {}
    with ask_engine(gemmule_server) as server:  # it is kept: nothing is asked again
        server.chat._client.close()
        assert probe_once(server, "hash", long, tmp_path) == found


def test_a_server_that_ignores_a_budget_is_said_and_locked_apart(tmp_path: Path) -> None:
    """Its answers are not those of the protocol, whatever it is called."""

    def thinks(request: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        message = {"role": "assistant", "content": "19.", "reasoning": "so and so, " * 20}
        return completion("19.", message=message)

    def refuses(request: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        return 400, {"error": {"message": "no such field"}}

    with openai_server(thinks) as ignoring, openai_server(refuses) as other:
        subjects = [url_subject(name, one.url, None) for name, one in
                    (("original", ignoring), ("model", ignoring))]  # fmt: skip
        all_asked = Asked(tuple(subjects), Serving(), tmp_path / "a")
        protocol = tmp_path / "long.yaml"
        protocol.write_text("title: long\nthinking: {enabled: true, budget: 16}\n")
        request = Tasks(("gemmule-arithmetic",), protocol=str(protocol), limit=1)
        evidence, _ = measure_tasks(all_asked, request)
        body = [one for one in ignoring.asked if "reasoning_budget_tokens" in one]
        assert all("verbose" not in one and "cache_prompt" not in one for one in body)
        with ask_url(other.url) as server:
            found = probe_once(server, "m", Thinking(True, 16), tmp_path)
    thinking = {key: about for key, about in EVIDENCE_KEYS.items() if ".facts.thinking." in key}
    written = json.loads(json.dumps(evidence.to_json()))
    assert unknown(written, EVIDENCE_KEYS) == [] and unused([written], thinking) == []
    said = [note for note in evidence.notes if "budget of 8: DOES NOT HOLD" in note]
    assert len(said) == 2 and "by text and usage" in said[0]
    for model in evidence.artefacts:
        assert model.facts["thinking"]["verdict"] == "no"
        assert model.facts["lock"]["rules"]["thinking_not_as_asked"] == ["budget of 8"]
    assert found is not None and found.verdict == "unknown"
    assert "no such field" in found.sentences()[0] and rules_of(found) == {}


def test_a_server_that_thinks_though_it_should_not_is_found_out(
    gemmule_server: EngineServer,
) -> None:
    assert probe_thinking(gemmule_server, Thinking(False)).verdict == "yes"

    def stubborn(body: Mapping[str, Any]) -> Mapping[str, Any]:
        ignored = ("chat_template_kwargs", "reasoning_budget_tokens", "reasoning_budget_message")
        left = {key: value for key, value in body.items() if key not in ignored}
        return without_ids(gemmule_server.ask("/v1/chat/completions", left))

    assert probe_by_text(stubborn, Thinking(False)).verdict == "no"
    assert probe_by_text(stubborn, Thinking(True)).verdict == "yes"
    found = probe_by_text(stubborn, Thinking(True, 8))
    assert found.verdict == "no"
    assert found.compared == "text and usage"


def test_without_ids_text_and_usage_are_compared(gemmule_server: EngineServer) -> None:
    def plain(body: Mapping[str, Any]) -> Mapping[str, Any]:
        return without_ids(gemmule_server.ask("/v1/chat/completions", body))

    found = probe_by_text(plain, Thinking(True, 5, " OK."))
    assert found.verdict == "yes"
    assert isinstance(found.findings[-1], Finding)
    assert "tokens in all" in found.findings[-1].seen


def test_text_after_a_second_end_of_the_thought_is_found(gemmule_server: EngineServer) -> None:
    thinking = Thinking(True, 5)
    answer = ask(gemmule_server, thinking)
    facts = read_facts(answer, MARKS, thinking)
    assert facts.swallowed
    assert answer["__verbose"]["content"].endswith(facts.swallowed)
    assert facts.swallowed not in message_of(answer)["content"]
    assert (facts.unclosed, facts.thought_tokens, facts.budget_hit) == (False, 5, True)
    assert read_facts(without_ids(answer), MARKS, thinking).swallowed is None


def test_an_answer_of_which_nothing_is_lost(gemmule_server: EngineServer) -> None:
    thinking = Thinking(True, 200)
    facts = read_facts(ask(gemmule_server, thinking), MARKS, thinking)
    assert (facts.swallowed, facts.unclosed, facts.budget_hit, facts.seen) == (
        "", False, False, "tokens",
    )  # fmt: skip
    plain = read_facts(ask(gemmule_server, Thinking(False)), MARKS, Thinking(False))
    assert (plain.swallowed, plain.unclosed, plain.thought_tokens) == ("", False, 0)
    cut = read_facts(ask(gemmule_server, Thinking(False), stop=[" = "]), MARKS, Thinking(False))
    assert cut.swallowed == ""


def test_a_budget_with_a_message_is_seen_to_be_hit(gemmule_server: EngineServer) -> None:
    thinking = Thinking(True, 5, " OK.")
    count = len(tokenize(gemmule_server, thinking.message))
    facts = read_facts(ask(gemmule_server, thinking), MARKS, thinking, count)
    assert facts.budget_hit is True
    assert facts.thought_tokens == 5 + count


def test_a_thought_without_an_end_is_no_answer(gemmule_server: EngineServer) -> None:
    answer = ask(gemmule_server, Thinking(True), max_tokens=20)
    assert message_of(answer)["content"] == ""
    facts = read_facts(answer, MARKS, Thinking(True))
    assert (facts.unclosed, facts.swallowed) == (True, "")
    assert read_facts(without_ids(answer), MARKS, Thinking(True)).unclosed is None


def test_a_tool_call_is_not_taken_for_lost_text(gemmule_server: EngineServer) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    answer = ask(gemmule_server, tools=[tool], tool_choice="required", max_tokens=60)
    assert message_of(answer)["tool_calls"]
    assert read_facts(answer, MARKS, Thinking()).swallowed == ""


@pytest.mark.parametrize(
    ("message", "unclosed"),
    [
        ({"content": "Yes."}, False),
        ({"content": None, "reasoning": "I wonder"}, None),
        ({"content": "", "reasoning_content": "so", "tool_calls": [{}]}, False),
        ({"content": ""}, False),
    ],
)
def test_what_a_message_alone_tells(message: dict[str, Any], unclosed: bool | None) -> None:
    facts = read_facts({"choices": [{"message": message}]}, None, Thinking())
    assert (facts.unclosed, facts.swallowed, facts.seen) == (unclosed, None, "message")


def test_a_probe_says_where_an_answer_leaves_what_was_expected() -> None:
    assert _same_tokens("b", (1, 2, 3, 4), (1, 2, 3)).holds == "yes"
    assert _same_tokens("b", (1, 9, 3, 4), (1, 2, 3)).seen == "token 2 is not the one expected"
    for got in ((1, 2, 3), (1, 2), ()):
        found = _same_tokens("b", got, (1, 2, 3))
        assert found.holds == "no"
        assert found.seen == f"the answer ends after {len(got)} tokens, expected more"
