"""How often replies were degenerate, how sure that is, and whether the artefact differs.

Several replies to one prompt, drawn with different seeds, depend on each other. A rate's interval
is Wilson's with the number of replies that so many dependent ones are worth (the design effect,
Kish 1965, from the spread between prompts; Dean & Pagano 2015 for Wilson with it): at least as many
as there are prompts, at most as there are replies. Where nothing or everything was found, nothing
is known of the dependence, and prompts are counted.

Original and artefact are compared prompt by prompt (`evaluation.tasks.paired`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from secateur.evaluation.intervals import CONFIDENCE, wilson_interval
from secateur.evaluation.measurement import POOLED, Measurement
from secateur.evaluation.robustness.detectors.base import GROUPS
from secateur.evaluation.robustness.registry import all_detectors
from secateur.evaluation.robustness.verdict import Verdict
from secateur.evaluation.tasks.paired import PairedResult, compare_paired

KIND = "loops"
OF_REPLIES = "of replies"


@dataclass(frozen=True, slots=True)
class JudgedReply:
    """One reply: to which prompt (`prompt` names it), of what domain, what became of it, and its
    tokens where the server counts them. `verdict` is None where the server gave an error."""

    prompt: str
    domain: str
    verdict: Verdict | None
    tokens: int | None = None


Test = Callable[[Verdict], bool]


def _words(*words: str) -> Test:
    return lambda verdict: verdict.word in words


RATES: Mapping[str, Test] = {
    "degenerate_rate": _words(*GROUPS),
    **{f"{group}_rate": _words(group) for group in GROUPS},
    "truncated_rate": _words("truncated"),
}
"""Name of a rate -> which replies it counts. A reply has one word, so that these add up."""


def loop_measurements(replies: Sequence[JudgedReply]) -> tuple[Measurement, ...]:
    """The rates of one model, in every domain and pooled, those of single detectors pooled only,
    and how many replies could not be judged."""
    found: list[Measurement] = []
    for domain, some in _by_domain(replies):
        judged = [one for one in some if one.verdict is not None]
        if not judged:
            continue
        found += [_rate(name, judged, test, domain) for name, test in RATES.items()]
        tokens = [one.tokens for one in judged if one.tokens is not None]
        if tokens:
            n = {"replies": len(tokens)}
            value = float(median(tokens))
            found.append(Measurement("reply_tokens_median", value, "tokens", n, None, None, None,
                                     domain, KIND))  # fmt: skip
        if domain == POOLED:
            for detector in all_detectors():
                found.append(_rate(detector.name, judged, _finds(detector.name), domain))
    errors = sum(one.verdict is None for one in replies)
    n = {"replies": len(replies)}
    found.append(Measurement("server_errors", errors, "replies", n, domain=POOLED, kind=KIND))
    return tuple(found)


def loop_differences(
    original: Sequence[JudgedReply], artefact: Sequence[JudgedReply]
) -> tuple[Measurement, ...]:
    """How much more often the artefact's replies are degenerate than the original's to the same
    prompts: rate, p-value of the paired test, and how many prompts would show it.

    Prompts that were not answered as often by both (server errors) are left out.
    """
    found: list[Measurement] = []
    theirs = dict(_by_domain(artefact))
    for domain, some in _by_domain(original):
        for name in ("degenerate_rate", "loop_rate"):
            paired = _compare(name, domain, some, theirs.get(domain, ()))
            if paired is not None:
                found += _difference(name, domain, paired)
    return tuple(found)


def effective_count(groups: Sequence[Sequence[bool]]) -> float:
    """Independent replies that so many groups of dependent ones are worth."""
    total, prompts = sum(map(len, groups)), len(groups)
    rate = sum(map(sum, groups)) / total
    if prompts == total or rate in (0, 1):
        return float(prompts)
    off = np.array([sum(group) - rate * len(group) for group in groups])
    # Variance of a ratio of sums over groups (Cochran 1977, 6.4), over that of single replies.
    variance = float(np.sum(off**2)) / total**2 * prompts / (prompts - 1) if prompts > 1 else 0.0
    independent = rate * (1 - rate) / total
    effect = max(1.0, variance / independent)
    return max(float(prompts), total / effect)


def _rate(name: str, judged: Sequence[JudgedReply], test: Test, domain: str) -> Measurement:
    groups = [[_holds(one, test) for one in some] for some in _by_prompt(judged).values()]
    count = sum(map(len, groups))
    found = wilson_interval(sum(map(sum, groups)) / count, effective_count(groups))
    n = {"replies": count, "prompts": len(groups)}
    return Measurement(
        name, found.value, OF_REPLIES, n, found.low, found.high, CONFIDENCE, domain, KIND
    )


def _holds(one: JudgedReply, test: Test) -> bool:
    return one.verdict is not None and test(one.verdict)


def _finds(name: str) -> Test:
    return lambda verdict: verdict.found(name)


def _compare(
    name: str, domain: str, original: Sequence[JudgedReply], artefact: Sequence[JudgedReply]
) -> PairedResult | None:
    before, after = (
        {
            prompt: [float(_holds(one, RATES[name])) for one in some if one.verdict is not None]
            for prompt, some in _by_prompt(replies).items()
        }
        for replies in (original, artefact)
    )
    both = [
        prompt
        for prompt, scores in before.items()
        if scores and len(after.get(prompt, ())) == len(scores)
    ]
    if not both:
        return None
    one, other = ({prompt: scores[prompt] for prompt in both} for scores in (before, after))
    return compare_paired(f"{name} in {domain}", one, other)


def _difference(name: str, domain: str, paired: PairedResult) -> list[Measurement]:
    n = {"prompts": paired.flips.items}
    low, high = paired.difference.low, paired.difference.high
    confidence = None if low is None else CONFIDENCE
    base = f"{name}_difference"
    found = [
        Measurement(base, paired.difference.value, OF_REPLIES, n, low, high, confidence,
                    domain, KIND),
        Measurement(f"{base}_p_value", paired.p_value, paired.test, n, domain=domain, kind=KIND),
    ]  # fmt: skip
    if paired.needed is not None:
        needed = float(paired.needed)
        name = f"{base}_prompts_needed"
        found.append(Measurement(name, needed, "prompts", n, domain=domain, kind=KIND))
    return found


def _by_domain(replies: Iterable[JudgedReply]) -> list[tuple[str, list[JudgedReply]]]:
    """All of them as `POOLED`, then those of each domain where there are several."""
    pooled = list(replies)
    domains: dict[str, list[JudgedReply]] = {}
    for one in pooled:
        domains.setdefault(one.domain, []).append(one)
    return [(POOLED, pooled), *(domains.items() if len(domains) > 1 else ())]


def _by_prompt(replies: Iterable[JudgedReply]) -> dict[str, list[JudgedReply]]:
    found: dict[str, list[JudgedReply]] = {}
    for one in replies:
        found.setdefault(one.prompt, []).append(one)
    return found
