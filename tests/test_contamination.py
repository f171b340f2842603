"""Questions are found in the text that a model was calibrated on, and only there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_line import Line

from secateur import Formats, Pruning, apply, plan, save_plan, verify
from secateur.api.held_out import STATISTICS, calibrated_text_of
from secateur.api.statistics import merge
from secateur.api.subjects import Asked, Subject
from secateur.api.tasks import measure_tasks
from secateur.corpus.load import load_corpus
from secateur.corpus.rows import Corpus
from secateur.corpus.text_hashes import (
    LENGTH,
    RunHasher,
    TextHashes,
    hash_corpus,
    hash_text,
    join_hashes,
    split_words,
)
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import StatisticsError
from secateur.evaluation.asking.request import Serving
from secateur.evaluation.tasks.contamination import NOT_CHECKED, find_overlap, text_of_messages
from secateur.evaluation.tasks.request import Tasks
from secateur.evaluation.tasks.suites.registry import find_suite
from secateur.planning.document import read_plan
from secateur.release.evidence import ORIGINAL
from secateur.release.expert_facts import expert_facts
from secateur.statistics.text_file import load_text, save_text, text_path

GEMMULE = Path(__file__).parents[1] / "secateur" / "gemmule"
LONG = " ".join(f"word{number}" for number in range(30))


def hashes_of(texts: Sequence[str], corpus: str = "c") -> TextHashes:
    """A corpus of such documents, all of it kept."""
    words = [split_words(text) for text in texts]
    hasher = RunHasher()
    runs = np.unique(np.concatenate([hasher.hash_runs(each) for each in words]))
    passages = np.unique(np.array([hash_text(each) for each in words], np.uint64))
    return TextHashes((corpus,), len(texts), sum(map(len, words)), len(runs), runs, passages)


def read_set(name: str) -> list[dict[str, Any]]:
    """The documents of one of gemmule's sets."""
    lines = (GEMMULE / f"sets/{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def gemmules() -> tuple[Corpus, TextHashes]:
    tokenizer = load_tokenizer(GEMMULE)
    corpus = load_corpus("gemmule", tokenizer)
    return corpus, hash_corpus(corpus, tokenizer)


def test_a_share_of_an_item_is_counted_in_runs() -> None:
    text = hashes_of([LONG, "a short one"])
    half = " ".join([*LONG.split()[:20], *(f"other{number}" for number in range(20))])
    found = find_overlap(
        "t",
        {
            "whole": LONG.upper().replace(" ", ", "),
            "half": half,
            "short": "A short one!",
            "shorter": "short one",
            "new": "x " * 30,
            "empty": "",
        },
        text,
    )
    by_name = {one.item: one for one in found.found}
    assert set(by_name) == {"whole", "half", "short"}
    assert by_name["whole"] == ("whole", 1.0, True)
    assert by_name["short"] == ("short", None, True)
    runs = 40 - LENGTH + 1
    assert by_name["half"] == ("half", (20 - LENGTH + 1) / runs, False)
    assert [one.item for one in found.found] == ["whole", "short", "half"]
    assert (found.items, found.share, found.sampled) == (6, 0.5, 1.0)
    line = found.describe()
    assert "3 of 6 questions overlap with the calibration, 2 of them are in it as a whole" in line
    assert "most of whole: all of it" in line
    assert "33 words of 2 documents" in line
    measurement = found.measurement()
    assert (measurement.value, measurement.domain) == (0.5, "t")
    assert dict(measurement.n) == {"items": 6, "documents": 2}
    assert found.to_json()["worst"][0]["item"] == "whole"


def test_nothing_in_common_is_said_so() -> None:
    found = find_overlap("t", {"a": LONG[::-1]}, hashes_of([LONG]))
    assert found.found == ()
    assert "none of 1 question is in the calibration" in found.describe()


@pytest.mark.slow
def test_gemmules_calibration_is_found_in_itself_and_its_test_set_is_not(
    gemmules: tuple[Corpus, TextHashes],
) -> None:
    _, text = gemmules
    assert text.documents == 284
    assert text.all_runs == len(text.runs)
    sets = {name: read_set(name) for name in ("calibration", "test")}
    asked = {
        name: {
            row["id"]: text_of_messages(row["messages"])
            for row in rows
            if "messages" in row and row["domain"] in ("prose", "code")
        }
        for name, rows in sets.items()
    }
    own = find_overlap("own", asked["calibration"], text)
    assert own.share == 1.0
    assert all(one.whole or (one.share or 0) > 0.9 for one in own.found)
    others = find_overlap("test", asked["test"], text)
    assert others.share < 0.05
    assert not any(one.whole for one in others.found)


@pytest.mark.slow
def test_turns_are_found_one_by_one(gemmules: tuple[Corpus, TextHashes]) -> None:
    """Short questions and answers in the middle of conversations."""
    rows = read_set("calibration")
    said: dict[str, str] = {
        f"{row['id']}-{number}": message["content"]
        for row in rows
        if row["domain"] == "chat"
        for number, message in enumerate(row.get("messages", ()))
        if message["content"]
    }
    found = find_overlap("turns", said, gemmules[1])
    assert sum(one.whole for one in found.found) / len(said) > 0.98


def test_a_bounded_sample_gives_about_the_same_share() -> None:
    rng = np.random.default_rng(1)
    words = np.array([f"w{number}" for number in range(5000)])
    documents = [" ".join(rng.choice(words, 400)) for _ in range(60)]
    item = " ".join([documents[7], *rng.choice(words, 400)])
    whole = hashes_of(documents)
    some = replace(whole, runs=whole.runs[: len(whole.runs) // 4])
    shares = [find_overlap("t", {"i": item}, text).found[0].share or 0 for text in (whole, some)]
    assert shares[0] == pytest.approx(388 / 788)
    assert shares[1] == pytest.approx(shares[0], abs=0.1)
    assert "25 % of its runs looked in" in find_overlap("t", {"i": item}, some).describe()


@pytest.mark.slow
def test_what_is_kept_is_bounded_and_a_part_of_the_whole(
    gemmules: tuple[Corpus, TextHashes],
) -> None:
    corpus, whole = gemmules
    small = hash_corpus(corpus, load_tokenizer(GEMMULE), most=1000)
    assert len(small.runs) == 1000
    assert np.array_equal(small.runs, whole.runs[:1000])
    assert small.all_runs >= whole.all_runs  # runs that were dropped may come again


def test_joined_corpora_are_looked_in_together() -> None:
    other = " ".join(f"more{number}" for number in range(30))
    first, second = hashes_of([LONG], "a"), hashes_of([other], "b")
    joined = join_hashes([first, second, first])
    assert (joined.corpora, joined.documents, joined.words) == (("a", "b"), 2, 60)
    assert find_overlap("t", {"x": LONG, "y": other}, joined).share == 1.0
    assert joined.all_runs == len(joined.runs) == 2 * (30 - LENGTH + 1)
    cut = replace(first, runs=first.runs[:3])
    assert join_hashes([cut, second]).highest == cut.highest


def test_the_hashes_lie_next_to_the_statistics(line: Line, stats: Path, made: Path) -> None:
    text = load_text(text_path(stats))
    documents = [json.loads(row) for row in line.corpus.read_text("utf-8").splitlines()]
    said: dict[str, str] = {
        str(number): text_of_messages(row["messages"])
        for number, row in enumerate(documents)
        if "messages" in row
    } or {str(number): row["text"] for number, row in enumerate(documents)}
    found = find_overlap("own", said, text)
    assert sum(one.whole for one in found.found) > 0.9 * len(said)
    assert not find_overlap("other", {"x": "nobody said this"}, text).found
    kept = calibrated_text_of(made)
    assert kept is not None
    assert np.array_equal(kept.passages, text.passages)
    assert calibrated_text_of(line.model) is None


def test_merged_statistics_keep_the_text(stats: Path, tmp_path: Path) -> None:
    first, merged = tmp_path / "a.safetensors", tmp_path / "m.safetensors"
    first.write_bytes(stats.read_bytes())
    merge([first], merged)
    assert not text_path(merged).exists()  # the copy has none
    text_path(first).write_bytes(text_path(stats).read_bytes())
    merge([first], merged, force=True)
    assert text_path(merged).read_bytes() == text_path(first).read_bytes()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.text.safetensors"
    with pytest.raises(StatisticsError, match="does not exist"):
        load_text(path)
    save_text(hashes_of([LONG]), path)
    assert load_text(path).words == 30
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StatisticsError, match="damaged"):
        load_text(path)


def test_the_last_question_is_what_is_looked_for() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "An example?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "text", "text": "The question?"}]},
    ]
    assert text_of_messages(messages) == "The question?"
    assert text_of_messages(messages[:3]) == "An example?"
    assert text_of_messages([]) == ""


def test_every_score_comes_with_its_overlap(gemmule_gguf: Path, tmp_path: Path) -> None:
    suite = find_suite("gemmule-chat")
    items = suite.items(0, 4)
    seen = hashes_of([text_of_messages(items[2].messages), LONG])
    subjects = [Subject(name, gemmule_gguf, name) for name in (ORIGINAL, "pruned")]
    asked = Asked(tuple(subjects), Serving(slots=2), tmp_path, workers=1)
    request = Tasks((suite.name,), limit=4)
    evidence, _ = measure_tasks(asked, request, seen)
    original, pruned = evidence.artefacts
    assert original.value("calibration_overlap", suite.name, "tasks") is None
    overlap = pruned.value("calibration_overlap", suite.name, "tasks")
    assert overlap is not None
    assert overlap.value == 0.25
    (facts,) = evidence.facts["calibration_overlap"]
    assert [one["item"] for one in facts["worst"]] == [items[2].id]
    assert "1 of 4 questions overlap with the calibration, 1 of them" in evidence.notes[-1]
    unknown, _ = measure_tasks(asked, request)
    assert unknown.notes == (NOT_CHECKED,)
    assert unknown.facts["calibration_overlap"] == []


def test_what_apply_writes_keeps_the_statistics_that_its_plan_names(
    line: Line, stats: Path, tmp_path: Path
) -> None:
    there = tmp_path / "stats.safetensors"
    for file in (stats, text_path(stats)):
        shutil.copy(file, tmp_path / file.name)
    decided = plan(line.model, Pruning(experts=6), Formats(), statistics=there)
    save_plan(decided, tmp_path / "plan.json")

    def written(name: str) -> Path:
        manifest = apply(tmp_path / "plan.json", tmp_path / name)
        assert ("calibration" in manifest) == (tmp_path / name / STATISTICS).is_file()
        assert not verify(tmp_path / name)
        return tmp_path / name

    out = written("out")
    assert (out / STATISTICS).read_bytes() == there.read_bytes()
    assert calibrated_text_of(out) is not None
    facts = expert_facts(read_plan(out / "plan.json"), out / STATISTICS)
    assert facts.scores is not None and facts.load is not None
    assert str(tmp_path) not in (out / "plan.json").read_text()
    there.write_bytes(b"something else")
    other = written("other")
    there.unlink()
    for bare in (other, written("gone")):
        assert calibrated_text_of(bare) is None
        same = "model.safetensors"
        assert (bare / same).read_bytes() == (out / same).read_bytes()
