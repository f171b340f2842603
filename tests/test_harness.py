"""Tasks of lm-eval, with our asking: really run, offline, against llama.cpp."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dataset_hub import dataset_hub, files_of
from lm_eval_tasks import write_choices, write_group, write_sums
from openai_server import completion, openai_server

from secateur.api.tasks import Answered, evidence_of
from secateur.cli.render.evidence import evidence_lines
from secateur.errors import EngineError, RequestError
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.protocol import Protocol
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.rate import rate_answer
from secateur.evaluation.asking.reply import Outcome, outcome_of
from secateur.evaluation.asking.server import ask_engine, ask_url
from secateur.evaluation.tasks.accounting import Account
from secateur.evaluation.tasks.asker import Asker
from secateur.evaluation.tasks.group import GroupResult, GroupRule
from secateur.evaluation.tasks.harness import (
    _explained,
    _metric,
    ask_harness,
    check_harness,
    name_in,
)
from secateur.evaluation.tasks.paired import compare_paired, wilson
from secateur.evaluation.tasks.request import Tasks
from secateur.evaluation.tasks.result import ItemResult, TaskResult
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


def test_an_accuracy_is_of_numbers_between_0_and_1() -> None:
    """truthfulqa_gen gives BLEU, of 0 to 100, before the share that was right."""
    metrics = {"metrics": ["bleu_max", "sometimes", "bleu_acc"]}
    samples = [
        {**metrics, "bleu_max": 23.1, "bleu_acc": 1, "sometimes": 1},
        {**metrics, "bleu_max": 0.4, "bleu_acc": 0},
    ]
    assert _metric(samples) == "bleu_acc"
    with pytest.raises(RequestError, match="no number between 0 and 1"):
        _metric([{"metrics": ["bleu_max"], "bleu_max": 23.1}])


def test_a_mistake_in_a_file_is_said_of_the_file() -> None:
    """A key that its data do not have was said to be a task that lm-eval does not know."""
    with (
        pytest.raises(RequestError, match=r"could not load or run mine.yaml .*'question'"),
        _explained([Path("mine.yaml")], []),
    ):
        raise KeyError("question")
    with pytest.raises(EngineError, match="run gsm8k"), _explained([], ["gsm8k"]):
        raise KeyError("question")


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
    with ask_engine(gemmule_server) as server:
        long = ({"role": "user", "content": "What is 3 + 4? " * 1000},)
        reply = server.ask(Question("t", "1", long, arguments={"continuation": "7"}), {})
    assert reply.error and outcome_of(reply) is Outcome.SERVER_ERROR  # and the rest is asked


@pytest.mark.slow
def test_an_answer_that_could_not_be_rated_is_none_that_wins(
    gemmule_server: EngineServer, tmp_path: Path
) -> None:
    from lm_eval.api.instance import Instance

    from secateur.evaluation.tasks.harness_model import AskingModel

    def rate(text: str) -> Instance:
        messages = json.dumps([{"role": "user", "content": text}])
        return Instance("loglikelihood", {}, (messages, "7"), 0, metadata=("t", 0, 1))

    with ask_engine(gemmule_server) as server, Ledger(tmp_path / "ledger") as ledger:
        model = AskingModel(Asker(server, RunLock("m", server.identity, {}), ledger, GREEDY))
        (chance, _), (none, _) = model.loglikelihood(
            [rate("What is 3 + 4?"), rate("What is 3 + 4? " * 1000)]
        )
    assert chance < 0 and none == -math.inf


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
            (sums, choices), groups = ask_harness(files, [], asker, None)
        kept = path.read_bytes()
        with Ledger(path) as ledger:
            again = ask_harness(files, [], Asker(server, lock, ledger, GREEDY), None)
    assert again == ((sums, choices), ()) and not groups
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


def test_a_group_counts_its_questions_or_its_tasks_the_same() -> None:
    def task(name: str, *scores: float) -> TaskResult:
        items = (
            ItemResult(name, str(n), Outcome.ANSWERED, score) for n, score in enumerate(scores)
        )
        return TaskResult(name, tuple(items), "hash", "1")

    results = [task("few", 1, 0), task("many", 0, 0, 0, 1, 0, 0), task("other", 1)]
    group = GroupResult("g", GroupRule(("few", "many"), True), "acc", 0.25, 0.1, 8)
    joined = group.joined(results)
    assert [item.item for item in joined.items][:3] == ["few/0", "few/1", "many/0"]
    assert Account(joined, group.weights(results)).accuracy == wilson(2, 8)
    # Wilson's of 0.25 * 0.75 / 0.2**2 questions; with a smaller error of as many as there are.
    assert replace(group, stderr=0.2).aggregate().low == pytest.approx(0.0509, abs=1e-4)
    assert group.aggregate().low == pytest.approx(wilson(2, 8).low)
    other = replace(group, is_share=False).aggregate()
    assert other.low == pytest.approx(0.25 - 1.96 * 0.1, abs=1e-4)
    for value, stderr in ((1.0, 0.0), (0.99, 0.3), (1.0, 0.1), (0.0, 0.0), (1 + 1e-12, 0.0)):
        found = replace(group, value=value, stderr=stderr).aggregate()
        assert 0 <= found.low < found.high <= 1  # type: ignore[operator]
    assert replace(group, stderr=None).aggregate().low is None
    apart = replace(group, rule=GroupRule(("few", "many"), False))
    account = Account(joined, apart.weights(results))
    mean = (1 / 2 + 1 / 6) / 2
    assert account.accuracy.value == account.as_read == account.best == pytest.approx(mean)
    better = [task("few", 1, 1), *results[1:]]
    before, after = (
        {item.item: (item.strict,) for item in apart.joined(of).items} for of in (results, better)
    )
    paired = compare_paired("g", before, after, weights=apart.weights(results))
    assert paired.difference.value == pytest.approx(1 / 4)
    assert (paired.flips.gained, paired.test) == (1, "permutation within clusters")
    assert compare_paired("g", before, after).difference.value == pytest.approx(1 / 8)


@pytest.mark.slow
@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_has_the_number_that_lm_eval_gives_it(
    gemmule_server: EngineServer, tmp_path: Path, by_size: bool
) -> None:
    from lm_eval_recorded import evaluate_recorded  # imports lm-eval

    file = write_group(tmp_path / "tasks", by_size)
    with ask_engine(gemmule_server) as server, Ledger(tmp_path / "ledger") as ledger:
        lock = RunLock("m", server.identity, GREEDY.sent())
        results, groups = ask_harness([file], [], Asker(server, lock, ledger, GREEDY), None)
    assert [(one.task, len(one.items)) for one in results] == [("local_few", 3), ("local_many", 6)]
    (group,) = groups
    answers = {
        (one.task, int(item.item)): item.facts["content"] for one in results for item in one.items
    }
    theirs = evaluate_recorded(answers, "local_group", file.parent)["groups"]["local_group"]
    assert group.metric == "exact_match, flexible-extract" and group.rule.by_size == by_size
    assert group.value == pytest.approx(theirs["exact_match,flexible-extract"])
    assert group.stderr == pytest.approx(theirs["exact_match_stderr,flexible-extract"])
    assert 0 < group.value < 1 and group.stderr and group.items == 9
    # Everything was answered, so that the strict number is the same.
    account = Account(group.joined(results), group.weights(results))
    assert account.as_read == pytest.approx(group.value)
    answered = Answered("original", results, lock, groups)
    numbers = evidence_of([answered, replace(answered, name="a")], Tasks((str(file),)))
    named = {
        entry.name: entry
        for entry in numbers.artefacts[1].measurements
        if entry.domain == group.group
    }
    assert named["aggregate"].value == group.value and named["accuracy_difference"].value == 0
    assert any("own number of each group" in str(line) for line in evidence_lines(numbers))


def hub_sets() -> dict[str, dict[str, bytes]]:
    """The data of four named tasks, in their own form."""
    sums = {
        split: [
            {"question": f"What is {n}+3?", "answer": f"So. #### {n + 3}"} for n in range(count)
        ]
        for split, count in (("train", 8), ("test", 3))
    }
    bones = {"subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 1}
    anatomy = [{"question": f"Which bone is number {n}?", **bones} for n in range(6)]
    wrong = {f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}
    hard = [{"Question": f"Why {n}?", "Correct Answer": "right", **wrong} for n in range(4)]
    rule = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"relation": None}]}
    told = [{"key": n, "prompt": f"Write {n} words without a comma.", **rule} for n in range(3)]
    return {
        "openai/gsm8k": files_of("main", sums),
        "cais/mmlu": files_of("anatomy", {"test": anatomy, "dev": anatomy}),
        "Idavidrein/gpqa": files_of("gpqa_diamond", {"train": hard}),
        "google/IFEval": files_of("default", {"train": told}),
    }


def answer_named(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    text = request["messages"][-1]["content"]
    if sums := re.findall(r"What is (\d+)\+3", text):
        return completion(f"That is #### {int(sums[-1]) + 3}")
    right = re.search(r"\((\w)\) right", text)
    return completion(f"The answer is ({right[1]})." if right else "B")


@pytest.mark.slow
def test_named_tasks_take_their_data_from_the_hub(tmp_path: Path) -> None:
    names = ["gsm8k", "mmlu_anatomy_generative", "gpqa_diamond_cot_zeroshot", "ifeval"]
    home = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_DATASETS_CACHE": str(tmp_path / "d"),
        "NLTK_DATA": str(tmp_path / "nltk"),  # which do not come from the hub
    }
    write_nltk_data(tmp_path / "nltk")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        home.pop(name, None)
    with openai_server(answer_named) as server, dataset_hub(hub_sets()) as hub:
        command = [sys.executable, "-m", "secateur", "measure", server.url, "--json"]
        command += ["--tasks", ",".join(names), "--task-limit", "2", "--work", str(tmp_path / "w")]

        def run(**more: str) -> subprocess.CompletedProcess[str]:
            there = {**home, **more}
            return subprocess.run(command, check=False, env=there, capture_output=True, text=True)

        online = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"}
        done = run(**online)
        assert done.returncode == 0, done.stderr
        fetched = list(hub.asked)
        # Fetched once; another run needs no network, and nothing is asked twice.
        asked = len(server.asked)
        again = run(HF_HUB_OFFLINE="1")
        assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout and len(server.asked) == asked
    assert {name.rpartition("/")[0].partition("/README")[0] for name in fetched} >= {
        "openai/gsm8k/main",
        "cais/mmlu/anatomy",
        "Idavidrein/gpqa/gpqa_diamond",
        "google/IFEval/default",
    }
    (model,) = json.loads(done.stdout)["artefacts"]
    found = {one["domain"]: one for one in model["measurements"] if one["name"] == "accuracy"}
    for name in names:
        assert (found[name]["value"], found[name]["n"]["items"]) == (1.0, 2)


@pytest.mark.slow
def test_named_tasks_without_a_hub_are_refused_in_one_line(tmp_path: Path) -> None:
    home = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    with openai_server(answer_named) as server:
        command = [sys.executable, "-m", "secateur", "measure", server.url, "-q"]
        command += ["--tasks", "gsm8k", "--work", str(tmp_path / "w")]
        done = subprocess.run(command, check=False, env=home, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = [one for one in done.stderr.splitlines() if "could not be had from the hub" in one]
    assert "gsm8k" in line and "HF_HUB_OFFLINE=1" in line and "./mine.yaml" in line
    assert "Traceback" not in done.stderr


def write_nltk_data(folder: Path) -> None:
    """The smallest model of sentences that NLTK reads, where NLTK_DATA is `folder`."""
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (english / name).write_text("")


@pytest.mark.slow
def test_what_ifeval_is_scored_with_is_there_before_anything_is_asked(tmp_path: Path) -> None:
    rules = {
        "change_case:capital_word_frequency": {
            "capital_relation": "at least",
            "capital_frequency": 2,
        },
        "length_constraints:number_sentences": {"relation": "at least", "num_sentences": 2},
    }
    told = [
        {"key": n, "prompt": "Write.", "instruction_id_list": [rule], "kwargs": [arguments]}
        for n, (rule, arguments) in enumerate(rules.items())
    ]
    hub_files = {"google/IFEval": files_of("default", {"train": told})}
    data = tmp_path / "nltk"
    home = {
        **os.environ, "HOME": str(tmp_path), "NLTK_DATA": str(data), "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hub"), "HF_DATASETS_CACHE": str(tmp_path / "d"),
    }  # fmt: skip
    with (
        openai_server(lambda request: completion("So LOUD it IS. Yes.")) as server,
        dataset_hub(hub_files) as hub,
    ):
        command = [sys.executable, "-m", "secateur", "measure", server.url, "--json", "-q"]
        command += ["--tasks", "ifeval", "--work", str(tmp_path / "w")]

        def run() -> subprocess.CompletedProcess[str]:
            there = {**home, "HF_ENDPOINT": hub.address}
            return subprocess.run(command, check=False, env=there, capture_output=True, text=True)

        done = run()
        assert done.returncode == 2 and not server.asked
        assert "Traceback" not in done.stderr
        (line,) = [one for one in done.stderr.splitlines() if "NLTK's data punkt_tab" in one]
        assert "python -m nltk.downloader punkt_tab" in line and "NLTK_DATA" in line
        write_nltk_data(data)
        done = run()
        assert done.returncode == 0, done.stderr
        assert len(server.asked) == 2
    (model,) = json.loads(done.stdout)["artefacts"]
    (right,) = [one for one in model["measurements"] if one["name"] == "accuracy"]
    assert (right["value"], right["n"]["items"]) == (1.0, 2)


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
