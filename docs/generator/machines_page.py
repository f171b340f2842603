"""The numbers of docs/how-to/one-trillion.md: from benchmarks/paper_plan.json and
cluster_simulation.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from results import result

SHOWN = (64, 256, 512, 1024, 2048)
"""Numbers of parts of the simulation's table."""


def one_trillion() -> str:
    """The arithmetic, the table of clusters, and that of failures."""
    plan, simulated = result("paper_plan"), result("cluster_simulation")
    return "\n\n".join(
        (
            "\n".join(_arithmetic(plan)),
            _clusters(plan),
            _failures(simulated, 1),
            f"The same with a hundred times the text ({_tokens(100 * plan['tokens'])} tokens):",
            _failures(simulated, 100),
        )
    )


def _arithmetic(plan: Any) -> Iterable[str]:
    rates, assumed, reading = plan["rates"], plan["assumed"], plan["read_seconds"]
    fp8, bf16 = plan["weights_bytes"].values()
    yield f"- Text: {plan['samples']:,} samples of 2,048 tokens, {_tokens(plan['tokens'])} tokens."
    yield (
        f"- Weights: {plan['parameters'] / 1e9:,.0f} G parameters, {plan['active'] / 1e9:.1f} G of "
        f"them for a token: {fp8 / 1e12:.2f} TB as published (FP8), {bf16 / 1e12:.2f} TB in "
        "16 bits."
    )
    yield (
        f"- Computing: {plan['flops_per_token'] / 1e9:.1f} GFLOP a token, over "
        f"{rates['flops'] / 1e12:.0f} TFLOP/s (measured, with all sums) is "
        f"{plan['tokens_per_second_of_a_gpu']:,} tokens a second of one GPU; all text is "
        f"**{plan['compute_gpu_hours']} GPU hours**."
    )
    yield (
        f"- Reading the weights once: {fp8 / 1e12:.2f} TB over {rates['disk'] / 1e9:.2f} GB/s (the "
        f"disk that was measured) is {_time(reading['measured disk'])}; over "
        f"{assumed['hosts_read'] / 1e9:.1f} GB/s (assumed: some NVMe disks) "
        f"{_time(reading['assumed disks'])}. Copying {bf16 / 1e12:.2f} TB to a GPU over "
        f"{rates['copy'] / 1e9:.1f} GB/s (measured, from memory) is "
        f"{_time(reading['copy to the device'])}."
    )
    yield (
        "- A part hides its reading behind its computing from "
        f"{_tokens(plan['tokens_that_hide_reading'])} tokens on."
    )
    yield (
        f"- Fetching the model to a machine over {assumed['network'] / 1e9:.2f} GB/s (assumed): "
        f"{_time(plan['fetch_seconds'])}. Disk of each machine: {fp8 / 1e12:.2f} TB, and hidden "
        "states (below) of each GPU."
    )
    each = plan["statistics_bytes"]
    yield (
        f"- Sums of a part: {each / 1e9:.1f} GB, and a token sample of at most "
        f"{plan['sample_bytes'] / 1e9:.1f} GB in all: 64 parts leave "
        f"{(64 * each + plan['sample_bytes']) / 1e9:.0f} GB where they are merged."
    )
    yield (
        f"- `rerouted` of {plan['sampled_tokens']:,} sampled tokens: {plan['rerouted_tflop']} "
        f"TFLOP on the machine that merges, {plan['rerouted_hours']} hours at "
        f"{assumed['head_flops'] / 1e12:.0f} TFLOP/s (assumed)."
    )


def _clusters(plan: Any) -> str:
    rows = [
        (
            row["gpus"], row["parts"], _tokens(row["tokens_of_a_part"]), _time(row["part_seconds"]),
            row["limit"], f"{row['hours']:.2f}", f"{row['hours_alone']:.2f}",
            f"{row['hidden_states_bytes_of_a_gpu'] / 1e9:.1f} GB",
        )
        for row in plan["clusters"]
    ]  # fmt: skip
    head = (
        "GPUs", "parts", "tokens of a part", "a part takes", "limit", "hours",
        "hours if every GPU reads for itself", "hidden states",
    )  # fmt: skip
    return _table(head, rows)


def _failures(simulated: Any, text: int) -> str:
    rows = []
    for row in simulated["rows"]:
        if row["text"] == text and row["parts"] in SHOWN:
            lost, seconds = row["lost_worker_seconds"], row["seconds"]
            rows.append(
                (
                    row["failures"], row["parts"], _time(row["part_seconds"]),
                    _hours(row["undisturbed_seconds"]),
                    f"{_hours(seconds['mean'])} [{_hours(seconds['low'])}, "
                    f"{_hours(seconds['high'])}]",
                    _hours(row["seconds_95th"]), _hours(row["expected_at_least"]),
                    f"{_hours(lost['mean'])} [{_hours(lost['low'])}, {_hours(lost['high'])}]",
                    _hours(row["lost_expected"]), row["most_attempts"],
                )
            )  # fmt: skip
    head = (
        "failures", "parts", "a part", "hours undisturbed", "hours", "19 of 20 within",
        "expected at least", "worker hours lost", "expected", "most attempts",
    )  # fmt: skip
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}"


def _time(seconds: float) -> str:
    return f"{seconds / 60:,.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _tokens(count: float) -> str:
    return f"{count / 1e6:,.1f} M" if count < 1e9 else f"{count / 1e9:,.1f} G"
