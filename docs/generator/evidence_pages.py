"""docs/measured.md on what was found out by asking models: tasks, loops, published claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page_parts import table
from results import percent, result


def claims() -> str:
    """The differences of published cards through paired statistics."""
    found = result("claims_statistics")
    words = ("stands", "open", "cannot stand", "no difference")
    rows = [
        (card, *(str(counts.get(word, 0)) for word in words))
        for card, counts in found["verdicts"].items()
    ]
    stand = [
        f"{one['what']} (card {one['card']}: {one['before']} to {one['after']} of {one['items']}, "
        f"p at most {one['p_worst']:.2g})"
        for one in found["differences"]
        if one["verdict"] == "stands"
    ]
    total = sum(sum(counts.values()) for counts in found["verdicts"].values())
    none = found["rates_of_nothing"][-2]
    return (
        "## Differences that three published cards state (`claims_statistics.py`)\n\nCounts of "
        "right answers do not say which questions flipped, so each difference is tested for the "
        "flips that favour it most and least (exact McNemar, 5 %): it stands when it does in "
        "both, cannot stand when it does in neither, and is open otherwise.\n\n"
        + table(("card", *words), rows)
        + f"\n\nOf {total}, these stand: {'; '.join(stand)}. {none['what'].capitalize()} of "
        f"{none['replies']}: the rate may be up to {percent(none['at_most'])}."
    )


def tasks_divergence() -> str:
    """What pruning does to gemmule's tasks and loops, beside its divergence."""
    found = result("tasks_divergence")
    rows = [
        (
            one["criterion"], percent(one["dropped"]), _span(one["divergence"], "{:.4f}"),
            _span(one["accuracy"], "{:.3f}"), _span(one["degenerate_replies"], "{:.3f}"),
        )
        for one in found["models"]
    ]  # fmt: skip
    agreement = found["agreement_with_divergence"]["accuracy"]
    pairs, questions = agreement["pairs"], sum(one["items"] for one in found["tasks"].values())
    return (
        "## Divergence beside tasks and loops (`tasks_divergence.py`)\n\ngemmule pruned by three "
        f"criteria to three sizes: mean KL on {found['held_out']['documents']} held-out documents, "
        f"share of {questions} questions that are right, share of degenerate replies to "
        f"{found['loops']['prompts']} prompts, with 95 % intervals.\n\n"
        + table(("criterion", "dropped", "mean KL", "right", "degenerate"), rows)
        + f"\n\nOf {pairs['pairs']} pairs of these, both numbers tell {pairs['both ordered, same']} "
        f"apart in the same order and {pairs['both ordered, opposite']} in the opposite one; "
        f"{pairs['only by divergence']} are told apart by divergence alone and "
        f"{pairs['by neither']} by neither. Rank correlation of all: "
        f"{_span(agreement['all nine'], '{:.2f}')}."
    )


def loops() -> str:
    """Precision and recall of the detectors of degenerate replies."""
    found = result("loops")
    detectors = [(one["detector"], one["group"], one) for one in found["detectors"]]
    groups = [("all of the group", name, one) for name, one in found["verdicts"]["groups"].items()]
    rows = [
        (
            name, group, _rate(one["precision"]), _rate(one["recall"]),
            f"{one['false_alarms']['hits']} of {one['false_alarms']['of']:,}",
        )
        for name, group, one in (*detectors, *groups)
    ]  # fmt: skip
    written = found["generated"]["verdict_loop"]
    return (
        "## Detectors of degenerate replies (`loops.py`)\n\nOn "
        f"{found['labelled']['tried_on']:,} labelled texts that no threshold was chosen on, loops "
        "of several kinds and text that only looks repetitive; in brackets 95 % intervals. A "
        "detector's recall is over all kinds of its group.\n\n"
        + table(("detector", "finds", "precision", "recall", "false alarms"), rows)
        + "\n\nOn replies that gemmule and its pruned forms wrote, with a loop where the same "
        f"text comes again to the end: precision {_rate(written['precision'])}, recall "
        f"{_rate(written['recall'])}."
    )


def _rate(one: Mapping[str, Any]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _span(one: Mapping[str, Any], form: str) -> str:
    value, low, high = (form.format(one[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
