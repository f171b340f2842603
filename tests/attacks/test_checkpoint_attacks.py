"""Damaged and hostile model folders: each gives one line that says what is wrong, and exit 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny

from secateur.checkpoint.reader import INDEX, SINGLE, Checkpoint, open_checkpoint
from secateur.errors import CheckpointError, FamilyError, SecateurError

Attack = Callable[[Path], None]


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint of several shards."""
    return save_tiny("gemma4", tmp_path_factory.mktemp("sharded") / "model", shard_size="40KB")


@pytest.fixture
def victim(sharded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sharded, tmp_path / "model")


def refused(folder: Path, kind: type[SecateurError] = CheckpointError) -> str:
    """The message with which opening `folder` fails."""
    with pytest.raises(kind) as caught:
        open_checkpoint(folder)
    assert type(caught.value) is kind
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return message


def first_shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a shard's header and leave its data as they are."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    replace_header(path, json.dumps(header).encode())


def replace_header(path: Path, text: bytes) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def tensors(header: dict[str, Any]) -> list[str]:
    names = [name for name in header if name != "__metadata__"]
    return sorted(names, key=lambda name: header[name]["data_offsets"])


def test_the_untouched_checkpoint_opens(victim: Path) -> None:
    assert isinstance(open_checkpoint(victim), Checkpoint)
    assert len(list(victim.glob("*.safetensors"))) > 2


def test_a_missing_shard(victim: Path) -> None:
    shard = first_shard(victim)
    shard.unlink()
    assert f"shard {shard} is missing: download it again" in refused(victim)


@pytest.mark.parametrize("left", [0, 7, 8, 20, 0.5, 0.999])
def test_a_truncated_shard(left: float, victim: Path) -> None:
    shard = first_shard(victim)
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(left if isinstance(left, int) else int(size * left))
    assert str(shard) in refused(victim)


def test_a_shard_with_bytes_to_spare(victim: Path) -> None:
    with first_shard(victim).open("ab") as file:
        file.write(b"hidden payload")
    assert "data no tensor owns" in refused(victim)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_an_index_that_points_outside(name: str, victim: Path) -> None:
    outside = victim.parent / "model.safetensors"
    shutil.copy(first_shard(victim), outside)

    def change(index: Any) -> None:
        index["weight_map"] = dict.fromkeys(index["weight_map"], name)

    edit_json(victim / INDEX, change)
    message = refused(victim)
    assert name in message
    assert "outside the model folder" in message


def test_an_index_that_disagrees_with_a_shard(victim: Path) -> None:
    def change(index: Any) -> None:
        names = sorted(set(index["weight_map"].values()))
        tensor = next(k for k, v in index["weight_map"].items() if v == names[0])
        index["weight_map"][tensor] = names[1]

    edit_json(victim / INDEX, change)
    assert "mend the index" in refused(victim)


def test_an_index_that_promises_too_much(victim: Path) -> None:
    shard = first_shard(victim).name
    edit_json(victim / INDEX, lambda index: index["weight_map"].update({"model.more": shard}))
    assert "promises tensor 'model.more'" in refused(victim)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": "b", "a": "c"}}', "\xff"]
)
def test_an_index_that_is_no_index(text: str, victim: Path) -> None:
    (victim / INDEX).write_bytes(text.encode("latin-1"))
    assert INDEX in refused(victim)


@pytest.mark.parametrize("length", [2**63, 100_000_001, 10**6])
def test_a_header_larger_than_the_file(length: int, victim: Path) -> None:
    shard = first_shard(victim)
    shard.write_bytes(length.to_bytes(8, "little") + shard.read_bytes()[8:])
    assert f"claims a header of {length} bytes" in refused(victim)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff\xfe", b"nonsense", b"[" * 200_000, b'{"a": ' * 100_000]
)
def test_a_header_that_is_no_header(text: bytes, victim: Path) -> None:
    replace_header(first_shard(victim), text)
    assert "has a header that is no" in refused(victim)


def test_a_name_that_occurs_twice_in_a_header(victim: Path) -> None:
    shard = first_shard(victim)
    raw = shard.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text = raw[8 : 8 + length].rstrip()
    name = tensors(json.loads(text))[0]
    again = json.dumps({name: json.loads(text)[name]})[1:-1]
    replace_header(shard, text[:-1] + b"," + again.encode() + b"}")
    assert f"the key {name!r} occurs twice" in refused(victim)


def test_tensors_that_overlap(victim: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        # Two tensors of one size claim the same bytes.
        sizes: dict[int, str] = {}
        for name in tensors(header):
            begin, end = header[name]["data_offsets"]
            if end - begin in sizes:
                header[name]["data_offsets"] = header[sizes[end - begin]]["data_offsets"]
                return
            sizes[end - begin] = name

    for shard in victim.glob("*.safetensors"):
        rewrite(shard, change)
    assert "overlapping the one before it" in refused(victim)


def test_a_gap_between_tensors(victim: Path) -> None:
    rewrite(first_shard(victim), lambda header: header.pop(tensors(header)[0]))
    assert "has a gap of" in refused(victim)


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header[tensors(header)[0]][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("shape", [1, 2, 3]), "takes 24"),
        (_set("shape", [-1]), "no whole number"),
        (_set("shape", [1.0]), "no whole number"),
        (_set("shape", [True]), "no whole number"),
        (_set("shape", ["1"]), "no whole number"),
        (_set("shape", None), "no whole number"),
        (_set("shape", "12"), "no whole number"),
        (_set("shape", [10**19]), "takes 4" + "0" * 19),
        (_set("shape", [10**30]), "a number of 31 digits"),
        (_set("data_offsets", [0, True]), "no whole number"),
        (_set("data_offsets", [4, 0]), "bytes, but"),
        (_set("data_offsets", [-4, 0]), "no whole number"),
        (_set("data_offsets", [0]), "without dtype, shape and two offsets"),
        (_set("data_offsets", 7), "without dtype, shape and two offsets"),
        (_set("dtype", "F4"), "type 'F4', expected one of BOOL"),
        (_set("dtype", ["F32"]), "type ['F32'], expected one of"),
        (lambda header: header.update({tensors(header)[0]: 3}), "without dtype"),
        (lambda header: header.update({tensors(header)[0]: {}}), "without dtype"),
    ],
)
def test_a_header_entry_that_cannot_be(
    change: Callable[[dict[str, Any]], None], words: str, victim: Path
) -> None:
    rewrite(first_shard(victim), change)
    message = refused(victim)
    assert words in message
    assert str(first_shard(victim)) in message


def rename(victim: Path, old: str, new: str) -> None:
    for shard in victim.glob("*.safetensors"):

        def change(header: dict[str, Any]) -> None:
            if old in header:
                header[new] = header.pop(old)

        rewrite(shard, change)
    edit_json(victim / INDEX, lambda i: i["weight_map"].update({new: i["weight_map"].pop(old)}))


def test_a_tensor_no_row_describes(victim: Path) -> None:
    old, new = "model.layers.1.router.scale", "model.layers.1.router.scales"
    rename(victim, old, new)
    message = refused(victim, FamilyError)
    assert repr(new) in message
    assert "nearest row: model.layers.{layer}.router.scale)" in message


def test_a_model_no_family_describes(victim: Path) -> None:
    edit_json(victim / "config.json", lambda config: config.update(model_type="bert"))
    message = refused(victim, FamilyError)
    assert "'bert'" in message
    assert "gemma4, gemma4_text" in message


@pytest.mark.parametrize("kind", [None, 3, ["gemma4"]])
def test_a_model_type_that_is_no_name(kind: Any, victim: Path) -> None:
    edit_json(victim / "config.json", lambda config: config.update(model_type=kind))
    assert "model_type" in refused(victim, FamilyError)


def test_a_count_that_is_not_the_tensors_count(victim: Path) -> None:
    edit_json(victim / "config.json", lambda config: config.update(num_experts=6))
    message = refused(victim)
    assert "holds 8 experts on axis 0, but config.json says 6" in message


@pytest.mark.parametrize("count", [True, "8", None, 8.0, 0, -1, [8]])
@pytest.mark.parametrize("key", ["num_hidden_layers", "num_experts", "top_k_experts"])
def test_a_count_that_is_no_number(key: str, count: Any, victim: Path) -> None:
    edit_json(victim / "config.json", lambda config: config.update({key: count}))
    message = refused(victim)
    assert f"{victim / 'config.json'} has {key} = {json.dumps(count)}" in message
    assert "expected a whole number of at least 1" in message


def test_a_missing_expert(tmp_path: Path) -> None:
    folder = save_tiny("mixtral", tmp_path / "model")
    import safetensors.numpy

    weights = safetensors.numpy.load_file(folder / SINGLE)
    del weights["model.layers.1.block_sparse_moe.experts.5.w2.weight"]
    safetensors.numpy.save_file(weights, folder / SINGLE)
    message = refused(folder)
    assert f"layer 1 of {folder} has 7 experts" in message
    assert "first missing: expert 5" in message


def test_experts_without_a_router(victim: Path) -> None:
    rename(victim, "model.layers.1.router.proj.weight", "model.layers.1.self_attn.sinks.weight")
    refused(victim, FamilyError)
    rename(victim, "model.layers.1.self_attn.sinks.weight", "model.layers.9.mlp.up_proj.weight")
    assert "has tensors of layer 9, but config.json says num_hidden_layers = 3" in refused(victim)


def test_no_config(victim: Path) -> None:
    (victim / "config.json").unlink()
    assert "config.json does not exist" in refused(victim)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "a", "model_type": "b"}', "\xff"])
def test_a_config_that_is_no_config(text: str, victim: Path) -> None:
    (victim / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json" in refused(victim)


def test_pickled_weights_are_never_opened(victim: Path) -> None:
    for path in [*victim.glob("*.safetensors"), victim / INDEX]:
        path.unlink()
    (victim / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    assert "secateur reads safetensors only" in refused(victim)


def test_a_dense_model(tmp_path: Path) -> None:
    import safetensors.numpy

    folder = save_tiny("mixtral", tmp_path / "model")
    weights = safetensors.numpy.load_file(folder / SINGLE)
    dense = {name: array for name, array in weights.items() if "moe" not in name}
    safetensors.numpy.save_file(dense, folder / SINGLE)
    assert "has no routed experts" in refused(folder)


@pytest.mark.parametrize("source", ["no/such/folder", "./missing", "nothing", "/no/where"])
def test_a_source_that_does_not_exist(source: str) -> None:
    assert source in refused(Path(source)) if source != "./missing" else refused(Path(source))
