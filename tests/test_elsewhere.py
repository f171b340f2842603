"""Tasks of what is no output of ours: any server by its address, and logs of inspect-ai."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from counting_proxy import CountingProxy, counting_proxy
from lm_eval_tasks import write_sums
from openai_server import Answer, completion, openai_server
from tiny_line import Run

from secateur.errors import RequestError
from secateur.evaluation.asking.reply import Outcome
from secateur.evaluation.tasks.accounting import Account
from secateur.evaluation.tasks.inspect_log import read_inspect_log
from secateur.release.evidence import read_evidence, read_items
from secateur.release.manifest import verify
from secateur.serving.engine_server import EngineServer

INTERRUPTIBLE = """
import signal
from secateur.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
main()
"""
PATIENCE = 120.0
"""Seconds until a run that does nothing is given up."""


def kill_after(command: list[str], proxy: CountingProxy, answers: int) -> None:
    """Run a command, and end it with SIGKILL when so many questions were answered."""
    environment = {**os.environ, "OPENAI_API_KEY": "secret-of-gemmule"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        until = time.monotonic() + PATIENCE
        while proxy.asked.total() < answers and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_evaluation_resumes_without_asking_a_finished_question_again(
    gemmule_server: EngineServer, tmp_path: Path
) -> None:
    work, suite, own = tmp_path / "work", 8, 6
    sums = write_sums(tmp_path / "tasks", own)
    with counting_proxy(gemmule_server.address) as proxy:
        command = [sys.executable, "-m", "secateur", "measure", proxy.url, "--slots", "1"]
        command += ["--tasks", f"gemmule-arithmetic,{sums}", "--task-limit", str(suite)]
        command += ["--work", str(work), "--served-model", gemmule_server.alias, "--json"]
        kept: set[str] = set()
        for answers in (3, suite + 3):
            kill_after(command, proxy, answers)
            (ledger,) = work.rglob("*.jsonl")
            kept = {json.loads(line)["key"] for line in ledger.read_bytes().splitlines()}
            with ledger.open("ab") as file:
                file.write(b'{"key": "torn by the ki')
        assert suite < len(kept) < suite + own
        environment = {**os.environ, "OPENAI_API_KEY": "secret-of-gemmule"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (model,) = json.loads(done.stdout)["artefacts"]
    asked = {
        one["domain"]: one["n"]["items"] for one in model["measurements"] if one["name"] == "empty"
    }
    assert asked == {"gemmule-arithmetic": suite, "local_sums": own}
    # Every question was answered once. Of each kill one answer may have come and not been kept.
    assert len(proxy.asked) == suite + own
    assert proxy.asked.total() <= suite + own + 2
    assert len(list(ledger.read_bytes().splitlines())) == suite + own


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_server_that_does_not_answer(run: Run, tmp_path: Path) -> None:
    """Four questions are answered; of the others no answer ever comes."""
    silent, answered = threading.Event(), threading.Semaphore(4)

    def answer(_: dict[str, Any]) -> Any:
        if not answered.acquire(blocking=False):
            silent.wait()
        return completion("The answer is 7.")

    work = tmp_path / "work"
    with openai_server(answer) as server:
        words = ["measure", server.url, "--tasks", "reasoning", "--task-limit", "20"]
        words += ["--slots", "3", "--work", str(work)]
        with subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, *words], stderr=subprocess.PIPE, text=True
        ) as process:
            until = time.monotonic() + PATIENCE
            while len(server.asked) < 7 and time.monotonic() < until:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            try:
                _, said = process.communicate(timeout=PATIENCE / 2)
            finally:
                process.kill()
        assert process.returncode == 130
        assert f"interrupted: what is finished is kept in {work}: the same command" in said
        assert "Traceback" not in said
        (ledger,) = work.rglob("*.jsonl")
        assert len(ledger.read_bytes().splitlines()) == 4
        silent.set()
        before = len(server.asked)
        assert run(*words).code == 0
        assert len(server.asked) == before + 16


def test_a_server_is_measured_by_its_address(
    gemmule_server: EngineServer, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-gemmule")
    words = f"measure {gemmule_server.url} --work {tmp_path}"
    code, printed, errors = run(*f"{words} --tasks gemmule-chat --task-limit 2".split())
    assert code == 0, errors
    assert "what became of every question" in printed and "name and address alone" in printed
    held = f"{words} --tasks gemmule-chat --task-limit 2 --gate"  # asked already
    assert run(*held.split(), "accuracy>=0").code == 0
    missed = run(*held.split(), "accuracy:gemmule-chat>=1.5")
    assert missed.code == 3 and "the limit is accuracy:gemmule-chat>=1.5" in missed.err
    assert run(*held.split(), "accuracy_difference>=0").code == 2  # there is no original
    assert run(*words.split()).code == 2  # divergence needs the weights
    assert run("measure", "nowhere").code == 2


def write_log(path: Path, samples: list[dict[str, Any]], model: str = "a/b") -> Path:
    """A log as inspect-ai writes it."""
    header = {"version": 2, "status": "success", "eval": {"task": "gpqa", "model": model}}
    header |= {"plan": {"config": {"temperature": 0.5}}}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as log:
        log.writestr("_journal/start.json", json.dumps(header))
        for sample in samples:
            name = f"samples/{sample['id']}_epoch_{sample['epoch']}.json"
            log.writestr(name, json.dumps(sample))
        log.writestr("header.json", json.dumps(header))
    return path


def sample(number: int, value: object, stop: str = "stop", content: object = "B") -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content}, "stop_reason": stop}
    return {
        "id": number,
        "epoch": 1,
        "input": f"question {number}",
        "target": "B",
        "output": {"choices": [choice], "usage": {"input_tokens": 3, "output_tokens": 4}},
        "scores": {"choice": {"value": value, "answer": "B"}},
    }


def test_a_log_of_inspect_ai_is_accounted_for(tmp_path: Path) -> None:
    thought = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "B"}]
    failed = {**sample(5, "I"), "error": {"message": "connection lost"}, "output": {}}
    samples = [
        sample(1, "C"),
        sample(2, "I", content=thought),
        sample(3, "C", stop="max_tokens"),
        sample(4, "I", content=""),
        failed,
    ]
    log = read_inspect_log(write_log(tmp_path / "a.eval", samples))
    account = Account(log.result)
    assert (log.model, log.lock.sent) == ("a/b", {"temperature": 0.5})
    assert [item.outcome for item in account.items] == [
        Outcome.ANSWERED,
        Outcome.ANSWERED,
        Outcome.TRUNCATED,
        Outcome.EMPTY,
        Outcome.SERVER_ERROR,
    ]
    assert account.items[1].facts["reasoning"] == "hm"
    assert (account.accuracy.value, account.as_read, account.best) == (0.2, 0.4, 0.8)


def test_a_log_that_inspect_ai_wrote_is_read(tmp_path: Path) -> None:
    real = Path(__file__).parent / "golden" / "inspect.eval"
    log = read_inspect_log(real)
    assert (log.model, log.result.task, log.result.metric) == ("mockllm/model", "fruit", "choice")
    assert log.lock.sent == {"max_tokens": 64, "temperature": 0.5, "seed": 42}
    assert log.lock.server["packages"] == {"inspect_ai": "0.3.285"}
    assert [(item.outcome, item.score, item.read) for item in log.result.items] == [
        (Outcome.ANSWERED, 1.0, "B"),
        (Outcome.ANSWERED, 0.0, "C"),
        (Outcome.TRUNCATED, 1.0, "B"),
        (Outcome.EMPTY, 0.0, ""),
        (Outcome.ANSWERED, 1.0, "B"),
    ]
    assert log.result.items[4].facts["reasoning"] == "Stones fall."
    assert all(item.facts["completion_tokens"] == 4 for item in log.result.items)
    damaged = tmp_path / "damaged.eval"
    content = bytearray(real.read_bytes())
    with zipfile.ZipFile(real) as whole:
        entry = whole.getinfo("samples/1_epoch_1.json")
    content[entry.header_offset + 200] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(RequestError, match="is not a ZIP that can be read"):
        read_inspect_log(damaged)


def test_two_logs_are_compared_in_pairs(tmp_path: Path, run: Run) -> None:
    before = write_log(tmp_path / "a.eval", [sample(n, "C") for n in range(6)])
    after = write_log(tmp_path / "b.eval", [sample(n, "I" if n else "C") for n in range(6)], "c")
    code, printed, errors = run("measure", after, "--against", before, "--json")
    assert code == 0, errors
    (_, model) = json.loads(printed)["artefacts"]
    named = {entry["name"]: entry["value"] for entry in model["measurements"]}
    assert (named["flips_lost"], named["p_value"]) == (5, 0.0625)
    other = write_log(tmp_path / "c.eval", [sample(n, "C") for n in range(3)])
    printed = run("measure", after, "--against", other).out
    assert "not compared with the original" in printed


def test_epochs_of_a_question_are_answers_to_one_question(tmp_path: Path, run: Run) -> None:
    """Four answers to each of six questions are no 24 questions."""
    paths = []
    for name, value in (("a", "C"), ("b", "I")):
        samples = [
            {**sample(n, "C" if n == 0 else value), "epoch": epoch}
            for n in range(6)
            for epoch in range(1, 5)
        ]
        paths.append(write_log(tmp_path / f"{name}.eval", samples))
    log = read_inspect_log(paths[0])
    assert [item.item for item in log.result.items[:5]] == ["0", "0", "0", "0", "1"]
    assert log.result.items[1].to_json()["epoch"] == 2
    found = json.loads(run("measure", paths[1], "--against", paths[0], "--json").out)
    named = {entry["name"]: entry for entry in found["artefacts"][1]["measurements"]}
    assert named["accuracy"]["n"] == {"items": 6, "replies": 24}
    assert named["answered"]["value"] == 24
    low, high = named["accuracy"]["low"], named["accuracy"]["high"]
    assert low < 0.04 and high > 0.5  # Wilson's of 1 of 6; of 4 of 24 it is 0.07 to 0.36
    assert (named["flips_lost"]["value"], named["accuracy_difference"]["n"]) == (5, {"items": 6})
    assert named["p_value"]["value"] == pytest.approx(0.0625)
    kept = [tmp_path / "kept-a", tmp_path / "kept-b"]
    for path, folder in zip(paths, kept, strict=True):
        assert run("measure", path, "-o", folder).code == 0
    compared = run("compare", *kept)
    assert "5 lost, 0 gained of 6" in compared.out, compared.err


def test_a_log_is_read_as_json_too(tmp_path: Path, run: Run) -> None:
    """What the message about a `.eval` that cannot be read says to make."""
    header = {"version": 2, "status": "success", "eval": {"task": "gpqa", "model": "a/b"}}
    path = tmp_path / "log.json"
    path.write_text(json.dumps({**header, "samples": [sample(n, "C") for n in range(6)]}))
    done = run("measure", path)
    assert done.code == 0 and "gpqa" in done.out, done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("http://localhost:1/v1", "--tasks", "reasoning", "--loops"), "leave out loops"),
        (("http://localhost:1/v1", "--tasks", "reasoning", "--estimate"), "leave out --estimate"),
        (("http://localhost:1/v1", "--tasks", "reasoning", "--shard", "1/2"), "leave out --shard"),
        (("x.eval", "--tasks", "reasoning"), "leave out tasks reasoning"),
    ],
)
def test_what_is_not_done_elsewhere_is_refused(words: tuple[str, ...], said: str, run: Run) -> None:
    done = run("measure", *words)
    assert done.code == 2 and said in done.err


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.eval"
    path.write_bytes(b"no zip")
    with pytest.raises(RequestError, match="not a ZIP"):
        read_inspect_log(path)
    with zipfile.ZipFile(path, "w") as log:
        log.writestr("header.json", "{}")
    with pytest.raises(RequestError, match="lacks the key eval"):
        read_inspect_log(path)
    with pytest.raises(RequestError, match="no samples"):
        read_inspect_log(write_log(path, []))


def a_model(right: int) -> Answer:
    """A server's answers to `What is N + 3?`: right for the first so many, and then 0."""

    def answer(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        number = int(request["messages"][-1]["content"].split()[2])
        return completion(f"{number + 3}" if number <= right else "0")

    return answer


def keep_sums(
    run: Run, right: int, target: Path, folder: Path, *more: str, name: str = "m"
) -> tuple[int, str]:
    sums = write_sums(folder / "tasks", 9)
    with openai_server(a_model(right), name) as server:
        words = ("--work", folder / f"work-{right}", "--tasks", sums, "-o", target, *more)
        done = run("measure", server.url, *words)
    return done.code, done.out + done.err


@pytest.mark.slow
def test_results_of_servers_are_kept_reported_and_compared(run: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    assert keep_sums(run, 9, good, tmp_path)[0] == 0
    code, said = keep_sums(run, 2, bad, tmp_path, "--gate", "accuracy>=0.5")
    assert code == 3 and f"kept: {bad}" in said  # kept whatever the gate says
    assert keep_sums(run, 9, good, tmp_path)[0] == 2  # it is there
    assert not verify(good)
    evidence = read_evidence(good, "tasks")
    assert evidence is not None and evidence.artefacts[0].facts["lock"]["sha256"]
    assert [item["score"] for item in read_items(bad, "tasks", "model/local_sums")] == [
        *[1.0] * 2,
        *[0.0] * 7,
    ]
    (good / "report.md").unlink()
    assert run("report", good).code == 0
    assert "| local_sums | accuracy |" in (good / "report.md").read_text()
    compared = run("compare", good, bad)
    assert compared.code == 0, compared.err
    assert "bad/model against good/model" in compared.out
    assert "local_sums: -77.8 points" in compared.out and "7 lost, 0 gained of 9" in compared.out
    cold = tmp_path / "cold.yaml"
    cold.write_text("title: cold\nsampler: {temperature: 0.5, seed: 1}\n")
    other = tmp_path / "other"
    assert keep_sums(run, 2, other, tmp_path, "--protocol", str(cold))[0] == 0
    apart = run("compare", bad, other)
    assert apart.code == 0 and "other/model is not compared with bad/model" in apart.out
    assert "points" in run("compare", bad, other, "--compare-anyway").out
    assert run("compare", good, tmp_path / "tasks").code == 2


@pytest.mark.slow
def test_results_of_a_server_go_into_the_output_that_it_serves(
    made: Path, run: Run, tmp_path: Path
) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    names = [one["name"] for one in json.loads((out / "report.json").read_text())["artefacts"]]
    code, said = keep_sums(run, 4, out, tmp_path)
    assert code == (2 if len(names) > 1 else 0), said
    code, said = keep_sums(run, 4, out, tmp_path, "--artefact", names[0])
    assert code == 0, said
    assert not verify(out)
    assert "nothing proves which weights were there" in (out / "report.md").read_text()
    assert "overlap with the calibration was not checked" not in (out / "report.md").read_text()
    assert run("release", out, "--gate", "accuracy>=0.9").code == 3
    assert run("release", out, "--gate", "accuracy>=0.4").code == 0
    assert "local_sums" in (out / "README.md").read_text()
    if len(names) > 1:  # the tasks of the first one would be lost
        code, said = keep_sums(run, 4, out, tmp_path, "--artefact", names[1])
        assert code == 2 and "holds tasks of" in said
