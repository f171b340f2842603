"""The GGUF of a vision tower: byte for byte the converter's, planned like any other file."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemma4_facts
import numpy as np
import pytest
import xllamacpp
from safetensors.torch import load_file, save_file
from test_gguf_llama import Host
from tiny_line import Run, runner
from tiny_vision import save_vision

from secateur import Formats, Pruning, apply, plan, save_plan, verify
from secateur.api.serving import find_tower
from secateur.checkpoint.hub import gemmule_folder
from secateur.checkpoint.reader import Checkpoint, open_checkpoint, open_shape
from secateur.errors import (
    CheckpointError,
    EngineError,
    FamilyError,
    InputError,
    PlanError,
    RequestError,
)
from secateur.formats.gguf.container import Value, metadata_bytes
from secateur.formats.gguf.reader import read_gguf
from secateur.outputs.base import WriteJob
from secateur.outputs.file_notes import file_notes
from secateur.outputs.gguf.mmproj import TYPES_OF_TOWERS, mmproj_layout, tower_recipe
from secateur.outputs.gguf.write import write_ggufs
from secateur.outputs.registry import artefacts_of
from secateur.planning.document import Plan, from_json, read_plan, to_json
from secateur.serving.engine_server import EngineServer, serve_model
from secateur.serving.identity import hash_file
from secateur.serving.settings import ServerSettings

GOLDEN = json.loads((Path(__file__).parent / "golden/mmproj.json").read_text())
OURS = {"general.quantized_by", "secateur.version", "secateur.plan_sha256"}
"""Keys that the converter does not write."""
GUESSED = {"general.name", "general.basename", "general.finetune"}
"""Keys that it reads out of the folder's name."""

TOWER = "model.vision_tower.encoder.layers.1.mlp.up_proj.linear.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision(tmp_path_factory.mktemp("vision") / "tiny-vision")


@pytest.fixture(scope="module")
def model(folder: Path) -> Checkpoint:
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def towers(model: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tower in every type, written in one pass, with its size as predicted."""
    out = tmp_path_factory.mktemp("towers")
    recipes = [tower_recipe(model, kind, False)[0] for kind in TYPES_OF_TOWERS]
    forms = [mmproj_layout(model, model.experts, recipe) for recipe in recipes]
    keep = {layer: tuple(range(model.experts)) for layer in model.moe_layers}
    write_ggufs(forms, WriteJob(model, keep, out, "", workers=2))
    for form in forms:
        assert {form.file: (out / form.file).stat().st_size} == form.files
    return {recipe.name: out / form.file for recipe, form in zip(recipes, forms, strict=True)}


@pytest.mark.parametrize("kind", TYPES_OF_TOWERS)
def test_every_key_equals_the_converters(kind: str, towers: dict[str, Path]) -> None:
    ours, theirs = read_gguf(towers[kind]).metadata, GOLDEN[kind]["metadata"]
    assert set(ours) - OURS - GUESSED == set(theirs) - GUESSED
    assert ours["general.name"] == Value("string", "tiny-vision")
    for key in set(theirs) - GUESSED:
        kind_of, content = theirs[key]
        value = ours[key].value
        assert ours[key].kind == kind_of, key
        assert (list(value) if isinstance(value, tuple) else value) == content, key


@pytest.mark.parametrize("kind", TYPES_OF_TOWERS)
def test_every_tensor_equals_the_converters(kind: str, towers: dict[str, Path]) -> None:
    file = read_gguf(towers[kind])
    ours = {
        name: [info.type, list(info.shape), hashlib.sha256(file.data(name)).hexdigest()]
        for name, info in file.tensors.items()
    }
    assert ours == GOLDEN[kind]["tensors"]
    bound = file.data("v.blk.0.attn_q.input_max").view(np.float32)
    assert np.isinf(bound).all()  # as transformers makes them


def request(folder: Path) -> Pruning:
    (folder / "drop.json").write_text('{"layers": {"0": {"drop": [1]}, "1": {"drop": [0]}}}')
    return Pruning(drop_map=folder / "drop.json")


def test_it_is_planned_and_written_beside_a_gguf(
    folder: Path, towers: dict[str, Path], tmp_path: Path
) -> None:
    decided = plan(folder, request(tmp_path), Formats(types=("Q8_0", "F16")))
    assert decided.formats == ("safetensors", "gguf-Q8_0", "gguf-F16", "mmproj-F16")
    assert not [note for note in decided.notes if "mmproj" in note or "no GGUF" in note]
    told = json.loads(to_json(decided))
    (name,) = decided.files["mmproj-F16"]
    assert name == "mmproj-tiny-vision-7e-F16.gguf"
    assert told["formats"]["mmproj-F16"]["to"] == "mmproj"
    out = tmp_path / "out"
    save_plan(decided, tmp_path / "plan.json")
    apply(tmp_path / "plan.json", out)
    assert verify(out) == ()
    written, alone = read_gguf(out / name), read_gguf(towers["F16"])
    assert told["file_bytes"]["mmproj-F16"] == (out / name).stat().st_size
    tensors = sum(info.nbytes for info in written.tensors.values())
    assert told["tensor_bytes"]["mmproj-F16"] == tensors
    assert told["outputs"]["mmproj-F16"] == {
        "parameters": sum(np.prod(info.shape) for info in written.tensors.values()),
        "bits_per_weight": pytest.approx(
            8 * tensors / sum(np.prod(info.shape) for info in written.tensors.values())
        ),
        "fallback_tensors": 0,
        "fallback_share": 0.0,
        "needs_imatrix": None,
        "memory_bytes": None,
    }
    assert written.tensors == alone.tensors
    assert all((written.data(n) == alone.data(n)).all() for n in alone.tensors)
    assert written.metadata["secateur.plan_sha256"] == Value("string", decided.sha256())
    assert name in json.loads((out / "manifest.json").read_text())["files"]
    assert name not in {path.name for path in artefacts_of(out)}


def test_a_model_without_a_tower_is_planned_as_before(folder: Path, tmp_path: Path) -> None:
    blind = Formats(types=("Q8_0",))
    text = gemmule_folder() / "config.json"
    assert plan(text, Pruning(drop=0.25), blind).formats == ("safetensors", "gguf-Q8_0")
    with pytest.raises(PlanError, match="has no vision tower that llama.cpp reads"):
        plan(text, Pruning(drop=0.25), Formats(types=("Q8_0",), mmproj="F16"))
    assert plan(folder, request(tmp_path), Formats()).formats == ("safetensors",)
    alone = Formats(to="mmproj", mmproj="bf16")
    assert plan(folder, request(tmp_path), alone).formats == ("mmproj-BF16",)


def test_what_is_left_out_is_said(tmp_path: Path, folder: Path) -> None:
    formats = Formats(to="gguf", types=("Q8_0",), mmproj="none")
    decided = plan(folder, request(tmp_path), formats)
    assert decided.formats == ("gguf-Q8_0",)
    assert "no GGUF of this plan holds the vision tensors (--mmproj F16 writes them)" in (
        decided.notes
    )
    hearing = save_vision(tmp_path / "hearing", audio=True)
    decided = plan(hearing, request(tmp_path), Formats(to="gguf", types=("Q8_0",)))
    assert decided.formats == ("gguf-Q8_0", "mmproj-F16")
    assert "no GGUF of this plan holds the audio tensors" in decided.notes
    with pytest.raises(PlanError, match="'q4_0': expected F16, BF16, F32, Q8_0, or none"):
        plan(folder, request(tmp_path), Formats(types=("Q8_0",), mmproj="q4_0"))


def test_rows_that_blocks_do_not_divide_fall_back(folder: Path, tmp_path: Path) -> None:
    decided = plan(folder, request(tmp_path), Formats(to="mmproj", mmproj="Q8_0"))
    fallen = {t.name: (t.fallback_from, t.type) for t in decided.tensors if t.fallback_from}
    assert fallen == {f"v.blk.{layer}.ffn_down.weight": ("Q8_0", "F16") for layer in range(2)}
    assert any("2 of 87 tensors" in note for note in decided.notes)


def test_a_hand_edited_type_is_obeyed_and_a_wrong_one_refused(folder: Path, tmp_path: Path) -> None:
    decided = plan(folder, request(tmp_path), Formats(to="mmproj", mmproj="F32"))
    (name, size), *_ = decided.files["mmproj-F32"].items()
    target = "mm.input_projection.weight"
    rows = json.loads(to_json(decided))
    row = next(row for row in rows["tensors"] if row["name"] == target)
    row.update(type="BF16")
    edited = from_json(json.dumps(rows))
    apply(edited, tmp_path / "out", model=folder)
    assert (tmp_path / "out" / name).stat().st_size == size - row["bytes"] // 2
    assert read_gguf(tmp_path / "out" / name).tensors[target].type == "BF16"
    row.update(type="Q9_9")
    with pytest.raises(InputError, match="Q9_9"):
        apply(from_json(json.dumps(rows)), tmp_path / "other", model=folder)


def edited_copy(
    folder: Path, tmp_path: Path, **changed: Callable[[dict[str, Any]], object]
) -> Path:
    """A copy of the model, its config, processor's settings or tensors changed."""
    copy = tmp_path / "edited"
    shutil.copytree(folder, copy)
    for name, change in changes(changed).items():
        path = copy / name
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        else:
            weights = load_file(path)
            change(weights)
            save_file(weights, path, {"format": "pt"})
    return copy


def changes(words: dict[str, Any]) -> dict[str, Any]:
    names = {
        "config": "config.json",
        "processor": "processor_config.json",
        "tensors": "model.safetensors",
    }
    return {names[word]: change for word, change in words.items()}


ODD: dict[str, tuple[dict[str, Any], type[InputError], str]] = {
    "unknown": (
        {"tensors": lambda w: w.update({"model.vision_tower.extra.weight": w[TOWER].clone()})},
        FamilyError,
        "model.vision_tower.extra.weight' is not known.*--mmproj none",
    ),
    "missing": (
        {"tensors": lambda w: w.pop(TOWER)},
        CheckpointError,
        "up_proj.linear.weight' of the vision tower: shape missing, expected",
    ),
    "another shape": (
        {"config": lambda c: c["vision_config"].update(intermediate_size=96)},
        CheckpointError,
        r"shape \[32, 48\], expected \[32, 96\]",
    ),
    "not computed": (
        {"config": lambda c: c["vision_config"].update(pooling_kernel_size=2)},
        CheckpointError,
        "pooling_kernel_size = 2, and llama.cpp's clip computes only 3",
    ),
    "no section": (
        {"config": lambda c: c.pop("vision_config")},
        FamilyError,
        "none of num_hidden_layers: it does not describe a Gemma 4 vision tower",
    ),
    "no mean": (
        {"processor": lambda p: p["image_processor"].update(image_mean=[0.5])},
        CheckpointError,
        r"\[0.5\] for vision.image_mean, expected 3 numbers",
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_a_tower_that_is_not_as_described_is_one_line(
    what: str, folder: Path, tmp_path: Path
) -> None:
    changed, kind, message = ODD[what]
    copy = edited_copy(folder, tmp_path, **changed)
    with pytest.raises(kind, match=message) as caught:
        plan(copy, request(tmp_path), Formats(types=("Q8_0",)))
    assert "\n" not in str(caught.value)
    blind = Formats(types=("Q8_0",), mmproj="none")
    assert plan(copy, request(tmp_path), blind).formats == ("safetensors", "gguf-Q8_0")


def test_settings_that_are_left_out_are_the_image_processors(folder: Path, tmp_path: Path) -> None:
    copy = edited_copy(folder, tmp_path)
    (copy / "processor_config.json").unlink()
    checkpoint = open_checkpoint(copy)
    metadata = mmproj_layout(checkpoint, 8, tower_recipe(checkpoint, "F16", False)[0]).metadata
    assert metadata["clip.vision.image_mean"] == Value("f32", (0.0, 0.0, 0.0))
    assert metadata["clip.vision.image_std"] == Value("f32", (1.0, 1.0, 1.0))
    (copy / "preprocessor_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds list, expected a JSON object"):
        mmproj_layout(checkpoint, 8, tower_recipe(checkpoint, "F16", False)[0])


def test_a_config_alone_gives_the_same_plan(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny-vision" / "config.json"
    config.parent.mkdir()
    shutil.copy(folder / "config.json", config)
    shutil.copy(folder / "processor_config.json", config.parent)
    formats = Formats(types=("Q8_0",), mmproj="Q8_0")
    drawn = plan(config, Pruning(experts=7), formats)
    whole = plan(folder, request(tmp_path), formats)

    def tower_of(decided: Plan) -> tuple[object, ...]:
        return decided.of("mmproj-Q8_0"), decided.files["mmproj-Q8_0"]

    assert tower_of(drawn) == tower_of(whole)
    assert drawn.tensor_bytes("safetensors") == whole.tensor_bytes("safetensors")
    assert open_shape(config).specs.keys() == open_checkpoint(folder).specs.keys()


def test_the_real_tower_has_its_published_size(tmp_path: Path) -> None:
    """unsloth's mmproj-F16.gguf of google/gemma-4-26B-A4B-it has 1,193,058,784 bytes."""
    config = json.loads(gemma4_facts.config_text())
    config["vision_config"] = {
        "model_type": "gemma4_vision",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 72,
        "patch_size": 16,
        "position_embedding_size": 10240,
        "standardize": True,
    }
    path = tmp_path / "gemma.json"
    path.write_text(json.dumps(config))
    decided = plan(path, Pruning(experts=90), Formats(types=("Q8_0",)))
    checkpoint = open_shape(path)
    form = mmproj_layout(checkpoint, 90, tower_recipe(checkpoint, None, True)[0])
    assert decided.tensor_bytes("mmproj-F16") == 1_193_035_968
    assert len(decided.of("mmproj-F16")) == 356
    size = decided.file_bytes("mmproj-F16")
    assert size == form.files[form.file]
    # Only the metadata differs, in which theirs names the model and its makers.
    assert abs(1_193_058_784 - size) < metadata_bytes(form.metadata) < 1500


def test_the_label_of_a_tower_is_not_that_of_a_model() -> None:
    files = {"gguf-F16": {"m-F16.gguf": 1}, "mmproj-F16": {"mmproj-m-F16.gguf": 1}}
    assert file_notes(files) == []


def test_the_command_line_takes_its_type(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run: Run = runner(monkeypatch, capfd)
    request(tmp_path)
    words = {"types": "Q8_0", "drop_map": tmp_path / "drop.json", "to": "gguf"}
    told = run("plan", folder, **words, mmproj="Q8_0", json=True)
    assert told.code == 0, told.err
    assert list(told.json["files"]) == ["gguf-Q8_0", "mmproj-Q8_0"]
    shown = run("plan", folder, **words, out=tmp_path / "plan.json")
    assert "mmproj-F16" in shown.out
    assert read_plan(tmp_path / "plan.json").formats == ("gguf-Q8_0", "mmproj-F16")
    refused = run("plan", folder, **words, mmproj="F8")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def png(side: int, colour: tuple[int, int, int]) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(colour) * side) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Seeing(Host):
    """llama.cpp's server with a model and its tower."""

    def __init__(self, path: Path, tower: Path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path, params.mmproj.path = str(path), str(tower)
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 512, 1, False, -1
        params.cpuparams.n_threads = 1
        self.server = xllamacpp.Server(params)


def test_llama_cpp_looks_through_the_tower(folder: Path, tmp_path: Path) -> None:
    decided = plan(folder, request(tmp_path), Formats(to="gguf", types=("F16",)))
    apply(decided, tmp_path / "out")
    (model,), (tower,) = (decided.files[form] for form in ("gguf-F16", "mmproj-F16"))
    host = Seeing(tmp_path / "out" / model, tmp_path / "out" / tower)
    question = {"type": "text", "text": "What is it?"}
    picture = "data:image/png;base64," + base64.b64encode(png(96, (200, 30, 90))).decode()
    seen = {"type": "image_url", "image_url": {"url": picture}}

    def tokens(content: list[dict[str, Any]]) -> int:
        messages = [{"role": "user", "content": content}]
        reply = host.post("v1/chat/completions", messages=messages, max_tokens=1)
        return int(reply["usage"]["prompt_tokens"])

    # A picture is at least 70 tokens (3 x 3 patches each), and two that stand around it.
    assert tokens([question, seen]) - tokens([question]) >= 70


@pytest.mark.slow
def test_an_output_is_served_with_its_tower(folder: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    decided = plan(folder, request(tmp_path), Formats(to="gguf", types=("F16",)))
    apply(decided, out)
    (name,), (tower,) = (decided.files[form] for form in ("gguf-F16", "mmproj-F16"))
    model = out / name
    assert find_tower(model) == out / tower
    assert find_tower(model, "none") is None
    picture = "data:image/png;base64," + base64.b64encode(png(96, (200, 30, 90))).decode()
    seen = {"type": "image_url", "image_url": {"url": picture}}
    settings = ServerSettings(context=512, workers=1, mmproj=out / tower)

    def tokens(server: EngineServer, *more: dict[str, Any]) -> int:
        content = [{"type": "text", "text": "What is it?"}, *more]
        fields = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        return int(server.ask("/v1/chat/completions", fields)["usage"]["prompt_tokens"])

    with serve_model(model, settings, None) as server:
        assert server.identity.flags["mmproj_sha256"] == hash_file(out / tower)
        assert tokens(server, seen) - tokens(server) >= 70
    with (
        serve_model(model, replace(settings, mmproj=None), None) as blind,
        pytest.raises(EngineError, match="image"),
    ):
        tokens(blind, seen)
    with pytest.raises(RequestError, match="no GGUF of a vision tower"):
        find_tower(model, str(model))
    shutil.copy(out / tower, out / "mmproj-second.gguf")
    with pytest.raises(RequestError, match="several vision towers"):
        find_tower(model)
