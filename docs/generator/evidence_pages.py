"""docs/measured.md on what was found out by asking models: tasks, loops, published claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page_parts import code, table
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
        + "\n\nOn replies that gemmule and its pruned forms wrote, with a loop where the "
        "tokens that came later repeat with one period: precision "
        f"{_rate(written['precision'])}, recall {_rate(written['recall'])}."
    )


def _rate(one: Mapping[str, Any]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def tasks_and_divergence() -> str:
    """What pruning does to gemmule's tasks and loops beside its divergence."""
    found = result("tasks_divergence")
    tasks, loops = found["tasks"], found["loops"]
    rows = [
        (
            "none" if not one["dropped"] else percent(one["dropped"]),
            "" if not one["dropped"] else code(one["criterion"]),
            "" if not one["dropped"] else f"{one['divergence']['value']:.4f}",
            _share(one["accuracy"]), *(_plain(one["by_task"][task]) for task in tasks),
            f"{100 * one['degenerate_replies']['value']:.1f} %",
        )
        for one in found["models"]
    ]  # fmt: skip
    agreement = found["agreement_with_divergence"]
    orders = [
        (
            name, _tau(one["all nine"]), _tau(one["among the three of a size"]),
            str(one["pairs"]["both ordered, same"]), str(one["pairs"]["both ordered, opposite"]),
            str(one["pairs"]["only by divergence"]), str(one["pairs"][f"only by {name}"]),
        )
        for name, one in agreement.items()
    ]  # fmt: skip
    items = next(iter(tasks.values()))["items"]
    return (
        "## Divergence beside tasks and loops (`tasks_divergence.py`)\n\n"
        f"gemmule pruned, in BF16 by llama.cpp. Tasks: {items} questions each of "
        f"{', '.join(tasks)}, greedy; accuracy is the mean of the {len(tasks)}. "
        "Degenerate replies: "
        f"{loops['prompts']} prompts, {loops['replies_to_each']} replies each at temperature "
        f"{loops['temperature']}, at most {loops['most_tokens']} tokens. Divergence as above, "
        f"{found['held_out']['documents']} documents. In brackets 95 % intervals.\n\n"
        + table(
            ("dropped", "criterion", "KL", "accuracy", *tasks, "degenerate replies"), rows
        )
        + "\n\nDoes the order by divergence agree? Kendall's tau (1: the same order, 0: none), "
        "over all nine and among the three of one size, and how many of the "
        f"{agreement['accuracy']['pairs']['pairs']} pairs are told apart (95 %) by both in the "
        "same way, by both in opposite ways, or by one only.\n\n"
        + table(
            ("divergence against", "tau, all", "tau, same size", "same", "opposite",
             "only divergence", "only the other"), orders)
    )  # fmt: skip


def engine_speed() -> str:
    """Speed and memory of gemmule's artefacts beside the original in the real engines."""
    found = result("speed")
    facts = found["facts"]
    rows = []
    for model in found["models"]:
        for engine in dict.fromkeys(one["domain"] for one in model["numbers"]):
            numbers = {one["name"]: one for one in model["numbers"] if one["domain"] == engine}
            rows.append((code(model["model"]), engine, *_speeds(numbers)))
    return (
        "## Speed in llama.cpp and mlx-lm (`speed.py`)\n\n"
        f"gemmule ({found['of_experts']} experts a layer) beside {found['experts']} of them; a "
        f"prompt of {facts['prompt_tokens']} tokens, an answer of {facts['answer_tokens']}, one "
        f"thread, {facts['turns']} turns of each model in alternation. Ratios to the original of "
        "the same engine, in brackets 95 % intervals; of the original tokens per second. CPU is "
        "the engine's processor time for the same tokens, which what else the machine does "
        "disturbs less. A model of this size says nothing of another one's speed.\n\n"
        + table(
            ("model", "engine", "prefill", "generation", "prefill, CPU", "generation, CPU",
             "first token", "peak memory"), rows)
    )  # fmt: skip


def _speeds(numbers: Mapping[str, Any]) -> list[str]:
    """The cells of a model in an engine: of the original its own numbers, else ratios."""
    names = ("prefill_speed", "generation_speed", "prefill_cpu", "generation_cpu")
    ratios = [numbers.get(f"{name}_ratio") for name in names]
    if any(ratios):
        cells = [_ratio(one) for one in ratios]
    else:
        cells = [f"{numbers[name]['value']:.0f}" if name in numbers else "" for name in names[:2]]
        cells += ["", ""]
    first, memory = numbers.get("time_to_first_token"), numbers.get("peak_memory_ratio")
    return [*cells, f"{first['value']:.2f} s" if first else "", _ratio(memory)]


def _ratio(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    if one["low"] is None:
        return f"{one['value']:.2f}"
    return f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _share(one: Mapping[str, Any]) -> str:
    low, high = 100 * one["low"], 100 * one["high"]
    return f"{100 * one['value']:.1f} % [{low:.1f}, {high:.1f}]"


def _plain(one: Mapping[str, Any]) -> str:
    return f"{100 * one['value']:.0f} %"


def _tau(one: Mapping[str, Any]) -> str:
    return f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
