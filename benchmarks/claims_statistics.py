"""Which differences of three published cards stand? Writes claims_statistics.json.

The cards say how many answers of each model were right, and not which. So what can be said is
bounded: at best the better model is right wherever the other is (fewest flips, smallest p), at
worst the two are right on as different questions as the counts allow (most flips, largest p). With
McNemar's exact test at 5 %, two-sided:

    stands        p <= 5 % in the worst case: whatever the answers were
    cannot stand  p > 5 % in the best case: no list of answers can show it
    open          in between: the answers would have to be published

Beside it: Fisher's exact test (as if the models had answered different questions), Wilson
intervals, Cohen's h, and the questions needed to see a difference of this size with 80 % power, at
best and where the two models err independently. Cards make many comparisons: `fisher_p_adjusted`
is Benjamini and Hochberg's over those of one card. Figures are as the cards give them (percentages
of 50 questions as counts); card 003 names no sample and repeats figures of card 002, so its 50 is
an assumption.

    python benchmarks/claims_statistics.py
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from goals import result_path
from scipy import stats

from secateur.evaluation.tasks.paired import (
    LEVEL,
    cohens_h,
    items_needed,
    mcnemar,
    possible_pairings,
    wilson,
)


class Difference(NamedTuple):
    """Right answers of two models to the same questions; `marked`: the card itself says that
    answers of this task were not read."""

    card: str
    what: str
    before: int
    after: int
    items: int
    said: str = ""
    marked: bool = False


GPQA = {
    "original, 128 experts": 162,
    "109 experts, v3 (the card's)": 159,
    "109 experts, v2": 156,
    "120 experts, v4": 154,
    "120 experts, v3": 152,
    "109 experts, older": 148,
}
"""Card 001: right answers of 198, at Q6_K, after its second pass."""

TASKS = {
    "elementary mathematics": (46, 45, 44),
    "philosophy": (46, 44, 37),
    "world religions": (45, 32, 24),
    "college computer science": (28, 38, 34),
    "high school mathematics*": (12, 22, 24),
    "abstract algebra*": (6, 14, 14),
    "college mathematics*": (8, 9, 12),
}
"""Card 002: right answers of 50 of the original, with 20 % and with 30 % of the experts dropped;
*: the card says that answers were not read."""

LOOPS = {
    "coding": (3, 0, 0),
    "mathematical reasoning": (3, 0, 0),
    "philosophy": (3, 0, 0),
    "long context": (2, 1, 0),
    "repetition": (3, 1, 1),
}
"""Card 002: prompts, loops of the original, loops with 30 % dropped."""


def differences() -> list[Difference]:
    (_, original), (_, own), *others = GPQA.items()
    found = [
        Difference(
            "001", "GPQA Diamond: original, v3", original, own, 198, "costs only 1.52 points"
        ),
        Difference(
            "001", "GPQA Diamond: v2, v3", GPQA["109 experts, v2"], own, 198, "v3 beats v2 by 1.51"
        ),
    ]
    found += [
        Difference("001", f"GPQA Diamond: original, {name}", original, right, 198)
        for name, right in others
    ]
    found += [
        Difference("001", f"GPQA Diamond: {name}, v3", right, own, 198)
        for name, right in others[1:]
    ]
    said = {
        ("philosophy", 30): "trades 18 points",
        ("world religions", 30): "trades 42 points",
        ("elementary mathematics", 30): "retains strong performance",
        ("college computer science", 30): "retains strong performance",
    }
    for share, at in ((20, 1), (30, 2)):
        found += [
            Difference(
                "002", f"{task.rstrip('*')}, {share} % dropped", counts[0], counts[at], 50,
                said.get((task, share), ""), task.endswith("*"),
            )
            for task, counts in TASKS.items()
        ]  # fmt: skip
    found += [
        Difference("002", f"loops, {domain}", before, after, n, _LOOP_CLAIMS.get(domain, ""))
        for domain, (n, before, after) in LOOPS.items()
    ]
    found += [
        Difference("003", "elementary mathematics, 20 % dropped", 46, 45, 50),
        Difference("003", "philosophy, 20 % dropped", 46, 44, 50),
        Difference("003", "GSM8K, 20 % dropped", 43, 42, 50),
    ]
    return found


_LOOP_CLAIMS = {"long context": "outperforms the original (0 % against 50 % loops)"}


def judge(one: Difference) -> dict[str, Any]:
    best, worst = possible_pairings(one.before, one.after, one.items)
    p_best, p_worst = mcnemar(best.lost, best.gained), mcnemar(worst.lost, worst.gained)
    table = [[count, one.items - count] for count in (one.before, one.after)]
    rates = one.before / one.items, one.after / one.items
    apart = rates[0] * (1 - rates[1]) + rates[1] * (1 - rates[0])
    change = rates[1] - rates[0]
    verdict = "open"
    if p_best > LEVEL:
        verdict = "cannot stand"
    elif p_worst <= LEVEL:
        verdict = "stands"
    if one.before == one.after:
        verdict = "no difference"
    return {
        **one._asdict(),
        "points": round(100 * change, 2),
        "intervals": [
            [round(bound, 4) for bound in wilson(count, one.items) if bound is not None]
            for count in (one.before, one.after)
        ],
        "p_best": float(f"{p_best:.3g}"),
        "p_worst": float(f"{p_worst:.3g}"),
        "fisher_p": float(f"{stats.fisher_exact(table).pvalue:.3g}"),
        "cohens_h": round(cohens_h(*rates), 3),
        "items_needed_at_best": items_needed(abs(change), change),
        "items_needed_if_independent": items_needed(apart, change),
        "verdict": verdict,
    }


def zero_rates() -> list[dict[str, Any]]:
    """What "never" of so few replies leaves possible."""
    clean = [domain for domain, (_, _, after) in LOOPS.items() if after == 0]
    whole = sum(n for n, _, _ in LOOPS.values())
    return [
        {
            "card": "002",
            "what": what,
            "replies": count,
            "at_most": round(float(wilson(0, count).high or 0), 3),
        }
        for what, count in (
            ("no loop in coding, mathematics and philosophy", 9),
            (f"no loop in {len(clean)} of 5 domains", sum(LOOPS[domain][0] for domain in clean)),
            ("no collapse in any reply", whole),
            ("replies so that 0 loops mean less than 1 %", 381),
        )
    ]


def second_pass() -> dict[str, Any]:
    """Card 001 asked 10 questions again that had no answer, for a letter of four: 5 were right."""
    found = stats.binomtest(5, 10, 0.25)
    low, high = found.proportion_ci(method="wilson")
    return {
        "card": "001",
        "what": "5 of 10 right in the second pass, said to be more than guessing (2.5)",
        "p_of_guessing": float(f"{stats.binomtest(5, 10, 0.25, alternative='greater').pvalue:.3g}"),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "raw_score": 154,
        "patched_score": 159,
        "note": "the step from 154 to 159 is larger than the difference to v2 and to the original",
    }


def main() -> None:
    found = [judge(one) for one in differences()]
    for card in sorted({one["card"] for one in found}):
        mine = [one for one in found if one["card"] == card]
        adjusted = stats.false_discovery_control([one["fisher_p"] for one in mine])
        for one, p in zip(mine, adjusted, strict=True):
            one["fisher_p_adjusted"] = float(f"{p:.3g}")
    verdicts: dict[str, dict[str, int]] = {}
    for one in found:
        counts = verdicts.setdefault(one["card"], {})
        counts[one["verdict"]] = counts.get(one["verdict"], 0) + 1
        print(
            f"{one['card']} {one['what']:58} {one['before']:>3} {one['after']:>3} of "
            f"{one['items']:<4} p {one['p_best']:.2g} to {one['p_worst']:.2g}, "
            f"Fisher {one['fisher_p']:.2g}: {one['verdict']}"
        )
    report = {
        "what": "which differences of three published cards stand, whatever the answers were",
        "level": LEVEL,
        "verdicts": verdicts,
        "differences": found,
        "rates_of_nothing": zero_rates(),
        "second_pass": second_pass(),
    }
    result_path("claims_statistics").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
