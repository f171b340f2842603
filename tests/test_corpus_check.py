"""What a mix will give, told before hours are spent on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_line import Line, Run

from secateur.api.corpus import check_corpus
from secateur.corpus.check import check_sources
from secateur.corpus.load import load_corpus, load_tokenizer
from secateur.corpus.mix import list_mixes, read_mix


def conversations(path: Path, count: int, words: int = 3) -> Path:
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"number {number}?"},
                {"role": "assistant", "content": f"x{number} " * (1 + number % words)},
            ]
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def mix_of(folder: Path, *sources: dict[str, Any], **words: Any) -> Path:
    path = folder / "mix.yaml"
    path.write_text(yaml.safe_dump({"sequence_length": 64, **words, "sources": list(sources)}))
    return path


@pytest.mark.parametrize("overlong", ["split", "truncate", "drop"])
@pytest.mark.parametrize("asked", [{}, {"samples": 5}, {"tokens": 90}])
def test_counts_of_a_whole_source_are_those_of_the_corpus(
    overlong: str, asked: dict[str, int], line: Line, tmp_path: Path
) -> None:
    long = conversations(tmp_path / "a.jsonl", 20, words=12)
    text = long.read_text()
    long.write_text(text + text[: text.index("\n") + 1])  # one of them twice
    mix = mix_of(tmp_path, {"name": "a", "path": "a.jsonl", **asked}, overlong=overlong)
    tokenizer = load_tokenizer(line.model)
    (found,) = check_sources(read_mix(mix), tokenizer, 100).sources
    (really,) = load_corpus(mix, tokenizer).description["sources"]
    assert found.exact and found.problems == ()
    if not asked:
        assert (found.documents, found.tokens) == (really["samples"], really["tokens"])
        assert (found.duplicates, found.empty) == (really["duplicates"], really["empty"])
    elif "tokens" in asked:
        assert found.tokens == really["tokens"] == 90
    else:
        assert found.documents == really["samples"] == 5
    assert found.lengths is not None
    assert found.lengths.median <= found.lengths.p95 <= found.lengths.longest
    assert found.overlong == sum(length > 64 for length in lengths_of(long, tokenizer))
    assert 0.1 < found.assistant < 0.9
    assert found.example.startswith("<bos><|turn>user\nnumber ")


def lengths_of(path: Path, tokenizer: Any) -> list[int]:
    chats = {text: json.loads(text)["messages"] for text in path.read_text().splitlines()}
    return [
        len(tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)
            ["input_ids"])
        for chat in chats.values()
    ]  # fmt: skip


def test_a_sample_of_a_long_source_is_extrapolated(line: Line, tmp_path: Path) -> None:
    conversations(tmp_path / "a.jsonl", 400)
    tokenizer = load_tokenizer(line.model)
    mix = mix_of(tmp_path, {"name": "a", "path": "a.jsonl"})
    (found,) = check_sources(read_mix(mix), tokenizer, 40).sources
    assert (found.records, found.sampled, found.exact, found.documents) == (400, 40, False, 400)
    assert found.tokens == pytest.approx(load_corpus(mix, tokenizer).tokens, rel=0.05)


def test_all_that_is_wrong_is_told_at_once(line: Line, run: Run, tmp_path: Path) -> None:
    conversations(tmp_path / "short.jsonl", 3)
    conversations(tmp_path / "gsm8k_train.jsonl", 3)
    (tmp_path / "broken.jsonl").write_text('{"messages": 7}\n')
    (tmp_path / "empty.jsonl").write_text('{"text": "  "}\n')
    (tmp_path / "nameless.jsonl").write_text('{"text": "a"}\n')
    mix = mix_of(
        tmp_path,
        {"name": "short", "path": "short.jsonl", "samples": 50, "category": "chat"},
        {"name": "scored", "path": "gsm8k_train.jsonl", "samples": 9, "allow_short": True},
        {"name": "broken", "path": "broken.jsonl"},
        {"name": "nothing", "path": "empty.jsonl"},
        {"name": "absent", "path": "absent.jsonl"},
        {"name": "nameless", "path": "nameless.jsonl", "category_field": "domain"},
    )
    found = run("corpus", "check", mix, model=line.model)
    assert found.code == 2 and "source 'short': is short: 3 of 50 documents" in found.said[-1]
    assert "error: source 'short': is short: 3 of 50 documents; ask for fewer" in found.out
    assert "warning: source 'scored': reads GSM8K, a set that models are scored on" in found.out
    assert "warning: source 'scored': has no usable document among the 3" in found.out  # twice
    assert "error: source 'broken': " in found.out and "broken.jsonl:1" in found.out
    assert "error: source 'nothing': has no usable document among the 1" in found.out
    assert "error: source 'absent': cannot read" in found.out
    # As the corpus would be refused when it is made.
    assert "error: source 'nameless': " in found.out and "domain is None, expected" in found.out


def test_it_says_how_long_calibrating_takes_where_there_are_weights(
    line: Line, run: Run, tmp_path: Path
) -> None:
    found = run("corpus", "check", line.corpus, model=line.model, json=True)
    assert found.code == 0
    assert found.json["estimate"]["estimated_seconds"] > 0
    assert found.json["categories"] == {"corpus": found.json["tokens"]}
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in line.model.iterdir():
        if path.suffix != ".safetensors":
            (bare / path.name).write_bytes(path.read_bytes())
    without = run("corpus", "check", line.corpus, model=bare, json=True)
    assert without.code == 0 and without.json["estimate"] is None
    assert without.json["tokens"] == found.json["tokens"]


def test_a_gpu_is_not_estimated(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert check_corpus(line.corpus, line.model).estimate is None


def test_rows_fit_a_terminal_and_examples_are_shown(line: Line, run: Run) -> None:
    found = run("corpus", "check", line.corpus, "--examples", model=line.model)
    assert "--- corpus, its first document as the model reads it:" in found.out
    assert "<|turn>user" in found.out
    assert max(map(len, found.out.splitlines())) <= 110


def test_the_mixes_that_ship_are_listed(run: Run) -> None:
    lines = run("corpus", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == list(list_mixes())
    found = run("corpus", "list", json=True).json
    assert all(entry["description"] and entry["sources"] for entry in found)


def test_a_mix_that_cannot_be_read_is_an_error(line: Line, run: Run) -> None:
    found = run("corpus", "check", "no-such-mix", model=line.model)
    assert found.code == 2 and "no mix is called 'no-such-mix'" in found.err
