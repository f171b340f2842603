"""Statistics and plans: of other models, edited to what cannot be, nested without end."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack import Attack, Goods, edit_json, instead, rewrite_header, sparse, write

MERGE = "merge {room}/s.safetensors -o {out}"
COVERAGE = "coverage {room}/s.safetensors"
PLAN = "plan {model} --experts 6 --stats {room}/s.safetensors -o {out}"
APPLY = (
    "apply {room}/plan.json --model {model} --stats {made}/evidence/statistics.safetensors -o {out}"
)


def _stats(change: Callable[[dict[str, Any]], object]) -> Callable[[Goods, Path], object]:
    """Statistics whose document is changed."""

    def make(goods: Goods, room: Path) -> None:
        path = room / "s.safetensors"
        shutil.copy(goods.stats, path)

        def edit(header: dict[str, Any]) -> None:
            document = json.loads(header["__metadata__"]["secateur"])["document"]
            changed = change(document)
            if not isinstance(changed, str):
                # With the right hash: what is in it has to be checked, too.
                text = json.dumps(document, sort_keys=True, ensure_ascii=False)
                digest = hashlib.sha256(text.encode()).hexdigest()
                changed = json.dumps({"document": document, "sha256": digest})
            header["__metadata__"]["secateur"] = changed

        rewrite_header(path, edit)

    return make


def _put(**values: Any) -> Callable[[Goods, Path], object]:
    return _stats(lambda document: document.update(values))


def _plan(change: Callable[[Any], object]) -> Callable[[Goods, Path], object]:
    def make(goods: Goods, room: Path) -> None:
        shutil.copy(goods.made / "plan.json", room / "plan.json")
        edit_json(room / "plan.json", change)

    return make


def _tensor(**values: Any) -> Callable[[Goods, Path], object]:
    return _plan(lambda plan: plan["tensors"][3].update(values))


ATTACKS = (
    Attack(
        "statistics nested a million deep",
        _stats(lambda d: '{"a":' * 1_000_000),
        COVERAGE,
        ("s.safetensors",),
    ),
    Attack("statistics that are a list", _stats(lambda d: "[1, 2]"), COVERAGE, ("s.safetensors",)),
    Attack(
        "statistics with NaN for a version",
        _stats(lambda d: '{"version": NaN}'),
        COVERAGE,
        ("s.safetensors",),
    ),
    Attack(
        "statistics of another model",
        _put(model={"source": "other", "identity": "0"}),
        PLAN,
        ("s.safetensors",),
    ),
    Attack("statistics whose model is a number", _put(model=7), PLAN, ("s.safetensors",)),
    Attack(
        "statistics with a category of numbers",
        _put(categories=[1, 2]),
        COVERAGE,
        ("s.safetensors",),
    ),
    Attack(
        "statistics of a million categories",
        _put(categories=["a"] * 1_000_000),
        MERGE,
        ("s.safetensors",),
    ),
    Attack(
        "statistics of a kind that there is not",
        _put(sums={"norm": "evil"}),
        COVERAGE,
        ("s.safetensors",),
    ),
    Attack(
        "statistics with sums by the trillion",
        _put(tokens={"text": 10**30}),
        MERGE,
        ("s.safetensors",),
    ),
    Attack("statistics of minus one tokens", _put(tokens={"text": -1}), MERGE, ("s.safetensors",)),
    Attack("statistics with a shard that is none", _put(shards=[[1]]), MERGE, ("s.safetensors",)),
    Attack(
        "statistics that are a pipe", instead("s.safetensors", "pipe"), COVERAGE, ("s.safetensors",)
    ),
    Attack(
        "statistics without an end",
        instead("s.safetensors", "endless device"),
        COVERAGE,
        ("s.safetensors",),
    ),
    Attack(
        "statistics with a huge header",
        lambda goods, room: sparse(
            room / "s.safetensors", 1 << 40, (1 << 39).to_bytes(8, "little")
        ),
        COVERAGE,
        ("s.safetensors",),
    ),
    Attack(
        "a plan of a tensor that is not there",
        _tensor(sources=["../../etc/passwd"]),
        APPLY,
        ("plan",),
    ),
    Attack("a plan of negative bytes", _tensor(bytes=-5), APPLY, code=0),
    Attack("a plan of bytes as a text", _tensor(bytes="many"), APPLY, ("plan",)),
    Attack("a plan of a shape of texts", _tensor(shape=["64", "a"]), APPLY, ("plan",)),
    Attack("a plan of a shape of lists", _tensor(shape=[[1] * 100] * 100), APPLY, ("plan",)),
    Attack("a plan of a shape beyond all sizes", _tensor(shape=[1 << 62] * 100), APPLY, ("plan",)),
    Attack("a plan of a type that there is not", _tensor(type="../Q4"), APPLY, ("../Q4",)),
    Attack(
        "a plan that keeps an expert twice",
        _plan(lambda p: p["keep"].update({"0": [0, 0, 1, 2, 3, 4]})),
        APPLY,
        ("twice",),
    ),
    Attack(
        "a plan that keeps what there is not",
        _plan(lambda p: p["keep"].update({"0": [0, 1, 2, 3, 4, 10**9]})),
        APPLY,
        ("1000000000",),
    ),
    Attack("a plan that keeps nothing", _plan(lambda p: p.update(keep={})), APPLY, ("plan",)),
    Attack(
        "a plan with layers of words",
        _plan(lambda p: p.update(keep={"evil": [1]})),
        APPLY,
        ("plan",),
    ),
    Attack(
        "a plan that writes outside",
        _plan(lambda p: p.update(files={"gguf-Q8_0": {"../../escaped.gguf": 1}})),
        APPLY,
        ("plan",),
        never="escaped",
    ),
    Attack(
        "a plan of a format above",
        _plan(lambda p: p.update(files={"../../escaped": {"a": 1}}, formats={"../../escaped": {}})),
        APPLY,
        ("../../escaped",),
    ),
    Attack(
        "a plan of formats that are lists", _plan(lambda p: p.update(files=[1])), APPLY, ("plan",)
    ),
    Attack("a plan with notes without end", _plan(lambda p: p.update(notes=7)), APPLY, ("plan",)),
    Attack(
        "a plan with memory of words",
        _plan(lambda p: p.update(memory={"formats": 5})),
        APPLY,
        ("plan",),
    ),
    Attack(
        "a plan with a number of 5,000 digits",
        write("plan.json", '{"model": ' + "9" * 5000 + "}"),
        APPLY,
        ("plan.json", "digits"),
    ),
    Attack("a plan that is a pipe", instead("plan.json", "pipe"), APPLY, ("plan.json",)),
    Attack(
        "a plan without an end",
        instead("plan.json", "endless device"),
        APPLY,
        ("plan.json", "a device"),
    ),
)
