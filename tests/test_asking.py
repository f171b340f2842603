"""Questions to a served model: asked once, kept, and accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai_server import completion, openai_server

from secateur.errors import EngineError, OutputError
from secateur.evaluation.asking.ask import ask_all
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock, compare_locks
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Outcome, Reply, outcome_of, read_reply
from secateur.evaluation.asking.server import AskedServer, ask_engine, ask_url
from secateur.serving.chat_server import ChatServer, Drawing, NoAnswer
from secateur.serving.engine_server import EngineServer

SENT = {"temperature": 0.0, "seed": 7, "max_tokens": 40}


def question(text: str, number: int = 0, **arguments: object) -> Question:
    return Question(
        "sums", str(number), ({"role": "user", "content": text},), arguments=dict(arguments)
    )


@pytest.fixture(scope="module")
def asked(gemmule_server: EngineServer) -> Iterator[AskedServer]:
    with ask_engine(gemmule_server) as server:
        yield server


def lock_of(server: AskedServer, model: str = "m") -> RunLock:
    return RunLock(model, server.identity, SENT)


def test_replies_come_in_order_and_are_not_asked_for_again(
    asked: AskedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [question(f"What is {n} + 3?", n) for n in range(4)]
    thoughtless = [
        replace(one, arguments={"chat_template_kwargs": {"enable_thinking": False}})
        for one in questions
    ]
    lock = lock_of(asked)
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        replies = ask_all(thoughtless, asked, lock, ledger)
    assert [outcome_of(reply) for reply in replies] == [Outcome.ANSWERED] * 4
    assert [f"{n} + 3" in reply.content for n, reply in enumerate(replies)] == [True] * 4
    assert all(reply.completion_tokens and reply.finish == "stop" for reply in replies)

    monkeypatch.setattr(asked.chat, "complete", pytest.fail)
    with Ledger(path) as ledger:
        assert ask_all(thoughtless[::-1], asked, lock, ledger) == replies[::-1]


def test_an_error_is_a_reply_and_the_rest_is_asked(asked: AskedServer, tmp_path: Path) -> None:
    long = question("word " * 3000, 1)
    with Ledger(tmp_path / "l") as ledger:
        short, refused = ask_all([question("Hi", 0), long], asked, lock_of(asked), ledger)
        assert ledger.find(lock_of(asked).key(long)) == refused  # it would be refused again
    assert outcome_of(short) != Outcome.SERVER_ERROR
    assert outcome_of(refused) == Outcome.SERVER_ERROR
    assert "exceeds the available context size" in str(refused.error)


def test_a_thought_that_the_limit_ends_is_truncated_and_its_tokens_are_counted(
    asked: AskedServer,
) -> None:
    reply = asked.ask(question("What is 12 + 7?", max_tokens=6), SENT)
    assert outcome_of(reply) == Outcome.TRUNCATED
    assert (reply.content, reply.completion_tokens) == ("", 6)
    assert reply.reasoning and reply.thought_tokens


def test_a_budget_that_ends_a_thought_is_seen(asked: AskedServer) -> None:
    arguments = {"reasoning_budget_tokens": 5, "max_tokens": 200}
    reply = asked.ask(question("What is 12 + 7?", **arguments), SENT)
    assert outcome_of(reply) in (Outcome.BUDGET, Outcome.SWALLOWED)


def test_a_wrong_key_and_a_server_that_is_gone_end_the_run(
    gemmule_server: EngineServer, tmp_path: Path
) -> None:
    stranger = ask_engine(replace(gemmule_server, api_key="wrong"))
    with Ledger(tmp_path / "l") as ledger, pytest.raises(EngineError, match="status 401"):
        ask_all([question("Hi")], stranger, lock_of(stranger), ledger)
    waits: list[float] = []
    nobody = ChatServer("http://127.0.0.1:9", "nobody", retries=0)
    gone = AskedServer(nobody, {}, 1, wait=waits.append)
    with gone, pytest.raises(EngineError, match="kept"):
        gone.ask(question("Hi"), SENT)
    assert waits == [0.5, 1, 2, 4]
    with pytest.raises(EngineError, match="did not answer"):
        ask_url("http://127.0.0.1:9", "nobody")


def test_a_torn_last_line_is_cut_off_and_a_damaged_one_refused(tmp_path: Path) -> None:
    path, reply = tmp_path / "ledger", Reply("four", finish="stop", seconds=0.5)
    with Ledger(path) as ledger:
        ledger.add("a", question("one"), reply)
        ledger.add("b", question("two"), Reply(error="busy"))
        with pytest.raises(OutputError, match="another secateur process"):
            Ledger(path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:25])
    with Ledger(path) as ledger:
        assert ledger.find("a") == reply
        assert ledger.find("b") is None  # an error of the moment is asked again
        ledger.add("c", question("three"), reply)
    assert len(path.read_bytes().splitlines()) == 3
    path.write_bytes(whole[:20] + b"\n" + whole)
    with pytest.raises(OutputError, match="line 1 is damaged"):
        Ledger(path)


def test_an_error_that_comes_twice_is_kept_and_one_that_passes_is_not(tmp_path: Path) -> None:
    broken = {"error": {"message": "no match of the grammar", "type": "server_error"}}
    states = {"busy": 503, "always": 500, "never": 500, "once": 500}

    def answer(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        text = request["messages"][0]["content"]
        before = sum(one["messages"][0]["content"] == text for one in server.asked) - 1
        if text in ("once", "busy") and before % 2:
            return completion("yes")
        more = {"message": f"another one, {before}"} if text == "never" else {}
        return states[text], {"error": {**broken["error"], **more}}

    questions = [question(text, number) for number, text in enumerate(states)]

    def ask(**again: bool) -> list[str | None]:
        del server.asked[:]
        with Ledger(tmp_path / "l", **again) as ledger:
            replies = ask_all(questions, asked, lock_of(asked), ledger, parallel=1)
        assert [outcome_of(reply) for reply in replies] == [
            Outcome.SERVER_ERROR if reply.error else Outcome.ANSWERED for reply in replies
        ]
        return [one["messages"][0]["content"] for one in server.asked]

    with openai_server(answer) as server, ask_url(server.url) as whole:
        asked = AskedServer(whole.chat, whole.identity, 1, wait=lambda seconds: None)
        assert ask() == [one for one in states for _ in range(2)]
        assert ask() == ["never"] * 2  # another error each time: it may pass
        assert ask(retry_errors=True) == ["always"] * 2 + ["never"] * 2
        # Without a seed nothing is known of the next time.
        assert not asked.ask(question("always"), {"temperature": 1.0}).refused


def test_a_reply_survives_json() -> None:
    reply = Reply("a", "b", ({"id": "1"},), "stop", 3, 4, 1, "lost", True, {"A": -0.5}, 0.25)
    assert read_reply(json.loads(json.dumps(reply.to_json()))) == reply


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply("x", finish="stop"), Outcome.ANSWERED),
        (Reply(" ", "thought", finish="stop"), Outcome.EMPTY),
        (Reply("", tool_calls=({},), finish="tool_calls"), Outcome.ANSWERED),
        (Reply("x", finish="length"), Outcome.TRUNCATED),
        (Reply("x", finish="stop", swallowed="x"), Outcome.SWALLOWED),
        (Reply("x", "y", finish="stop", budget_hit=True), Outcome.BUDGET),
        (Reply("x", "y", finish="stop", budget_hit=False), Outcome.ANSWERED),
        (Reply(error="no"), Outcome.SERVER_ERROR),
    ],
)
def test_every_reply_has_one_outcome(reply: Reply, outcome: Outcome) -> None:
    assert outcome_of(reply) == outcome


def test_other_engines_are_compared_and_other_conditions_only_when_asked_for() -> None:
    llama = {"engine": "llama.cpp", "template_sha256": "t", "flags": {"cache": "F16"}}
    one = RunLock("a", llama, {"seed": 1}, data={"t": "0"})
    assert compare_locks("b", one, replace(one, model="b")) == (True, None)
    mlx = replace(one, server={"engine": "mlx-lm", "template_sha256": None, "flags": {}})
    compared, note = compare_locks("b", one, mlx)
    assert compared and "b was asked through mlx-lm and the original through llama.cpp" in str(note)
    for other in (
        replace(mlx, sent={"seed": 2}),
        replace(mlx, server={**mlx.server, "template_sha256": "another"}),
        replace(mlx, server={"engine": "unknown"}),
        replace(one, server={**llama, "flags": {"cache": "Q8_0"}}),
    ):
        assert not compare_locks("b", one, other).compared
        compared, note = compare_locks("b", one, other, anyway=True)
        assert compared and "although both were asked under different conditions (" in str(note)


def test_locks_say_in_what_they_differ() -> None:
    one = RunLock("a", {"version": "1", "flags": {"x": 1}}, {"seed": 1}, data={"t": "0"})
    same = replace(one, model="b")
    other = replace(same, server={"version": "2", "flags": {}}, data={})
    assert one.differences(same) == ()
    assert one.to_json()["sha256"] == same.to_json()["sha256"] != other.to_json()["sha256"]
    assert one.differences(other) == (
        "data.t: 0 and nothing",
        "server.flags.x: 1 and nothing",
        "server.version: 1 and 2",
    )
    asked = question("x", seed=1)
    assert one.key(asked) != same.key(asked) == replace(same, data={}).key(asked)
    assert one.key(asked) != one.key(replace(asked, arguments={"seed": 2}))


def test_a_page_in_the_place_of_an_answer_is_no_answer() -> None:
    """What a proxy, or the address of a server's own page, gives."""
    with openai_server(lambda request: (200, "<html>Log in.</html>")) as server:
        with ChatServer(server.url, retries=0) as chat:
            with pytest.raises(NoAnswer, match="no JSON of OpenAI's API"):
                chat.complete([{"role": "user", "content": "Hi"}], {})
            with pytest.raises(EngineError, match="no chat server"):
                chat.answer([{"role": "user", "content": "Hi"}], [], {}, Drawing(8, 0.0, 1))
        elsewhere = server.url.replace("/v1", "/page")
        with pytest.raises(NoAnswer, match=r"its base is named, as in http://localhost:8000/v1"):
            ChatServer(elsewhere, retries=0)
