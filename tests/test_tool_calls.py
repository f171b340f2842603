"""Tool calls and chat templates: the form that a template wants, and calls that it leaves out."""

from __future__ import annotations

import pytest
from test_corpus import texts, write_mix
from tiny_tokenizer import save_tokenizer

from secateur.corpus.check import check_sources
from secateur.corpus.load import load_corpus, load_tokenizer
from secateur.corpus.mix import read_mix

BEFORE = (
    "{{ bos_token }}{% for message in messages %}{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}"
)
AFTER = "{% endfor %}{% endfor %}"
CONCAT = BEFORE + "{{ call.function.name + ' ' + call.function.arguments + ';' }}" + AFTER
PRINTED = BEFORE + "{{ call.function.name }} {{ call.function.arguments }};" + AFTER
MEMBERS = (
    BEFORE + "{{ call.function.name }} {% for key, value in call.function.arguments | items %}"
    "{{ key }}={{ value }};{% endfor %}" + AFTER
)


def call(arguments, content=""):
    calls = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}]
    asked = {"role": "user", "content": "Weather?"}
    return {"messages": [asked, {"role": "assistant", "content": content, "tool_calls": calls}]}


@pytest.mark.parametrize(
    ("template", "given", "written"),
    [
        (CONCAT, '{"city":  "Ø"}', 'look {"city":  "Ø"};'),
        (CONCAT, {"city": "Ø"}, 'look {"city": "Ø"};'),
        (PRINTED, '{"city":  "Ø"}', 'look {"city":  "Ø"};'),
        (MEMBERS, '{"city":  "Ø"}', "look city=Ø;"),
        (MEMBERS, {"city": "Ø"}, "look city=Ø;"),
    ],
)
def test_arguments_of_tool_calls_come_in_the_form_that_the_template_wants(
    tmp_path, template, given, written
):
    tokenizer = load_tokenizer(save_tokenizer(tmp_path / "tokenizer", template))
    corpus = load_corpus(write_mix(tmp_path, {"a": [call(given)]}), tokenizer)
    assert texts(corpus, tokenizer) == [f"<bos>Weather?{written}"]
    assert corpus.description["warnings"] == []


def test_tool_calls_that_the_template_does_not_write_give_a_warning(tmp_path):
    """transformers drops a content of null, so a template that tests for it writes no call."""
    template = (
        "{% for message in messages %}{% if message.content is none %}"
        "{% for call in message.tool_calls %}{{ call.function.name }}{% endfor %}"
        "{% else %}{{ message.content }}{% endif %}{% endfor %}"
    )
    tokenizer = load_tokenizer(save_tokenizer(tmp_path / "tokenizer", template))
    # A tool's name may be in the text all the same.
    asked = call("{}", content="I look.")
    mix = write_mix(tmp_path, {"a": [asked, call("{}", content=None), {"text": "no call"}]})
    (warning,) = load_corpus(mix, tokenizer).description["warnings"]
    assert "'a': the chat template writes nothing of some tool calls in 2 of" in warning
    assert "(the first is a.jsonl:" in warning
    (told,) = check_sources(read_mix(mix), tokenizer).sources[0].problems
    assert told == warning.removeprefix("source 'a': ")
