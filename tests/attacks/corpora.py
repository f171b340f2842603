"""Corpora, tokenizers and chat templates."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack import Attack, Goods, copy_model, edit_json, instead, sparse, write

CHECK = "corpus check {room}/c.jsonl --model {model}"
TEMPLATE = "corpus check {corpus} --model {room}/model"
ROWS = "calibrate {model} --rows {room}/rows.jsonl -o {out} --workers 1"
ASKED = '{"role": "user", "content": "a"}'


def _template(text: str) -> Callable[[Goods, Path], object]:
    def make(goods: Goods, room: Path) -> None:
        (copy_model(goods, room) / "chat_template.jinja").write_text(text, "utf-8")

    return make


def _tokenizer(change: Callable[[Any], object], name: str = "tokenizer.json") -> Any:
    def make(goods: Goods, room: Path) -> None:
        edit_json(copy_model(goods, room) / name, change)

    return make


ATTACKS = (
    Attack(
        "a corpus of binary data", write("c.jsonl", bytes(range(256)) * 4000), CHECK, ("c.jsonl:1",)
    ),
    Attack(
        "a corpus nested without end", write("c.jsonl", '{"text":' * 200_000), CHECK, ("c.jsonl:1",)
    ),
    Attack(
        "a corpus of a line without end",
        write("c.jsonl", '{"text": "' + "a" * 30_000_000),
        CHECK,
        ("c.jsonl:1",),
    ),
    Attack("a corpus of empty lines", write("c.jsonl", b"\n" * 3_000_000), CHECK, ("c.jsonl",)),
    Attack(
        "a corpus of other columns",
        write("c.jsonl", '{"\\u001b[2Jtext": 1}\n'),
        CHECK,
        ("c.jsonl:1",),
        never="\x1b",
    ),
    Attack(
        "a corpus with a number of 5,000 digits",
        write("c.jsonl", '{"text": ' + "9" * 5000 + "}\n"),
        CHECK,
        ("c.jsonl:1",),
    ),
    Attack(
        "a corpus with half a surrogate pair",
        write("c.jsonl", '{"text": "\\ud800"}\n'),
        CHECK,
        ("c.jsonl:1", "surrogate"),
    ),
    Attack(
        "a corpus with content of a wrong kind",
        write("c.jsonl", '{"messages": [{"role": "user", "content": {"a": [1]}}]}\n'),
        CHECK,
        ("c.jsonl:1",),
    ),
    Attack(
        "a corpus with roles of lists",
        write("c.jsonl", '{"messages": [{"role": ["user"], "content": "a"}]}\n'),
        CHECK,
        ("c.jsonl:1",),
    ),
    Attack(
        "a corpus that is compressed",
        write("c.jsonl", gzip.compress(bytes(50_000_000))),
        CHECK,
        ("c.jsonl:1",),
    ),
    Attack(
        "a corpus larger than the memory",
        lambda goods, room: sparse(room / "c.jsonl", 1 << 42),
        CHECK,
        ("c.jsonl", "memory"),
    ),
    Attack("a corpus that is a pipe", instead("c.jsonl", "pipe"), CHECK, ("c.jsonl",)),
    Attack(
        "a corpus without an end",
        instead("c.jsonl", "endless device"),
        CHECK,
        ("c.jsonl", "a device"),
    ),
    Attack(
        "tool calls nested without end",
        write(
            "c.jsonl",
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": "a"},
                        {
                            "role": "assistant",
                            "content": "",
                            "tool_calls": [
                                {
                                    "type": "function",
                                    "function": {"name": "f", "arguments": "[" * 100_000},
                                }
                            ],
                        },
                    ]
                }
            ),
        ),
        CHECK,
        code=0,
    ),
    Attack(
        "rows of tokens that there are not",
        write("rows.jsonl", '{"input_ids": [99999999999]}\n'),
        ROWS,
        ("rows.jsonl:1",),
    ),
    Attack(
        "rows of negative tokens",
        write("rows.jsonl", '{"input_ids": [-1]}\n'),
        ROWS,
        ("rows.jsonl:1",),
    ),
    Attack(
        "rows of truth values",
        write("rows.jsonl", '{"input_ids": [true, 1.5]}\n'),
        ROWS,
        ("rows.jsonl:1",),
    ),
    Attack(
        "a template that loops",
        _template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        TEMPLATE,
        ("chat template", "steps"),
    ),
    Attack(
        "a template that fills the memory",
        _template("{{ 'a' * 10 ** 12 }}"),
        TEMPLATE,
        ("chat template", "more than 8,388,608 characters"),
    ),
    Attack(
        "a template that doubles",
        _template(
            "{% set n = namespace(x='a') %}{% for i in range(99) %}"
            "{% set n.x = n.x ~ n.x %}{% endfor %}"
        ),
        TEMPLATE,
        ("chat template", "characters"),
    ),
    Attack(
        "a template that counts without end",
        _template("{{ 9 ** (9 ** 9) }}"),
        TEMPLATE,
        ("chat template", "whole number"),
    ),
    Attack(
        "a template that formats",
        _template("{{ '%9999999999d' % 1 }}"),
        TEMPLATE,
        ("chat template", "width"),
    ),
    Attack(
        "a template that calls itself",
        _template("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}"),
        TEMPLATE,
        ("chat template",),
    ),
    Attack(
        "a template that reaches attributes",
        _template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        TEMPLATE,
        ("chat template", "unsafe"),
    ),
    Attack(
        "a template that reaches globals",
        _template("{{ cycler.__init__.__globals__.os.system('touch template-was-run') }}"),
        TEMPLATE,
        ("chat template", "unsafe"),
        never="template-was-run",
    ),
    Attack(
        "a template that changes what it is given",
        _template("{{ messages.clear() }}"),
        TEMPLATE,
        ("chat template", "unsafe"),
    ),
    Attack(
        "a template that includes a file",
        _template("{% include '/etc/passwd' %}"),
        TEMPLATE,
        ("chat template",),
        never="root:",
    ),
    Attack(
        "a template that is no template", _template("{% for %}{{ "), TEMPLATE, ("chat template",)
    ),
    Attack(
        "a template nested without end",
        _template("{% if 1 %}" * 5000),
        TEMPLATE,
        ("chat template",),
    ),
    Attack(
        "a template of two megabytes",
        _template("x" * (2 << 20)),
        TEMPLATE,
        ("chat template", "a template of 2,097,152 characters"),
    ),
    Attack(
        "a tokenizer with merges of nothing",
        _tokenizer(lambda t: t["model"].update(merges=[["never", "was"]])),
        TEMPLATE,
        ("tokenizer",),
    ),
    Attack(
        "a tokenizer with ids of texts",
        _tokenizer(lambda t: t["model"].update(vocab={"a": "b"})),
        TEMPLATE,
        ("tokenizer",),
    ),
    Attack(
        "a tokenizer of another kind",
        _tokenizer(lambda t: t["model"].update(type="Evil")),
        TEMPLATE,
        ("tokenizer",),
    ),
    Attack("a tokenizer that is a list", _tokenizer(lambda t: t.clear()), TEMPLATE, ("tokenizer",)),
    Attack(
        "a tokenizer with a pattern without end",
        _tokenizer(
            lambda t: t.update(
                normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+(a+)+$"}, "content": ""}
            )
        ),
        TEMPLATE,
        code=0,
    ),
)
