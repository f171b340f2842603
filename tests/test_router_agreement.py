"""Which experts tokens choose: as transformers chooses them, and known again after pruning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_divergence import Perturbed, some_answers
from tiny_models import EXPERTS, FORMS, TOP_K, load

from secateur import Report, read_plan
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.evaluation.kept_experts import find_kept_experts
from secateur.evaluation.scores import load_scores, save_scores, score, score_once
from secateur.evaluation.summary import summarise, summarise_layers
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import teach
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.weights import CheckpointWeights
from secateur.outputs.registry import artefacts_of, open_artefact

Tiny = Callable[[str], Checkpoint]


def chosen_by_transformers(model: Any, answers: AnswerSet) -> np.ndarray[Any, Any]:
    """[N, L, K], sorted: what transformers gives its own experts at every scored token."""
    seen: list[torch.Tensor] = []

    def note(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(given[1])

    for module in model.modules():
        if hasattr(module, "_apply_gate"):
            module.register_forward_pre_hook(note)
    found = []
    for answer in answers.answers:
        seen.clear()
        with torch.no_grad():
            model(input_ids=torch.tensor([answer.input_ids]))
        layers = torch.stack([one[answer.begin - 1 : -1] for one in seen], 1)
        found.append(layers.sort(-1).values)
    return torch.cat(found).numpy()


@pytest.mark.parametrize("form", FORMS)
def test_the_experts_noted_are_those_that_transformers_runs(tiny: Tiny, form: str) -> None:
    checkpoint, answers = tiny(form), some_answers()
    teacher = teach(CheckpointWeights(checkpoint), "original", answers, backend=CpuBackend(2))
    assert tuple(teacher.layers) == tuple(checkpoint.moe_layers)
    assert teacher.experts.dtype == np.uint8
    expected = chosen_by_transformers(load(checkpoint.path), answers)
    assert np.array_equal(np.sort(teacher.experts, -1), expected)
    device = TorchDevice(torch.device("cpu"))
    there = teach(CheckpointWeights(checkpoint), "original", answers, backend=device)
    assert np.array_equal(np.sort(there.experts, -1), expected)


def test_agreement_is_the_part_of_the_originals_experts_still_chosen(tiny: Tiny) -> None:
    checkpoint, answers = tiny("gemma4"), some_answers()
    original, noisy = CheckpointWeights(checkpoint), Perturbed(checkpoint, 0.3)
    teacher = teach(original, "original", answers)
    kept = {layer: tuple(range(EXPERTS)) for layer in checkpoint.moe_layers}
    scores = score(teacher, noisy, "noisy", answers, kept=kept)
    theirs = teach(noisy, "noisy", answers).experts
    same = [
        [len(set(a) & set(b)) / TOP_K for a, b in zip(one, other, strict=True)]
        for one, other in zip(teacher.experts, theirs, strict=True)
    ]
    found = scores.arrays["router_agreement_by_layer"]
    assert np.allclose(found, same)
    assert 0.1 < found.mean() < 0.95
    assert np.allclose(scores.arrays["router_agreement"], found.mean(-1))
    assert (scores.arrays["chosen_experts_left"] == 1).all()
    itself = score(teacher, original, "itself", answers, kept=kept)
    assert (itself.arrays["router_agreement_by_layer"] == 1).all()
    assert (itself.arrays["top5_kept"] == 1).all()


def test_every_layer_has_its_number_with_interval_and_samples(tiny: Tiny) -> None:
    checkpoint, answers = tiny("gemma4"), some_answers(20)
    teacher = teach(CheckpointWeights(checkpoint), "original", answers)
    kept = {layer: tuple(range(EXPERTS)) for layer in checkpoint.moe_layers}
    scores = score(teacher, Perturbed(checkpoint, 0.3), "noisy", answers, kept=kept)
    layers = summarise_layers(scores, answers)
    assert [entry.domain for entry in layers] == ["layer 0", "layer 1", "layer 2"]
    tokens = np.array([answers.answers[i].kind == "answers" for i in answers.answer_of_token])
    for place, entry in enumerate(layers):
        assert entry.kind == "router"
        values = scores.arrays["router_agreement_by_layer"][tokens, place]
        assert entry.value == pytest.approx(values.mean())
        assert entry.low is not None and entry.high is not None
        assert entry.low < entry.value < entry.high
        assert entry.n == {"answers": 20, "tokens": int(tokens.sum())}
    (pooled,) = [
        entry
        for entry in summarise(scores, answers)
        if (entry.name, entry.domain, entry.kind) == ("router_agreement", "pooled", "answers")
    ]
    assert pooled.value == pytest.approx(np.mean([entry.value for entry in layers]))


def test_without_known_experts_all_else_is_measured(tiny: Tiny, tmp_path: Path) -> None:
    checkpoint, answers = tiny("gemma4"), some_answers()
    original = CheckpointWeights(checkpoint)
    teacher = teach(original, "original", answers)
    scores = score(teacher, original, "itself", answers)
    assert summarise_layers(scores, answers) == ()
    names = {entry.name for entry in summarise(scores, answers)}
    assert "router_agreement" not in names and {"kl_mean", "top5_agreement"} <= names
    save_scores(scores, tmp_path / "kept")
    assert load_scores(tmp_path / "kept").arrays.keys() == scores.arrays.keys()
    # Kept scores without the routing are not those with it.
    kept = {layer: tuple(range(EXPERTS)) for layer in checkpoint.moe_layers}
    for known in (None, kept):
        score_once(teacher, original, "itself", answers, tmp_path / "work", kept=known)
    assert len(list((tmp_path / "work").glob("scores-*"))) == 2


def test_the_experts_left_are_known_by_their_routers_in_every_format(made: Path, line: Any) -> None:
    original = open_checkpoint(line.model)
    weights = CheckpointWeights(original)
    everything = {layer: tuple(range(EXPERTS)) for layer in original.moe_layers}
    assert find_kept_experts(weights, weights) == everything
    paths = artefacts_of(made)
    assert len(paths) == 3
    for path in paths:
        source = open_artefact(path, original).source
        assert find_kept_experts(source, weights) == read_plan(made / "plan.json").keep


class _Changed(CheckpointWeights):
    """A model whose routers were changed by a function."""

    def __init__(self, checkpoint: Checkpoint, change: Callable[[Any], Any]) -> None:
        super().__init__(checkpoint)
        self._change = change

    def tensor(self, name: str) -> torch.Tensor:
        value = super().tensor(name)
        place = self.family.match(name)
        return self._change(value) if place is not None and place.role == "router" else value


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[[0, 1, 1, 3]],  # one twice
        lambda rows: rows.flip(-1),  # of another model
        lambda rows: torch.stack([rows[::2].float(), rows[1::2].float()]).mean(0),  # merged
        lambda rows: rows[:, :-1],
    ],
)
def test_experts_that_are_none_of_the_originals_are_not_guessed(
    change: Callable[[Any], Any], tiny: Tiny
) -> None:
    checkpoint = tiny("gemma4")
    original = CheckpointWeights(checkpoint)
    assert find_kept_experts(_Changed(checkpoint, change), original) is None


def test_the_report_shows_routers_by_layer_and_what_is_left(made: Path, shrunk: Report) -> None:
    text = (made / "report.md").read_text()
    assert "| layer 1 | " in text
    for artefact in shrunk.artefacts:
        left, agreement = (
            artefact.value(name) for name in ("chosen_experts_left", "router_agreement")
        )
        assert left is not None and agreement is not None
        assert agreement.value < left.value < 1
        assert len(artefact.layers) == 2
        worst = shrunk.to_json()["artefacts"][0]["worst_domain"]
        assert worst["n"]["answers"] == 3 and worst["name"] == "kl_mean"
