"""Artefacts compared with each other in pairs, and the floor below which none is called better."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_divergence import made_scores, some_answers
from tiny_line import Line, Run
from tiny_models import load

from secateur import Measuring, Report, compare, measure
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import InputError
from secateur.evaluation import floor as floors
from secateur.evaluation import scores
from secateur.evaluation.compare import compare_all, compare_scores
from secateur.evaluation.floor import Floor, measure_floor
from secateur.evaluation.measurement import require_measurement
from secateur.evaluation.summary import summarise
from secateur.evaluation.tokens.teacher import teach
from secateur.forward.weights import CheckpointWeights

Tiny = Callable[[str], Checkpoint]


def test_two_artefacts_are_compared_on_the_scores_of_measuring(
    made: Path, line: Line, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, request = tmp_path / "work", Measuring(answers=line.answers)
    files = [made / f"tiny-moe-6e-{name}.gguf" for name in ("Q4_K_M", "Q8_0")]
    means = {}
    for file in files:
        (artefact,) = measure(file, line.model, request, work=work).artefacts
        means[artefact.name] = artefact.value("kl_mean")
    monkeypatch.setattr(scores, "score", None)
    found = compare(files, line.model, request, work=work)
    (pair,) = found.pairs
    pooled = next(entry for entry in pair.comparisons if entry.metric == "kl_mean")
    expected = means[pair.first].value - means[pair.second].value
    assert expected < 0  # the nearest comes first
    assert pooled.difference.value == pytest.approx(expected, rel=1e-9)
    assert pooled.difference.low <= pooled.difference.value <= pooled.difference.high
    assert list(found.artefacts) == [pair.first, pair.second]
    # Three answers of a domain say nothing about how sure a difference is.
    few = next(entry for entry in pair.comparisons if entry.difference.domain == "sums")
    assert (few.difference.low, few.verdict) == (None, "not distinguishable")

    options = {"against": line.model, "answers": line.answers, "work": work}
    ran = run("compare", *files, json=True, **options)
    assert ran.code == 0
    assert ran.json == found.to_json()
    text = run("compare", *files, **options).out
    assert f"{pair.first} against {pair.second}, first minus second" in text
    assert f"kl_mean_difference (pooled): {pooled.difference.value:.4g} nats" in text
    assert "floor: the original's own weights" in text
    assert "perplexity_original" not in text


def test_an_output_stands_for_all_its_artefacts_and_every_two_are_a_pair(
    made: Path, line: Line, run: Run, tmp_path: Path
) -> None:
    options = {"against": line.model, "answers": line.answers, "work": tmp_path / "work"}
    ran = run("compare", made, **options)
    assert ran.code == 0 and ran.out.count("first minus second") == 3
    assert "3 pairs, each with an interval of 95 %" in ran.out
    found = run("compare", made, json=True, **options).json
    names = [entry["name"] for entry in found["artefacts"]]
    assert sorted(names) == ["safetensors", "tiny-moe-6e-Q4_K_M.gguf", "tiny-moe-6e-Q8_0.gguf"]
    pairs = [(pair["first"], pair["second"]) for pair in found["pairs"]]
    assert pairs == [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    means = [entry["measurements"][0]["value"] for entry in found["artefacts"]]
    assert means == sorted(means)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tiny-moe-6e-Q8_0.gguf"], "nothing to compare .*Q8_0.gguf with: name two"),
        (["tiny-moe-6e-Q8_0.gguf", "tiny-moe-6e-Q8_0.gguf"], "is named twice"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(
    names: list[str], message: str, made: Path, line: Line
) -> None:
    with pytest.raises(InputError, match=message):
        compare([made / name for name in names], line.model, Measuring(answers=line.answers))


@pytest.mark.slow
def test_the_floor_is_about_what_a_bfloat16_kernel_does(tiny: Tiny, tmp_path: Path) -> None:
    checkpoint, answers = tiny("gemma4"), some_answers(30)
    source = CheckpointWeights(checkpoint)
    teacher = teach(source, "original", answers)
    found = measure_floor(teacher, source, answers, tmp_path)
    exact, kernel = load(checkpoint.path), load(checkpoint.path).to(torch.bfloat16)
    divergences = []
    with torch.no_grad():
        for entry in answers.answers:
            if entry.kind == "answers":
                ids = torch.tensor([entry.input_ids])
                p, q = (m(ids).logits[0].double().log_softmax(-1) for m in (exact, kernel))
                divergences.append((p.exp() * (p - q)).sum(-1)[entry.begin - 1 : -1])
    real = float(torch.cat(divergences).mean())
    own = require_measurement(found.measurements, "kl_mean")
    assert own.low is not None and real > 0
    assert real / 4 < own.value < real * 4
    assert found.of("kl_mean") == own.value
    agreement = require_measurement(found.measurements, "top1_agreement").value
    assert found.of("top1_agreement") == pytest.approx(1 - agreement)
    assert found.of("no such metric") == 0


def test_the_floor_is_measured_once_on_some_answers_of_every_domain(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = some_answers(30)
    source = CheckpointWeights(tiny("gemma4"))
    teacher = teach(source, "original", answers)
    found = measure_floor(teacher, source, answers, tmp_path, tokens=60)
    pooled = require_measurement(found.measurements, "kl_mean")
    assert 60 - 9 <= pooled.n["tokens"] < answers.tokens / 2
    assert {entry.domain for entry in found.measurements} >= {"code", "chat"}
    monkeypatch.setattr(floors, "run_teacher_forced", None)
    again = measure_floor(teacher, source, answers, tmp_path, tokens=60)
    assert again == found


@pytest.mark.slow
def test_below_the_floor_nothing_is_better() -> None:
    answers = some_answers(30)
    base = np.random.default_rng(0).exponential(0.1, answers.tokens)
    first, better = (made_scores(kl, answers) for kl in (base, base * 0.8))
    gap = float(base[answers.answer_of_token < 30].mean() * 0.2)

    def floor_of(kl: float) -> Floor:
        floor, ideal = (made_scores(np.full(answers.tokens, one), answers) for one in (kl, 0.0))
        return Floor(summarise(floor, answers), summarise(ideal, answers))

    above, below = floor_of(0.9 * gap), floor_of(1.1 * gap)
    found = compare_scores(better, first, answers, above)[0]
    assert (found.verdict, found.floor) == ("better", pytest.approx(0.9 * gap))
    assert found.difference.high < 0
    for pair in ((better, first), (first, better)):
        assert compare_scores(*pair, answers, below)[0].verdict == "below the floor"
    ranked = compare_all({"first": first, "better": better}, answers, below)
    assert list(ranked.artefacts) == ["better", "first"]
    assert ranked.pairs[0].comparisons[0].verdict == "below the floor"


def test_the_floor_is_in_the_report(made: Path, shrunk: Report) -> None:
    floor = require_measurement(shrunk.floor, "kl_mean")
    assert floor.value > 0
    assert shrunk.to_json()["floor"][0] == floor.to_json()
    text = (made / "report.md").read_text()
    assert "| the original, another kernel |" in text
    assert "The floor: the original's own weights with inputs of all matrix products" in text


def test_it_is_said_which_artefact_was_calibrated_on_what_is_compared_on(
    made: Path, line: Line, run: Run, tmp_path: Path
) -> None:
    """The held-out text is the first output's; nothing keeps it out of the second's calibration."""
    foreign = tmp_path / "from_elsewhere.gguf"
    shutil.copy(made / "tiny-moe-6e-Q8_0.gguf", foreign)
    mine = made / "tiny-moe-6e-Q4_K_M.gguf"
    options = {"against": line.model, "answers": line.answers, "work": tmp_path / "work"}
    text = run("compare", foreign, mine, **options).out
    assert f"note: {mine.name} was calibrated on 6 of the 6 texts that are measured on" in text
    assert "note: from_elsewhere.gguf: whether it was calibrated on what is" in text
    found = compare([foreign, mine], line.model, Measuring(answers=line.answers))
    seen = {one.artefact: (one.measured_on, one.seen) for one in found.seen}
    assert seen == {foreign.name: (6, None), mine.name: (6, 6)}


def test_a_report_says_that_its_output_was_calibrated_on_what_it_is_measured_on(
    shrunk: Report, made: Path
) -> None:
    (said,) = [one for one in shrunk.notes if "texts that are measured on here" in one]
    assert said.startswith("this output was calibrated on 6 of the 6 texts")
    assert said in (made / "report.md").read_text("utf-8")
