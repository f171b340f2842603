"""Family files: read strictly, inheriting from each other, and the user's own."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from tiny_line import Run
from tiny_models import TOP_K, VOCAB, load, olmoe, save_model

from secateur.errors import FamilyError
from secateur.families.registry import families, family_of, user_folder

OLMOE = """\
title = "OLMoE"
extends = ["_decoder", "_attention", "_split_experts"]
model_types = ["olmoe"]

[config]
experts = ["num_experts"]
expert_width = ["intermediate_size"]

[router]
score = "softmax"
normalise = "norm_topk_prob"

[[tensor]]
name = "{model}layers.{layer}.self_attn.q_norm.weight"
role = "norm"
axes = ["heads"]

[[tensor]]
name = "{model}layers.{layer}.self_attn.k_norm.weight"
role = "norm"
axes = ["kv_heads"]
"""


def write(folder: Path, text: str = OLMOE, name: str = "mine") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.toml"
    file.write_text(text)
    return file


def line_of(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "OLMoE"\n', 'titel = "OLMoE"\n', "has no key 'titel': did you mean 'title'?"),
        ('model_types = ["olmoe"]', "", "lacks the key 'model_types'"),
        ('experts = ["num', 'expert = ["num', "[config] has no key 'expert': did you mean"),
        ("score =", "scores =", "[router] has no key 'scores': did you mean 'score'?"),
        ('"softmax"', '"softmex"', "score = 'softmex', expected one of softmax, sigmoid"),
        ('role = "norm"', 'rolle = "norm"', "[tensor] has no key 'rolle': did you mean 'role'?"),
        ('role = "norm"', 'role = "norm"\ngguff = "x"', "key 'gguff': did you mean 'gguf'?"),
        ('role = "norm"', 'role = "norm"\nwehn = "x"', "key 'wehn': did you mean 'when'?"),
        ('role = "norm"', "role = 3", "[tensor] has role = 3, expected text"),
        ('axes = ["heads"]', 'axes = ["haeds"]', "[shape.axes] gives it no size: did you mean"),
        ('axes = ["heads"]', 'axes = "heads"', "has axes = 'heads', expected a list"),
        ('axes = ["heads"]', 'axes = ["heads"]\nwhen = "1 +"', "expression '1 +'"),
        (
            'axes = ["heads"]',
            'axes = ["heads"]\nwhen = "-layer"',
            "'-layer' is not of its language",
        ),
        (
            'axes = ["heads"]',
            f'axes = ["heads"]\nwhen = "{"not " * 20_000}layer"',
            "expression of a family's table is longer than 1000",
        ),
        ("self_attn.q_norm", "self_attn.{leyer}", "the hole 'leyer': did you mean 'layer'?"),
        ("self_attn.q_norm", "{layer}.q_norm", "has the hole 'layer' twice"),
        ('axes = ["heads"]', 'axes = ["heads"]\ngguf = "blk.{expert}.q"', "has the hole 'expert'"),
        ('axes = ["heads"]', 'axes = ["heads"]\ngguf = "blk.{a|b}"', "words in braces as {model}l"),
        ('axes = ["heads"]', 'axes = ["heads"]\ninto = "x"', "no row has that name"),
        ('axes = ["heads"]', 'axes = ["heads"]\nafter = "x"', "after 'x', and no row is that"),
        ("[router]", '[gguf]\narchitektur = "x"\n[router]', "[gguf] has no key 'architektur'"),
        ("[router]", '[gguf]\narchitecture = "x"\n[router]', "[gguf] lacks the key 'tokenizer'"),
        (
            "[router]",
            '[gguf]\narchitecture = "x"\ntokenizer = { modell = "x" }\n[router]',
            "[gguf.tokenizer] has no key 'modell': did you mean 'model'?",
        ),
        ("[router]", "[mlx]\nprefixx = {}\n[router]", "[mlx] has no key 'prefixx'"),
        ("[router]", '[memory]\nkyes = "1"\n[router]', "[memory] has no key 'kyes'"),
        ("[router]", "[mmproj]\ntitel = 3\n[router]", "[mmproj] has no key 'titel'"),
        ("[router]", "[shape]\nfloat32 = true\n[router]", "float32 = True, expected a list"),
        ('"_decoder"', '"_decodr"', "extends '_decodr', and no such family file is known"),
        ('"_decoder"', '"mine"', "extends 'mine', which extends this file"),
        ("[router]", "[router", "is not TOML"),
    ],
)
def test_a_file_that_is_no_family_is_refused_with_its_line(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    text = OLMOE.replace(old, new, 1)
    file = write(tmp_path, text)
    with pytest.raises(FamilyError) as caught:
        families(file)
    assert message in str(caught.value)
    place = re.match(rf"{re.escape(str(file))}:(\d+)?", str(caught.value))
    assert place, caught.value
    if "has no key" in message:
        assert int(place[1]) == line_of(text, re.findall("'(.*?)'", message)[0] + " =")


def test_an_error_in_an_inherited_file_names_that_file(tmp_path: Path) -> None:
    base = write(tmp_path, '\n[shape]\nnamess = { x = "1" }\n', "_base")
    file = write(tmp_path, OLMOE.replace('"_decoder"', '"_base", "_decoder"'))
    with pytest.raises(FamilyError, match=rf"^{re.escape(str(base))}:3: \[shape\] has no key 'na"):
        families(file)


def test_a_file_takes_over_what_it_extends(tmp_path: Path) -> None:
    """Tables join, a row replaces the row of its name in its place, `after` says where it is."""
    shipped = next(family for family in families() if family.gguf and family.mlx and family.memory)
    keys = [row.key for row in shipped.gguf.keys] if shipped.gguf else []
    first = shipped.rows[0]
    text = f"""
title = "Child"
extends = "{shipped.name}"
model_types = ["child"]
mlx = false
[shape.names]
mine = "1"
[[gguf.key]]
key = "{keys[1]}"
kind = "u32"
compute = "7"
[[gguf.key]]
key = "extra"
kind = "u32"
compute = "mine"
after = "{keys[0]}"
[[tensor]]
name = "{first.name}"
role = "other"
axes = ["vocab"]
"""
    child = family_of({"model_type": "child"}, write(tmp_path, text))
    assert child.mlx is None and child.memory == shipped.memory and child.router == shipped.router
    assert child.gguf is not None
    assert [row.key for row in child.gguf.keys] == [keys[0], "extra", *keys[1:]]
    assert child.gguf.keys[2].compute == "7" and child.gguf.keys[2].source == ()
    assert [row.name for row in child.rows] == [row.name for row in shipped.rows]
    assert (child.rows[0].role, child.rows[0].axes) == ("other", ("vocab",))
    assert child.shape.names == {**shipped.shape.names, "mine": "1"}
    assert child.published != shipped.published or shipped.published.released is None


def test_families_of_one_name_or_model_type_are_refused(tmp_path: Path) -> None:
    shipped = families()[0]
    kind = shipped.model_types[0]
    file = write(tmp_path, OLMOE.replace('"olmoe"', f'"{kind}"'))
    with pytest.raises(FamilyError, match=rf"mine.toml and .*{shipped.name}.toml both describe"):
        families(file)
    file = write(tmp_path, OLMOE, shipped.name)
    with pytest.raises(FamilyError, match=rf"are both the family '{shipped.name}'"):
        families(file)


def test_the_users_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "secateur/families"
    file = write(user_folder())
    assert family_of({"model_type": "olmoe"}).file == str(file)
    assert family_of({"model_type": "olmoe"}, file).name == "mine"  # no collision with itself
    write(tmp_path, OLMOE, "other")
    with pytest.raises(FamilyError, match=r"other.toml and .*mine.toml both describe"):
        families(tmp_path / "other.toml")


def test_what_no_family_describes_is_told_by_kind(tmp_path: Path, run: Run) -> None:
    for config, words in (
        ({"model_type": "llama", "num_hidden_layers": 2}, ("llama", "not the config of a Mixture")),
        ({"name": "x"}, ("no model_type", "not the config.json of a transformers model")),
        ({"model_type": "olmoe", "num_experts": 8}, ("family draft MODEL", "--family FILE")),
        ({"model_type": "new", "text_config": {"n_routed_experts": 8}}, ("secateur/families",)),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        done = run("inspect", tmp_path)
        assert done.code == 2
        (line,) = done.err.splitlines()
        for word in (str(tmp_path / "config.json"), *words):
            assert word in line


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(olmoe, tmp_path_factory.mktemp("olmoe") / "model")


def test_a_model_of_a_users_family_goes_the_whole_way(
    model: Path, tmp_path: Path, run: Run
) -> None:
    family = write(tmp_path)
    stats, plan, out = tmp_path / "s.safetensors", tmp_path / "p.json", tmp_path / "out"
    rows = tmp_path / "rows.jsonl"
    ids = torch.randint(0, VOCAB, (8, 24), generator=torch.Generator().manual_seed(0)).tolist()
    rows.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))
    assert run("inspect", model).code == 2
    assert run("inspect", model, family=family).code == 0
    assert run("calibrate", model, rows=rows, out=stats, family=family).code == 0
    assert run("plan", model, stats=stats, experts=6, out=plan, family=family).code == 0

    written = json.loads(plan.read_text())["model"]["family_file"]
    sha256 = hashlib.sha256(family.read_bytes()).hexdigest()
    assert written == {"name": "mine.toml", "sha256": sha256}
    lost = run("apply", plan, stats=stats, out=out)
    assert lost.code == 2 and "family file mine.toml" in lost.err and "--family" in lost.err
    changed = write(tmp_path / "changed", OLMOE + "# changed\n")
    other = run("apply", plan, stats=stats, out=out, family=changed)
    assert other.code == 2 and "sha256" in other.err and not out.exists()

    assert run("apply", plan, stats=stats, out=out, family=family).code == 0
    pruned = load(out)
    assert (pruned.config.num_experts, pruned.config.num_experts_per_tok) == (6, TOP_K)
    with torch.no_grad():
        assert torch.isfinite(pruned(input_ids=torch.tensor(ids[:2])).logits).all()
