"""Bad mixes, sources and records: one line that says what, where, and what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_tokenizer import save_tokenizer

from secateur.corpus.load import load_corpus, load_tokenizer
from secateur.errors import CheckpointError, CorpusError, InputError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def refusal(mix: Path, tokenizer, **options) -> str:
    with pytest.raises(CorpusError) as caught:
        load_corpus(mix, tokenizer, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


MIXES = {
    "not YAML": ("sources: [", "mix.yaml is not usable YAML (line 1, column 11: "),
    "a tab": ("sources:\n\t- a", "line 2"),
    "empty": ("", "mix.yaml: found nothing, expected `key: value` lines"),
    "a list": ("- a", "found a list"),
    "no sources": ("seed: 1", "no sources"),
    "empty sources": ("sources: []", "no sources"),
    "sources is text": ("sources: a.jsonl", "sources is 'a.jsonl', expected a list"),
    "unknown key": ("sead: 1\nsources: [{name: a, path: a.jsonl}]", "unknown key 'sead'; known: "),
    "key twice": ("seed: 1\nseed: 2", "'seed' twice"),
    "seed is text": ("seed: x\nsources: [{name: a, path: a.jsonl}]", "expected a whole number"),
    "seed is true": ("seed: true\nsources: [{name: a, path: a.jsonl}]", "expected a whole number"),
    "negative seed": ("seed: -1\nsources: [{name: a, path: a.jsonl}]", "seed is -1, expected 0"),
    "no length": ("sequence_length: 0\nsources: [{name: a, path: a.jsonl}]", "expected 1 or more"),
    "overlong": ("overlong: cut\nsources: [{name: a, path: a.jsonl}]", "split, truncate, drop"),
    "pack": ("pack: 1\nsources: [{name: a, path: a.jsonl}]", "pack is 1, expected true or false"),
    "thought": ("thought: <t>\nsources: [{name: a, path: a.jsonl}]", "expected {thought} once"),
    "source is text": ("sources: [a.jsonl]", "sources[0]: found a str"),
    "no name": ("sources: [{path: a.jsonl}]", "sources[0]: no name"),
    "empty name": ("sources: [{name: '', path: a.jsonl}]", "name is empty"),
    "same name": (
        "sources: [{name: a, path: a.jsonl}, {name: a, path: a.jsonl}]",
        "two sources are called 'a'",
    ),
    "neither": ("sources: [{name: a}]", "source 'a': give either `path` or `hub`"),
    "both": ("sources: [{name: a, path: a.jsonl, hub: x/y}]", "give either `path` or `hub`"),
    "unknown source key": (
        "sources: [{name: a, path: a.jsonl, sampels: 3}]",
        "unknown key 'sampels'",
    ),
    "two amounts": (
        "sources: [{name: a, path: a.jsonl, samples: 3, tokens: 3}]",
        "give samples or tokens, not both",
    ),
    "no samples": ("sources: [{name: a, path: a.jsonl, samples: 0}]", "samples is 0"),
    "half a sample": ("sources: [{name: a, path: a.jsonl, samples: 0.5}]", "a whole number"),
    "weight alone": ("sources: [{name: a, path: a.jsonl, weight: 1}]", "a share of the mix's"),
    "no weight": ("tokens: 9\nsources: [{name: a, path: a.jsonl}]", "so give its `weight`"),
    "weight 0": (
        "tokens: 9\nsources: [{name: a, path: a.jsonl, weight: 0}]",
        "weight is 0, expected a number above 0",
    ),
    "weight nan": (
        "tokens: 9\nsources: [{name: a, path: a.jsonl, weight: .nan}]",
        "expected a number above 0",
    ),
    "weight too small": (
        "tokens: 9\n"
        "sources: [{name: a, path: a.jsonl, weight: 1}, {name: b, path: a.jsonl, weight: 0.001}]",
        "source 'b': its weight leaves it none of 9 tokens",
    ),
    "two categories": (
        "sources: [{name: a, path: a.jsonl, category: x, category_field: y}]",
        "give `category` or `category_field`",
    ),
    "revision of a file": (
        "sources: [{name: a, path: a.jsonl, revision: main}]",
        "`revision` goes with `hub`",
    ),
    "revision is a number": (
        "sources: [{name: a, hub: x/y, revision: 123}]",
        "revision is 123, expected text (quote it)",
    ),
    "separator of records": (
        "sources: [{name: a, path: a.jsonl, separator: '---'}]",
        "`separator` decides nothing for a .jsonl file",
    ),
    "split of a file": (
        "sources: [{name: a, path: a.jsonl, split: test}]",
        "`split` decides nothing for a .jsonl file",
    ),
    "tags": (
        "sources: [{name: a, path: a.jsonl, thought_tags: [<think>]}]",
        "expected [opening, closing]",
    ),
    "unknown field": (
        "sources: [{name: a, path: a.jsonl, fields: {mesages: m}}]",
        "fields: unknown key 'mesages'",
    ),
    "field is a list": (
        "sources: [{name: a, path: a.jsonl, fields: {text: [a]}}]",
        "text is ['a'], expected the name of a field",
    ),
    "fields that do not go together": (
        "sources: [{name: a, path: a.jsonl, fields: {text: a, user: b}}]",
        "user does not go with text",
    ),
    "no answer": ("sources: [{name: a, path: a.jsonl, fields: {user: b}}]", "and `assistant`"),
    "a source's key at the top": (
        "allow_short: true\nsources: [{name: a, path: a.jsonl}]",
        "mix.yaml: `allow_short` belongs in a source: put it under `sources`",
    ),
    "the mix's key in a source": (
        "sources: [{name: a, path: a.jsonl, overlong: drop}]",
        "sources[0]: `overlong` is of the whole mix",
    ),
    "only tools": ("sources: [{name: a, path: a.jsonl, fields: {tools: b}}]", "give `messages`"),
    "tools of a text": (
        "sources: [{name: a, path: a.jsonl, fields: {text: a, tools: b}}]",
        "`tools` goes with messages",
    ),
    "thought and calls": (
        "sources: [{name: a, path: a.jsonl, fields: {user: a, thought: b, tool_calls: c}}]",
        "`thought` does not go with `tool_calls`",
    ),
    "broken template": (
        "sources: [{name: a, path: a.jsonl, fields: {user: '{{ q', assistant: a}}]",
        "user: not a template",
    ),
}


@pytest.mark.parametrize(("content", "message"), MIXES.values(), ids=MIXES)
def test_a_mix_that_is_wrong(tmp_path, tokenizer, content, message):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    mix = tmp_path / "mix.yaml"
    mix.write_text(content)
    assert message in refusal(mix, tokenizer)


def test_a_mix_that_is_not_there(tmp_path, tokenizer):
    assert "No such file" in refusal(tmp_path / "mix.yaml", tokenizer)
    assert "one of card-000, card-001" in refusal(Path("card-0000"), tokenizer)
    (tmp_path / "mix.yaml").write_bytes(b"seed: \xff")
    assert "not UTF-8" in refusal(tmp_path / "mix.yaml", tokenizer)


def test_options_that_are_wrong(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    assert "seed is -1" in refusal(tmp_path / "a.jsonl", tokenizer, seed=-1)
    assert "sequence length is 0" in refusal(tmp_path / "a.jsonl", tokenizer, sequence_length=0)


LINES = {
    "not JSON": (b'{"text": "x"}\n{"text": \n', "a.jsonl:2: not JSON"),
    "not UTF-8": (b'{"text": "x"}\n\n{"text": "\xff"}\n', "a.jsonl:3: not UTF-8 (byte 11"),
    "a list": (b"[1]\n", "a.jsonl:1: a JSON list, expected an object"),
    "a number": (b"1\n", "a.jsonl:1: a JSON int, expected an object"),
    "NaN": (b'{"text": NaN}\n', "NaN is not a number of JSON"),
    "deep": (b'{"text": ' + b"[" * 100_000 + b"\n", "a.jsonl:1: not usable JSON"),
    "empty file": (b"", "a.jsonl holds no records"),
    "blank file": (b"\n \n", "a.jsonl holds no records"),
    "other fields": (b'{"prompt": "x"}\n', "has only prompt, expected messages or text"),
    "no fields": (b"{}\n", "has only nothing, expected messages or text"),
    "both": (b'{"text": "x", "messages": []}\n', "has messages and text, expected"),
    "text is a number": (b'{"text": 3}\n', "text is a int, expected text"),
    "half a character": (b'{"text": "\\ud800"}\n', "half of a surrogate pair"),
    "no messages": (b'{"messages": []}\n', "messages is empty"),
    "messages is an object": (b'{"messages": {"role": 1}}\n', "not a list of objects"),
    "messages is text": (b'{"messages": "hello"}\n', "messages is text, but not JSON"),
    "message is text": (b'{"messages": ["hello"]}\n', "messages is not a list of objects"),
    "no role": (b'{"messages": [{"content": "x"}]}\n', "messages[0] has role None"),
    "content is a number": (
        b'{"messages": [{"role": "user", "content": 3}]}\n',
        "messages[0] has a int as content",
    ),
    "an image": (
        b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}\n',
        "messages[0] has a part that is not text; only text can be used",
    ),
    "parts that are text": (
        b'{"messages": [{"role": "user", "content": ["x"]}]}\n',
        "messages[0] has a part that is not text",
    ),
    "unknown role": (
        b'{"messages": [{"role": "robot", "content": "x"}]}\n',
        "a.jsonl:1: the chat template refuses the messages: no such role: robot",
    ),
    "tools": (
        b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"description": "x"}]}\n',
        "tools[0] has no function with a name",
    ),
    "parameters": (
        b'{"messages": [{"role": "user"}], "tools": [{"name": "f", "parameters": [1]}]}\n',
        "tools[0] has a list as parameters",
    ),
    "a parameter": (
        b'{"messages": [{"role": "user"}], "tools": [{"name": "f", "parameters": {"a": "x"}}]}\n',
        "tools[0]: its parameter 'a' is not an object with a type",
    ),
    "tool calls": (
        b'{"messages": [{"role": "assistant", "tool_calls": [{"function": "x"}]}]}\n',
        "messages[0]: tool_calls[0] has no function with a name",
    ),
}


@pytest.mark.parametrize(("content", "message"), LINES.values(), ids=LINES)
def test_a_line_that_is_wrong(tmp_path, tokenizer, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    assert message in refusal(tmp_path / "a.jsonl", tokenizer)


def write(folder: Path, record: dict, source: str) -> Path:
    (folder / "a.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "mix.yaml").write_text(f"sources:\n  - {{name: a, path: a.jsonl, {source}}}")
    return folder / "mix.yaml"


MAPPINGS = {
    "no field": ({"a": "x"}, "fields: {user: q, assistant: a}", "no field 'q', only a"),
    "not text": ({"q": 3, "a": "x"}, "fields: {user: q, assistant: a}", "q is a int, expected"),
    "undefined": (
        {"a": "x"},
        "fields: {user: '{{ q }}', assistant: a}",
        "the template '{{ q }}': 'q' is undefined",
    ),
    "failing": (
        {"a": "x", "q": 0},
        "fields: {user: '{{ 1 // q }}', assistant: a}",
        "failed: integer division or modulo by zero",
    ),
    "category": ({"text": "x"}, "category_field: domain", "domain is None, expected the name"),
    "open thought": (
        {"messages": [{"role": "assistant", "content": "<think>hm"}]},
        "thought_tags: [<think>, </think>]",
        "messages[0] opens with <think>, never </think>",
    ),
    "short": ({"text": "x"}, "samples: 2", "has only 1 of 2 samples; ask for fewer, or set"),
    "short of tokens": ({"text": "x"}, "tokens: 9", "has only 2 of 9 tokens"),
    "a template that fails": (
        {"messages": [{"role": "user", "content": "x"}]},
        "template: {chat_template: '{{ 1 / 0 }}'}",
        "the chat template refuses the messages: division by zero",
    ),
    "template argument": (
        {"messages": [{"role": "user", "content": "x"}]},
        "template: {messages: 3}",
        "the chat template refuses the messages",
    ),
}


@pytest.mark.parametrize(("record", "source", "message"), MAPPINGS.values(), ids=MAPPINGS)
def test_a_record_that_the_mix_cannot_use(tmp_path, tokenizer, record, source, message):
    assert message in refusal(write(tmp_path, record, source), tokenizer)


def test_sources_that_cannot_be_read(tmp_path, tokenizer):
    mix = tmp_path / "mix.yaml"
    mix.write_text("sources: [{name: a, path: missing.jsonl}]")
    assert "missing.jsonl: No such file" in refusal(mix, tokenizer)
    mix.write_text("sources: [{name: a, path: b.txt}]")
    (tmp_path / "b.txt").write_bytes(b"one\ntwo\xff")
    assert "b.txt:2: not UTF-8" in refusal(mix, tokenizer)
    (tmp_path / "b.txt").write_bytes(b" \n")
    assert "b.txt holds no records" in refusal(mix, tokenizer)
    (tmp_path / "b.json").write_text('[{"messages": []}]')
    mix.write_text("sources: [{name: a, path: b.json}]")
    assert "b.json is no plain text: give a .jsonl file" in refusal(mix, tokenizer)


def test_a_tokenizer_of_another_model(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("zebra")
    load_corpus(tmp_path / "a.txt", tokenizer, vocab_size=len(tokenizer))
    assert "the model's vocabulary is 0 to 19" in refusal(
        tmp_path / "a.txt", tokenizer, vocab_size=20
    )


def test_a_tokenizer_that_cannot_write_conversations_or_thoughts(tmp_path):
    plain = load_tokenizer(save_tokenizer(tmp_path / "plain", template=None))
    mix = write(tmp_path, {"q": "x"}, "fields: {user: q, assistant: q}")
    assert "has no chat template" in refusal(mix, plain)
    mix = write(tmp_path, {"q": "x"}, "fields: {user: q, thought: q, assistant: q}")
    assert "has no chat template" in refusal(mix, plain)
    template = "{% for message in messages %}{{ message.role }}{% endfor %}"
    silent = load_tokenizer(save_tokenizer(tmp_path / "silent", template))
    assert "writes the model's turn 0 times" in refusal(mix, silent)


def test_a_tokenizer_without_known_thought_markers(tmp_path):
    folder = save_tokenizer(tmp_path / "tokenizer")
    text = (folder / "tokenizer.json").read_text().replace("channel", "chanel")
    (folder / "tokenizer.json").write_text(text)
    mix = write(tmp_path, {"q": "x"}, "fields: {user: q, thought: q, assistant: q}")
    assert "set `thought:" in refusal(mix, load_tokenizer(folder))


def test_tokenizer_folders_that_are_wrong(tmp_path):
    with pytest.raises(CheckpointError, match="no folder"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"has neither tokenizer\.json"):
        load_tokenizer(tmp_path)
    for content in ("", "{}", '{"model": 3}', "\0"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match="cannot load the tokenizer in"):
            load_tokenizer(tmp_path)
