"""`shrink` on models that bring nothing along: with a corpus, and nothing else named."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import tiny_models
import transformers
from tiny_line import VOCAB, Run, files_of, in_gemmas_form
from tiny_models import save_tiny
from tiny_tokenizer import save_tokenizer

from secateur.checkpoint.reader import open_checkpoint
from secateur.statistics.file import load_header

FAMILIES = ["qwen3_moe", "mixtral"]
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model of a family, with a tokenizer of single characters and a chat template."""
    monkeypatch.setitem(tiny_models._DECODER, "vocab_size", VOCAB)
    monkeypatch.setitem(tiny_models._DECODER, "max_position_embeddings", 512)
    monkeypatch.setitem(tiny_models.MODELS, "qwen3_moe", published_qwen3_moe)
    folder = save_tiny(request.param, tmp_path / "tiny")
    (folder / "chat_template.jinja").unlink()
    path = save_tokenizer(folder) / "tokenizer.json"
    (split_as_qwen2 if request.param == "qwen3_moe" else in_gemmas_form)(path)
    return folder


def published_qwen3_moe() -> transformers.PreTrainedModel:
    """As they are published: experts in every layer, which is what llama.cpp computes."""
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            **tiny_models._DECODER,
            intermediate_size=48,
            head_dim=16,
            num_experts=tiny_models.EXPERTS,
            moe_intermediate_size=32,
            norm_topk_prob=True,
        )
    )


def split_as_qwen2(path: Path) -> None:
    """The expression by which llama.cpp splits text for this family."""
    data = json.loads(path.read_text("utf-8"))
    split = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, data["pre_tokenizer"]]}
    path.write_text(json.dumps(data), "utf-8")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A mix of conversations and of prose."""
    draw = random.Random(0)
    say = lambda: "".join(draw.choices(LETTERS, k=24))  # noqa: E731
    chat = [
        {
            "messages": [
                {"role": "user", "content": say()},
                {"role": "assistant", "content": say()},
            ]
        }
        for _ in range(24)
    ]
    prose = [{"text": f"{say()} {say()}"} for _ in range(24)]
    for name, records in (("chat", chat), ("prose", prose)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(text)
    mix = {"sources": [{"name": name, "path": f"{name}.jsonl"} for name in ("chat", "prose")]}
    (tmp_path / "mix.yaml").write_text(json.dumps(mix))
    return tmp_path / "mix.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES, indirect=True)
def test_shrink_needs_a_corpus_and_nothing_else(
    model: Path, corpus: Path, run: Run, tmp_path: Path
) -> None:
    """And a second size takes what the first one kept: it neither calibrates, nor has the original
    answer, nor runs it."""
    out = tmp_path / "out"
    ran = run("shrink", model, experts=6, types="Q8_0", corpus=corpus, out=out, answer_tokens=8)
    assert ran.code == 0, ran.err
    assert "held out to measure on: 4 documents" in ran.err
    report = json.loads((out / "report.json").read_text())
    measured = report["answers"]
    assert (measured["answers"], measured["turns"], measured["documents"]) == (2, 0, 2)
    held = measured["provenance"]["held_out"]
    assert (held["share"], held["documents"], held["corpus"]) == (0.05, 4, "mix")
    kinds = {(one["kind"], one["domain"]) for one in report["artefacts"][1]["measurements"]}
    assert kinds >= {("answers", "chat"), ("documents", "prose")}
    said = (out / "report.md").read_text()
    assert "0.05 of the documents of mix, held out before calibration: 4 documents" in said
    assert "0.05 of the documents of mix, held out before calibration: 4 documents" in ran.out
    statistics = load_header(out / "evidence" / "statistics.safetensors")
    held_out = {one["sha256"] for one in statistics.corpora[0]["held_out"]["samples"]}
    assert len(held_out) == 4
    assert not held_out & {sample["sha256"] for sample in statistics.samples}

    shutil.copy(out / "job.yaml", tmp_path)  # inputs are looked for next to it
    made = run("run", tmp_path / "job.yaml", out=tmp_path / "again")
    assert made.code == 0, made.err
    reports = {"report.json", "report.md", "manifest.json"}
    first, second = files_of(out), files_of(tmp_path / "again")
    assert {name for name in first if first[name] != second.get(name)} <= reports

    smaller = tmp_path / "smaller"
    again = run(
        "shrink", model, experts=4, types="Q8_0", stats=out / "evidence" / "statistics.safetensors",
        out=smaller, answer_tokens=8,
    )  # fmt: skip
    assert again.code == 0, again.err
    for stage in ("calibrate", "answers", "original: layers"):
        assert f"[{stage}]" in ran.err
        assert f"[{stage}]" not in again.err
    kept = json.loads((smaller / "report.json").read_text())["answers"]
    assert kept["sha256"] == measured["sha256"]

    found = run("measure", smaller, against=model, answer_tokens=8, json=True)
    assert found.code == 0, found.err
    assert found.json["answers"]["sha256"] == measured["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen3_moe"], indirect=True)
def test_without_the_memory_to_answer_the_turns_of_the_corpus_are_measured(
    model: Path, corpus: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free memory is all that is made up; and the same when it is asked for."""
    options = {"experts": 6, "corpus": corpus}
    asked = run("shrink", model, out=tmp_path / "asked", turns="corpus", **options)
    assert asked.code == 0, asked.err
    monkeypatch.setattr("secateur.api.answers.free_memory", lambda: 1000)
    monkeypatch.setattr(
        "secateur.forward.backends.cpu.CpuBackend.free_memory", lambda backend: 1000
    )
    ran = run("shrink", model, out=tmp_path / "out", **options)
    assert ran.code == 0, ran.err
    assert "[answers]" not in ran.err
    reports = [
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("out", "asked")
    ]
    assert reports[0]["answers"] == reports[1]["answers"]
    assert (reports[0]["answers"]["answers"], reports[0]["answers"]["turns"]) == (0, 2)
    assert "own assistant turns" in ran.out
    refused = run("shrink", model, out=tmp_path / "not", turns="original", **options)
    assert refused.code == 1
    assert "whole model in memory" in refused.said[-1]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mixtral"], indirect=True)
def test_statistics_that_saw_a_document_are_not_measured_on_it(
    model: Path, corpus: Path, run: Run, tmp_path: Path
) -> None:
    stats = tmp_path / "stats"
    assert run("calibrate", model, corpus=corpus, out=stats).code == 0
    request = {"experts": 6, "stats": stats, "turns": "corpus"}
    refused = run("shrink", model, corpus=corpus, out=tmp_path / "out", **request)
    assert refused.code == 2
    assert "all 4 documents that were held out" in refused.said[-1]
    assert not (tmp_path / "out").exists()
    lines = (tmp_path / "prose.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "prose.jsonl").write_text(
        "".join(lines[:12])
        + "".join(json.dumps({"text": f"new {n} {LETTERS}"}) + "\n" for n in range(40))
    )
    ran = run("shrink", model, corpus=corpus, held_out=0.2, out=tmp_path / "out", **request)
    assert ran.code == 0, ran.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["answers"]["turns"] == 0
    assert report["answers"]["documents"] > 0
    assert report["answers"]["provenance"]["held_out"]["seen_left_out"] >= 5
    assert "because the statistics saw them" in ran.out


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen3_moe"], indirect=True)
def test_quantizing_alone_needs_neither_a_number_of_experts_nor_a_calibration(
    model: Path, corpus: Path, run: Run, tmp_path: Path
) -> None:
    plain = run("shrink", model, types="Q8_0", no_measure=True, out=tmp_path / "plain")
    assert plain.code == 0, plain.err
    assert "[calibrate]" not in plain.err
    manifest = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert manifest["experts"] == open_checkpoint(model).experts
    assert "calibration" not in manifest
    assert not (tmp_path / "plain" / "evidence").exists()
    decided = run("plan", model, types="Q8_0")
    assert "all 8 experts of each layer are kept" in decided.out
    measured = run(
        "shrink", model, types="Q8_0", corpus=corpus, out=tmp_path / "measured", turns="corpus"
    )
    assert measured.code == 0, measured.err
    assert "[calibrate]" not in measured.err
    assert json.loads((tmp_path / "measured" / "report.json").read_text())["answers"]["turns"] == 2
    weighed = run("shrink", model, types="Q4_0", corpus=corpus, no_measure=True, out=tmp_path / "w")
    assert weighed.code == 0, weighed.err
    assert "[calibrate]" in weighed.err
