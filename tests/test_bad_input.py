"""Whatever a user gives wrongly: one line on stderr, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import math
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_line import Line, Ran, Run

from secateur.checkpoint.reader import INDEX, SINGLE

EXPERT = "model.layers.1.experts.gate_up_proj"
ROUTER = "model.layers.1.router.proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def refused(ran: Ran, *words: str, code: int = 2) -> None:
    """One line that holds `words`, and `code`."""
    assert ran.out == ""
    assert len(ran.said) == 1, ran.err
    assert ran.said[0].startswith("secateur: ")
    assert all(word in ran.said[0] for word in words), ran.said[0]
    assert ran.code == code


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """An empty folder to write into; a refused command leaves it empty."""
    folder = tmp_path / "room"
    folder.mkdir()
    return folder


@pytest.fixture
def copy(line: Line, tmp_path: Path) -> Path:
    return Path(shutil.copytree(line.model, tmp_path / "copy"))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def reheader(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a shard's header and leave its data as they are."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def poke(folder: Path, name: str, value: float = math.nan) -> None:
    """Write a number into the last column of one tensor (bfloat16)."""
    raw = (folder / SINGLE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + length])[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    data = np.frombuffer(raw[begin:end], np.uint16).copy().reshape(entry["shape"])
    data[..., -1] = np.float32(value).view(np.uint32) >> 16
    (folder / SINGLE).write_bytes(raw[:begin] + data.tobytes() + raw[end:])


def split(folder: Path) -> None:
    """Make two shards and an index of a checkpoint of one file."""
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    (folder / SINGLE).unlink()
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _overlap(header: dict[str, Any]) -> None:
    begin, end = header[EMBEDDING]["data_offsets"]
    header[EMBEDDING]["data_offsets"] = [begin - 64, end - 64]


MODELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing shard": (lambda f: (split(f), (f / "a.safetensors").unlink()), "is missing"),
    "truncated shard": (lambda f: _truncate(f / SINGLE), "model.safetensors"),
    "index leaves the folder": (
        lambda f: (
            split(f),
            edit(f / INDEX, lambda d: d["weight_map"].update({EMBEDDING: "../x.safetensors"})),
        ),
        "../x.safetensors",
    ),
    "huge header": (
        lambda f: (f / SINGLE).write_bytes((1 << 40).to_bytes(8, "little") + b"{}"),
        str(1 << 40),
    ),
    "overlapping offsets": (lambda f: reheader(f / SINGLE, _overlap), "overlap"),
    "unknown tensor": (
        lambda f: reheader(f / SINGLE, lambda h: h.update({"model.oracle": h.pop(EMBEDDING)})),
        "model.oracle",
    ),
    "unknown family": (
        lambda f: edit(f / "config.json", lambda c: c.update(model_type="eliza")),
        "eliza",
    ),
    "wrong expert count": (
        lambda f: edit(f / "config.json", lambda c: c.update(num_experts=7)),
        "7",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
}  # fmt: skip


@pytest.mark.parametrize("damage", MODELS)
def test_a_damaged_model(damage: str, run: Run, line: Line, copy: Path, room: Path) -> None:
    spoil, word = MODELS[damage]
    spoil(copy)
    refused(run("inspect", copy), word)
    refused(run("inspect", copy, json=True), word)
    refused(run("calibrate", copy, corpus=line.corpus, out=room / "stats"), word)
    refused(run("plan", copy, experts=6, out=room / "plan.json"), word)
    refused(run("shrink", copy, experts=6, corpus=line.corpus, out=room / "out"), word)
    assert list(room.iterdir()) == []


def test_a_model_that_is_no_folder(run: Run, line: Line, tmp_path: Path) -> None:
    refused(run("inspect", line.corpus), "corpus.jsonl")
    refused(run("inspect", tmp_path / "nowhere"), "nowhere", "does not exist")
    refused(run("inspect", "bert"), "bert")
    refused(run("inspect"), "MODEL", "--help")


@pytest.mark.parametrize("name", [EXPERT, ROUTER, EMBEDDING])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(
    name: str, value: float, run: Run, line: Line, copy: Path, room: Path
) -> None:
    poke(copy, name, value)
    made = run("calibrate", copy, corpus=line.corpus, out=room / "stats", workers=1)
    refused(made, code=1)
    assert list(room.iterdir()) == []
    for word in ({"to": "safetensors"}, {"to": "gguf", "types": "Q8_0"}):
        plan = room.parent / "plan.json"
        assert run("plan", copy, experts=8, out=plan, force=True, **word).code == 0
        refused(run("apply", plan, out=room / "out"), name)
        assert list(room.iterdir()) == []


CORPORA = {
    "empty.jsonl": "",
    "no_text.jsonl": '{"messages": []}\n',
    "blank.jsonl": '{"text": "  "}\n',
    "other.jsonl": '{"question": "why"}\n',
    "broken.jsonl": '{"text": "a"\n',
    "empty.txt": "",
    "unknown.yaml": "sources: [{name: a, path: nowhere.jsonl}]\n",
    "odd.yaml": "surces: []\n",
    "broken.yaml": "sources: [\n",
    "nothing.yaml": "sources: []\n",
    "list.yaml": "- a\n",
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_that_gives_no_rows(
    name: str, run: Run, line: Line, room: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(CORPORA[name])
    refused(run("calibrate", line.model, corpus=tmp_path / name, out=room / "s"))
    request = {"experts": 6, "corpus": tmp_path / name, "answers": line.answers}
    refused(run("shrink", line.model, **request, out=room / "o"))
    assert list(room.iterdir()) == []


ROWS = {
    "empty": "",
    "no ids": '{"input_ids": []}\n',
    "words": '{"input_ids": ["a"]}\n',
    "not in the vocabulary": '{"input_ids": [1, 99999]}\n',
    "all masked": '{"input_ids": [1, 2], "attention_mask": [0, 0]}\n',
    "no object": "[1, 2]\n",
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_cannot_be_used(
    name: str, run: Run, line: Line, room: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS[name])
    refused(run("calibrate", line.model, rows=tmp_path / "rows.jsonl", out=room / "s"))
    assert list(room.iterdir()) == []


def test_what_to_calibrate_on(run: Run, line: Line, room: Path) -> None:
    both = {"corpus": line.corpus, "rows": line.rows}
    for command, more in (
        ("calibrate", {}),
        ("shrink", {"experts": 6, "answers": line.answers}),
    ):
        refused(run(command, line.model, out=room / "x", **both, **more), "corpus", "rows")
        refused(run(command, line.model, out=room / "x", **more), "corpus", "rows")
        told = run(command, line.model, corpus="shakespeare", out=room / "x", **more)
        refused(told, "shakespeare", "gemmule")
    refused(run("calibrate", line.model, rows=room / "none", out=room / "x"), "none")
    assert list(room.iterdir()) == []


def test_statistics_of_another_model(
    run: Run, line: Line, stats: Path, copy: Path, room: Path
) -> None:
    poke(copy, EMBEDDING, 0.5)
    refused(run("plan", copy, stats=stats, experts=6, out=room / "p"), "calibrate this checkpoint")
    assert run("plan", copy, experts=8, types="Q8_0", out=room.parent / "p").code == 0
    refused(run("apply", room.parent / "p", stats=stats, out=room / "o"), "statistics are of")
    made = run("calibrate", copy, rows=line.rows, out=room.parent / "s", reroute_tokens=0)
    assert made.code == 0
    refused(run("merge", stats, room.parent / "s", out=room / "all"))
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "other", "folder"])
def test_damaged_statistics(
    damage: str, run: Run, line: Line, stats: Path, room: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.safetensors"
    if damage == "truncated":
        bad.write_bytes(stats.read_bytes()[:-50])
    elif damage == "text":
        bad.write_text("statistics")
    elif damage == "other":
        shutil.copy(line.model / SINGLE, bad)
    elif damage == "folder":
        bad.mkdir()
    refused(run("plan", line.model, stats=bad, experts=6, out=room / "p"), "bad.safetensors")
    refused(run("scores", bad), "bad.safetensors")
    refused(run("coverage", bad), "bad.safetensors")
    refused(run("merge", stats, bad, out=room / "m"), "bad.safetensors")
    assert list(room.iterdir()) == []


@pytest.fixture
def plan(run: Run, line: Line, stats: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    made = run("plan", line.model, stats=stats, experts=6, types="Q8_0", out=path)
    assert made.code == 0
    return path


def _tensor(form: str, **change: Any) -> Callable[[Any], None]:
    def edit_one(data: Any) -> None:
        next(
            row for row in data["tensors"] if row["format"] == form and row["bytes"] > 9000
        ).update(change)

    return edit_one


EDITS: dict[str, Callable[[Any], Any]] = {
    "shape": _tensor("gguf-Q8_0", shape=[3]),
    "type": _tensor("safetensors", type="F32"),
    "unknown type": _tensor("gguf-Q8_0", type="Q9_9"),
    "type that does not fit": _tensor("gguf-Q8_0", type="Q4_K"),
    "name": _tensor("gguf-Q8_0", name="oracle"),
    "format": lambda d: d["files"].update({"mlx": {"a": 1}}),
    "tensor of no format": _tensor("gguf-Q8_0", format="gguf-Q4_0"),
    "criterion": lambda d: d["selection"].update(criterion="magic"),
    "unknown expert": lambda d: d["keep"].update({"0": [0, 1, 2, 3, 4, 99]}),
    "negative expert": lambda d: d["keep"].update({"0": [-1, 1, 2, 3, 4, 5]}),
    "expert twice": lambda d: d["keep"].update({"0": [0, 0, 1, 2, 3, 4]}),
    "unequal counts": lambda d: d["keep"].update({"0": [0, 1, 2, 3, 4]}),
    "too few experts": lambda d: d.update(keep={"0": [1], "1": [2]}),
    "no experts": lambda d: d.update(keep={"0": [], "1": []}),
    "no layers": lambda d: d.update(keep={}),
    "missing layer": lambda d: d["keep"].pop("1"),
    "unknown layer": lambda d: d["keep"].update({"7": d["keep"]["1"]}),
    "no tensors": lambda d: d.update(tensors=[]),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_plan_edited_wrongly(what: str, run: Run, plan: Path, stats: Path, room: Path) -> None:
    edit(plan, EDITS[what])
    refused(run("apply", plan, stats=stats, out=room / "out"))
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(
    "value", [None, *(pytest.param(one, marks=pytest.mark.slow) for one in ([], {}, "x", 7))]
)
def test_a_plan_with_a_foreign_value_is_never_a_traceback(
    value: Any, run: Run, plan: Path, stats: Path, room: Path
) -> None:
    data = json.loads(plan.read_text())
    for key in data:
        plan.write_text(json.dumps({**data, key: value}))
        ran = run("apply", plan, stats=stats, out=room / "out")
        if ran.code:
            refused(ran)
            assert list(room.iterdir()) == []
        else:
            described = ("notes", "secateur", "outputs", "memory")
            followed = ("experts", "tensor_bytes", "file_bytes")  # computed again
            assert key in (*described, *followed), key
            shutil.rmtree(room / "out")


def test_a_plan_edited_well_is_obeyed(run: Run, plan: Path, stats: Path, room: Path) -> None:
    data = json.loads(plan.read_text())
    row = next(row for row in data["tensors"] if row["name"] == "blk.0.attn_q.weight")
    more = math.prod(row["shape"]) * 2 - row["bytes"]
    row.update(type="F16")
    (name,) = data["files"]["gguf-Q8_0"]
    plan.write_text(json.dumps(data))
    ran = run("apply", plan, stats=stats, out=room / "out")
    assert (ran.code, ran.said) == (0, [])
    assert (room / "out" / name).stat().st_size == data["files"]["gguf-Q8_0"][name] + more
    manifest = json.loads((room / "out" / "manifest.json").read_text())
    assert manifest["edited"] == ["types of gguf-Q8_0"]


def test_a_plan_of_another_checkpoint(
    run: Run, plan: Path, stats: Path, copy: Path, room: Path
) -> None:
    poke(copy, EMBEDDING, 0.5)
    told = run("apply", plan, model=copy, stats=stats, out=room / "out")
    refused(told, "the plan is for tiny-moe", "plan again")
    refused(run("apply", plan, out=room / "out"), "--stats")
    refused(run("apply", room / "none.json", out=room / "out"), "none.json")
    refused(run("apply", copy / "config.json", out=room / "out"), "config.json")
    refused(run("apply", copy, out=room / "out"), "copy")
    assert list(room.iterdir()) == []


def test_an_output_that_exists(run: Run, line: Line, plan: Path, stats: Path, room: Path) -> None:
    request = {"experts": 6, "corpus": line.corpus, "answers": line.answers}
    (room / "mine").write_text("mine")
    for out in (room, room / "mine"):
        refused(run("apply", plan, stats=stats, out=out), "exists")
        refused(run("shrink", line.model, **request, out=out), "exists")
    refused(run("calibrate", line.model, rows=line.rows, out=room), "folder")
    refused(run("plan", line.model, experts=8, out=room), "folder")
    refused(run("merge", stats, out=room), "folder")
    assert [path.name for path in room.iterdir()] == ["mine"]
    assert (room / "mine").read_text() == "mine"


def test_a_place_that_cannot_be_written(
    run: Run, line: Line, plan: Path, stats: Path, room: Path
) -> None:
    (room / "file").write_text("")
    request = {"experts": 6, "corpus": line.corpus, "answers": line.answers}
    for parent in (Path("/proc/secateur"), room / "file"):
        out = parent / "out"
        refused(run("apply", plan, stats=stats, out=out), str(parent), code=1)
        told = run("shrink", line.model, **request, out=out)
        refused(told, str(parent), code=1)
        told = run("calibrate", line.model, rows=line.rows, out=out)
        refused(told, str(parent), code=1)
        refused(run("plan", line.model, experts=8, out=out), str(parent), code=1)
        refused(run("merge", stats, out=out), str(parent), code=1)


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """A file that grows beyond `nbytes` fails to be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up(run: Run, line: Line, plan: Path, stats: Path, room: Path) -> None:
    gguf = room.parent / "gguf.json"
    assert run("plan", line.model, experts=8, to="gguf", types="Q8_0", out=gguf).code == 0
    with files_of_at_most(30_000):
        refused(run("apply", plan, stats=stats, out=room / "out"), "room", code=1)
        refused(run("apply", gguf, out=room / "gguf"), code=1)
        told = run("calibrate", line.model, corpus=line.corpus, out=room / "stats")
        refused(told, "stats", code=1)
        # What was made is kept for the next try.
        kept = {f"{name}.secateur-incomplete" for name in ("out", "gguf", "stats")}
        assert {path.name for path in room.iterdir()} == kept
        told = run(
            "shrink", line.model, experts=8, rows=line.rows, answers=line.answers, out=room / "out"
        )
        refused(told, code=1)
    assert not (room / "out").exists()
    assert run("apply", gguf, out=room / "gguf").code == 0
    assert not (room / "gguf.secateur-incomplete").exists()


def test_a_disk_without_enough_room(
    run: Run, plan: Path, stats: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(room)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(run("apply", plan, stats=stats, out=room / "out"), "1000 bytes free", code=1)
    assert list(room.iterdir()) == []


USAGE: dict[str, tuple[dict[str, object], str]] = {
    "criterion": ({"criterion": "best", "drop": 0.25}, "rerouted"),
    "aggregation": ({"aggregation": "median", "drop": 0.25}, "worst-category"),
    "aggregation of another criterion": (
        {"aggregation": "median", "criterion": "reap", "drop": 0.25},
        "worst-category",
    ),
    "routing weight": ({"routing_weight": "open", "drop": 0.25}, "reference"),
    "type": ({"types": "Q9_K", "drop": 0}, "Q9_K"),
    "types": ({"types": "Q8_0,Q9_K", "drop": 0}, "Q9_K"),
    "format": ({"to": "onnx", "drop": 0}, "onnx"),
    "no name of a format": ({"to": ",", "drop": 0}, "to is empty"),
    "gguf without type": ({"to": "gguf", "drop": 0}, "types Q4_K_M"),
    "types without gguf": ({"to": "safetensors", "types": "Q8_0", "drop": 0}, "add gguf"),
    "no format": ({"to": "", "drop": 0}, "to is empty"),
    "experts and drop": ({"experts": 6, "drop": 0.25}, "experts and drop"),
    "drop below 0": ({"drop": -0.25}, "-0.25"),
    "drop all": ({"drop": 1}, "1"),
    "drop more": ({"drop": 25}, "25"),
    "drop a word": ({"drop": "some"}, "--drop"),
    "drop nan": ({"drop": "nan"}, "nan"),
    "no experts": ({"experts": 0}, "0"),
    "fewer than top_k": ({"experts": 1}, "2"),
    "more than there are": ({"experts": 9}, "8"),
    "negative experts": ({"experts": -1}, "-1"),
    "half an expert": ({"experts": 2.5}, "--experts"),
    "seed": ({"random_seed": -1, "criterion": "random", "drop": 0.25}, "--random-seed"),
    "protect a word": ({"protect": "all", "drop": 0.25}, "LAYER:EXPERT"),
    "protect nothing": ({"protect": "0:", "drop": 0.25}, "LAYER:EXPERT"),
    "protect an unknown expert": ({"protect": "0:8", "drop": 0.25}, "7"),
    "protect a negative expert": ({"protect": "0:-1", "drop": 0.25}, "-1"),
    "protect an unknown layer": ({"protect": "2:0", "drop": 0.25}, "layer 2"),
    "protect too many": ({"protect": "0:0,1,2,3,4", "experts": 4}, "4"),
    "drop map and count": ({"drop_map": "x.json", "experts": 4}, "experts and drop_map"),
    "no drop map": ({"drop_map": "x.json"}, "x.json"),
}


@pytest.mark.parametrize("what", USAGE)
def test_requests_that_cannot_be_granted(
    what: str, run: Run, line: Line, stats: Path, room: Path
) -> None:
    options, word = USAGE[what]
    refused(run("plan", line.model, stats=stats, out=room / "plan.json", **options), word)
    assert list(room.iterdir()) == []


DROP_MAPS = {
    "no JSON": "drop 3",
    "another thing": "[]",
    "layers as a list": '{"layers": []}',
    "missing layer": '{"layers": {"0": {"drop": [1]}}}',
    "unknown expert": '{"layers": {"0": {"drop": [8]}, "1": {"drop": [1]}}}',
    "unequal": '{"layers": {"0": {"drop": [1, 2]}, "1": {"drop": [1]}}}',
    "too few": '{"layers": {"0": {"keep": [1]}, "1": {"keep": [1]}}}',
    "contradiction": '{"layers": {"0": {"keep": [1, 2], "drop": [2]}, "1": {"keep": [1, 2]}}}',
    "words": '{"layers": {"0": {"keep": ["a"]}, "1": {"keep": [1]}}}',
}


@pytest.mark.parametrize("what", DROP_MAPS)
def test_a_drop_map_that_cannot_be(what: str, run: Run, line: Line, room: Path) -> None:
    given = room.parent / "map.json"
    given.write_text(DROP_MAPS[what])
    refused(run("plan", line.model, drop_map=given, out=room / "plan.json"))
    assert list(room.iterdir()) == []


def test_choosing_needs_statistics(run: Run, line: Line) -> None:
    refused(run("plan", line.model, drop=0.25), "--stats")
    refused(run("plan", "gemmule", drop=0, types="IQ2_XXS"), "importance matrix")


def test_options_of_calibrate(run: Run, line: Line, room: Path) -> None:
    for option, value in (
        ("on_nan", "cry"), ("seed", -1), ("sequence_length", 0), ("reroute_tokens", -1),
        ("workers", 0), ("workers", "many"),
    ):  # fmt: skip
        flag = "--" + option.replace("_", "-")
        told = run("calibrate", line.model, corpus=line.corpus, out=room / "s", **{option: value})
        refused(told, flag)
    assert list(room.iterdir()) == []


def test_rerouted_needs_its_sample(run: Run, line: Line, room: Path) -> None:
    made = room / "stats"
    options = {"rows": line.rows, "reroute_tokens": 0, "workers": 1}
    assert run("calibrate", line.model, out=made, **options).code == 0
    refused(run("plan", line.model, stats=made, drop=0.25), "rerouted")


def test_nothing_to_measure(run: Run, line: Line, room: Path) -> None:
    refused(run("measure", line.model, against=line.model), "--prompts", "--answers")
    answers = {"against": line.model, "answers": line.answers}
    refused(run("measure", room, **answers), "nothing to measure")
    refused(run("measure", room / "none", **answers), "none")
    refused(run("measure", room / "none.gguf", **answers), "none.gguf")
    refused(run("measure", line.corpus, **answers), "corpus.jsonl")
    refused(run("measure", line.model, against=room), "config.json")
    (room / "cut.gguf").write_bytes(b"GGUF\3\0\0\0")
    refused(run("measure", room / "cut.gguf", **answers), "cut.gguf")


MEASURED_ON = {
    "": "prompts",
    '{"messages": []}\n': "messages",
    '{"messages": [{"role": "user", "content": "a"}]}\n': "assistant",
    '{"text": "a"}\n': "assistant",
    "{\n": "JSON",
}


@pytest.mark.parametrize("content", MEASURED_ON)
def test_answers_that_are_none(content: str, run: Run, line: Line, room: Path) -> None:
    given = room / "answers.jsonl"
    given.write_text(content)
    refused(run("measure", line.model, against=line.model, answers=given), "answers.jsonl")


def test_prompts_that_leave_no_room_to_answer(run: Run, line: Line, room: Path) -> None:
    given = room / "prompts.jsonl"
    given.write_text(json.dumps({"messages": [{"role": "user", "content": "a" * 600}]}))
    refused(run("measure", line.model, against=line.model, prompts=given), "shorten the prompt")


def test_verifying_what_is_no_output(run: Run, line: Line, room: Path) -> None:
    refused(run("verify", room), "manifest.json")
    refused(run("verify", line.corpus), "corpus.jsonl")
    refused(run("verify", room / "none"), "none")
    (room / "manifest.json").write_text("{}")
    refused(run("verify", room), "damaged")
    (room / "manifest.json").write_text('{"files": {"a": 1}}')
    refused(run("verify", room), "damaged")


def test_a_missed_gate_leaves_the_output_and_code_3(run: Run, line: Line, room: Path) -> None:
    options = {"experts": 4, "corpus": line.corpus, "answers": line.answers, "workers": 1}
    ran = run("shrink", line.model, out=room / "out", max_kl=1e-9, min_top1=1.0, **options)
    assert ran.code == 3
    assert ran.said[-1].startswith("secateur: the quality gate is not met: safetensors: kl_mean")
    assert "report: " in ran.out
    assert (room / "out" / "report.json").is_file()
    assert run("verify", room / "out").code == 0
    again = run("measure", room / "out", against=line.model, answers=line.answers, max_kl=1e-9)
    assert again.code == 3


def test_the_whole_line_refuses_before_it_calibrates(run: Run, line: Line, room: Path) -> None:
    for request, word in (
        ({"experts": 1}, "2"),
        ({"experts": 6, "criterion": "best"}, "rerouted"),
        ({"experts": 6, "aggregation": "median"}, "pooled"),
        ({"experts": 6, "types": "Q9_K"}, "Q9_K"),
        ({"experts": 6, "protect": "0:8"}, "7"),
        ({"experts": 4, "protect": "0:0,1,2,3,4"}, "protects 5 experts"),
        ({"experts": 6, "aggregation": "mean-rank"}, "'rerouted' knows"),
        ({"experts": 6, "criterion": "frequency", "routing_weight": "reference"}, "leave out"),
        ({"drop_map": room / "none.json"}, "none.json"),
        ({"experts": 6, "answers": room / "none.jsonl"}, "none.jsonl"),
        ({"experts": 6, "prompts": line.prompts}, "either"),
    ):
        options = {"answers": line.answers, "corpus": line.corpus, "out": room / "out", **request}
        ran = run("shrink", line.model, **options)
        refused(ran, word)
        assert "calibrating on" not in ran.err
    refused(run("shrink", line.model, experts=6, out=room / "out"), "corpus")
    refused(run("shrink", line.model, out=room / "out"), "--prompts")
    assert list(room.iterdir()) == []


def test_commands_and_options_that_are_none(run: Run, line: Line) -> None:
    refused(run("prune"), "prune", "--help")
    refused(run("inspect", line.model, colour="red"), "--colour")
    refused(run("plan", line.model, "more", drop=0), "more")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("measure x --against y --loop-count 9", "--loop-count decides nothing without --loops"),
        ("measure x --against y --task-limit 9", "--task-limit decides nothing without --tasks"),
        ("measure x --against y --speed-turns 9", "--speed-turns decides nothing without --speed"),
        ("measure x --against y --original z", "without --tasks, --loops or --speed"),
        ("shrink gemmule -o OUT --slots 2", "without --tasks, --loops or --speed"),
        ("shrink gemmule -o OUT --no-measure --max-kl 0.1", "no limit is held"),
        ("shrink gemmule -o OUT --no-measure --loops", "nothing is measured"),
        ("shrink gemmule -o OUT --write-job JOB --push me/it", "a job file holds no --push"),
        ("shrink gemmule -o OUT --public", "--public decides nothing without --push"),
        ("release x --public", "public is about a repository that a push makes"),
        ("measure x --against y --tasks ,", "tasks has no names"),
        ("measure http://x --tasks gsm8k --device cpu", "leave out --device"),
        ("measure http://x --tasks gsm8k --per-domain 2", "leave out --per-domain"),
        ("measure http://x --tasks gsm8k --engine ray", "leave out --engine"),
        ("measure http://x --tasks gsm8k --real-engine", "leave out --real-engine"),
        ("measure http://x --tasks gsm8k --revision main", "leave out --revision"),
        ("measure http://x --tasks gsm8k --family f.toml", "leave out --family"),
        ("measure http://x --tasks gsm8k --gpu-layers 9", "leave out gpu_layers"),
        ("measure http://x --tasks gsm8k --original y", "against names it here"),
        ("measure http://x --tasks gsm8k --original-model y", "leave out original_model"),
        ("measure x.eval --slots 9", "leave out slots"),
        ("measure x.eval --served-model y", "leave out served_model"),
        ("measure x.eval --work y", "leave out work"),
        ("measure x --against y --tasks reasoning --served-model z", "served_model z is of a"),
        ("measure x --against y --tasks reasoning --original-model z", "original_model z is what"),
        ("shrink gemmule -o OUT --tasks reasoning --served-model z", "served_model z is of a"),
        ("measure x --against y --seed 3", "seed is of a mix"),
        ("measure x --against y --answers-model z", "answers_model z is what a server calls"),
        ("measure x --against y --answers z --answer-tokens 9", "leave out answer_tokens"),
        ("measure x --against y --turns corpus --temperature 0", "leave out temperature"),
        ("shrink gemmule -o OUT --no-measure --max-prompts 5", "nothing is measured"),
        ("shrink gemmule -o OUT --gram-tokens 5", "gram_tokens count for Gram matrices"),
        ("shrink gemmule -o OUT --criterion reap", "criterion decides nothing where all experts"),
        ("plan gemmule --protect 0:1", "protect decides nothing where all experts are kept"),
        ("plan gemmule --drop-map x --criterion reap", "leave out criterion"),
        ("plan gemmule --drop-map x --protect 0:1", "leave out protect"),
        (
            "plan gemmule --drop 0.25 --random-seed 3",
            "decides nothing for the criterion 'rerouted'",
        ),
        ("scores x --protect-per-sample 3", "(--protect-per-sample) decides nothing"),
        ("scores x --layer 3 --all", "leave out --all or --layer 3"),
        ("plan gemmule --pad", "pad is about GGUF files"),
        ("plan gemmule --types mlx-4bit --split-max-size 5G", "split_max_size is about GGUF"),
        ("plan gemmule --rounding feedback", "rounding feedback is of quantized files"),
        ("plan gemmule --force", "name it with --out"),
        ("recipe export plan.json --base Q8_0", "leave out --base"),
        ("recipe export plan.json --with-imatrix", "leave out --with-imatrix"),
        ("recipe export plan.json --family x.toml", "leave out --family"),
        ("recipe export Q8_0 gemmule --format gguf-Q8_0", "leave out --format"),
        ("recipe export Q8_0 gemmule --force", "name it with --out"),
        ("compare x y --revision main", "--revision decides nothing without --against"),
        ("compare x y --prompts z", "--prompts decides nothing without --against"),
        ("compare x y --workers 2", "--workers decides nothing without --against"),
        ("compare x y --against z --compare-anyway", "leave it or --against out"),
    ],
)
def test_an_option_that_would_decide_nothing_is_refused(
    words: str, said: str, run: Run, room: Path
) -> None:
    places = {"OUT": str(room / "out"), "JOB": str(room / "job.yaml")}
    refused(run(*(places.get(word, word) for word in words.split())), said)
    assert not any(room.iterdir())
