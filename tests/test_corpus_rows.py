"""`--rows`: rows used exactly as given, or refused with file and line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.corpus.load import load_rows
from secateur.errors import CorpusError


def write(folder, *rows: dict):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_are_used_as_they_are_in_their_order(tmp_path):
    path = write(
        tmp_path,
        {"input_ids": [5, 5, 9], "category": "code"},
        {"input_ids": [1]},
        {"input_ids": [5, 5, 9], "category": "code"},
    )
    corpus = load_rows(path, 10)
    assert [row.input_ids.tolist() for row in corpus.rows] == [[5, 5, 9], [1], [5, 5, 9]]
    assert [row.category for row in corpus.rows] == ["code", "rows", "code"]
    assert [row.samples for row in corpus.rows] == [(0,), (1,), (2,)]
    assert corpus.categories == ("code", "rows")
    assert (corpus.tokens, len(corpus.samples)) == (7, 3)
    assert corpus.sha256 == load_rows(path, 10).sha256
    assert json.loads(json.dumps(corpus.description))["tokens_by_category"] == {
        "code": 6,
        "rows": 1,
    }


@pytest.mark.parametrize(
    ("mask", "documents", "positions"),
    [
        ([1, 1, 1, 0], [0, 0, 0, -1], [0, 1, 2, 0]),
        ([0, 0, 1, 1], [-1, -1, 0, 0], [0, 0, 0, 1]),
        ([1, 0, 1, 1], [0, -1, 0, 0], [0, 1, 2, 3]),
        ([0, 1, 0, 1], [-1, 0, -1, 0], [0, 0, 1, 2]),
    ],
)
def test_a_mask_of_zero_is_padding(tmp_path, mask, documents, positions):
    path = write(tmp_path, {"input_ids": [1, 2, 3, 4], "attention_mask": mask})
    corpus = load_rows(path, 10)
    (row,) = corpus.rows
    assert (row.documents.tolist(), row.positions.tolist()) == (documents, positions)
    assert corpus.tokens == corpus.samples[0].tokens == sum(mask)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1), min_size=1).filter(any))
def test_padding_at_the_ends_is_a_sequence_of_its_own(tmp_path_factory, mask):
    path = write(
        tmp_path_factory.mktemp("rows"), {"input_ids": [3] * len(mask), "attention_mask": mask}
    )
    (row,) = load_rows(path, 10).rows
    # transformers starts a sequence wherever the position is not the one before plus one
    sequence = np.cumsum(np.diff(row.positions, prepend=-1) != 1)
    real = np.flatnonzero(mask)
    assert len(set(sequence[real])) == 1
    assert sequence[real[0]] not in sequence[: real[0]]
    assert sequence[real[0]] not in sequence[real[-1] + 1 :]


BAD = {
    "no ids": ('{"attention_mask": [1]}', "rows.jsonl:1: no input_ids"),
    "unknown key": ('{"input_ids": [1], "labels": [1]}', "unknown key 'labels'; a row has"),
    "empty": ('{"input_ids": []}', "input_ids is an empty list"),
    "text": ('{"input_ids": "1 2"}', "input_ids is str, expected a list of integers"),
    "nested": ('{"input_ids": [[1, 2]]}', "input_ids[0] is [1, 2], expected an integer"),
    "a fraction": ('{"input_ids": [1, 2.0]}', "input_ids[1] is 2.0, expected an integer"),
    "true": ('{"input_ids": [true]}', "input_ids[0] is True, expected an integer"),
    "too big": ('{"input_ids": [1, 10]}', "input_ids[1] is 10, but the model's vocabulary is 0"),
    "huge": ('{"input_ids": [99999999999999999999]}', "but the model's vocabulary is 0 to 9"),
    "negative": ('{"input_ids": [-1]}', "input_ids[0] is -1, but"),
    "short mask": ('{"input_ids": [1, 2], "attention_mask": [1]}', "has 1 entry, but input_ids"),
    "mask of 2": (
        '{"input_ids": [1], "attention_mask": [2]}',
        "attention_mask[0] is 2, expected 0",
    ),
    "mask of text": ('{"input_ids": [1], "attention_mask": "1"}', "attention_mask is str"),
    "no token": ('{"input_ids": [1], "attention_mask": [0]}', "is 0 everywhere"),
    "category": ('{"input_ids": [1], "category": 3}', "category is 3, expected a name"),
    "not JSON": ("input_ids", "rows.jsonl:1: not JSON"),
    "a list": ("[1, 2]", "rows.jsonl:1: a JSON list, expected an object"),
    "no rows": ("", "rows.jsonl holds no rows"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_a_row_that_is_wrong(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    with pytest.raises(CorpusError) as caught:
        load_rows(tmp_path / "rows.jsonl", 10)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CorpusError, match="No such file"):
        load_rows(tmp_path / "rows.jsonl", 10)
