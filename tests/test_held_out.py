"""What a corpus holds out: which documents, and that nothing like them is calibrated on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tiny_tokenizer import save_tokenizer

from secateur.corpus.held_out import DOCUMENT_TOKENS, HoldOut
from secateur.corpus.load import load_corpus
from secateur.corpus.row_file import load_rows
from secateur.corpus.rows import Corpus
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import CorpusError
from secateur.evaluation.tokens.prompt_file import load_prompts, save_prompts
from secateur.evaluation.tokens.prompts import Prompt, PromptSet, take_prompts
from secateur.evaluation.tokens.turns import CONVERSATION_TOKENS, held_out_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORDS = list("abcdefghijklmnopqrstuvw")
SHARE = HoldOut(0.2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def saying(number: int, count: int = 30) -> str:
    """A text like no other."""
    return " ".join(random.Random(number).choices(WORDS, k=count))


def talk(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]
    return {"messages": messages}


def write(folder: Path, **sources: Sequence[dict[str, Any]]) -> Path:
    """A mix of these sources."""
    entries = []
    for name, records in sources.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        entries.append({"name": name, "path": f"{name}.jsonl"})
    (folder / "mix.yaml").write_text(json.dumps({"sources": entries}))
    return folder / "mix.yaml"


def sides(corpus: Corpus) -> tuple[set[str], set[str]]:
    """sha256 of the documents that are calibrated on, and of those held out."""
    return (
        {sample.sha256 for sample in corpus.samples},
        {document.sample.sha256 for document in corpus.held_out},
    )


def test_whole_documents_of_every_source_are_held_out(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    mix = write(
        tmp_path,
        prose=[{"text": saying(n)} for n in range(20)],
        chat=[talk(saying(100 + n), saying(200 + n)) for n in range(11)],
    )
    whole, split = load_corpus(mix, tokenizer), load_corpus(mix, tokenizer, held_out=SHARE)
    kept, held = sides(split)
    assert kept | held == sides(whole)[0]
    assert not kept & held
    assert [d.sample.source for d in split.held_out].count("prose") == 4
    assert [d.sample.source for d in split.held_out].count("chat") == 3
    facts = split.description["held_out"]
    assert (facts["share"], facts["documents"], facts["copies_left_out"]) == (0.2, 7, 0)
    assert facts["tokens"] == whole.tokens - split.tokens
    assert {sample["sha256"] for sample in facts["samples"]} == held
    assert "held_out" not in whole.description
    json.dumps(split.description)


def test_content_alone_decides_whatever_order_and_seed(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    records = [{"text": saying(n)} for n in range(30)]
    mix = write(tmp_path, a=records)
    held = sides(load_corpus(mix, tokenizer, held_out=SHARE))[1]
    assert held == sides(load_corpus(mix, tokenizer, held_out=SHARE, seed=7))[1]
    write(tmp_path, a=records[::-1])
    assert held == sides(load_corpus(mix, tokenizer, held_out=SHARE))[1]
    write(tmp_path, a=[*records, *({"text": saying(n)} for n in range(30, 33))])
    more = sides(load_corpus(mix, tokenizer, held_out=SHARE))[1]
    assert len(more & held) >= len(held) - 2  # the same hashes are the lowest, but for new ones


@pytest.mark.parametrize(
    "copied",
    [
        lambda text: text.upper(),
        lambda text: f"  {text.replace(' ', ',  ')}!",
        lambda text: f"{text} and so on",
        lambda text: text.replace("that", "which", 1),
        lambda text: f"{saying(999, 10)} {text} {saying(998, 10)}",
    ],
    ids=["case", "marks", "longer", "one-word", "quoted"],
)
def test_a_near_copy_of_a_held_out_document_is_not_calibrated_on(
    copied: Any, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    records = [{"text": f"{saying(n, 60)} that"} for n in range(40)]
    both = [*records, *({"text": copied(one["text"])} for one in records)]
    mix = write(tmp_path, one=both[::2], other=both[1::2])
    split = load_corpus(mix, tokenizer, held_out=HoldOut(0.1))
    original = {one["text"]: n for n, one in enumerate(both)}
    held = {original[d.content.text] for d in split.held_out if d.content and d.content.text}
    assert len(held) >= 4
    kept = {sample.sha256 for sample in split.samples}
    for number in held:
        twin = (number + 40) % 80
        alone = write(tmp_path, alone=[both[twin]])
        (sample,) = load_corpus(alone, tokenizer).samples
        assert sample.sha256 not in kept
    facts = split.description["held_out"]
    assert len(split.samples) + facts["documents"] + facts["copies_left_out"] == 80
    assert facts["copies_left_out"] >= 4


def test_what_all_documents_share_makes_none_a_copy(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompt = {"role": "system", "content": saying(1, 200)}
    records = [talk(saying(n, 20), saying(100 + n, 20)) for n in range(40)]
    for record in records:
        record["messages"].insert(0, prompt)
    split = load_corpus(write(tmp_path, a=records), tokenizer, held_out=SHARE)
    assert split.description["held_out"]["copies_left_out"] == 0


def test_a_single_text_is_cut_at_its_end(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "book.txt"
    path.write_text(saying(1, 8000))
    split = load_corpus(path, tokenizer, held_out=HoldOut(0.1))
    whole = load_corpus(path, tokenizer)
    pieces = [document.input_ids.tolist() for document in split.held_out]
    assert {len(piece) for piece in pieces} == {DOCUMENT_TOKENS}
    ids = [token for row in whole.rows for token in row.input_ids.tolist()]
    ends = [ids[n : n + DOCUMENT_TOKENS] for n in range(split.tokens, len(ids), DOCUMENT_TOKENS)]
    assert sorted(pieces) == sorted(ends)
    assert 0.09 < len(pieces) * DOCUMENT_TOKENS / len(ids) < 0.11
    prompts = held_out_prompts(split.held_out, tokenizer).prompts
    assert [prompt.kind for prompt in prompts] == ["documents"] * len(pieces)


def test_another_writing_of_a_text_that_is_cut_is_not_calibrated_on(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    book = saying(1, 8000)
    split = load_corpus(
        write(tmp_path, a=[{"text": book}, {"text": book.replace(" ", "  ").upper()}]),
        tokenizer,
        held_out=HoldOut(0.1),
    )
    assert len(split.samples) == 1 and split.description["held_out"]["copies_left_out"] == 1
    assert {document.part_of for document in split.held_out} == {split.samples[0].sha256}


def test_no_more_is_held_out_than_measuring_takes(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    mix = write(tmp_path, a=[{"text": saying(n)} for n in range(40)], b=[{"text": saying(99)}] * 2)
    split = load_corpus(mix, tokenizer, held_out=HoldOut(0.5, tokens=256 * 6))
    assert len(split.held_out) == 6


def test_rows_are_held_out_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"input_ids": random.Random(n % 18).choices(range(90), k=20)} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = load_rows(path, 90, SHARE)
    kept, held = sides(split)
    assert len(held) == 4
    assert not kept & held
    assert len(split.rows) + len(held) + split.description["held_out"]["copies_left_out"] == 20
    assert [row.samples for row in split.rows] == [(n,) for n in range(len(split.rows))]


def test_what_cannot_be_split_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    mix = write(tmp_path, a=[talk("hi", "you")])
    with pytest.raises(CorpusError, match=r"too few documents .*--no-measure"):
        load_corpus(mix, tokenizer, held_out=SHARE)
    for share in (0.0, 1.0, 5.0):
        with pytest.raises(CorpusError, match="expected a share of the documents"):
            HoldOut(share)


def test_the_turns_of_a_conversation_are_scored_and_its_last_is_asked(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    said = ["first", "one", "second", "two", "third", "three"]
    split = load_corpus(
        write(tmp_path, chat=[talk(*said), talk("other", "x")]), tokenizer, held_out=HoldOut(0.5)
    )
    (prompt,) = held_out_prompts(split.held_out, tokenizer).prompts
    assert prompt.domain == "chat"
    assert tokenizer.decode(list(prompt.input_ids)).endswith("third<turn|>\n<|turn>model\n")
    assert [message["content"] for message in prompt.messages] == said[:5]
    turns = prompt.turns
    assert turns is not None
    assert turns.kind == "turns"
    scored = [turns.input_ids[position] for position in turns.positions]
    # This template does not begin a turn as it asks for one, so that is scored as well.
    text = tokenizer.decode(scored).replace("assistant\n", "")
    assert text == "one<turn|>two<turn|>three<turn|>"
    assert turns.scored == len(scored)
    assert len(turns.input_ids) <= CONVERSATION_TOKENS


def test_prompts_that_are_kept_are_read_as_they_were(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    mix = write(
        tmp_path,
        chat=[talk(saying(n, 5), saying(n + 50, 5)) for n in range(5)],
        prose=[{"text": saying(n)} for n in range(5)],
    )
    split = load_corpus(mix, tokenizer, held_out=HoldOut(0.4))
    made = held_out_prompts(split.held_out, tokenizer)
    save_prompts(made, tmp_path / "kept.jsonl")
    again = load_prompts(tmp_path / "kept.jsonl")
    assert [one._replace(template={}) for one in again.prompts] == [
        one._replace(template={}) for one in made.prompts
    ]
    lines = (tmp_path / "kept.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "kept.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(CorpusError, match="cut short"):
        load_prompts(tmp_path / "kept.jsonl")


def test_prompts_are_taken_in_turn_from_every_domain() -> None:
    prompts = PromptSet(
        tuple(Prompt(str(n), "aab"[n % 3], "answers", (1, 2)) for n in range(9)), {}
    )
    assert [one.domain for one in take_prompts(prompts, most=4).prompts].count("b") == 2
    assert [one.id for one in take_prompts(prompts, per_domain=1).prompts] == ["0", "2"]
