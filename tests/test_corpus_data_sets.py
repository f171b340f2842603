"""Data sets in the hub's form: read by `datasets` from a folder; the hub itself is stood in for."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import yaml
from tiny_tokenizer import save_tokenizer

from secateur.corpus.load import load_corpus, load_tokenizer
from secateur.corpus.mix import MIXES
from secateur.errors import CorpusError, EngineError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("default")  # what datasets warns of is not ours

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_mix(folder, **source):
    (folder / "mix.yaml").write_text(yaml.safe_dump({"sources": [{"name": "a", **source}]}))
    return folder / "mix.yaml"


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_folder_is_read_with_its_splits(tmp_path, tokenizer):
    for split, count in (("train", 5), ("test", 2)):
        rows = [{"q": f"{split} {n}", "a": "yes", "image": "x" * 99} for n in range(count)]
        write_rows(tmp_path / "data" / f"{split}.jsonl", rows)
    fields = {"user": "{{ q }}?", "assistant": "a"}
    mix = write_mix(tmp_path, path="data", split="test", fields=fields)
    corpus = load_corpus(mix, tokenizer)
    texts = sorted(tokenizer.decode(row.input_ids) for row in corpus.rows)
    assert "<|turn>user\ntest 0?<turn|>\n<|turn>assistant\nyes<turn|>" in "".join(texts)
    (origin,) = corpus.description["sources"]
    assert (origin["records"], origin["split"], len(origin["sha256"])) == (2, "test", 64)
    assert load_corpus(mix, tokenizer).sha256 == corpus.sha256


def test_conversations_keep_only_the_keys_that_have_a_value(tmp_path, tokenizer):
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y", "tool_calls": [{"name": "f", "arguments": {}}]},
    ]
    write_rows(tmp_path / "data" / "train.jsonl", [{"messages": messages}])
    corpus = load_corpus(write_mix(tmp_path, path="data"), tokenizer)
    assert tokenizer.decode(corpus.rows[0].input_ids).endswith(
        "<|tool_call>f{}<tool_call|>y<turn|>\n"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"split": "dev"}, "Unknown split"),
        ({"config": "big"}, "'big' not found"),
        ({"fields": {"text": "story"}}, "has none of the columns story, only q"),
    ],
)
def test_what_a_folder_has_not(tmp_path, tokenizer, source, message):
    write_rows(tmp_path / "data" / "train.jsonl", [{"q": "x"}])
    with pytest.raises(CorpusError) as caught:
        load_corpus(write_mix(tmp_path, path="data", **source), tokenizer)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_in_a_folder(tmp_path, tokenizer):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(CorpusError, match="source 'a': cannot load data"):
        load_corpus(write_mix(tmp_path, path="data"), tokenizer)


def test_a_folder_without_data(tmp_path, tokenizer):
    (tmp_path / "data").mkdir()
    with pytest.raises(CorpusError, match="cannot load data"):
        load_corpus(write_mix(tmp_path, path="data"), tokenizer)


class Hub:
    """Stands in for load_dataset: gives these rows, as if from the cache, and notes the calls."""

    def __init__(self, rows, folder):
        self.rows, self.folder, self.calls = rows, folder, []

    def __call__(self, name, config, *, split, revision):
        self.calls.append((name, config, split, revision))
        data = datasets.Dataset.from_list(self.rows)
        return SimpleNamespace(
            column_names=data.column_names,
            select_columns=data.select_columns,
            cache_files=[{"filename": f"/cache/x/0.0.0/{self.folder}/train.arrow"}],
        )


def test_the_commit_that_was_read_is_recorded(tmp_path, tokenizer, monkeypatch):
    hub = Hub([{"text": "one"}, {"text": "two"}], COMMIT)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    mix = write_mix(tmp_path, hub="some/data", config="small", split="test", revision="v2")
    described = load_corpus(mix, tokenizer).description
    assert hub.calls == [("some/data", "small", "test", "v2")]
    origin = described["sources"][0]
    assert (origin["hub"], origin["revision"]) == ("some/data", COMMIT)
    assert described["warnings"] == []


def test_an_unknown_commit_gives_a_warning(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", Hub([{"text": "one"}], "a1b2"))
    described = load_corpus(write_mix(tmp_path, hub="some/data"), tokenizer).description
    assert "which revision of some/data was read is not known" in described["warnings"][0]


def test_a_hub_that_cannot_be_reached(tmp_path, tokenizer, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach\n'some/data' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(EngineError, match="Couldn't reach 'some/data' on the Hub; connect, or put"):
        load_corpus(write_mix(tmp_path, hub="some/data"), tokenizer)


def test_a_data_set_that_the_hub_has_not(tmp_path, tokenizer, monkeypatch):
    def missing(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'some/data' is gated")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(CorpusError, match="source 'a': cannot load some/data: .* is gated"):
        load_corpus(write_mix(tmp_path, hub="some/data"), tokenizer)


def test_a_folder_here_does_not_pass_for_the_hub(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "some" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="some/data is also a folder here"):
        load_corpus(write_mix(tmp_path, hub="some/data"), tokenizer)


def test_without_the_package_the_error_says_what_to_install(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"pip install 'secateur\[hub-data\]'"):
        load_corpus(write_mix(tmp_path, hub="some/data"), tokenizer)


CARD_RECORDS = {
    "HuggingFaceH4/ultrachat_200k": {"messages": [{"role": "user", "content": "hello"}]},
    "theblackcat102/evol-codealpaca-v1": {"instruction": "sort", "output": "sorted(x)"},
    "open-r1/Mixture-of-Thoughts": {
        "messages": [
            {"role": "user", "content": "1+1"},
            {"role": "assistant", "content": "<think>\none and one\n</think>\n\n2"},
        ]
    },
    "Salesforce/xlam-function-calling-60k": {
        "query": "weather?",
        "answers": '[{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}]',
        "tools": json.dumps(
            [
                {
                    "name": "weather",
                    "description": "tells it",
                    "parameters": {
                        "city": {"description": "where", "type": "str", "default": "x"},
                        "days": {"description": "how many", "type": "List[int], optional"},
                    },
                }
            ]
        ),
    },
    "SWE-bench/SWE-smith-trajectories": {
        "messages": json.dumps(
            [
                {"role": "system", "content": [{"type": "text", "text": "You"}]},
                {"role": "assistant", "content": "look", "tool_calls": [
                    {"id": "1", "type": "function",
                     "function": {"name": "bash", "arguments": '{"command": "ls"}'}}]},
                {"role": "tool", "content": "README", "tool_call_id": "1"},
            ]
        )
    },
    "qiaojin/PubMedQA": {
        "question": "Does it?", "context": {"contexts": ["We saw.", "We did."]},
        "long_answer": "It does.", "final_decision": "yes",
    },
    "derek-thomas/ScienceQA": {
        "question": "Which?", "choices": ["this", "that"], "answer": 1, "hint": "",
        "solution": "Because.",
    },
    "openai/gsm8k": {"question": "How many?", "answer": "3 #### 3"},
    "HuggingFaceH4/MATH-500": {"problem": "Find x", "solution": "x = 1"},
    "evalplus/humanevalplus": {"prompt": "def f():", "canonical_solution": "    return 1"},
    "Idavidrein/gpqa": {
        "Question": "Which?", "Explanation": "By symmetry.", "Correct Answer": "9 eV",
    },
}  # fmt: skip
"""One record of each data set in the cards' mixes, with the fields that it has on the hub."""

CARD_TEXTS = {
    "card-000": [
        "<|turn>assistant\nsorted(x)<turn|>",
        "<|turn>assistant\n<|channel>thought\none and one\n<channel|>2<turn|>",
        '<|tool>weather{"city": {"description": "where", "type": "string", "default": "x"}, '
        '"days": {"description": "how many", "type": "array"}}<tool|>',
        '<|tool_call>weather{"city": "Oslo", "days": 2}<tool_call|><turn|>',
    ],
    "card-001": [
        "<bos><|think|><|turn>user\nWhich?<turn|>\n<|turn>assistant\n"
        "<|channel>thought\nBy symmetry.\n<channel|>9 eV<turn|>\n",
    ],
    "card-002": [
        "<think>\none and one\n</think>\n\n2<turn|>",
        '<|tool_call>bash{"command": "ls"}<tool_call|>look<turn|>\n<|turn>tool\nREADME<turn|>',
        "<|turn>user\nWe saw.\n\nWe did.\n\nDoes it?<turn|>\n"
        "<|turn>assistant\nIt does.\n\nAnswer: yes<turn|>",
        "<|turn>user\nWhich?\nA. this\nB. that<turn|>\n"
        "<|turn>assistant\nBecause.\n\nAnswer: B. that<turn|>",
        "<|turn>assistant\n3 #### 3<turn|>",
        "<|turn>assistant\nx = 1<turn|>",
        "<|turn>assistant\nreturn 1<turn|>",
    ],
}


@pytest.mark.parametrize("name", CARD_TEXTS)
def test_the_mixes_of_the_cards_read_records_as_the_hub_has_them(
    tmp_path, tokenizer, monkeypatch, name
):
    def hub(identifier, *_, **__):
        return Hub([CARD_RECORDS[identifier]], COMMIT)(identifier, None, split="", revision=None)

    monkeypatch.setattr(datasets, "load_dataset", hub)
    content = yaml.safe_load((MIXES / f"{name}.yaml").read_text())
    for source in content["sources"]:
        source["allow_short"] = True
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(content))
    corpus = load_corpus(tmp_path / "mix.yaml", tokenizer)
    text = "".join(tokenizer.decode(row.input_ids) for row in corpus.rows)
    for expected in CARD_TEXTS[name]:
        assert expected in text
