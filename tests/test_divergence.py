"""Divergence from the original: exact where it can be, bounded where not, honest about spread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FORMS, VOCAB, load

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import GateError, InputError, NumericError
from secateur.evaluation.compare import compare_scores
from secateur.evaluation.floor import Floor
from secateur.evaluation.gate import check_gates, parse_gate
from secateur.evaluation.intervals import (
    FEWEST_ANSWERS,
    Clusters,
    bootstrap,
    wilson_interval,
)
from secateur.evaluation.measurement import Measurement, require_measurement
from secateur.evaluation.metrics.kl import kl_of_bins
from secateur.evaluation.metrics.registry import token_arrays
from secateur.evaluation.scores import Scores, load_scores, save_scores, score, score_once
from secateur.evaluation.summary import summarise
from secateur.evaluation.tokens.answers import Answer, AnswerSet, answer_set
from secateur.evaluation.tokens.teacher import Teacher, load_teacher, teach, teacher_for
from secateur.families.schema import Family
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.weights import CheckpointWeights
from secateur.system.progress import Progress, no_progress

Tiny = Callable[[str], Checkpoint]


class Perturbed:
    """A source whose matrices carry noise, or whose one tensor carries a bad number."""

    def __init__(
        self, checkpoint: Checkpoint, noise: float = 0.0, bad: tuple[str, float] | None = None
    ) -> None:
        self._inner = CheckpointWeights(checkpoint)
        self._noise = noise
        self._bad = bad
        self.read: list[str] = []

    @property
    def config(self) -> Mapping[str, Any]:
        return self._inner.config

    @property
    def family(self) -> Family:
        return self._inner.family

    def names(self) -> Sequence[str]:
        return self._inner.names()

    def experts(self, name: str) -> torch.Tensor:
        return self.tensor(name)

    def tensor(self, name: str) -> torch.Tensor:
        self.read.append(name)
        value = self._inner.tensor(name)
        if value.ndim >= 2 and self._noise:
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            value = value + self._noise * value.std() * torch.randn(
                value.shape, generator=generator
            )
        if self._bad is not None and name == self._bad[0]:
            value.view(-1)[3] = self._bad[1]
        return value


def some_answers(count: int = 12, seed: int = 0) -> AnswerSet:
    """Random answers of two domains, and one document."""
    draw = np.random.default_rng(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(int(token) for token in draw.integers(4, VOCAB - 8, length))

    answers = [
        Answer(f"a{i}", ("code", "chat")[i % 2], "answers", tokens(6 + 2 * i), 1 + i % 4, "stop")
        for i in range(count)
    ]
    return answer_set([*answers, Answer("doc", "code", "documents", tokens(9), 1, "given")], {})


def direct(checkpoint: Checkpoint, answers: AnswerSet, noise: float) -> np.ndarray[Any, Any]:
    """[N, 2]: KL and log-probability of the actual token, over the whole vocabulary, in
    transformers' own modules."""
    changed = Perturbed(checkpoint, noise)
    original, student = load(checkpoint.path), load(checkpoint.path)
    state = student.state_dict()
    for name in changed.names():
        state[name].copy_(changed.tensor(name))
    found = []
    with torch.no_grad():
        for entry in answers.answers:
            ids = torch.tensor([entry.input_ids])
            p, q = (m(ids).logits[0].double().log_softmax(-1) for m in (original, student))
            kl = (p.exp() * (p - q)).sum(-1)[entry.begin - 1 : -1]
            actual = q[:-1].gather(-1, ids[0, 1:, None])[entry.begin - 1 :, 0]
            found.append(torch.stack([kl, actual], -1))
    return torch.cat(found).numpy()


@pytest.mark.parametrize("form", FORMS)
def test_the_original_does_not_diverge_from_itself(tiny: Tiny, form: str) -> None:
    source, answers = CheckpointWeights(tiny(form)), some_answers()
    teacher = teach(source, "original", answers, top_k=16)
    scores = score(teacher, source, "itself", answers, backend=CpuBackend(2))
    assert scores.arrays["kl"].max() == 0
    assert scores.arrays["agrees"].all()
    assert np.array_equal(scores.arrays["log_prob"], scores.arrays["log_prob_original"])


@pytest.mark.parametrize("form", ["gemma4", "gpt_oss", "deepseek_v3_fused", "qwen3_moe_fused"])
def test_divergence_is_that_of_the_full_vocabulary(tiny: Tiny, form: str) -> None:
    checkpoint, answers = tiny(form), some_answers()
    teacher = teach(CheckpointWeights(checkpoint), "original", answers)
    scores = score(teacher, Perturbed(checkpoint, 0.1), "noisy", answers)
    expected = direct(checkpoint, answers, 0.1)
    assert scores.arrays["kl"].mean() > 1e-3
    assert np.abs(scores.arrays["kl"] - expected[:, 0]).max() < 1e-5
    assert np.abs(scores.arrays["log_prob"] - expected[:, 1]).max() < 1e-5


def test_top_tokens_and_the_right_ones_probability_are_compared(tiny: Tiny) -> None:
    checkpoint, answers = tiny("gemma4"), some_answers()
    original, noisy = (
        teach(source, name, answers)
        for source, name in (
            (CheckpointWeights(checkpoint), "a"),
            (Perturbed(checkpoint, 0.1), "b"),
        )
    )
    found = score(original, Perturbed(checkpoint, 0.1), "noisy", answers).arrays
    expected = [
        len(set(one[:5]) & set(other[:5])) / 5
        for one, other in zip(original.top_ids, noisy.top_ids, strict=True)
    ]
    assert np.allclose(found["top5_kept"], expected)
    assert 0.2 < np.mean(expected) < 0.98
    change = np.exp(noisy.actual.astype(float)) - np.exp(original.actual.astype(float))
    assert np.abs(found["probability_change"] - change).max() < 1e-7
    assert np.allclose(found["squared_probability_change"], change**2)


def test_fewer_bins_bound_the_divergence_from_below(tiny: Tiny) -> None:
    checkpoint, answers = tiny("gemma4"), some_answers()
    found = []
    for top_k in (1, 4, 16, VOCAB):
        teacher = teach(CheckpointWeights(checkpoint), "original", answers, top_k=top_k)
        found.append(score(teacher, Perturbed(checkpoint, 0.1), "noisy", answers).arrays["kl"])
        assert teacher.top.shape == (answers.tokens, top_k)
    for fewer, more in zip(found, found[1:], strict=False):
        assert (fewer <= more + 1e-7).all()
    assert found[0].mean() < found[-1].mean()


def test_workers_change_no_bit(tiny: Tiny) -> None:
    checkpoint, answers = tiny("gemma4"), some_answers(30)
    teachers = [
        teach(CheckpointWeights(checkpoint), "original", answers, backend=CpuBackend(workers))
        for workers in (1, 3)
    ]
    scores = [
        score(
            teachers[0], Perturbed(checkpoint, 0.1), "noisy", answers, backend=CpuBackend(workers)
        )
        for workers in (1, 3)
    ]
    for name in ("top_ids", "top", "rest", "actual", "best"):
        assert np.array_equal(getattr(teachers[0], name), getattr(teachers[1], name))
    assert np.array_equal(scores[0].arrays["kl"], scores[1].arrays["kl"])


def test_progress_counts_layers_then_tokens(tiny: Tiny) -> None:
    checkpoint, answers = tiny("gemma4"), some_answers()
    calls: list[tuple[str, int, int, str]] = []
    teach(CheckpointWeights(checkpoint), "original", answers, progress=lambda *c: calls.append(c))
    layers = [call for call in calls if call[0] == "layers"]
    every = sum(len(answer.input_ids) for answer in answers.answers)
    assert [call[1:] for call in layers] == [
        (every * done // 3, every, "tokens") for done in range(4)
    ]
    assert calls[-1] == ("logits", answers.tokens, answers.tokens, "tokens")


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1e-3, 1.0, 8.0]))
def test_divergence_of_bins_is_never_negative_and_0_only_at_equality(
    seed: int, spread: float
) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 4, (5, 9))
    p = torch.from_numpy(logits).log_softmax(-1).float().numpy()
    moved = torch.from_numpy(logits + draw.normal(0, spread, (5, 9)))
    q = moved.log_softmax(-1).float().numpy()
    found = kl_of_bins(p, q)
    assert (found >= 0).all()
    assert (kl_of_bins(p, p) == 0).all()
    exact = (np.exp(p.astype(float)) * (p.astype(float) - q)).sum(-1)
    assert np.abs(found - exact).max() < 1e-6 * max(1, exact.max())


def test_a_bin_nobody_uses_costs_nothing() -> None:
    p = np.array([[0.0, -np.inf]], np.float32)
    assert kl_of_bins(p, p)[0] == 0
    q = np.log(np.array([[0.5, 0.5]], np.float32))
    assert kl_of_bins(p, q)[0] == pytest.approx(np.log(2))


def test_nan_names_answer_and_token(tiny: Tiny) -> None:
    checkpoint, answers = tiny("gemma4"), some_answers()
    teacher = teach(CheckpointWeights(checkpoint), "original", answers)
    layer = Perturbed(checkpoint, bad=("model.layers.1.mlp.down_proj.weight", np.nan))
    with pytest.raises(NumericError, match=r"answer 'a11', token 0: layer 1 gave NaN"):
        score(teacher, layer, "bad", answers)
    norm = Perturbed(checkpoint, bad=("model.norm.weight", np.nan))
    with pytest.raises(NumericError, match=r"logits for answer 'a11', token 4 hold NaN"):
        score(teacher, norm, "bad", answers)


def test_answers_of_another_tokenizer_are_refused(tiny: Tiny) -> None:
    answers = answer_set([Answer("a", "x", "answers", (1, VOCAB), 1, "stop")], {})
    with pytest.raises(InputError, match=f"hold token {VOCAB}.*0 to {VOCAB - 1}"):
        teach(CheckpointWeights(tiny("gemma4")), "original", answers)


def test_a_teacher_of_other_answers_is_refused(tiny: Tiny) -> None:
    source = CheckpointWeights(tiny("gemma4"))
    teacher = teach(source, "original", some_answers())
    with pytest.raises(InputError, match="compute the teacher for these answers"):
        score(teacher, source, "itself", some_answers(seed=1))


def test_the_teacher_is_computed_once(tiny: Tiny, tmp_path: Path) -> None:
    answers = some_answers()
    sources = [Perturbed(tiny("gemma4")) for _ in range(4)]
    first = teacher_for(sources[0], "original", answers, tmp_path)
    again = teacher_for(sources[1], "original", answers, tmp_path)
    assert not sources[1].read
    assert first.sha256 == again.sha256
    for name in ("top_ids", "top", "rest", "actual", "best"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    teacher_for(sources[2], "another", answers, tmp_path)
    teacher_for(sources[3], "original", answers, tmp_path, top_k=3)
    assert sources[2].read and sources[3].read
    assert len(list(tmp_path.iterdir())) == 3


class Waiting(Perturbed):
    """A source that gives its first tensor when it is allowed to."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.begun, self.go_on = Event(), Event()

    def tensor(self, name: str) -> torch.Tensor:
        self.begun.set()
        assert self.go_on.wait(60)
        return super().tensor(name)


@pytest.mark.parametrize("what", ["probabilities", "scores"])
def test_of_two_that_want_the_same_numbers_one_waits_for_the_other(
    what: str, tiny: Tiny, tmp_path: Path
) -> None:
    """Locks are of open files, so that two threads stand for two processes."""
    answers, first, second = some_answers(), Waiting(tiny("gemma4")), Perturbed(tiny("gemma4"))
    teacher = teach(CheckpointWeights(tiny("gemma4")), "original", answers)
    waited: list[str] = []

    def note(stage: str, done: int, total: int, unit: str) -> None:
        waited.append(stage)
        first.go_on.set()

    def numbers(source: Perturbed, progress: Progress = no_progress) -> Teacher | Scores:
        if what == "scores":
            return score_once(teacher, source, "itself", answers, tmp_path, progress=progress)
        return teacher_for(source, "original", answers, tmp_path, progress=progress)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(numbers, first)
        assert first.begun.wait(60)
        other = pool.submit(numbers, second, note)
        assert one.result().provenance == other.result().provenance
    assert first.read and not second.read
    assert waited == ["wait for another process"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_teacher_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    answers = some_answers()
    source = CheckpointWeights(tiny("gemma4"))
    teacher_for(source, "original", answers, tmp_path)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"cannot read .*make it again"):
        teacher_for(source, "original", answers, tmp_path)
    save_scores(made_scores(np.zeros(3), answers), path)
    with pytest.raises(InputError, match=r"holds 'secateur scores 5', expected 'secateur teacher"):
        load_teacher(path)


def made_scores(kl: np.ndarray[Any, Any], answers: AnswerSet, **arrays: Any) -> Scores:
    """Scores with given divergences and unremarkable rest."""
    half = np.full(len(kl), np.log(0.5), np.float32)
    rest = {
        array.name: np.zeros(len(kl), array.dtype) for array in token_arrays() if not array.routed
    }
    rest |= {"log_prob": half, "log_prob_original": half, "agrees": np.ones(len(kl), np.bool_)}
    arrays = {**rest, "kl": kl.astype(np.float64), **arrays}
    return Scores(arrays, answers.sha256, {"artefact": "made", "teacher": "t"})


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    answers = some_answers()
    scores = made_scores(np.random.default_rng(0).random(answers.tokens), answers)
    save_scores(scores, tmp_path / "scores.safetensors")
    again = load_scores(tmp_path / "scores.safetensors")
    assert again.arrays.keys() == scores.arrays.keys()
    for name, array in scores.arrays.items():
        assert np.array_equal(array, again.arrays[name])
    assert again.provenance == scores.provenance
    assert again.answers_sha256 == scores.answers_sha256


def test_summary_numbers_are_those_of_numpy() -> None:
    answers = some_answers(40)
    draw = np.random.default_rng(0)
    count = answers.tokens
    scores = made_scores(
        draw.exponential(0.1, count),
        answers,
        log_prob=draw.normal(-2, 1, count).astype(np.float32),
        log_prob_original=draw.normal(-1, 1, count).astype(np.float32),
        agrees=draw.random(count) < 0.9,
    )
    found = summarise(scores, answers)
    code = [
        answers.answers[i].kind == "answers" and answers.answers[i].domain == "code"
        for i in answers.answer_of_token
    ]
    kl = scores.arrays["kl"][code]
    expected = {
        "kl_mean": kl.mean(),
        "kl_p90": np.quantile(kl, 0.9, method="inverted_cdf"),
        "kl_median": np.quantile(kl, 0.5, method="inverted_cdf"),
        "kl_p99": np.quantile(kl, 0.99, method="inverted_cdf"),
        "kl_max": kl.max(),
        "top1_agreement": scores.arrays["agrees"][code].mean(),
        "perplexity": np.exp(-scores.arrays["log_prob"][code].astype(float).mean()),
        "perplexity_original": np.exp(
            -scores.arrays["log_prob_original"][code].astype(float).mean()
        ),
    }
    expected["perplexity_ratio"] = expected["perplexity"] / expected["perplexity_original"]
    for name, value in expected.items():
        entry = require_measurement(found, name, "code")
        assert entry.value == pytest.approx(value, rel=1e-9)
        assert entry.n == {"answers": 20, "tokens": len(kl)}
        if name == "kl_max":
            assert entry.low is None and entry.confidence is None
        else:
            assert entry.low is not None and entry.high is not None
            assert entry.low <= entry.value <= entry.high
            assert entry.confidence == 0.95
    assert not [entry for entry in found if entry.name == "kl_p99.9" and entry.domain == "code"]


def test_raw_documents_are_never_pooled_with_answers() -> None:
    answers = some_answers()
    kl = np.zeros(answers.tokens)
    kl[answers.offsets[-2] :] = 1.0
    found = summarise(made_scores(kl, answers), answers)
    assert require_measurement(found, "kl_mean").value == 0
    document = require_measurement(found, "kl_mean", kind="documents")
    assert document.value == 1.0
    assert document.n == {"documents": 1, "tokens": 8}
    assert document.low is None


@pytest.mark.parametrize("agree", [True, False])
def test_a_share_that_all_answers_have_alike_is_not_known_to_the_last_digit(agree: bool) -> None:
    answers = some_answers(30)
    kl = np.full(answers.tokens, 0.5)
    scores = made_scores(kl, answers, agrees=np.full(answers.tokens, agree))
    found = require_measurement(summarise(scores, answers), "top1_agreement")
    count = found.n["answers"]
    expected = wilson_interval(float(agree), count)
    assert (found.value, found.low, found.high) == expected
    assert found.high != found.low
    if agree:  # the rule of three is one-sided
        assert 1 - 4 / count < expected.low < 1 - 3 / count  # type: ignore[operator]
    constant = require_measurement(summarise(scores, answers), "kl_mean")
    assert constant.low == constant.high == 0.5  # no share
    (same,) = [
        one.difference
        for one in compare_scores(scores, scores, answers, Floor((), ()))
        if one.metric == "top1_agreement" and one.difference.domain == "pooled"
        and one.difference.kind == "answers"
    ]  # fmt: skip
    assert same.low == pytest.approx(-same.high) and same.low < same.value == 0  # type: ignore[operator]


def test_intervals_resample_answers_not_tokens() -> None:
    draw = np.random.default_rng(0)
    answer = np.repeat(np.arange(30), 50)
    # All tokens of an answer are alike, so 1500 tokens know no more than 30 answers.
    values = draw.normal(0, 1, 30)[answer]
    clusters = Clusters(values, answer)
    found = bootstrap(clusters.answers, clusters.mean, seed=0)
    assert found.low is not None and found.high is not None
    expected = 2 * 1.96 * values[::50].std() / np.sqrt(30)
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    draw = np.random.default_rng(0)
    clusters = Clusters(draw.random(200), np.repeat(np.arange(20), 10))
    found = [bootstrap(20, clusters.mean, seed=seed) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
    assert found[0].value == found[2].value


def test_one_answer_has_no_interval() -> None:
    clusters = Clusters(np.array([1.0, 3.0]), np.array([7, 7]))
    assert bootstrap(clusters.answers, clusters.mean, seed=0) == (2.0, None, None)


def test_too_few_answers_have_no_interval() -> None:
    for count in range(1, FEWEST_ANSWERS + 2):
        clusters = Clusters(np.arange(count, dtype=np.float64), np.arange(count))
        found = bootstrap(clusters.answers, clusters.mean, seed=0)
        assert found.value == (count - 1) / 2
        assert (found.low is None) == (found.high is None) == (count < FEWEST_ANSWERS)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 0.5, 0.99, 0.999, 1.0]),
    st.integers(1, 60),
    st.booleans(),
)
def test_weighted_quantile_is_that_of_the_drawn_tokens(
    seed: int, q: float, tokens: int, ties: bool
) -> None:
    draw = np.random.default_rng(seed)
    answer = draw.integers(0, 6, tokens)
    values = draw.normal(size=tokens)
    clusters = Clusters(values.round(0) if ties else values, answer)
    draws = draw.integers(0, clusters.answers, (3, clusters.answers))
    _, number = np.unique(answer, return_inverse=True)
    for row, found in zip(draws, clusters.quantile(draws, q), strict=True):
        drawn = np.concatenate([clusters._values[number == one] for one in row])
        assert found == np.quantile(drawn, q, method="inverted_cdf")
    assert clusters.quantile(draws[0], q) == clusters.quantile(draws, q)[0]


def test_a_verdict_needs_an_interval_without_0() -> None:
    answers = some_answers(30)
    base = np.random.default_rng(0).exponential(0.1, answers.tokens)
    noise = np.random.default_rng(1).uniform(0.6, 1.4, answers.tokens)
    first, better, alike = (made_scores(kl, answers) for kl in (base, base * 0.8, base * noise))
    none = Floor((), ())
    assert compare_scores(better, first, answers, none)[0].verdict == "better"
    assert compare_scores(first, better, answers, none)[0].verdict == "worse"
    found = compare_scores(first, alike, answers, none)[0]
    assert found.verdict == "not distinguishable"
    low, high = found.difference.low, found.difference.high
    assert low is not None and high is not None and low < 0 < high
    # Pairing: the difference is far better known than either mean.
    mean = require_measurement(summarise(first, answers), "kl_mean")
    assert mean.low is not None and mean.high is not None
    paired = compare_scores(better, first, answers, none)[0].difference
    assert paired.low is not None and paired.high is not None
    assert paired.high - paired.low < 0.5 * (mean.high - mean.low)


def test_only_artefacts_of_one_original_and_one_set_are_compared() -> None:
    answers = some_answers()
    scores = made_scores(np.zeros(answers.tokens), answers)
    other = dataclasses.replace(scores, provenance={"artefact": "x", "teacher": "other"})
    with pytest.raises(InputError, match="different originals"):
        compare_scores(scores, other, answers, Floor((), ()))
    with pytest.raises(InputError, match="score the artefact on these answers"):
        summarise(scores, some_answers(seed=1))


def test_a_measurement_says_what_stands_behind_it() -> None:
    entry = Measurement("kl_mean", 0.01, "nats", {"answers": 3, "tokens": 40}, 0.0, 0.02, 0.95)
    assert Measurement(**entry.to_json()) == entry
    assert str(entry) == "kl_mean (pooled): 0.01 nats [0, 0.02] of 3 answers, 40 tokens"


def test_the_gate_says_what_missed_and_by_how_much() -> None:
    answers = some_answers()
    agrees = np.arange(answers.tokens) % 10 > 0
    kl = np.full(answers.tokens, 0.03125)
    found = {"file": summarise(made_scores(kl, answers, agrees=agrees), answers)}

    def check(*gates: str) -> None:
        check_gates([parse_gate(gate) for gate in gates], found)

    check("kl_mean<=0.03125", "top1_agreement >= 0.85", "kl_p99<=1")
    with pytest.raises(
        GateError, match=r"file: kl_mean \(pooled\): .*limit is kl_mean<=0\.02$"
    ) as got:
        check("kl_mean<=0.02")
    assert got.value.exit_code == 3
    with pytest.raises(GateError, match=r"kl_mean<=0\.01; file: top1_agreement .*>=0\.95"):
        check("kl_mean<=0.01", "top1_agreement>=0.95")
    found["file"] = [
        dataclasses.replace(require_measurement(found["file"], "kl_mean"), value=np.nan)
    ]
    with pytest.raises(GateError):
        check("kl_mean<=1")
    with pytest.raises(InputError, match="there is no measurement 'top1_agreement'"):
        check("top1_agreement>=0.5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kl_mean", "a gate is METRIC<=NUMBER"),
        ("kl_mean<=much", "a gate is METRIC<=NUMBER"),
        ("kl_mean<0.1", "a gate is METRIC<=NUMBER"),
        ("kl_mean<=nan", "not a number"),
        ("kl_mean>=0.1", "is better lower, so its gate is kl_mean<=NUMBER"),
        ("top1_agreement<=0.1", "is better higher, so its gate is top1_agreement>=NUMBER"),
        ("kl_men<=0.1", "there is no metric 'kl_men': the metrics are kl_mean, "),
        ("perplexity_original<=9", "cannot be a gate.*kl_mean"),
    ],
)
def test_a_gate_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_gate(text)
