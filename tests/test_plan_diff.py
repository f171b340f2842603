"""`secateur plan diff`: what differs between two plans, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_line import Run

from secateur import Formats, Plan, Pruning, diff_plans, plan, save_plan
from secateur.planning.document import from_json, to_json


@pytest.fixture(scope="module")
def first(real: Path) -> Plan:
    return plan(real / "config.json", Pruning(experts=109), Formats(types=("Q4_K_M", "Q8_0")))


@pytest.fixture(scope="module")
def second(real: Path) -> Plan:
    return plan(real / "config.json", Pruning(experts=103), Formats(types=("Q4_K_M", "Q6_K")))


def test_a_plan_is_the_same_as_itself(first: Plan) -> None:
    found = diff_plans(first, from_json(to_json(first)))
    assert found.same
    assert not any(found.sources or found.layers or found.types or found.files)


def test_sizes_experts_and_formats(first: Plan, second: Plan) -> None:
    found = diff_plans(first, second)
    assert tuple(found.experts) == (109, 103)
    assert found.sources == {"selection.experts": (109, 103)}
    assert found.layers[7] == ((103, 104, 105, 106, 107, 108), ())
    assert len(found.layers) == 30
    files = {row.format: row for row in found.files}
    assert files.keys() == {"safetensors", "gguf-Q4_K_M", "gguf-Q8_0", "gguf-Q6_K"}
    q4 = "gguf-Q4_K_M"
    assert tuple(files[q4].bytes) == (first.tensor_bytes(q4), second.tensor_bytes(q4))
    assert files[q4].memory.first == first.output(q4).memory_bytes
    assert (files["gguf-Q8_0"].bytes.second, files["gguf-Q6_K"].files.first) == (None, None)
    both = {row.format for row in found.types}
    assert both == {"safetensors", q4}
    down = next(row for row in found.types if row.name == "blk.*.ffn_down_exps.weight")
    assert down.types.first == down.types.second == {"Q5_0": 16, "Q8_0": 14}
    rows = [tensor.bytes for tensor in first.of(q4) if "ffn_down_exps.weight" in tensor.name]
    assert down.bytes.first == sum(rows)


def test_an_edit_by_hand_is_seen(first: Plan) -> None:
    content = json.loads(to_json(first))
    row = next(row for row in content["tensors"] if row["name"] == "blk.3.attn_q.weight")
    row["type"] = "F16"
    content["keep"]["2"][0] = 120
    found = diff_plans(first, from_json(json.dumps(content)))
    assert not found.same
    assert found.edits == ((), ("experts kept in layer 2", f"types of {row['format']}"))
    (types,) = found.types
    assert (types.format, types.name) == (row["format"], "blk.*.attn_q.weight")
    assert types.types.second["F16"] == 1
    assert found.layers == {2: ((0,), (120,))}


def test_as_a_command(run: Run, first: Plan, second: Plan, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    for decided, path in zip((first, second), paths, strict=True):
        save_plan(decided, path)
    ran = run("plan", "diff", *paths)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert len(lines) <= 40
    assert any(line.split()[:2] == ["gguf-Q4_K_M", "14.53"] for line in lines)
    assert "experts kept, 109 and 103 in each layer (24 more with -v):" in lines
    assert run("plan", "diff", *paths, json=True).json == diff_plans(first, second).to_json()
    assert len(run("plan", "diff", *paths, "-v").out.splitlines()) > len(lines)
    strict = run("plan", "diff", *paths, strict=True)
    assert (strict.code, strict.said[-1]) == (3, f"secateur: {paths[0]} and {paths[1]} differ")
    assert run("plan", "diff", paths[0], paths[0], strict=True).out == "the plans are the same\n"
    (tmp_path / "c.json").write_text("{}")
    assert run("plan", "diff", paths[0], tmp_path / "c.json").code == 2
