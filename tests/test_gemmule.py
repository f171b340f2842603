"""The shipped gemmule is a whole, trained Gemma 4 MoE whose held-out sets are held out."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = Path(__file__).resolve().parents[1] / "secateur" / "gemmule"
DOMAINS = {"prose", "definitions", "code", "arithmetic", "tools", "chat"}
# Perplexity per token that a few held-out documents stay below; about twice what was measured.
BOUND = {
    "prose": 65.0,
    "definitions": 20.0,
    "code": 30.0,
    "arithmetic": 3.0,
    "tools": 2.5,
    "chat": 3.0,
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return load(FOLDER)


def load(folder: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def read(name: str) -> list[dict[str, Any]]:
    text = (FOLDER / "sets" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def rendered(tokenizer: Any, record: dict[str, Any]) -> str:
    if "text" in record:
        return f"<bos>{record['text']}<eos>"
    text = tokenizer.apply_chat_template(
        record["messages"], tools=record.get("tools"), tokenize=False
    )
    assert isinstance(text, str)
    return text


def test_the_weights_are_bf16_and_small() -> None:
    path = FOLDER / "model.safetensors"
    assert path.stat().st_size <= 40e6
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert sum(name.endswith("layer_scalar") for name in names) == 6
    assert "lm_head.weight" not in names


def test_norms_scales_and_layer_scalars_were_trained() -> None:
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            if "norm" in name or name.endswith((".scale", "per_expert_scale")):
                assert file.get_tensor(name).float().std() > 0.005, name
            elif name.endswith("layer_scalar"):
                assert abs(file.get_tensor(name).item() - 1) > 1e-3, name


def test_the_config_carries_both_forms() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    full = {"head_dim": config["global_head_dim"]}
    full["num_key_value_heads"] = config["num_global_key_value_heads"]
    assert config["per_layer_config"] == {"5": full}
    assert config["layer_types"] == ["sliding_attention"] * 5 + ["full_attention"]


def test_either_config_form_gives_the_same_logits(model: Any, tmp_path: Path) -> None:
    ids = torch.arange(500, 564).unsqueeze(0)
    (tmp_path / "model.safetensors").symlink_to(FOLDER / "model.safetensors")
    whole = json.loads((FOLDER / "config.json").read_text())
    for dropped in (("per_layer_config",), ("global_head_dim", "num_global_key_value_heads")):
        part = {key: value for key, value in whole.items() if key not in dropped}
        (tmp_path / "config.json").write_text(json.dumps(part))
        with torch.no_grad():
            assert torch.equal(model(ids).logits, load(tmp_path)(ids).logits)


def test_text_survives_the_tokenizer(tokenizer: Any) -> None:
    for text in ("def f(x):\n    return x + 42\n", "  two  spaces ", "naïve 日本 €", "a\tb\n\n\nc"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == 2
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    digits = tokenizer("2048", add_special_tokens=False)["input_ids"]
    assert len(digits) == 4


def test_control_tokens_have_the_ids_of_the_real_model(tokenizer: Any) -> None:
    real = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<|tool_call>": 48, "<|channel>": 100}
    real |= {"<|turn>": 105, "<turn|>": 106, '<|"|>': 52, "<0x00>": 238, "<0xFF>": 493}
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in real} == real
    assert json.loads((FOLDER / "generation_config.json").read_text())["eos_token_id"] == [
        1,
        106,
        50,
    ]


def test_a_chat_prompt_renders_and_round_trips(tokenizer: Any) -> None:
    record = next(r for r in read("test") if "tools" in r and "tool_calls" in r["messages"][-1])
    text = rendered(tokenizer, record)
    assert text.startswith("<bos><|turn>system\n")
    assert "<|tool>declaration:" in text
    assert "<tool_call|><turn|>" in text
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert 3 not in ids


def test_no_document_is_in_two_sets() -> None:
    seen: dict[str, str] = {}
    for name in ("calibration", "selection", "test"):
        records = read(name)
        assert {r["domain"] for r in records} == DOMAINS
        for record in records:
            value = record.get("text") or json.dumps(record["messages"], sort_keys=True)
            key = hashlib.sha256(" ".join(value.split()).encode()).hexdigest()
            assert key not in seen, (name, seen.get(key))
            seen[key] = name


def test_domains_are_equally_represented_in_the_calibration_set(tokenizer: Any) -> None:
    size = dict.fromkeys(DOMAINS, 0)
    for record in read("calibration"):
        ids = tokenizer(rendered(tokenizer, record), add_special_tokens=False)["input_ids"]
        size[record["domain"]] += len(ids)
    assert max(size.values()) < 1.15 * min(size.values())


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_held_out_perplexity(domain: str, model: Any, tokenizer: Any) -> None:
    nats, count = 0.0, 0
    for record in [r for r in read("test") if r["domain"] == domain][55:67]:
        ids = tokenizer(rendered(tokenizer, record), add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            out = model(ids["input_ids"], labels=ids["input_ids"])
        nats += out.loss.item() * (ids["input_ids"].shape[1] - 1)
        count += ids["input_ids"].shape[1] - 1
    assert torch.tensor(nats / count).exp().item() < BOUND[domain]


@pytest.mark.slow
def test_every_expert_is_used(model: Any, tokenizer: Any) -> None:
    used = [torch.zeros(32) for _ in range(6)]
    hooks = []
    for layer, counts in zip(model.model.layers, used, strict=True):

        def count(_: Any, __: Any, out: Any, counts: torch.Tensor = counts) -> None:
            counts += torch.bincount(out[2].flatten(), minlength=32)

        hooks.append(layer.router.register_forward_hook(count))
    for domain in DOMAINS:
        for record in [r for r in read("calibration") if r["domain"] == domain][:6]:
            text = rendered(tokenizer, record)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                model(ids)
    for hook in hooks:
        hook.remove()
    assert min(counts.min() for counts in used) > 0


def test_a_tokenizer_is_learned_into_the_folder_of_its_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gemmule/README.md has it; its control tokens have the real model's ids."""
    monkeypatch.syspath_prepend(str(FOLDER.parents[1] / "gemmule"))
    monkeypatch.delitem(sys.modules, "tokenizer", raising=False)
    (tmp_path / "corpus").mkdir()
    shutil.copyfile(FOLDER / "sets/calibration.jsonl", tmp_path / "corpus/train.jsonl")
    template = Path(shutil.copy(FOLDER / "chat_template.jinja", tmp_path))
    words = ["--work", tmp_path, "--template", template, "--out", tmp_path]
    monkeypatch.setattr("sys.argv", ["tokenizer.py", *map(str, words)])
    importlib.import_module("tokenizer").main()
    assert template.read_bytes() == (FOLDER / "chat_template.jinja").read_bytes()
    learned = AutoTokenizer.from_pretrained(tmp_path)
    assert learned.convert_tokens_to_ids("<|turn>") == 105


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="the training forward compiles kernels")
def test_the_training_forward_is_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER.parents[1] / "gemmule"))
    monkeypatch.delitem(sys.modules, "forward", raising=False)
    loss: Any = importlib.import_module("forward").loss

    fresh = load(FOLDER)
    names, params = zip(*fresh.named_parameters(), strict=True)
    scalars = torch.stack([layer.layer_scalar[0] for layer in fresh.model.layers])
    ids = torch.randint(500, 4096, (2, 385), generator=torch.Generator().manual_seed(0))
    mine, _, load_of = loss(fresh, ids, scalars)
    theirs = torch.nn.functional.cross_entropy(
        fresh(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten()
    )
    assert load_of.sum() == 6 * 4 * ids[:, 1:].numel()
    assert torch.allclose(mine, theirs, rtol=1e-5)
    pairs = zip(torch.autograd.grad(mine, params), torch.autograd.grad(theirs, params), strict=True)
    for name, (one, two) in zip(names, pairs, strict=True):
        assert (one - two).norm() <= 2e-3 * two.norm(), name
