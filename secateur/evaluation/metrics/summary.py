"""From tokens to numbers: per domain and pooled, each with an interval and its samples.

    kl_mean, kl_median, kl_p99, kl_p99.9, kl_max      nats per token
    top1_agreement                                    fraction of tokens
    perplexity, perplexity_original, perplexity_ratio

Answers and raw documents are never pooled together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from secateur.errors import InputError
from secateur.evaluation.intervals import CONFIDENCE, Clusters, Draws, Interval, bootstrap
from secateur.evaluation.measurement import MEAN_KL, POOLED, TOP1, Measurement
from secateur.evaluation.metrics.divergence import Scores
from secateur.evaluation.tokens.answers import AnswerSet, Kind, domains_of

NATS = "nats per token"
QUANTILES = {"kl_median": 0.5, "kl_p99": 0.99, "kl_p99.9": 0.999}
SEED = 0

Verdict = Literal["lower", "higher", "not distinguishable"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of mean KL of two artefacts on the same answers, first minus second.

    `verdict` is about the first, and says `lower` or `higher` only when the interval of the
    difference excludes 0.
    """

    difference: Measurement
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {"difference": self.difference.to_json(), "verdict": self.verdict}


def summarise(scores: Scores, answers: AnswerSet, *, seed: int = SEED) -> tuple[Measurement, ...]:
    """All numbers of an artefact, pooled first, then by domain; answers before raw documents.

    Intervals are 95 % bootstrap intervals over answers. A quantile is given only when at least
    one token is expected beyond it, an interval only for two answers or more.
    """
    _same_answers(scores, answers)
    found: list[Measurement] = []
    for kind, domain, tokens in _groups(answers):
        found += _measured(scores, answers, tokens, domain, kind, seed)
    return tuple(found)


def compare(
    first: Scores, second: Scores, answers: AnswerSet, *, seed: int = SEED
) -> tuple[Comparison, ...]:
    """Which of two artefacts is nearer to the original, pooled and by domain.

    Paired: both are resampled by the same answers. Raises InputError unless both were scored on
    these answers, against the same original.
    """
    _same_answers(first, answers)
    _same_answers(second, answers)
    if first.provenance["teacher"] != second.provenance["teacher"]:
        raise InputError(
            "the two artefacts were scored against different originals: score them against one"
        )
    found = []
    for kind, domain, tokens in _groups(answers):
        gap = Clusters(first.kl[tokens] - second.kl[tokens], answers.answer_of_token[tokens])
        interval = bootstrap(gap.answers, gap.mean, seed=seed)
        samples = {"answers": gap.answers, "tokens": len(tokens)}
        difference = _measurement("kl_mean_difference", NATS, interval, samples, domain, kind)
        found.append(Comparison(difference, _verdict(interval)))
    return tuple(found)


def _verdict(interval: Interval) -> Verdict:
    lower, higher, open_ = get_args(Verdict)
    if interval.low is None or interval.high is None:
        return open_  # type: ignore[no-any-return]
    if interval.high < 0:
        return lower  # type: ignore[no-any-return]
    return higher if interval.low > 0 else open_  # type: ignore[no-any-return]


def _groups(answers: AnswerSet) -> Iterator[tuple[Kind, str, NDArray[np.intp]]]:
    """(kind, domain, indices of the scored tokens): pooled first, for each kind there is."""
    for kind in get_args(Kind):
        domains = domains_of(answers.answers, kind)
        for domain in [POOLED, *domains] if domains else []:
            chosen = [
                entry.kind == kind and domain in (POOLED, entry.domain) for entry in answers.answers
            ]
            yield kind, domain, np.flatnonzero(np.array(chosen)[answers.answer_of_token])


def _measured(
    scores: Scores,
    answers: AnswerSet,
    tokens: NDArray[np.intp],
    domain: str,
    kind: Kind,
    seed: int,
) -> Iterator[Measurement]:
    """The numbers of one group of tokens."""
    answer = answers.answer_of_token[tokens]
    kl = Clusters(scores.kl[tokens], answer)
    agrees = Clusters(scores.agrees[tokens].astype(np.float64), answer)
    loss = Clusters(-scores.student[tokens].astype(np.float64), answer)
    original = Clusters(-scores.teacher[tokens].astype(np.float64), answer)
    samples = {"answers": kl.answers, "tokens": len(tokens)}
    interval = partial(bootstrap, kl.answers, seed=seed)

    def made(name: str, unit: str, found: Interval) -> Measurement:
        return _measurement(name, unit, found, samples, domain, kind)

    yield made(MEAN_KL, NATS, interval(kl.mean))
    for name, q in QUANTILES.items():
        if (1 - q) * len(tokens) >= 1:
            yield made(name, NATS, interval(partial(kl.quantile, q=q), width=kl.width))
    # Resampling cannot exceed the largest value seen, so a maximum has no bootstrap interval.
    yield made("kl_max", NATS, Interval(float(scores.kl[tokens].max()), None, None))
    yield made(TOP1, "fraction of tokens", interval(agrees.mean))

    def ratio(draws: Draws) -> NDArray[np.float64]:
        return np.exp(loss.mean(draws) - original.mean(draws))

    def perplexity(of: Clusters) -> Interval:
        return interval(lambda draws: np.exp(of.mean(draws)))

    yield made("perplexity", "per token", perplexity(loss))
    yield made("perplexity_original", "per token", perplexity(original))
    yield made("perplexity_ratio", "times the original", interval(ratio))


def _measurement(
    name: str, unit: str, interval: Interval, samples: dict[str, int], domain: str, kind: Kind
) -> Measurement:
    return Measurement(
        name=name,
        value=interval.value,
        unit=unit,
        n=samples,
        low=interval.low,
        high=interval.high,
        confidence=None if interval.low is None else CONFIDENCE,
        domain=domain,
        kind=kind,
    )


def _same_answers(scores: Scores, answers: AnswerSet) -> None:
    if scores.answers_sha256 != answers.sha256:
        raise InputError(
            f"the scores of {scores.provenance['artefact']} are of answers "
            f"{scores.answers_sha256[:12]}, but these are {answers.sha256[:12]}: "
            "score the artefact on these answers"
        )
