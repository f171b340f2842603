"""One source of rows: the same bytes and the same edits, whatever format is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tiny_line import Line

from secateur.checkpoint.byte_ranges import Piece, SlicedTensor, whole
from secateur.checkpoint.config_edit import with_experts
from secateur.checkpoint.headers import read_header
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.checkpoint.rows import RowSource
from secateur.checkpoint.writer import lay_out, write_shards
from secateur.errors import CheckpointError, NumericError
from secateur.formats.gguf.reader import read_gguf
from secateur.forward.weights import CheckpointWeights, WeightSource
from secateur.outputs.base import WriteJob
from secateur.outputs.gguf.layout import gguf_layout
from secateur.outputs.gguf.weights import GgufWeights
from secateur.outputs.gguf.write import write_ggufs
from secateur.outputs.mlx.layout import mlx_layout
from secateur.outputs.mlx.weights import MlxWeights
from secateur.outputs.mlx.write import write_mlx
from secateur.pruning.expert_slices import select_experts
from secateur.recipes.recipe import Recipe, find_recipe

EDITED = ("self_attn.q_proj.weight", "experts.down_proj")


@dataclass(frozen=True)
class Scale:
    """Every row times a power of two that depends on its number."""

    name: str = "scale"

    def touches(self, tensor: str) -> bool:
        return tensor.endswith(EDITED)

    def edit(
        self, tensor: SlicedTensor, first: int, rows: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        numbers = np.arange(first, first + len(rows), dtype=np.float32)
        return rows * np.exp2(numbers % 3)[:, None]


def kept(checkpoint: Checkpoint) -> dict[int, tuple[int, ...]]:
    return dict.fromkeys(checkpoint.moe_layers, (0, 2, 3, 5, 7))


def written(checkpoint: Checkpoint, out: Path, *edits: Scale) -> dict[str, WeightSource]:
    """The model in three formats, as sources of running weights."""
    keep = kept(checkpoint)
    for name in ("safetensors", "gguf", "mlx"):
        (out / name).mkdir(parents=True)
    write_shards(out / "safetensors", lay_out(select_experts(checkpoint, keep)), edits=edits)
    layout = gguf_layout(checkpoint, keep, find_recipe("F32"), imatrix=None)
    write_ggufs([layout], WriteJob(checkpoint, keep, out / "gguf", "", edits=edits))
    folder = mlx_layout(checkpoint, keep, Recipe("plain", "none", "mlx"))
    write_mlx(folder, checkpoint, keep, out / "mlx", edits=edits)
    file = read_gguf(out / "gguf" / layout.file)
    pruned = save_config(checkpoint, out / "safetensors")
    return {
        "safetensors": CheckpointWeights(pruned),
        "gguf": GgufWeights(file, checkpoint.family, checkpoint.config),
        "mlx": MlxWeights(out / "mlx" / folder.folder),
    }


def save_config(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    text = with_experts(checkpoint.config_file.read_text(), checkpoint.family, 5)
    (folder / "config.json").write_text(text)
    return open_checkpoint(folder)


def test_an_edit_of_rows_is_the_same_in_every_format(line: Line, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(line.model)
    plain = written(checkpoint, tmp_path / "plain")
    edited = written(checkpoint, tmp_path / "edited", Scale())
    names = plain["safetensors"].names()
    changed = 0
    for name in names:
        before = plain["safetensors"].tensor(name).float()
        right = before
        if name.endswith(EDITED):
            scales = torch.exp2(torch.arange(before.reshape(-1, before.shape[-1]).shape[0]) % 3)
            right = (before.reshape(-1, before.shape[-1]) * scales[:, None]).reshape(before.shape)
            changed += 1
        for source in edited.values():
            assert torch.equal(source.tensor(name).float(), right), name
    assert changed > 2
    # What is not edited is copied as it is.
    first, second = (
        load_file(tmp_path / which / "safetensors" / "model.safetensors")
        for which in ("plain", "edited")
    )
    untouched = [name for name in first if not Scale().touches(name)]
    assert untouched
    assert all(torch.equal(first[name], second[name]) for name in untouched)


def test_an_edit_that_does_not_fit_the_type_is_refused(tmp_path: Path) -> None:
    class Huge(Scale):
        def edit(
            self, tensor: SlicedTensor, first: int, rows: NDArray[np.float32]
        ) -> NDArray[np.float32]:
            return rows * np.float32(1e30)

    path = tmp_path / "model.safetensors"
    save_file({"a.self_attn.q_proj.weight": torch.ones(2, 4, dtype=torch.float16)}, path)
    tensors = [whole(spec) for spec in read_header(path).values()]
    (tmp_path / "out").mkdir()
    with pytest.raises(NumericError, match="too large for F16"):
        write_shards(tmp_path / "out", lay_out(tensors), edits=[Huge()])
    assert list((tmp_path / "out").iterdir()) == []


def test_rows_are_read_in_runs_over_pieces(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    np.arange(40, dtype=np.float32).tofile(path)
    pieces = (Piece(path, 0, 24), Piece(path, 80, 40))
    tensor = SlicedTensor("x", "F32", (8, 2), pieces)
    with RowSource([tensor]) as source:
        rows = source.rows(tensor, 2, [(1, 2), (2, 5)])
        np.testing.assert_array_equal(rows, [[2, 3], [4, 5], [20, 21], [22, 23]])
        asked = list(source.ahead([1, 2, 3], lambda item: pieces))
    assert asked == [1, 2, 3]


def test_a_shard_that_ends_early_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(10))
    tensor = SlicedTensor("x", "F32", (8, 2), (Piece(path, 0, 64),))
    with (
        RowSource([tensor]) as source,
        pytest.raises(CheckpointError, match="short ends at byte 10, inside tensor 'x'"),
    ):
        source.rows(tensor, 2, [(0, 8)])


def test_every_format_reads_through_it() -> None:
    """No other module of the outputs or of the writer reads shards."""
    import secateur

    package = Path(secateur.__file__).parent
    paths = [package / "checkpoint" / "writer.py", *(package / "outputs").rglob("*.py")]
    texts = {path: path.read_text() for path in paths}
    assert not [path for path, text in texts.items() if "preadv" in text or "fromfile" in text]
