"""Thinking as it is asked for: the probe, by ids of tokens, and what an answer does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secateur.serving.answer_facts import WHOLE, message_of, read_facts
from secateur.serving.engine_server import EngineServer, serve_model
from secateur.serving.probe import Finding, probe_by_text, probe_thinking
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
