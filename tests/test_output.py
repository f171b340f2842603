"""What is written runs: the checkpoint in transformers, the GGUF in llama.cpp."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_line import Line, Run
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from secateur import Calibration, Formats, Pruning, apply, calibrate, plan, read_plan
from secateur.checkpoint.hub import gemmule_folder
from secateur.checkpoint.reader import open_checkpoint
from secateur.formats.ggml.codec import decode
from secateur.formats.gguf.reader import read_gguf
from secateur.planning.imatrix_policy import gguf_names
from secateur.serving.llama_server import llama_server

GEMMULE = gemmule_folder()
DECISIVE = 1.0
"""Natural logarithms between the best and the second token from which engines must agree."""


def loaded(folder: Path) -> PreTrainedModel:
    """The model as anybody loads it, every tensor used and none made up."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


def without(model: PreTrainedModel, keep: Mapping[int, tuple[int, ...]]) -> PreTrainedModel:
    """The original, its router's logits of all experts but `keep` at minus infinity."""
    for name, module in model.named_modules():
        if found := re.fullmatch(r".*layers\.(\d+)\.router\.proj", name):
            gone = torch.ones(module.out_features, dtype=torch.bool)
            gone[list(keep[int(found[1])])] = False
            module.register_forward_hook(
                lambda module, inputs, out, gone=gone: out.masked_fill(gone, -torch.inf)
            )
    return model


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def decoded(folder: Path, gguf: Path) -> PreTrainedModel:
    """The pruned checkpoint with the numbers that are in the GGUF."""
    model, file = loaded(folder), read_gguf(gguf)
    family = open_checkpoint(folder).family
    with torch.no_grad():
        for name, value in model.state_dict().items():
            names = gguf_names(family, name) if name != "lm_head.weight" else []
            parts = [file.tensor(part) for part in names if part in file.tensors]
            if parts:
                arrays = [decode(file.data(p.name), p.type, p.shape) for p in parts]
                axis = arrays[0].ndim - 2 if len(arrays) > 1 else 0
                whole = np.concatenate(arrays, axis) if len(arrays) > 1 else arrays[0]
                value.copy_(torch.from_numpy(whole).reshape(value.shape))
    return model


def agreement(model: PreTrainedModel, gguf: Path, prompts: list[list[int]], count: int) -> int:
    """Decisive greedy tokens on which llama.cpp and transformers were asked and agreed."""
    decisive = 0
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent)
    with llama_server(gguf, context=512) as server:
        for prompt in prompts:
            ids = list(prompt)
            for _ in range(count):
                best = logits(model, torch.tensor([ids]))[0, -1].double().log_softmax(-1)
                (first, second), (token, _) = best.topk(2)
                # llama.cpp gives no probability for a byte that is not yet a whole letter.
                whole = "\ufffd" not in tokenizer.decode([int(token)])
                if first - second > DECISIVE and whole:
                    (step,) = server.complete(ids, 1)
                    assert step.id == int(token), (ids, step)
                    decisive += 1
                ids.append(int(token))
    return decisive


def test_the_checkpoint_has_the_logits_of_the_masked_original(line: Line, made: Path) -> None:
    keep = read_plan(made / "plan.json").keep
    ids = torch.randint(4, 300, (2, 24), generator=torch.Generator().manual_seed(0))
    expected = logits(without(loaded(line.model), keep), ids)
    got = logits(loaded(made), ids)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.equal(got, logits(loaded(line.model), ids))


def test_the_tokenizer_and_its_template_come_along(line: Line, made: Path) -> None:
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (made, line.model))
    talk = [{"role": "user", "content": "Who is number 3?"}]
    assert (
        ours.apply_chat_template(talk)["input_ids"] == theirs.apply_chat_template(talk)["input_ids"]
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        assert (made / name).read_bytes() == (line.model / name).read_bytes()


def test_untouched_tensors_are_byte_identical(line: Line, made: Path) -> None:
    """And the pruned ones hold just the rows of the experts that stay, in order."""
    keep = read_plan(made / "plan.json").keep
    with (
        safe_open(line.model / "model.safetensors", "pt") as before,
        safe_open(made / "model.safetensors", "pt") as after,
    ):
        assert set(before.keys()) == set(after.keys())
        for name in before.keys():  # noqa: SIM118 - a file, not a mapping
            old, new = before.get_tensor(name), after.get_tensor(name)
            if re.search(r"experts\.|router\.(proj|per_expert)", name):
                layer = int(name.split(".")[2])
                old = old[list(keep[layer])]
            assert torch.equal(old.view(torch.uint8), new.view(torch.uint8)), name


def test_the_drop_map_beside_the_output_makes_the_same_plan(
    line: Line, made: Path, run: Run
) -> None:
    """What went is written down, and can be given again."""
    again = run("plan", line.model, drop_map=made / "expert_drop_metadata.json", json=True).json
    decided = read_plan(made / "plan.json")
    assert {int(k): tuple(v) for k, v in again["keep"].items()} == decided.keep
    said = json.loads((made / "expert_drop_metadata.json").read_text())["layers"]["0"]
    assert sorted([*said["keep"], *said["drop"]]) == list(range(8))


def test_the_gguf_runs_in_llama_cpp(line: Line, made: Path) -> None:
    """The tiny model is random, so few of its tokens are decisive; gemmule has many."""
    tokenizer = AutoTokenizer.from_pretrained(made)
    prompts = [tokenizer(text)["input_ids"] for text in map(str, range(100, 112))]
    gguf = made / "tiny-moe-6e-Q8_0.gguf"
    assert agreement(decoded(made, gguf), gguf, prompts, 8) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("ftype", ["Q8_0", "Q4_K_M"])
def test_gemmule_runs_in_both_engines(ftype: str, tmp_path: Path) -> None:
    stats, out = tmp_path / "stats", tmp_path / "out"
    calibrate("gemmule", stats, Calibration("gemmule"))
    decided = plan("gemmule", Pruning(experts=24), Formats(types=(ftype,)), statistics=stats)
    apply(decided, out, statistics=stats)
    for form in decided.formats:
        for name, predicted in decided.files[form].items():
            assert (out / name).stat().st_size == predicted
    ids = torch.randint(10, 4000, (2, 64), generator=torch.Generator().manual_seed(0))
    expected = logits(without(loaded(GEMMULE), decided.keep), ids)
    got = logits(loaded(out), ids)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    gguf = next(out.glob("gemmule*.gguf"))
    assert agreement(decoded(out, gguf), gguf, _asked(out), 12) >= 20


def _asked(folder: Path) -> list[list[int]]:
    """Sums and tool calls, whose answers gemmule knows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = (GEMMULE / "sets/test.jsonl").read_text("utf-8").splitlines()
    known = [
        entry for entry in map(json.loads, lines) if entry["domain"] in ("arithmetic", "tools")
    ]
    return [
        tokenizer.apply_chat_template(
            entry["messages"][:1], tools=entry.get("tools"), add_generation_prompt=True
        )["input_ids"]
        for entry in known[:8]
        if entry.get("messages", [{"role": ""}])[0]["role"] == "user"
    ]
