"""Rows in another order, experts in two forms, and a tokenizer that merges by scores: what
llama.cpp's own converter writes, key by key and byte by byte (golden/record_convert_pieces.py)."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.errors import CheckpointError
from secateur.formats.gguf.reader import GgufFile, read_gguf
from secateur.formats.gguf.row_order import RowView
from secateur.formats.gguf.sentencepiece import read_pieces
from secateur.formats.gguf.sentencepiece_vocabulary import pieces_vocabulary
from secateur.formats.gguf.tensors import gguf_tensors
from secateur.outputs import blocks
from secateur.outputs.base import WriteJob
from secateur.outputs.gguf.layout import gguf_layout
from secateur.outputs.gguf.write import write_ggufs
from secateur.recipes.recipe import find_recipe

GOLDEN = Path(__file__).parent / "golden"
sys.path.append(str(GOLDEN))

from record_convert_pieces import shapes_of, weights  # noqa: E402

NAMES = ("pieces", "ranked")
OURS = {"secateur.version", "secateur.plan_sha256", "general.quantized_by"}
LEFT_OUT = {"tokenizer.ggml.add_sep_token"}
SCORES = "tokenizer.ggml.scores"


def folder_of(name: str, tmp_path: Path, *, fused: bool = False) -> Path:
    """A golden folder with its weights, named as the converter was told."""
    folder = tmp_path / name
    shutil.copytree(GOLDEN / "convert" / name, folder)
    config = json.loads((folder / "config.json").read_text())
    made = weights(shapes_of(config))
    save_file(stacked(made) if fused else made, folder / "model.safetensors")
    return folder


def stacked(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights in the form of the running model, as transformers 5 may save them."""
    single = {name: made.pop(name) for name in list(made) if ".experts." in name}
    for layer in range(2):
        at = f"model.layers.{layer}"
        made[f"{at}.mlp.gate.weight"] = made.pop(f"{at}.block_sparse_moe.gate.weight")
        w1, w2, w3 = (
            [single[f"{at}.block_sparse_moe.experts.{e}.{word}.weight"] for e in range(4)]
            for word in ("w1", "w2", "w3")
        )
        both = [np.concatenate(pair) for pair in zip(w1, w3, strict=True)]
        made[f"{at}.mlp.experts.gate_up_proj"] = np.stack(both)
        made[f"{at}.mlp.experts.down_proj"] = np.stack(w2)
    return made


def written(checkpoint: Checkpoint, folder: Path, kind: str, kept: range = range(4)) -> GgufFile:
    keep = {layer: tuple(kept) for layer in checkpoint.moe_layers}
    form = gguf_layout(checkpoint, keep, find_recipe(kind), imatrix=None)
    folder.mkdir()
    write_ggufs([form], WriteJob(checkpoint, keep, folder, "", workers=2))
    assert (folder / form.file).stat().st_size == sum(form.files.values())
    return read_gguf(folder / form.file)


def theirs(name: str) -> tuple[dict[str, list], list[list]]:
    expected = json.loads((GOLDEN / "convert" / name / "expected.json").read_text())
    return expected["metadata"], expected["tensors"]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_the_converters_to_the_byte(
    name: str, fused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "ELEMENTS", 700)  # blocks that end inside a head
    checkpoint = open_checkpoint(folder_of(name, tmp_path, fused=fused))
    file = written(checkpoint, tmp_path / "out", "F16")
    _, tensors = theirs(name)
    ours = {
        info.name: [
            info.type, list(info.shape), hashlib.sha256(file.data(info.name).tobytes()).hexdigest()
        ]
        for info in file.tensors.values()
    }  # fmt: skip
    assert ours == {tensor: [kind, shape, digest] for tensor, kind, shape, digest in tensors}


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_the_converters(name: str, tmp_path: Path) -> None:
    file = written(open_checkpoint(folder_of(name, tmp_path)), tmp_path / "out", "F16")
    keys, _ = theirs(name)
    assert set(keys) - set(file.metadata) <= LEFT_OUT
    assert set(file.metadata) - set(keys) <= OURS
    for key in set(keys) - LEFT_OUT - {"general.name"}:
        value = file.metadata[key]
        kind, content = keys[key]
        assert value.kind == kind, key
        found = list(value.value) if isinstance(value.value, tuple) else value.value
        if key == SCORES and name == "ranked":
            # Their stand-in of one score for all splits text as no tokenizer does; see below.
            assert set(content) == {-1000.0}
            found = content
        if kind == "f32":
            found, content = np.float32(found).tolist(), np.float32(content).tolist()
        assert found == content, key


def test_the_scores_of_merges_are_those_of_the_pieces(tmp_path: Path) -> None:
    """The same tokenizer in both forms: every token that a merge makes has the same score."""
    tokens, scores, kinds = zip(
        *(
            (
                file.metadata["tokenizer.ggml.tokens"].value,
                file.metadata[SCORES].value,
                file.metadata["tokenizer.ggml.token_type"].value,
            )
            for name in NAMES
            for file in [
                written(open_checkpoint(folder_of(name, tmp_path)), tmp_path / f"{name}-out", "F16")
            ]
        ),
        strict=True,
    )
    compared = [
        (one, other)
        for text, one, other, kind in zip(tokens[1], *scores, kinds[1], strict=False)
        if len(text) > 1 and kind == 1
    ]
    assert len(compared) > 80
    assert all(one == other for one, other in compared)


def test_rows_of_a_head_are_written_alternately_and_back() -> None:
    rows = np.arange(16)[:, None]
    view = RowView(head=8)
    order = view.order(0, 16)
    assert order is not None
    np.testing.assert_array_equal(order[:8], [0, 4, 1, 5, 2, 6, 3, 7])
    np.testing.assert_array_equal(order[8:], order[:8] + 8)
    later = view.order(3, 11)
    assert later is not None
    np.testing.assert_array_equal(later, order[3:11])
    np.testing.assert_array_equal(view.undone(rows[order]), rows)
    assert RowView(1, 2).order(3, 5) is None
    assert RowView(1, 2).undone(rows) is rows


def test_heads_that_the_rows_do_not_make_are_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder_of("ranked", tmp_path))
    shapes = {name: spec.shape for name, spec in checkpoint.specs.items()}
    config = {**checkpoint.config, "head_dim": 24}
    with pytest.raises(CheckpointError, match=r"_proj.* whose rows are not heads of 24 rows"):
        gguf_tensors(checkpoint.family, config, shapes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-7], "is no SentencePiece model, or is damaged"),
        (lambda raw: b"\xff" * 40, "is no SentencePiece model, or is damaged"),
        (lambda raw: b"", "holds no pieces"),
        (lambda raw: raw.replace(b"\x18\x02", b"\x18\x01"), "does not merge pairs"),
    ],
)
def test_a_damaged_model_of_pieces_is_refused(damage, message: str, tmp_path: Path) -> None:
    folder = folder_of("pieces", tmp_path)
    path = folder / "tokenizer.model"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        written(open_checkpoint(folder), tmp_path / "out", "F16")


def test_an_added_token_without_a_row_takes_the_place_of_none(tmp_path: Path) -> None:
    folder = folder_of("pieces", tmp_path)
    rows = len(read_pieces(folder / "tokenizer.model")) + 1
    (folder / "added_tokens.json").write_text(json.dumps({"<none>": -1, "<far>": rows}))
    words = pieces_vocabulary(folder / "tokenizer.model", {}, rows)
    assert words.tokens[-1] == f"[PAD{rows - 1}]"
    assert not {"<none>", "<far>"} & set(words.tokens)
