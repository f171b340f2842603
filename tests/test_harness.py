"""Tasks of lm-eval, with our asking: really run, offline, against llama.cpp."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from lm_eval_tasks import write_choices, write_sums

from secateur.errors import EngineError, RequestError
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.protocol import Protocol
from secateur.evaluation.asking.rate import rate_answer
from secateur.evaluation.asking.reply import Outcome
from secateur.evaluation.asking.server import ask_engine, ask_url
from secateur.evaluation.tasks.accounting import Account
from secateur.evaluation.tasks.asker import Asker
from secateur.evaluation.tasks.harness import ask_harness, check_harness, name_in
from secateur.serving.engine_server import EngineServer
from secateur.serving.settings import Thinking
from secateur.serving.thought_marks import tokenize

GREEDY = Protocol("greedy", thinking=Thinking(enabled=False))


def test_a_file_says_which_task_it_defines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write_sums(tmp_path)
    assert name_in(task) == "local_sums"
    odd = tmp_path / "odd.yaml"
    odd.write_text("title: odd\n")
    with pytest.raises(RequestError, match="no line `task: NAME`"):
        check_harness([odd], [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r'pip install "secateur\[tasks\]"'):
        check_harness([], ["gsm8k"])
    check_harness([], [])


def test_given_answers_are_rated_as_the_whole_vocabulary_says(gemmule_server: EngineServer) -> None:
    messages = [{"role": "user", "content": "What is 3 + 4?"}]
    rated = rate_answer(gemmule_server, messages, "3 + 4")
    other = rate_answer(gemmule_server, messages, "lantern")
    assert rated.loglikelihood is not None and other.loglikelihood is not None
    assert rated.loglikelihood > other.loglikelihood + 5
    asked = {"messages": messages, "chat_template_kwargs": {"enable_thinking": False}}
    prompt = gemmule_server.ask("/apply-template", asked)["prompt"]
    total = 0.0
    ids = list(tokenize(gemmule_server, "3 + 4"))
    assert rated.completion_tokens == len(ids)
    text = {"content": prompt, "add_special": True, "parse_special": True}
    start = gemmule_server.ask("/tokenize", text)["tokens"]
    for place, token in enumerate(ids):
        content = {"prompt": start + ids[:place], "n_predict": 1, "n_probs": 4096, "temperature": 0}
        (step,) = gemmule_server.ask("/completion", content)["completion_probabilities"][:1]
        total += next(one["logprob"] for one in step["top_logprobs"] if one["id"] == token)
    assert rated.loglikelihood == pytest.approx(total, abs=0.1)  # two shapes of batches


@pytest.mark.slow
def test_lm_eval_carries_tasks_and_every_answer_is_kept(
    gemmule_server: EngineServer, tmp_path: Path
) -> None:
    files = [write_sums(tmp_path / "a"), write_choices(tmp_path / "b")]
    path = tmp_path / "ledger"
    with ask_engine(gemmule_server) as server:
        lock = RunLock("m", server.identity, GREEDY.sent())
        with Ledger(path) as ledger:
            asker = Asker(server, lock, ledger, GREEDY)
            sums, choices = ask_harness(files, [], asker, None)
        kept = path.read_bytes()
        with Ledger(path) as ledger:
            again = ask_harness(files, [], Asker(server, lock, ledger, GREEDY), None)
    assert again == (sums, choices)
    assert path.read_bytes() == kept  # nothing was asked twice
    assert (sums.task, sums.metric, len(sums.items)) == (
        "local_sums",
        "exact_match, flexible-extract",
        5,
    )
    assert Account(sums).counts[Outcome.ANSWERED] + Account(sums).counts[Outcome.UNPARSED] == 5
    assert all(item.facts["completion_tokens"] for item in sums.items)
    assert [item.expected for item in sums.items] == ["4", "5", "6", "7", "8"]
    assert (choices.metric, Account(choices).accuracy.value) == ("acc", 1.0)


@pytest.mark.slow
def test_what_lm_eval_cannot_do_is_said(
    gemmule_server: EngineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", gemmule_server.api_key or "none")
    with (
        ask_url(gemmule_server.url, gemmule_server.alias) as server,
        Ledger(tmp_path / "l") as kept,
    ):
        asker = Asker(server, RunLock("m", {}, {}), kept, GREEDY)
        with pytest.raises(RequestError, match="local_choice compares log-probabilities"):
            ask_harness([write_choices(tmp_path)], [], asker, None)
        with pytest.raises((RequestError, EngineError), match="gsmm8k"):
            ask_harness([], ["gsmm8k"], asker, 1)
