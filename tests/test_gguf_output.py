"""GGUF files written in one pass: resumed at a tensor, cut into parts, named for who reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secateur.checkpoint.hub import gemmule_folder
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.errors import FormatError
from secateur.formats.gguf.container import Value
from secateur.formats.gguf.naming import file_name, label_of, without_part
from secateur.formats.gguf.provenance import PLAN_SHA256, origin_metadata
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.writer import GgufWriter, TensorChunk
from secateur.outputs import blocks
from secateur.outputs.base import WriteJob
from secateur.outputs.file_notes import file_notes
from secateur.outputs.gguf.layout import GgufLayout, gguf_layout
from secateur.outputs.gguf.write import write_ggufs
from secateur.recipes.recipe import find_recipe
from secateur.release.manifest import sha256_of

TYPES = ("Q8_0", "Q4_0")


@pytest.fixture(scope="module")
def gemmule() -> Checkpoint:
    return open_checkpoint(gemmule_folder())


def form_of(checkpoint: Checkpoint, kind: str, split: int | None = None) -> GgufLayout:
    keep = {layer: tuple(range(4)) for layer in checkpoint.moe_layers}
    return gguf_layout(checkpoint, keep, find_recipe(kind), imatrix=None, split=split)


def write(
    checkpoint: Checkpoint, forms: list[GgufLayout], folder: Path, threads: int = 1
) -> dict[str, str]:
    keep = {layer: tuple(range(4)) for layer in checkpoint.moe_layers}
    folder.mkdir(exist_ok=True)
    return write_ggufs(forms, WriteJob(checkpoint, keep, folder, "", workers=threads))


@pytest.fixture(scope="module")
def alone(gemmule: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file written in a pass of its own, by one thread."""
    folder = tmp_path_factory.mktemp("alone")
    for kind in TYPES:
        write(gemmule, [form_of(gemmule, kind)], folder)
    return folder


def test_one_pass_writes_what_single_passes_write(
    gemmule: Checkpoint, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "ELEMENTS", 3000)
    hashes = write(gemmule, [form_of(gemmule, kind) for kind in TYPES], tmp_path, threads=3)
    for kind in TYPES:
        name = form_of(gemmule, kind).file
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes()
        assert hashes[name] == sha256_of(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(hashes)


@pytest.mark.parametrize("damage", ["nothing", "a byte", "the journal"])
def test_an_interrupted_file_is_gone_on_with_if_it_is_what_its_journal_says(
    gemmule: Checkpoint,
    alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    form = form_of(gemmule, "Q8_0")
    put = GgufWriter.write

    def until_the_tenth(self: GgufWriter, chunk: TensorChunk) -> None:
        if self.done == 10:
            raise KeyboardInterrupt
        put(self, chunk)

    monkeypatch.setattr(GgufWriter, "write", until_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        write(gemmule, [form], tmp_path)
    partial, journal = (tmp_path / f".{form.file}{end}.partial" for end in ("", ".journal"))
    assert not (tmp_path / form.file).exists()
    if damage == "a byte":
        data = bytearray(partial.read_bytes())
        data[-1] ^= 1
        partial.write_bytes(data)
    if damage == "the journal":
        journal.write_bytes(b"\0" * 200)
    written: list[str] = []

    def counted(self: GgufWriter, chunk: TensorChunk) -> None:
        written.append(chunk.name)
        put(self, chunk)

    monkeypatch.setattr(GgufWriter, "write", counted)
    hashes = write(gemmule, [form], tmp_path)
    names = [info.name for info in form.infos]
    assert written[0] == names[10 if damage == "nothing" else 0]
    assert (tmp_path / form.file).read_bytes() == (alone / form.file).read_bytes()
    assert hashes == {form.file: sha256_of(tmp_path / form.file)}
    assert [path.name for path in tmp_path.iterdir()] == [form.file]


def test_parts_hold_the_whole_and_say_so(gemmule: Checkpoint, alone: Path, tmp_path: Path) -> None:
    form = form_of(gemmule, "Q8_0", split=2_000_000)
    write(gemmule, [form], tmp_path)
    whole = read_gguf(alone / form_of(gemmule, "Q8_0").file)
    parts = [read_gguf(tmp_path / name) for name in form.files]
    assert len(parts) > 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == list(form.files)
    assert [name for part in parts for name in part.tensors] == list(whole.tensors)
    for number, part in enumerate(parts):
        assert part.path.stat().st_size == form.files[part.path.name]
        assert part.metadata["split.no"] == Value("u16", number)
        assert part.metadata["split.count"] == Value("u16", len(parts))
        assert part.metadata["split.tensors.count"] == Value("i32", len(whole.tensors))
        assert sum(info.nbytes for info in part.tensors.values()) <= 2_000_000
        for name in part.tensors:
            np.testing.assert_array_equal(part.data(name), whole.data(name))
    assert set(parts[0].metadata) - set(parts[1].metadata) == set(whole.metadata) - {PLAN_SHA256}
    assert parts[1].value(PLAN_SHA256) == parts[0].value(PLAN_SHA256)
    with pytest.raises(FormatError, match="allow larger files"):
        _ = form_of(gemmule, "Q8_0", split=1000).parts


@pytest.mark.parametrize(
    ("recipe", "base", "file", "label"),
    [
        ("Q4_K_M", "Q4_K_M", "m-Q4_K_M.gguf", "Q4_K_M"),
        ("Q4_K_L", "Q4_K_M", "m-Q4_K_L-Q4_K_M.gguf", "Q4_K_M"),
        ("Q6_K_L", "Q6_K", "m-Q6_K_L.gguf", "Q6_K_L"),
        ("Q3_K_XL", "Q3_K_L", "m-Q3_K_XL.gguf", "Q3_K_XL"),
        ("apex-mini", "Q3_K_M", "m-apex-mini-Q3_K_M.gguf", "Q3_K_M"),
        ("CD-Q6_K", "Q6_K", "m-CD-Q6_K.gguf", "Q6_K"),
        ("MXFP4_MOE", "MXFP4_MOE", "m-MXFP4_MOE.gguf", "MXFP4_MOE"),
    ],
)
def test_every_name_has_a_label_that_the_hub_reads(
    recipe: str, base: str, file: str, label: str
) -> None:
    assert file_name("m", recipe, base) == file
    assert label_of(file) == label
    assert label_of(file.replace(".gguf", "-00001-of-00002.gguf")) == label


def test_shared_labels_and_parts_are_noted() -> None:
    assert without_part("m-Q6_K-00001-of-00002.gguf") == "m-Q6_K.gguf"
    parts = {f"m-Q6_K-0000{n}-of-00002.gguf": 1 for n in (1, 2)}
    notes = file_notes({"gguf-Q6_K": parts, "gguf-CD-Q6_K": {"m-CD-Q6_K.gguf": 1}})
    assert len(notes) == 2
    assert "Ollama cannot pull" in notes[0]
    assert "m-CD-Q6_K.gguf and m-Q6_K.gguf have the same label, Q6_K" in notes[1]
    assert file_notes({"gguf-Q8_0": {"m-Q8_0.gguf": 1}, "safetensors": {"a": 1, "b": 2}}) == []


def test_the_origin_is_what_is_known(tmp_path: Path) -> None:
    assert set(origin_metadata(tmp_path, None)) == {"general.quantized_by"}
    card = (
        "---\nlicense: gemma\nlicense_link: https://x/y\nbase_model: [a/b]\nlanguage: en\n---\nhi"
    )
    (tmp_path / "README.md").write_text(card)
    found = {key: value.value for key, value in origin_metadata(tmp_path, None).items()}
    assert found["general.license"] == "gemma"
    assert found["general.license.link"] == "https://x/y"
    assert found["general.languages"] == ("en",)
    assert found["general.base_model.0.repo_url"] == "https://huggingface.co/a/b"
    (tmp_path / "README.md").write_text('---\nlicense: "gemma\\uD800"\n---\n')
    assert set(origin_metadata(tmp_path, None)) == {"general.quantized_by"}
    (tmp_path / "README.md").write_text(card)
    ours = origin_metadata(tmp_path, "c/d")
    assert ours["general.base_model.count"] == Value("u32", 1)
    assert ours["general.base_model.0.organization"] == Value("string", "c")


def test_the_plans_hash_does_not_change_the_size(gemmule: Checkpoint) -> None:
    form = form_of(gemmule, "Q8_0")
    made = form.made_by("ab" * 32)
    assert made.metadata["secateur.plan_sha256"] == Value("string", "ab" * 32)
    assert made.files == form.files
    assert replace(made, metadata=form.metadata) == form
