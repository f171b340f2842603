"""A mix and a tokenizer to rows: what is chosen, how it is written, and that it repeats."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_tokenizer import save_tokenizer

from secateur.api.calibrate import build_corpus
from secateur.api.requests import Calibration
from secateur.checkpoint.reader import open_checkpoint
from secateur.corpus.load import Corpus, check_mix, list_mixes, load_corpus, load_tokenizer
from secateur.corpus.mix import MIXES, read_mix
from secateur.errors import CorpusError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def chat(question: str, answer: str) -> dict:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def write_mix(folder: Path, records: dict[str, list[dict]], **mix) -> Path:
    """A mix of one JSONL file for each key; a source's settings are under its name in `mix`."""
    sources = []
    for name, lines in records.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        sources.append({"name": name, "path": f"{name}.jsonl", **mix.pop(name, {})})
    path = folder / "mix.yaml"
    path.write_text(yaml.safe_dump({**mix, "sources": sources}), encoding="utf-8")
    return path


def texts(corpus: Corpus, tokenizer) -> list[str]:
    """Every document or piece of one, in row order."""
    return [
        tokenizer.decode(row.input_ids[row.documents == document])
        for row in corpus.rows
        for document in range(len(row.samples))
    ]


def numbered(count: int, length: int = 1) -> list[dict]:
    return [{"text": f"{index:04d}" * length} for index in range(count)]


def test_a_conversation_is_written_by_the_chat_template(tmp_path, tokenizer):
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
    asked = {"role": "user", "content": "What time?"}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}],
    }
    mix = write_mix(tmp_path, {"a": [{"messages": [asked, called], "tools": tools}]})
    assert texts(load_corpus(mix, tokenizer), tokenizer) == [
        "<bos><|tool>clock{}<tool|><|turn>user\nWhat time?<turn|>\n"
        '<|turn>assistant\n<|tool_call>clock{"zone": "UTC"}<tool_call|><turn|>\n'
    ]


def test_content_in_parts_is_text(tmp_path, tokenizer):
    template = "{% for part in messages[0].content %}[{{ part.text }}]{% endfor %}"
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    record = {"messages": json.dumps([{"role": "user", "content": parts}])}
    mix = write_mix(tmp_path, {"a": [record]}, a={"template": {"chat_template": template}})
    assert texts(load_corpus(mix, tokenizer), tokenizer) == ["[one][two]"]


def test_text_begins_with_the_special_tokens_of_the_tokenizer_only(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": [{"text": "abc"}]})
    assert texts(load_corpus(mix, tokenizer), tokenizer) == ["<bos>abc"]


def test_each_document_of_a_row_has_its_own_beginning(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": [{"text": "one"}, chat("two", "three")]})
    (row,) = load_corpus(mix, tokenizer).rows
    assert row.input_ids[row.positions == 0].tolist() == [tokenizer.bos_token_id] * 2


def test_a_thought_is_written_where_the_template_drops_it(tmp_path, tokenizer):
    record = {"q": "2+2?", "why": " two and two ", "a": "4"}
    fields = {"user": "q", "thought": "why", "assistant": "{{ a }}."}
    mix = write_mix(tmp_path, {"a": [record]}, a={"fields": fields})
    corpus = load_corpus(mix, tokenizer)
    assert texts(corpus, tokenizer) == [
        "<bos><|turn>user\n2+2?<turn|>\n"
        "<|turn>assistant\n<|channel>thought\ntwo and two\n<channel|>4.<turn|>\n"
    ]
    assert corpus.description["thought"] == "<|channel>thought\n{thought}\n<channel|>"


def test_the_form_of_a_thought_can_be_given(tmp_path, tokenizer):
    mix = write_mix(
        tmp_path,
        {"a": [chat("q", "<think>\nwhy\n</think>\n\nso")]},
        thought="<reason>{thought}</reason>",
        a={"thought_tags": ["<think>", "</think>"], "template": {"enable_thinking": True}},
    )
    corpus = load_corpus(mix, tokenizer)
    assert texts(corpus, tokenizer) == [
        "<bos><|think|><|turn>user\nq<turn|>\n<|turn>assistant\n<reason>why</reason>so<turn|>\n"
    ]
    assert ["<reason>" in corpus.description["warnings"][0]] == [True]


def test_a_template_that_writes_thoughts_itself_is_used(tmp_path):
    template = (
        "{% for message in messages %}{{ message.role }}:"
        "{{ message.reasoning_content | default('') }}|{{ message.content }};{% endfor %}"
    )
    tokenizer = load_tokenizer(save_tokenizer(tmp_path / "tokenizer", template))
    fields = {"user": "q", "thought": "t", "assistant": "a"}
    mix = write_mix(tmp_path, {"a": [{"q": "Q", "t": "T", "a": "A"}]}, a={"fields": fields})
    corpus = load_corpus(mix, tokenizer)
    assert texts(corpus, tokenizer) == ["user:|Q;assistant:T|A;"]
    assert corpus.description["thought"] is None


def test_samples_takes_exactly_so_many_and_the_seed_decides_which(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": numbered(50)}, a={"samples": 7})
    first, again = load_corpus(mix, tokenizer), load_corpus(mix, tokenizer)
    other = load_corpus(mix, tokenizer, seed=1)
    assert len(first.samples) == len(other.samples) == 7
    assert first.sha256 == again.sha256 and first.samples == again.samples
    assert {sample.sha256 for sample in first.samples} != {s.sha256 for s in other.samples}


def test_tokens_are_exact_because_the_last_document_is_cut(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": numbered(50)}, a={"tokens": 52})
    corpus = load_corpus(mix, tokenizer)
    assert corpus.tokens == 52
    assert sorted(sample.tokens for sample in corpus.samples) == [2, *[5] * 10]


def test_weights_share_out_the_total_to_the_token(tmp_path, tokenizer):
    names = {"a": 0.3, "b": 0.3, "c": 0.4}
    records = {name: [{"text": f"{name}{index}"} for index in range(99)] for name in names}
    settings = {name: {"weight": weight} for name, weight in names.items()}
    mix = write_mix(tmp_path, records, tokens=101, **settings)
    corpus = load_corpus(mix, tokenizer)
    assert corpus.description["tokens_by_category"] == {"a": 30, "b": 31, "c": 40}


def test_a_document_that_comes_twice_is_taken_once_and_counted(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": [{"text": "x"}, {"text": "y"}], "b": numbered(3)})
    with open(tmp_path / "b.jsonl", "a") as file:
        file.write('{"text": "x"}\n{"text": "0001"}\n{"text": "  "}\n')
    corpus = load_corpus(mix, tokenizer)
    assert len(corpus.samples) == 5
    b = corpus.description["sources"][1]
    assert (b["samples"], b["duplicates"], b["empty"]) == (3, 2, 1)


def test_a_sample_is_named_by_the_hash_of_what_was_read(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": [{"text": "Käse"}]}, a={"tokens": 2})
    (sample,) = load_corpus(mix, tokenizer).samples
    assert sample.sha256 == hashlib.sha256('{"text":"Käse"}'.encode()).hexdigest()
    assert (sample.source, sample.category, sample.tokens) == ("a", "a", 2)


@pytest.mark.parametrize(
    ("overlong", "lengths", "count"),
    [("split", [3, 8, 8], "dropped"), ("truncate", [3, 8], "truncated"), ("drop", [3], "dropped")],
)
def test_documents_longer_than_a_row(tmp_path, tokenizer, overlong, lengths, count):
    records = [{"text": "12"}, {"text": "123456789012345"}]
    mix = write_mix(tmp_path, {"a": records}, sequence_length=8, overlong=overlong)
    corpus = load_corpus(mix, tokenizer)
    assert sorted(len(row.input_ids) for row in corpus.rows) == lengths
    assert corpus.description["sources"][0][count] == (overlong != "split")
    assert {index for row in corpus.rows for index in row.samples} == set(
        range(len(corpus.samples))
    )


def test_the_pieces_of_a_split_document_are_the_same_sample(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": [{"text": "1234567"}]}, sequence_length=3)
    corpus = load_corpus(mix, tokenizer)
    assert [row.samples for row in corpus.rows] == [(0,), (0,), (0,)]
    assert corpus.samples[0].tokens == 8
    assert [row.positions.tolist() for row in corpus.rows] == [[0, 1, 2], [0, 1, 2], [0, 1]]


def test_the_category_may_come_from_a_field(tmp_path, tokenizer):
    records = [{"text": "a", "domain": "x"}, {"text": "b", "domain": "y"}]
    mix = write_mix(tmp_path, {"a": records}, a={"category_field": "domain"})
    corpus = load_corpus(mix, tokenizer)
    assert corpus.categories == ("x", "y")
    assert sorted(row.category for row in corpus.rows) == ["x", "y"]


def test_a_source_that_may_be_short_gives_a_warning(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": numbered(3)}, a={"samples": 9, "allow_short": True})
    corpus = load_corpus(mix, tokenizer)
    assert len(corpus.samples) == 3
    assert "a.jsonl has only 3 of 9 samples" in corpus.description["warnings"][0]


def test_text_files_are_cut_at_the_separator(tmp_path, tokenizer):
    (tmp_path / "notes.txt").write_bytes(b"one\r\ntwo\r\n--\r\n\r\n--\r\nthree")
    mix = tmp_path / "mix.yaml"
    mix.write_text('sources: [{name: a, path: notes.txt, separator: "--\\n"}]')
    assert sorted(texts(load_corpus(mix, tokenizer), tokenizer)) == [
        "<bos>one\ntwo\n",
        "<bos>three",
    ]


def test_a_file_alone_is_a_mix(tmp_path, tokenizer):
    (tmp_path / "notes.txt").write_text("one")
    corpus = load_corpus(tmp_path / "notes.txt", tokenizer)
    assert (corpus.categories, texts(corpus, tokenizer)) == (("notes",), ["<bos>one"])


def test_the_corpus_is_the_same_on_every_machine(tmp_path, tokenizer):
    records = {"a": numbered(40), "b": [chat(f"q{index}", "yes" * index) for index in range(20)]}
    mix = write_mix(
        tmp_path, records, sequence_length=64, seed=7, a={"samples": 12}, b={"tokens": 500}
    )
    corpus = load_corpus(mix, tokenizer)
    assert corpus.sha256 == "91f87ac9652fe447748be000b3866b53516b852bb0429511bdbe5f1bf1d7a4b4"
    assert corpus.tokens == 560


def test_the_description_can_be_written_as_json_and_names_everything(tmp_path, tokenizer):
    seen = []
    mix = write_mix(tmp_path, {"a": numbered(3)})
    corpus = load_corpus(
        mix, tokenizer, sequence_length=100, progress=lambda *state: seen.append(state)
    )
    described = json.loads(json.dumps(corpus.description))
    assert (described["seed"], described["sequence_length"], described["rows"]) == (42, 100, 1)
    file_hash = hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()
    assert described["sources"][0]["sha256"] == file_hash
    assert len(described["tokenizer_sha256"]) == 64
    assert seen[:2] == [("read a", done, 1, "") for done in (0, 1)]
    assert seen[2:] == [("source a", done, 3, "samples") for done in (1, 2, 3)]


def test_another_tokenizer_has_another_hash(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": numbered(1)})
    other = load_tokenizer(save_tokenizer(tmp_path / "other", template="{{ messages }}"))
    hashes = [load_corpus(mix, t).description["tokenizer_sha256"] for t in (tokenizer, other)]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("name", ["gsm8k-train.jsonl", "my_MATH-500.jsonl", "HumanEvalPlus.jsonl"])
def test_a_file_that_is_called_like_an_evaluation_set_gives_a_warning(tmp_path, tokenizer, name):
    (tmp_path / name).write_text('{"text": "x"}\n')
    (warning,) = load_corpus(tmp_path / name, tokenizer).description["warnings"]
    assert "a set that models are scored on" in warning


def test_the_mixes_that_come_with_secateur():
    assert list_mixes() == ("card-000", "card-001", "card-002", "gemmule")
    mixes = {name: read_mix(name) for name in list_mixes()}
    assert [source.tokens for source in mixes["card-000"].sources] == [14580, 12150, 12150, 9720]
    (gpqa,) = mixes["card-001"].sources
    assert (gpqa.samples, mixes["card-001"].sequence_length) == (196, 4096)
    card_002 = mixes["card-002"].sources
    assert [source.samples for source in card_002] == [
        1000, 1636, 3480, 3578, 3576, 1000, 1000, 800, 800, 4466, 500, 164,
    ]  # fmt: skip
    assert sum(source.samples or 0 for source in card_002) == 22_000


def test_card_002_reads_sets_that_models_are_scored_on():
    from secateur.corpus.evaluation_sets import find_evaluation_set

    known = {source.hub: find_evaluation_set(source) for source in read_mix("card-002").sources}
    assert known["HuggingFaceH4/MATH-500"] == "MATH-500"
    assert known["evalplus/humanevalplus"] == "HumanEval+"
    assert known["openai/gsm8k"] == "GSM8K"
    assert known["open-r1/Mixture-of-Thoughts"] is None


def test_rows_of_a_category_do_not_depend_on_dictionary_order(tmp_path, tokenizer):
    one = write_mix(tmp_path, {"a": [{"text": "x", "z": 1}]})
    first = load_corpus(one, tokenizer)
    write_mix(tmp_path, {"a": [{"z": 1, "text": "x"}]})
    assert load_corpus(one, tokenizer).sha256 == first.sha256
    assert np.array_equal(load_corpus(one, tokenizer).rows[0].input_ids, first.rows[0].input_ids)


def test_a_mix_without_usable_documents_is_refused(tmp_path, tokenizer):
    mix = write_mix(tmp_path, {"a": [{"text": " "}]})
    with pytest.raises(CorpusError, match=r"has only 0 of 1 samples \(1 empty\)"):
        load_corpus(mix, tokenizer)
    for content in (" \n", None, [{"type": "text", "text": ""}]):
        write_mix(tmp_path, {"a": [{"messages": [{"role": "user", "content": content}]}]})
        with pytest.raises(CorpusError, match=r"has only 0 of 1 samples \(1 empty\)"):
            load_corpus(mix, tokenizer)
    write_mix(tmp_path, {"a": [{"text": " "}]}, a={"allow_short": True})
    with pytest.raises(CorpusError, match="no usable documents, so it gives no rows"):
        load_corpus(mix, tokenizer)


def test_gemmule_calibrates_on_its_own_set():
    folder = MIXES.parent.parent / "gemmule"
    corpus = load_corpus("gemmule", load_tokenizer(folder), vocab_size=4096)
    domains = ("arithmetic", "chat", "code", "definitions", "prose", "tools")
    assert corpus.categories == domains
    assert min(corpus.description["tokens_by_category"].values()) > 1000
    assert corpus.description["warnings"] == []


def test_a_mix_is_checked_before_anything_is_loaded(tmp_path):
    check_mix("gemmule")
    mix = write_mix(tmp_path, {"a": [{"text": "x"}]})
    check_mix(mix)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"source 'a': there is no .*a\.jsonl"):
        check_mix(mix)
    (tmp_path / "a.jsonl").mkdir()  # a folder that `datasets` reads
    check_mix(mix)


def test_building_a_corpus_reports_its_progress():
    stages = set()

    def note(stage, done, total, unit):
        stages.add((stage, unit, done <= total))

    build_corpus(open_checkpoint("gemmule"), Calibration("gemmule"), note)
    assert stages == {("read gemmule", "", True), ("source gemmule", "samples", True)}


def test_building_a_corpus_of_rows_and_checking_a_mix_load_no_large_library(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"input_ids": [1, 2]}\n')
    mix = write_mix(tmp_path, {"a": [{"text": "x"}]})
    code = (
        "import sys\n"
        "from secateur.corpus.load import check_mix, load_corpus, load_rows\n"
        f"load_rows({str(tmp_path / 'rows.jsonl')!r}, 10)\n"
        f"check_mix({str(mix)!r})\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
