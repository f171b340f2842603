"""Answers of the original that something else writes: a server, or a GGUF of it in llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secateur import Measuring
from secateur.api.answers import get_answers
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import EngineError, FormatError, InputError, RequestError
from secateur.evaluation.tokens import answering, served
from secateur.evaluation.tokens.served import check_vocabulary
from secateur.forward.backends.cpu import CpuBackend
from secateur.serving import chat_server
from secateur.serving.chat_server import ChatServer, Drawing, public_address
from secateur.serving.llama_server import LlamaServer, llama_server

REQUEST = Measuring(per_domain=1, answer_tokens=12)
CPU = CpuBackend()


@pytest.fixture(scope="module")
def gemmule() -> Checkpoint:
    return open_checkpoint("gemmule")


@pytest.fixture(scope="module")
def gguf(gemmule_gguf: Path) -> Path:
    return gemmule_gguf


@pytest.fixture(scope="module")
def server(gguf: Path) -> Iterator[LlamaServer]:
    with llama_server(gguf) as running:
        yield running


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """The calls of a method, which goes on as it did."""
    calls: list[Any] = []
    method = getattr(owner, name)

    def note(*words: Any, **options: Any) -> Any:
        calls.append(words)
        return method(*words, **options)

    monkeypatch.setattr(owner, name, note)
    return calls


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The process is interrupted when so many answers are kept."""
    keep, kept = answering._append, 0

    def keep_some(file: Path, answers: Any) -> None:
        nonlocal kept
        if kept == count:
            raise KeyboardInterrupt
        keep(file, answers)
        kept += 1

    monkeypatch.setattr(answering, "_append", keep_some)


@pytest.mark.slow
def test_a_gguf_answers_in_tokens_and_is_named(
    gemmule: Checkpoint, gguf: Path, tmp_path: Path
) -> None:
    request = replace(REQUEST, answers_from=str(gguf))
    found = get_answers(gemmule, request, tmp_path / "a", backend=CPU)
    written_by = found.provenance["written_by"]
    assert written_by["gguf"] == gguf.name
    assert len(written_by["sha256"]) == 64
    answers = [answer for answer in found.answers if answer.kind == "answers"]
    assert len(answers) >= 6
    assert all(1 <= answer.scored <= 12 for answer in answers)
    tokenizer = load_tokenizer(gemmule.path)
    stopped = [answer for answer in answers if answer.finish == "stop"]
    assert all(tokenizer.decode(answer.input_ids[-1]) == "<turn|>" for answer in stopped)
    assert {answer.scored for answer in answers if answer.finish == "length"} == {12}
    again = get_answers(gemmule, request, tmp_path / "b", backend=CPU)
    assert again.sha256 == found.sha256
    other = get_answers(gemmule, replace(request, answer_seed=1), tmp_path / "b", backend=CPU)
    assert other.sha256 != found.sha256


@pytest.mark.slow
def test_at_temperature_0_a_gguf_says_what_the_original_says(
    gemmule: Checkpoint, gguf: Path, tmp_path: Path
) -> None:
    """Q8_0 is near enough that most answers are the same to the token."""
    greedy = replace(REQUEST, temperature=0.0)
    own = get_answers(gemmule, greedy, tmp_path, backend=CPU)
    other = get_answers(gemmule, replace(greedy, answers_from=str(gguf)), tmp_path, backend=CPU)
    pairs = zip(own.answers, other.answers, strict=True)
    same = [one.input_ids == two.input_ids for one, two in pairs]
    assert sum(same) > 0.6 * len(same)


@pytest.mark.slow
def test_a_server_answers_conversations(
    gemmule: Checkpoint, server: LlamaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(chat_server.KEY, "top-secret")
    request = replace(REQUEST, answers_from=server.address)
    found = get_answers(gemmule, request, tmp_path, backend=CPU)
    assert found.provenance["written_by"]["server"] == f"{server.address}/v1"
    answers = [answer for answer in found.answers if answer.kind == "answers"]
    assert len(answers) >= 6
    assert {answer.finish for answer in answers} <= {"stop", "length"}
    assert "top-secret" not in "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    tokenizer = load_tokenizer(gemmule.path)
    for answer in answers:
        ended = tokenizer.decode(answer.input_ids[-1]) == "<turn|>"
        assert ended == (answer.finish == "stop")
    greedy = replace(request, temperature=0.0, per_domain=2)
    served_set = get_answers(gemmule, greedy, tmp_path, backend=CPU)
    own = get_answers(gemmule, replace(greedy, answers_from=None), tmp_path, backend=CPU)
    same = [one == two for one, two in zip(own.answers, served_set.answers, strict=True)]
    assert sum(same) > 0.5 * len(same)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["gguf", "server"])
def test_an_interrupted_run_asks_for_the_rest_only(
    source: str,
    gemmule: Checkpoint,
    gguf: Path,
    server: LlamaServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = str(gguf) if source == "gguf" else server.address
    request = replace(REQUEST, answers_from=address)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            get_answers(gemmule, request, tmp_path, backend=CPU)
    owner = LlamaServer if source == "gguf" else ChatServer
    calls = counted(monkeypatch, owner, "draw" if source == "gguf" else "answer")
    found = get_answers(gemmule, request, tmp_path, backend=CPU)
    asked = sum(answer.kind == "answers" for answer in found.answers)
    assert len(calls) == asked - 3
    calls.clear()
    assert get_answers(gemmule, request, tmp_path, backend=CPU).sha256 == found.sha256
    assert calls == []


@pytest.mark.slow
def test_the_report_says_who_wrote_the_text(run: Any, gguf: Path, tmp_path: Path) -> None:
    ran = run(
        "shrink", "gemmule", types="Q8_0", to="gguf", answers_from=gguf, per_domain=1,
        answer_tokens=8, out=tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    sentence = f"the text of the answers was written by a GGUF of the original ({gguf.name}"
    assert sentence in ran.out
    assert sentence[1:] in (tmp_path / "out" / "report.md").read_text()
    report = json.loads((tmp_path / "out" / "report.json").read_text())["answers"]
    assert report["finishes"]["length"] > 0
    assert "were cut at the longest that was allowed" in ran.out
    assert report["provenance"]["written_by"]["gguf"] == gguf.name


@pytest.mark.slow
def test_a_gguf_of_another_model_is_refused(gguf: Path, line: Any) -> None:
    check_vocabulary(gguf, load_tokenizer(open_checkpoint("gemmule").path))
    with pytest.raises(FormatError, match="no GGUF of this model"):
        check_vocabulary(gguf, load_tokenizer(line.model))


def test_a_server_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chat_server.KEY, "top-secret")
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:9/v1 did not answer: .*refused"):
        ChatServer("http://user:word@127.0.0.1:9")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("https://user:word@host/api/v1/", "https://host/api/v1"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
    ],
)
def test_an_address_is_named_without_its_password(url: str, address: str) -> None:
    assert public_address(url) == address


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"answers": Path("a"), "answers_from": "http://x"}, "are answers already"),
        ({"turns": "corpus", "answers_from": "http://x"}, "leave out answers_from"),
        ({"turns": "mine"}, "turns is 'mine'"),
        ({"prompts": Path("a"), "held_out": 0.1}, "either prompts or held_out"),
        ({"prompts": Path("a"), "corpus": "mix"}, "either prompts or corpus"),
        ({"answers": Path("a"), "max_prompts": 3}, "max_prompts is of prompts"),
        ({"answer_seed": -1}, "answer_seed"),
        ({"max_prompts": 0}, "max_prompts"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Measuring(**wrong)


def test_an_address_without_a_host_is_refused() -> None:
    for url in ("http://", "http://:80", "https://[::1"):
        with pytest.raises(RequestError, match="named by its address"):
            public_address(url)


def test_every_prompt_has_a_seed_of_its_own() -> None:
    from secateur.evaluation.tokens.prompts import Prompt, PromptSet

    prompts = [Prompt(name, "all", "answers", (1,)) for name in "ab"]
    asking = served.Asking(PromptSet(tuple(prompts), {}), Path("x"), Drawing(4, 1.0, 7), {})
    seeds = [asking.draw(prompt).seed for prompt in prompts]
    assert seeds[0] != seeds[1]
    assert all(0 <= seed < 1 << 31 for seed in seeds)
