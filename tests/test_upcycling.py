"""benchmarks/models/upcycle.py: what decides whether a dense model becomes a mixture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import smollm2
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

sys.path.insert(0, str(Path(smollm2.__file__).parent))
import mixture
import token_ids
import upcycle

LAYERS = 2


def small_model(experts: int = upcycle.EXPERTS) -> Any:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True,
        num_local_experts=experts, num_experts_per_tok=min(experts, upcycle.TOP_K),
    )  # fmt: skip
    return MixtralForCausalLM(config)


def some_rows(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 32, (count, 9), generator=torch.Generator().manual_seed(seed))


def run_of(model: Any, part: int, monkeypatch: pytest.MonkeyPatch, work: Path) -> upcycle.Run:
    monkeypatch.setattr(upcycle, "build", lambda *_: model)
    sizes = upcycle.Sizes(row=8, step=64, part=part, held=2)
    return upcycle.Run(object(), work, torch.device("cpu"), sizes)


def test_the_rate_falls_to_zero_by_tokens_or_seconds_whichever_is_sooner() -> None:
    limits = upcycle.Limits(tokens=1000, seconds=10.0)
    assert limits.done(500, 1.0) == 0.5
    assert limits.done(100, 9.0) == 0.9
    assert upcycle.Limits(tokens=1000, seconds=None).done(100, 1e9) == 0.1
    rates = [upcycle.rate_at(done) for done in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < max(rates) <= upcycle.RATE
    assert rates[-1] == 0


def test_a_step_in_parts_is_the_step_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(upcycle, "BALANCE", 0.0)  # the imbalance is that of a part
    ids = some_rows(8)
    found = []
    for part in (64, 16):
        run = run_of(small_model(), part, monkeypatch, tmp_path)
        nats = run.update(ids, 1e-3)
        found.append((nats, run.model.state_dict()))
    (nats, whole), (other, parts) = found
    assert other == pytest.approx(nats, rel=1e-5)
    before = small_model().state_dict()
    for name in ("model.layers.1.mlp.gate.weight", "model.layers.0.mlp.experts.down_proj"):
        moved = (whole[name] - before[name]).norm()
        assert moved > 0
        assert (parts[name] - whole[name]).norm() < 0.05 * moved


def test_imbalance_is_one_a_layer_where_experts_are_used_alike() -> None:
    even = torch.eye(4).repeat(3, 1) * 20 + torch.eye(4).roll(1, 1).repeat(3, 1) * 20
    assert float(upcycle.imbalance((even, even))) == pytest.approx(2.0, abs=1e-4)
    one_sided = torch.tensor([[30.0, 20.0, 0.0, 0.0]]).repeat(12, 1)
    assert float(upcycle.imbalance((one_sided,))) == pytest.approx(2.0, abs=1e-3)


def test_copies_are_set_apart_and_looked_at() -> None:
    model = small_model()
    for layer in model.model.layers:  # all experts alike, as upcycling begins
        for stack in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            stack.data.copy_(stack.data[:1].expand_as(stack))
        layer.mlp.gate.weight.data.zero_()
    held = {"prose": some_rows(4, 1), "code": some_rows(4, 2)}
    alike = mixture.look(model, held)
    assert alike.experts_apart == {"mean": 0.0, "least": 0.0}
    upcycle.set_apart(model, some_rows(16))
    apart = mixture.look(model, held)
    # Two independent noises of a tenth of the weights.
    assert apart.experts_apart["mean"] == pytest.approx(0.1 * 2**0.5, rel=0.1)
    assert np.array(apart.use["code"]).shape == (LAYERS, upcycle.EXPERTS)
    np.testing.assert_allclose(np.array(apart.use["code"]).sum(-1), 1, atol=1e-3)


def test_use_says_whether_domains_have_experts_of_their_own() -> None:
    alike = mixture.describe_use({"prose": [[0.25] * 4], "code": [[0.25] * 4]})
    assert (alike["least"], alike["domains_apart"]) == (0.25, 0)
    own = {"prose": [[0.5, 0.5, 0.0, 0.0]], "code": [[0.0, 0.0, 0.6, 0.4]]}
    found = mixture.describe_use(own)
    assert (found["least"], found["domains_apart"]) == (0.2, 1)
    assert found["layers"]["0"] == {name: layers[0] for name, layers in own.items()}


def test_routed_elsewhere_is_undone() -> None:
    model, held = small_model(), {"code": some_rows(4, 1), "prose": some_rows(4, 2)}
    before = mixture.look(model, held)
    with mixture.routed_elsewhere(model):
        elsewhere = mixture.look(model, held)
    used, other = np.array(before.use["code"]), np.array(elsewhere.use["code"])
    # The other two of four; later layers see other inputs then.
    np.testing.assert_allclose((used + other)[0], 0.5, atol=1e-3)
    assert mixture.look(model, held) == before
    assert list(mixture.compare(model, held, before, {})) == ["perplexity", "experts_apart", "use"]


def test_a_run_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    streams = {name: np.arange(200, dtype=np.uint16) % 32 for name in upcycle.MIX}
    held = upcycle.held_rows(streams, 2, 8)

    def trained(work: Path, *limits: int) -> dict[str, Tensor]:
        work.mkdir(exist_ok=True)
        for tokens in limits:
            run = run_of(small_model(), 32, monkeypatch, work)
            run.begin(streams, held)
            for step in range(run.updates.step, tokens // 64):
                run.update(upcycle.rows(streams, step, 8, 8), 1e-3)
            run.save()
        assert set(run.before.perplexity) == set(upcycle.MIX)
        state: dict[str, Tensor] = run.model.state_dict()
        return state

    at_once, resumed = trained(tmp_path / "a", 192), trained(tmp_path / "b", 64, 192)
    assert all(torch.equal(at_once[name], resumed[name]) for name in at_once)


def test_text_becomes_ids_of_two_bytes(tmp_path: Path) -> None:
    words = {word: at for at, word in enumerate(["<end>", "a", "b", "c", "?"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    records = [{"domain": "code", "text": "a b " * 5}, {"domain": "code", "text": "c " * 10}]
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]
    records.append({"domain": "chat", "messages": said})
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    most = {"code": 10, "chat": 10}
    drawn = token_ids.draw_documents(path, most)
    assert [len(drawn[name]) for name in ("code", "chat")] == [1, 1]  # enough with the first
    assert drawn == token_ids.draw_documents(path, most)
    assert drawn["chat"][0].startswith("<|im_start|>user\na<|im_end|>\n")
    ids = token_ids.encode(["a b", "c"], tokenizer)
    assert ids.dtype == np.uint16
    assert ids.tolist() == [1, 2, token_ids.END_OF_TEXT, 3, token_ids.END_OF_TEXT]
