"""Measuring as a user does it: what is kept, what is refused at once, comparing, llama.cpp."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_line import Line, Run

from secateur import Measuring, Report, measure
from secateur.api import answers as original_answers
from secateur.api.answers import (
    check_can_answer,
    check_can_measure,
    check_can_tokenize,
    get_answers,
)
from secateur.api.measure import measure_shard
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.errors import CorpusError, EngineError, InputError, RequestError
from secateur.evaluation import scores
from secateur.evaluation.engine_metrics import ENGINE_COLUMNS
from secateur.evaluation.metrics.registry import token_arrays
from secateur.evaluation.scores import load_scores
from secateur.forward.backends import choose
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.torch_device import TorchDevice


@pytest.fixture
def gguf(made: Path, tmp_path: Path) -> Path:
    """A GGUF file of its own, which may be changed."""
    return Path(shutil.copy(made / "tiny-moe-6e-Q8_0.gguf", tmp_path))


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original_answers, "free_memory", lambda: 1000)


def test_scores_are_kept_and_those_of_a_changed_file_are_new(
    gguf: Path, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, work = Measuring(answers=line.answers), tmp_path / "work"
    first = measure(gguf, line.model, request, work=work)
    with monkeypatch.context() as context:
        context.setattr(scores, "score", None)
        assert measure(gguf, line.model, request, work=work).to_json() == first.to_json()
    data = bytearray(gguf.read_bytes())
    data[-200] ^= 16  # inside the last tensor, far behind its first bytes
    gguf.write_bytes(data)
    assert measure(gguf, line.model, request, work=work).artefacts != first.artefacts


def test_damaged_scores_are_refused(gguf: Path, line: Line, tmp_path: Path) -> None:
    request, work = Measuring(answers=line.answers), tmp_path / "work"
    measure(gguf, line.model, request, work=work)
    for kept in work.glob("scores-*"):
        kept.write_bytes(kept.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"cannot read .*scores-.*make it again"):
        measure(gguf, line.model, request, work=work)


def test_length_and_temperature_of_answers_are_options(line: Line, tmp_path: Path) -> None:
    original = open_checkpoint(line.model)
    requests = [
        Measuring(prompts=line.prompts, answer_tokens=3, temperature=0.0),
        Measuring(prompts=line.prompts, answer_tokens=5, temperature=0.0),
        Measuring(prompts=line.prompts, answer_tokens=5, temperature=1.0),
    ]
    found = [get_answers(original, request, tmp_path, backend=CpuBackend()) for request in requests]
    assert [max(answer.scored for answer in answers.answers) for answers in found] == [3, 5, 5]
    assert found[1].sha256 != found[2].sha256
    assert len(list(tmp_path.glob("answers-*.jsonl"))) == 3
    generation = found[2].provenance["generation"]
    assert (generation["max_new_tokens"], generation["temperature"]) == (5, 1.0)
    again = get_answers(original, requests[0], tmp_path, backend=CpuBackend())
    assert again.sha256 == found[0].sha256


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"answer_tokens": 0}, "answer_tokens is 0, expected 1 or more"),
        ({"temperature": -1.0}, "temperature is -1.0, expected"),
        ({"temperature": float("nan")}, "temperature is nan, expected"),
        ({"prompts": Path("a"), "answers": Path("b")}, "either prompts or answers"),
        ({"gates": ("kl<=1",)}, "there is no metric 'kl'"),
        ({"max_kl": float("nan")}, "the limit of kl_mean is not a number"),
    ],
)
def test_a_request_that_cannot_be_is_refused_as_it_is_made(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Measuring(**wrong)


def test_the_memory_to_answer_is_checked_before_all_else(
    line: Line, tmp_path: Path, small_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output does not even exist, nothing was made, and no weights were hashed."""
    request = Measuring(prompts=line.prompts, answer_tokens=4)
    monkeypatch.setattr(Checkpoint, "identity", None)
    with pytest.raises(EngineError, match=r"whole model in memory: .*1\.00 kB are free"):
        measure(tmp_path / "nothing", line.model, request, work=tmp_path / "work")
    assert not (tmp_path / "work").exists()
    check_can_answer(open_checkpoint(line.model), Measuring(answers=line.answers))


def test_answers_that_are_kept_need_no_memory(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, request = open_checkpoint(line.model), Measuring(prompts=line.prompts, per_domain=1)
    get_answers(original, request, tmp_path, backend=CpuBackend())
    monkeypatch.setattr(original_answers, "free_memory", lambda: 1000)
    check_can_answer(original, request, tmp_path)
    with pytest.raises(EngineError):
        check_can_answer(original, request, tmp_path / "empty")


@pytest.mark.slow
def test_an_engine_that_is_asked_for_and_reads_nothing_is_noted(line: Line, tmp_path: Path) -> None:
    request = Measuring(answers=line.answers, real_engine=True)
    found = measure(line.model, line.model, request, work=tmp_path)
    assert any("was not run in an engine: llama.cpp reads GGUF" in note for note in found.notes)


def test_a_shard_takes_no_limits(line: Line, tmp_path: Path) -> None:
    request = Measuring(answers=line.answers, max_kl=0.1)
    with pytest.raises(RequestError, match=r"leave the gate kl_mean<=0\.1 to the run that puts"):
        measure_shard(line.model, line.model, request, "1/2", work=tmp_path / "work")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_where_a_device_answers_its_memory_counts(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """One that torch has without a GPU stands for it."""
    original = open_checkpoint(line.model)
    request = Measuring(prompts=line.prompts, device=device)
    there = TorchDevice(torch.device("cpu"))
    monkeypatch.setattr(choose, "choose_backend", lambda word, **_: there)
    with monkeypatch.context() as little_here:
        little_here.setattr(original_answers, "free_memory", lambda: 1000)
        check_can_answer(original, request, tmp_path)
    monkeypatch.setattr(TorchDevice, "free_memory", lambda backend: 2000)
    with pytest.raises(EngineError, match=r"2\.00 kB are free"):
        check_can_answer(original, request, tmp_path)


def test_shrink_refuses_at_once_what_cannot_answer(
    line: Line, run: Run, tmp_path: Path, small_memory: None
) -> None:
    ran = run(
        "shrink", line.model, experts=6, types="Q8_0", corpus=line.corpus, prompts=line.prompts,
        out=tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 1
    assert "whole model in memory" in ran.said[-1]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []


def test_shrink_refuses_prompts_too_long_for_the_context_before_calibrating(
    line: Line, run: Run, tmp_path: Path
) -> None:
    ran = run(
        "shrink", line.model, experts=6, types="Q8_0", corpus=line.corpus, prompts=line.prompts,
        answer_tokens=500, out=tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 2
    assert "the model's context is 512" in ran.said[-1]
    assert "calibrat" not in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", r"1: expected either messages or text, got an empty object"),
        ('{"text": "a"}\n{"messages": 3}\n', r"2: "),
        ("", "holds no prompts"),
        ("GGUF\n", r"1: not JSON"),
    ],
)
def test_a_line_that_cannot_be_used_is_refused_at_once(
    text: str, message: str, line: Line, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(CorpusError, match=message):
        check_can_measure(open_checkpoint(line.model), Measuring(prompts=path))


def test_a_prompt_that_leaves_no_room_to_answer_is_refused_before_the_model_is_read(
    line: Line,
) -> None:
    original = open_checkpoint(line.model)
    check_can_tokenize(original, Measuring(prompts=line.prompts))
    check_can_tokenize(original, Measuring(answers=line.answers))
    with pytest.raises(
        InputError, match=r"its answer may have 500, but the model's context is 512"
    ):
        check_can_tokenize(original, Measuring(prompts=line.prompts, answer_tokens=500))


def test_a_model_without_a_test_set_is_refused_with_what_is_missing(line: Line) -> None:
    with pytest.raises(
        CorpusError, match=r"brings no test set .*--corpus.*--prompts, JSON lines of"
    ):
        check_can_measure(open_checkpoint(line.model), Measuring())
    with pytest.raises(CorpusError, match="nowhere does not exist: name a JSONL file"):
        check_can_measure(open_checkpoint(line.model), Measuring(prompts=Path("nowhere")))


def test_what_is_checked_at_once_loads_no_torch(line: Line) -> None:
    code = (
        "import sys\n"
        "from secateur import Measuring\n"
        "from secateur.api.answers import check_can_measure\n"
        "from secateur.checkpoint.reader import open_checkpoint\n"
        "from pathlib import Path\n"
        "request = Measuring(prompts=Path(sys.argv[2]), gates=('kl_mean<=1',))\n"
        "check_can_measure(open_checkpoint(sys.argv[1]), request)\n"
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, line.model, line.prompts], check=True)


def test_gates_are_set_by_any_metric_and_exit_with_3(
    gguf: Path, line: Line, run: Run, tmp_path: Path
) -> None:
    options = {"against": line.model, "answers": line.answers, "work": tmp_path / "work"}
    assert run("measure", gguf, "--gate", "kl_p99<=99", "--gate", "kl_max<=99", **options).code == 0
    ran = run("measure", gguf, "--gate", "perplexity_ratio<=0.5", **options)
    assert ran.code == 3
    assert "perplexity_ratio (pooled): " in ran.said[-1]
    assert "but the limit is perplexity_ratio<=0.5" in ran.said[-1]
    ran = run("measure", gguf, max_kl=1e-9, **options)
    assert ran.code == 3
    assert "but the limit is kl_mean<=1e-09" in ran.said[-1]
    ran = run("measure", gguf, "--gate", "perplexity_ratio>=0.5", **options)
    assert ran.code == 2


def test_llama_cpp_is_shown_in_the_report(made: Path, line: Line, run: Run, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    ran = run(
        "measure", out, real_engine=True, answers=line.answers, against=line.model, json=True,
        work=tmp_path / "work", workers=1,
    )  # fmt: skip
    assert ran.code == 0
    for artefact in ran.json["artefacts"]:
        found = [entry for entry in artefact["measurements"] if entry["kind"] == "engine"]
        if artefact["name"] == "safetensors":
            assert found == []
            continue
        pooled = {entry["name"]: entry for entry in found if entry["domain"] == "pooled"}
        assert pooled.keys() >= {metric.name for metric in ENGINE_COLUMNS}
        ours = {
            entry["name"]: entry["value"]
            for entry in artefact["measurements"]
            if entry["kind"] == "answers" and entry["domain"] == "pooled"
        }
        assert pooled["kl_mean_difference"]["value"] == pytest.approx(
            pooled["kl_mean"]["value"] - ours["kl_mean"]
        )
        assert pooled["kl_mean"]["n"] == {"answers": 6, "tokens": 157}
        # Random weights tie often, and llama.cpp rounds activations to 8 bits.
        assert pooled["engine_kl_mean"]["value"] < 0.3 * ours["kl_mean"]
        assert pooled["engine_top1_agreement"]["value"] > 0.7
        assert ours["router_agreement"] < pooled["engine_router_agreement"]["value"] <= 1
    text = (out / "report.md").read_text()
    assert "## In the engine" in text
    assert "| engine |" not in text


def test_kept_scores_hold_the_arrays_of_all_metrics(
    gguf: Path, line: Line, tmp_path: Path, shrunk: Report
) -> None:
    report = measure(gguf, line.model, Measuring(answers=line.answers), work=tmp_path / "work")
    every = [load_scores(path) for path in (tmp_path / "work").glob("scores-*")]
    (kept,) = [one for one in every if "bfloat16" not in one.provenance["artefact"]]
    assert set(kept.arrays) == {array.name for array in token_arrays()}
    mean = report.artefacts[0].value("kl_mean")
    assert mean.value == pytest.approx(float(np.mean(kept.arrays["kl"])))
    assert report.artefacts[0].measurements == shrunk.artefacts[-1].measurements


def test_an_edited_plan_is_called_edited_in_the_report(
    line: Line, stats: Path, run: Run, tmp_path: Path
) -> None:
    path, out = tmp_path / "plan.json", tmp_path / "out"
    assert run("plan", line.model, experts=6, stats=stats, out=path, to="safetensors").code == 0
    plan = json.loads(path.read_text())
    kept = plan["keep"]["1"]
    plan["keep"]["1"] = sorted([*kept[1:], *set(range(8)) - set(kept)][:6])
    path.write_text(json.dumps(plan))
    assert run("apply", path, stats=stats, out=out).code == 0
    assert run("measure", out, against=line.model, answers=line.answers).code == 0
    text = (out / "report.md").read_text()
    assert "Edited by hand: experts kept in layer 1." in text
    assert json.loads((out / "report.json").read_text())["made"]["edited"]
