"""Prompts and answers: what is asked, what the original says, which tokens count."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from tiny_tokenizer import SPECIAL, TEMPLATE, save_tokenizer

from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import CheckpointError, CorpusError, EngineError, InputError
from secateur.evaluation.memory import weight_bytes
from secateur.evaluation.tokens import answering, generate
from secateur.evaluation.tokens.answering import collect_answers
from secateur.evaluation.tokens.answers import (
    Answer,
    AnswerSet,
    answer_set,
    load_answers,
    save_answers,
)
from secateur.evaluation.tokens.generate import (
    Generation,
    generate_answers,
    stop_tokens,
)
from secateur.evaluation.tokens.prompts import (
    PromptSet,
    given_answers,
    read_answers,
    read_prompts,
    turn_end_ids,
)
from secateur.forward.backends.cpu import CpuBackend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCAB = len(SPECIAL) + 256 + 3
TURN_END = SPECIAL.index("<turn|>")

CONVERSATIONS: list[dict[str, Any]] = [
    {"id": f"c{i}", "domain": ("chat", "code")[i % 2], "messages": messages}
    for i, messages in enumerate(
        [
            [{"role": "user", "content": "hi"}],
            [{"role": "user", "content": "a longer question"}],
            [
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "two"},
                {"role": "user", "content": "and?"},
                {"role": "assistant", "content": "three"},
            ],
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
            [{"role": "user", "content": "last, and the longest of them all"}],
        ]
    )
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny random model that knows the tiny tokenizer."""
    folder = tmp_path_factory.mktemp("answering")
    config = transformers.Gemma4TextConfig(
        vocab_size=VOCAB,
        vocab_size_per_layer_input=VOCAB,
        hidden_size=32,
        hidden_size_per_layer_input=0,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        head_dim=16,
        global_head_dim=32,
        attention_k_eq_v=True,
        num_kv_shared_layers=0,
        enable_moe_block=True,
        num_experts=8,
        top_k_experts=2,
        moe_intermediate_size=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        max_position_embeddings=96,
        sliding_window=4,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    made = transformers.Gemma4ForCausalLM(config)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape) * (0.5 if "embed" in name else 0.2))
    made.save_pretrained(folder)
    save_tokenizer(folder)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def tokenizer(model: Checkpoint) -> PreTrainedTokenizerBase:
    return load_tokenizer(model.path)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids)))


@pytest.fixture
def prompts(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> PromptSet:
    return read_prompts(write(tmp_path / "prompts.jsonl", CONVERSATIONS), tokenizer)


def answered(
    model: Checkpoint, prompts: PromptSet, path: Path, *, workers: int = 1, **settings: Any
) -> AnswerSet:
    return generate_answers(
        model,
        prompts,
        path,
        stop_ids=frozenset({1, TURN_END}),
        settings=Generation(**{"max_new_tokens": 8, "batch_size": 2, **settings}),
        backend=CpuBackend(workers),
    )


def test_a_prompt_ends_where_the_model_answers(
    prompts: PromptSet, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = [text_of(tokenizer, prompt.input_ids) for prompt in prompts.prompts]
    assert texts[0] == "<bos><|turn>user\nhi<turn|>\n<|turn>model\n"
    assert texts[2] == (
        "<bos><|turn>user\none<turn|>\n<|turn>assistant\ntwo<turn|>\n"
        "<|turn>user\nand?<turn|>\n<|turn>model\n"
    )
    assert texts[3] == "<bos><|turn>user\nx<turn|>\n<|turn>model\n"
    assert [prompt.domain for prompt in prompts.prompts] == ["chat", "code"] * 2 + ["chat"]


def test_tools_and_thinking_reach_the_template(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    tool = {"name": "look", "parameters": {"type": "object", "properties": {"at": {}}}}
    record = {"messages": [{"role": "user", "content": "q"}], "tools": [tool]}
    path = write(tmp_path / "p.jsonl", [record])
    plain = read_prompts(path, tokenizer)
    thinking = read_prompts(path, tokenizer, enable_thinking=True)
    assert '<|tool>look{"at": {}}<tool|>' in text_of(tokenizer, plain.prompts[0].input_ids)
    assert text_of(tokenizer, thinking.prompts[0].input_ids).startswith("<bos><|think|>")
    assert plain.provenance["enable_thinking"] is None
    assert thinking.provenance["enable_thinking"] is True
    assert (plain.prompts[0].id, plain.prompts[0].domain) == ("1", "all")


def test_the_first_of_each_domain_and_kind_are_taken(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = [{"id": f"t{i}", "domain": "chat", "text": "some words"} for i in range(3)]
    path = write(tmp_path / "p.jsonl", [*texts, *CONVERSATIONS])
    found = read_prompts(path, tokenizer, per_domain=1, document_tokens=4)
    assert [prompt.id for prompt in found.prompts] == ["t0", "c0", "c1"]
    assert text_of(tokenizer, found.prompts[0].input_ids) == "<bos>som"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [], "id": "a"}, "messages is empty"),
        ({"text": "t", "messages": []}, "expected either messages or text"),
        ({"id": "a"}, "expected either messages or text, got id"),
        ({"text": "  "}, "text is empty"),
        ({"text": "t", "domain": ""}, "domain is '', expected a name"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "nothing is left to answer"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "refuses the messages: no such role"),
    ],
)
def test_a_bad_prompt_names_its_line(
    record: dict[str, Any], message: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = write(tmp_path / "p.jsonl", [CONVERSATIONS[0], record])
    with pytest.raises(CorpusError, match=rf"p\.jsonl:2: .*{message}"):
        read_prompts(path, tokenizer)


def test_conversations_need_a_template(tmp_path: Path) -> None:
    plain = load_tokenizer(save_tokenizer(tmp_path / "plain", template=None))
    texts = write(tmp_path / "t.jsonl", [{"text": "words"}])
    assert read_prompts(texts, plain).prompts[0].kind == "documents"
    with pytest.raises(CorpusError, match=r"p\.jsonl:1: .*no chat template"):
        read_prompts(write(tmp_path / "p.jsonl", CONVERSATIONS), plain)


def test_the_end_of_a_turn_is_read_off_the_template(
    tmp_path: Path, model: Checkpoint, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert turn_end_ids(tokenizer) == {TURN_END}
    assert stop_tokens(model, tokenizer) == {1, TURN_END}
    endless = TEMPLATE.replace("<turn|>", "")
    assert not turn_end_ids(load_tokenizer(save_tokenizer(tmp_path / "t", template=endless)))


def test_answers_written_elsewhere_are_scored_from_the_generation_prompt_on(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = write(tmp_path / "p.jsonl", [CONVERSATIONS[2], CONVERSATIONS[3]])
    found = given_answers(path, tokenizer)
    asked = read_prompts(path, tokenizer)
    for answer, prompt, text in zip(
        found.answers, asked.prompts, ("three<turn|>", "y<turn|>"), strict=True
    ):
        assert answer.input_ids[: answer.begin] == prompt.input_ids
        assert text_of(tokenizer, answer.input_ids[answer.begin :]).endswith(text)
        assert answer.finish == "given"
    save_answers(found, tmp_path / "a.jsonl")
    for form in (path, tmp_path / "a.jsonl"):
        assert read_answers(form, tokenizer, VOCAB).sha256 == found.sha256
    with pytest.raises(CorpusError, match=r"q\.jsonl:1: does not end with an assistant"):
        given_answers(write(tmp_path / "q.jsonl", CONVERSATIONS[:1]), tokenizer)


def test_greedy_answers_are_those_of_transformers(
    model: Checkpoint, prompts: PromptSet, tmp_path: Path
) -> None:
    found = answered(model, prompts, tmp_path / "a.jsonl")
    reference = transformers.Gemma4ForCausalLM.from_pretrained(
        model.path, dtype=torch.float32, experts_implementation="eager"
    )
    for answer, prompt in zip(found.answers, prompts.prompts, strict=True):
        ids = list(prompt.input_ids)
        with torch.no_grad():
            for _ in range(8):
                ids.append(int(reference(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] in (1, TURN_END):
                    break
        assert answer.input_ids == tuple(ids)
        assert answer.begin == len(prompt.input_ids)
        assert answer.finish == ("stop" if ids[-1] in (1, TURN_END) else "length")
    assert found.provenance["original"] == model.identity()
    assert found.provenance["stop_ids"] == [1, TURN_END]


def test_a_stop_token_belongs_to_the_answer_and_ends_it(
    model: Checkpoint, prompts: PromptSet, tmp_path: Path
) -> None:
    free = generate_answers(
        model,
        prompts,
        tmp_path / "a.jsonl",
        stop_ids=frozenset(),
        settings=Generation(max_new_tokens=6),
    )
    first = free.answers[0]
    stop = first.input_ids[first.begin + 2]
    cut = generate_answers(
        model,
        prompts,
        tmp_path / "b.jsonl",
        stop_ids=frozenset({stop}),
        settings=Generation(max_new_tokens=6),
    )
    end = first.input_ids.index(stop, first.begin) + 1
    assert cut.answers[0].input_ids == first.input_ids[:end]
    assert cut.answers[0].finish == "stop"
    assert {answer.finish for answer in free.answers} == {"length"}


def test_progress_counts_tokens_as_they_come(
    model: Checkpoint, prompts: PromptSet, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int, str]] = []
    found = generate_answers(
        model,
        prompts,
        tmp_path / "a.jsonl",
        stop_ids=frozenset({1, TURN_END}),
        settings=Generation(max_new_tokens=8, batch_size=2),
        progress=lambda *entry: told.append(entry),
    )
    most = 8 * len(found.answers)
    assert {(stage, total, unit) for stage, _, total, unit in told} == {("answers", most, "tokens")}
    done = [entry[1] for entry in told]
    assert done[0] == 0 and done[-1] == most and done == sorted(done)
    assert len({*done}) > len(found.answers), "one step for an answer only"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_workers_and_batches_do_not_change_answers(
    temperature: float, model: Checkpoint, prompts: PromptSet, tmp_path: Path
) -> None:
    ways = [(1, 2), (2, 2), (2, 1), (1, 5)]
    found = {
        answered(
            model,
            prompts,
            tmp_path / "a.jsonl",
            workers=workers,
            batch_size=size,
            temperature=temperature,
        ).sha256
        for workers, size in ways
    }
    assert len(found) == 1


def test_draws_follow_the_seed(model: Checkpoint, prompts: PromptSet, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    found = [
        answered(model, prompts, path, temperature=1.0, seed=seed).sha256 for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
    assert found[0] != answered(model, prompts, path).sha256
    # A draw from the one most probable token is the greedy answer.
    only = answered(model, prompts, path, temperature=1.0, top_k=1)
    assert only.sha256 == answered(model, prompts, path).sha256


def test_an_interrupted_run_resumes_where_it_stopped(
    model: Checkpoint, prompts: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answered(model, prompts, tmp_path / "whole.jsonl", temperature=1.0)
    path = tmp_path / "a.jsonl"
    keep, kept = answering._append, 0

    def keep_two(file: Path, answers: Any) -> None:
        nonlocal kept
        kept += 1
        if kept > 2:
            with file.open("a") as half:
                half.write('[{"id": "c')
            raise KeyboardInterrupt
        keep(file, answers)

    monkeypatch.setattr(answering, "_append", keep_two)
    with pytest.raises(KeyboardInterrupt):
        answered(model, prompts, path, temperature=1.0)
    assert not path.exists()
    monkeypatch.setattr(answering, "_append", keep)
    asked: list[int] = []
    work = generate.answer_batch

    def noted(loaded: Any, batch: Any, **options: Any) -> Any:
        asked.append(len(batch))
        return work(loaded, batch, **options)

    monkeypatch.setattr(generate, "answer_batch", noted)
    again = answered(model, prompts, path, temperature=1.0)
    assert asked == [1]
    assert again.sha256 == whole.sha256
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a.jsonl",
        "prompts.jsonl",
        "whole.jsonl",
    ]


def test_raw_documents_pass_as_they_are(
    model: Checkpoint, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = write(tmp_path / "p.jsonl", [{"text": "plain words"}, CONVERSATIONS[0]])
    asked = read_prompts(path, tokenizer)
    found = answered(model, asked, tmp_path / "a.jsonl")
    assert [answer.kind for answer in found.answers] == ["documents", "answers"]
    assert found.answers[0].begin == 1
    assert text_of(tokenizer, found.answers[0].input_ids) == "<bos>plain words"
    # Nothing to generate, so no weights and no memory.
    only = PromptSet(asked.prompts[:1], asked.provenance)
    path = tmp_path / "raw.jsonl"
    assert generate_answers(model, only, path, stop_ids=frozenset(), memory=0).tokens == 11


@contextmanager
def _never(*_: Any) -> Iterator[Any]:
    raise AssertionError("the weights were read")
    yield


def test_a_model_too_large_is_refused_before_it_is_read(
    model: Checkpoint, prompts: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "whole_model", _never)
    need = weight_bytes(model)
    assert need == model.nbytes
    with pytest.raises(EngineError, match=r"kB, but .* are free; name what answers for it"):
        generate_answers(
            model,
            prompts,
            tmp_path / "a.jsonl",
            stop_ids=frozenset({1}),
            settings=Generation(max_new_tokens=8),
            memory=need - 1,
        )
    with pytest.raises(InputError, match=r"prompt 'c2' has \d+ tokens .* context is 96"):
        answered(model, prompts, tmp_path / "a.jsonl", max_new_tokens=60)


def test_a_bad_stop_token_names_the_file(
    model: Checkpoint, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = model.path / "generation_config.json"
    before = path.read_text()
    try:
        path.write_text('{"eos_token_id": "end"}')
        with pytest.raises(CheckpointError, match="eos_token_id is 'end'"):
            stop_tokens(model, tokenizer)
        path.write_text('{"eos_token_id": [7, 9]}')
        assert stop_tokens(model, tokenizer) == {7, 9, TURN_END}
    finally:
        path.write_text(before)


def test_answers_come_back_from_their_file(tmp_path: Path) -> None:
    found = answer_set(
        [
            Answer("a", "é", "answers", (2, 5, 6), 1, "stop"),
            Answer("b", "x", "documents", (2, 3), 1, "given"),
        ],
        {"model": "m"},
    )
    path = tmp_path / "a.jsonl"
    save_answers(found, path)
    again = load_answers(path, vocab_size=7)
    assert again.answers == found.answers
    assert again.sha256 == found.sha256
    assert again.provenance == {"model": "m"}
    assert (again.tokens, list(again.offsets), list(again.answer_of_token)) == (
        3,
        [0, 2, 3],
        [0, 0, 1],
    )
    assert again.finishes == {"stop": 1}
    with pytest.raises(CorpusError, match=r"a\.jsonl:2: input_ids holds 6, .* 0 to 5"):
        load_answers(path, vocab_size=6)


def test_a_changed_file_of_answers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    save_answers(answer_set([Answer("a", "x", "answers", (2, 5, 6), 1, "stop")] * 1, {}), path)
    text = path.read_text()
    path.write_text(text.replace("[2,5,6]", "[2,5,7]"))
    with pytest.raises(CorpusError, match="changed or cut short"):
        load_answers(path)
    path.write_text(text.replace('"begin":1', '"begin":3'))
    with pytest.raises(CorpusError, match="scored from token 3"):
        load_answers(path)
    path.write_text(text.replace('"finish":"stop"', '"finish":"bored"'))
    with pytest.raises(CorpusError, match=r"a\.jsonl:2: .*'bored', expected one of"):
        load_answers(path)
    path.write_text(text.replace(',"begin":1', ""))
    with pytest.raises(CorpusError, match=r"a\.jsonl:2: keys are domain, finish"):
        load_answers(path)
    write(path, CONVERSATIONS)
    with pytest.raises(CorpusError, match="holds no answers"):
        load_answers(path)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "there are no answers"),
        ([Answer("a", "x", "answers", (1, 2), 1, "stop")] * 2, "two answers have the id 'a'"),
        ([Answer("a", "x", "answers", (1, 2), 2, "stop")], "has 2 tokens and is scored from"),
        ([Answer("a", "x", "documents", (1,), 1, "given")], "has 1 token and is scored from"),
        ([Answer("a", "pooled", "documents", (1, 2), 1, "given")], "names all domains together"),
    ],
)
def test_a_set_that_cannot_be_scored_is_refused(answers: list[Answer], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        answer_set(answers, {})


def test_of_two_that_want_the_same_answers_one_waits_for_the_other(
    prompts: PromptSet, tmp_path: Path
) -> None:
    """Locks are of open files, so that two threads stand for two processes."""
    path, begun, go_on = tmp_path / "a.jsonl", Event(), Event()
    asked: list[int] = []
    waited: list[str] = []

    def answer(found: Mapping[str, Answer]) -> Iterator[list[Answer]]:
        asked.append(len(found))
        begun.set()
        assert go_on.wait(60)
        for prompt in prompts.prompts:
            ids = (*prompt.input_ids, 1)
            yield [Answer(prompt.id, prompt.domain, "answers", ids, len(ids) - 1, "stop")]

    def note(stage: str, done: int, total: int, unit: str) -> None:
        waited.append(stage)
        go_on.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(collect_answers, prompts, path, {"seed": 0}, answer)
        assert begun.wait(60)
        second = pool.submit(collect_answers, prompts, path, {"seed": 0}, answer, note)
        assert first.result().sha256 == second.result().sha256
    assert asked == [0]
    assert len(waited) == 1
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
