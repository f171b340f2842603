"""Drafts of families: what they know is right, what they ask for is enough."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_family_files import OLMOE
from tiny_line import Run
from tiny_models import FORMS, olmoe, save_model

from secateur.checkpoint.expected_tensors import expected_tensors
from secateur.checkpoint.reader import Checkpoint, open_checkpoint, read_config, read_specs
from secateur.errors import FamilyError
from secateur.families import registry
from secateur.families.draft import FILL_IN, draft
from secateur.families.registry import families
from secateur.families.schema import Family

TINY = Callable[[str], Checkpoint]
HOLE = re.compile(rf"{FILL_IN} (\w+) = ")


def filled(text: str, known: Family) -> str:
    """A draft with every hole filled in from a family that is known."""
    lines: list[str] = []
    table, row = "", None
    for line in text.splitlines():
        if line.startswith("["):
            table = line.split("]")[0].strip("[")
        if table == "tensor" and line.startswith("name = "):
            name = json.loads(line.removeprefix("name = "))
            row = next(row for row in known.rows if row.name == name)
        hole = HOLE.match(line)
        if hole is None:
            lines.append(line)
            continue
        homes: dict[str, Any] = {"tensor": row, "router": known.router}
        home = homes.get(table)
        value = known.shape.names[hole[1]] if home is None else getattr(home, hole[1])
        if value is not None:
            lines.append(f"{hole[1]} = {json.dumps(value)}")
            if (table, hole[1]) == ("router", "score"):  # no draft asks for what has a default
                lines.append(f"inputs = {json.dumps(known.router.inputs)}")
    return with_words("\n".join(lines), known)


def with_words(text: str, known: Family) -> str:
    """A draft with the axis words, names and defaults that the filled-in values use."""
    shape = tomllib.loads(text)["shape"]
    for key, words in (("names", known.shape.names), ("axes", known.shape.axes)):
        added = "".join(
            f"{json.dumps(word)} = {json.dumps(size)}\n"
            for word, size in words.items()
            if word not in shape[key]
        )
        text = re.sub(rf"(?m)^\[shape\.{key}\].*\n", lambda m, more=added: m[0] + more, text)
    defaults = "".join(f"{k} = {json.dumps(v)}\n" for k, v in known.shape.defaults.items())
    return f"{text}\n[shape.defaults]\n{defaults}"


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Hide a family that ships with secateur."""
    names = registry._shipped_names

    def others(pattern: str = r"[^_].*\.toml") -> list[str]:
        return [one for one in names(pattern) if one != name]

    monkeypatch.setattr(registry, "_shipped_names", others)


@pytest.mark.parametrize("form", FORMS)
def test_a_draft_that_is_filled_in_is_the_family(
    form: str, tiny: TINY, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tiny(form)
    known = saved.family
    without(monkeypatch, known.name)
    text = draft(saved.config, {name: spec.shape for name, spec in saved.specs.items()})
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(FamilyError, match="lacks the key"):
        families(file)  # nothing is guessed in silence
    file.write_text(filled(text, known))

    drafted = open_checkpoint(saved.path, family=file)
    mine = drafted.family
    assert mine.sha256 is not None and set(mine.model_types) <= set(known.model_types)
    for name, match in drafted.matches.items():
        theirs = saved.matches[name]
        assert (match.role, match.expert, match.layer) == (
            theirs.role,
            theirs.expert,
            theirs.layer,
        )
        assert match.row.expert_axis == theirs.row.expert_axis, name
        assert match.row.carried or mine.running_name(match) == known.running_name(theirs)
    assert mine.router == known.router
    assert (drafted.layers, drafted.experts, drafted.top_k) == (
        saved.layers,
        saved.experts,
        saved.top_k,
    )
    described = expected_tensors(mine, saved.config, saved.config_file)
    if not FORMS[form][1]:
        assert {name: spec.shape for name, spec in described.specs.items()} == {
            name: spec.shape
            for name, spec in saved.specs.items()
            if not drafted.matches[name].row.carried
        }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(olmoe, tmp_path_factory.mktemp("olmoe") / "model")


def test_a_family_that_we_do_not_have_is_drafted(model: Path, tmp_path: Path, run: Run) -> None:
    done = run("family", "draft", model)
    assert done.code == 0
    holes = [line for line in done.out.splitlines() if line.startswith(FILL_IN)]
    assert [HOLE.match(line)[1] for line in holes] == ["score", "axes", "axes"]  # type: ignore[index]
    file = tmp_path / "olmoe.toml"
    assert run("family", "draft", model, out=file).code == 0
    assert file.read_text() == done.out
    assert run("family", "draft", model, out=file).code == 2  # it may be filled in by now
    refused = run("inspect", model, family=file)
    assert refused.code == 2 and "[router] lacks the key 'score'" in refused.err
    text = done.out
    for hole, value in zip(holes, ('"softmax"', '["kv_heads"]', '["heads"]'), strict=True):
        text = text.replace(hole, f"{HOLE.match(hole)[1]} = {value}", 1)  # type: ignore[index]
    file.write_text(text)
    by_hand = tmp_path / "by-hand.toml"
    by_hand.write_text(OLMOE)
    mine, theirs = (open_checkpoint(model, family=path) for path in (file, by_hand))
    assert {n: m.row.axes for n, m in mine.matches.items()} == {
        n: m.row.axes for n, m in theirs.matches.items()
    }
    assert mine.family.router == theirs.family.router


def test_the_known_families_are_listed_and_shown(tmp_path: Path, run: Run) -> None:
    listed = run("family", "list")
    for family in families():
        assert family.name in listed.out and family.title in listed.out
    name = families()[0].name
    shown = run("family", "show", name)
    assert "[router]" in shown.out and f"{name}.toml" in shown.out
    assert run("family", "show", "nothing").code == 2
    own = tmp_path / "mine.toml"
    own.write_text(OLMOE)
    assert "OLMoE" in run("family", "list", family=own).out


def test_what_is_no_such_model_is_not_drafted(tmp_path: Path, run: Run, model: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "n_layer": 2}))
    assert run("family", "draft", tmp_path).code == 2
    config, specs = read_config(model), read_specs(model)
    shapes = {name: spec.shape for name, spec in specs.items()}
    with pytest.raises(FamilyError, match="none of num_hidden_layers"):
        draft({"model_type": "x"}, shapes)
    with pytest.raises(FamilyError, match="not a Mixture-of-Experts model"):
        draft(config, {"model.layers.0.mlp.up_proj.weight": (4, 4)})
