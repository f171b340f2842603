"""README's table of results, from benchmarks/*.json."""

from __future__ import annotations

from goals_page import goals_met
from page_parts import table
from results import (
    NEAREST,
    OURS,
    THEIRS,
    Spread,
    gb,
    gib,
    held_out,
    losses,
    peak_of,
    result,
    seconds_of,
)

MIB = 1 << 20
Row = tuple[str, str, str, str]


def readme_table() -> str:
    """Ours against theirs, in a screen."""
    goals = (
        "goals of the project that are met", goals_met(), "",
        "[each](docs/measured.md#the-goals-goalspy)",
    )  # fmt: skip
    rows = [*_lost(), *_written(), *_calibrated(), _sizes(), goals]
    return table(("", "secateur", "against", "ratio, sample"), rows)


def _lost() -> list[Row]:
    quarter = losses()[OURS, 0.25]
    theirs, nearest = losses()[THEIRS, 0.25], losses()[NEAREST, 0.25]
    documents, _ = held_out()
    rounding = result("rounding")["types"]["Q4_K_M"]
    return [
        (
            f"KL after dropping 25 % of gemmule's experts, nats per token ({documents} documents)",
            f"{quarter.kl.value:.3f}",
            f"{theirs.kl.value:.3f} (REAP), {nearest.kl.value:.3f} (`{NEAREST}`)",
            f"{quarter.of_reap}, {nearest.ours_of_it} of it",
        ),
        (
            f"KL of gemmule in Q4_K_M, the same size ({rounding['answers']} answers)",
            f"{rounding['kl_mean']['feedback']:.4f} (`--rounding feedback`)",
            f"{rounding['kl_mean']['nearest']:.4f} (as llama-quantize rounds)",
            f"{Spread(*rounding['ratio'])} of it",
        ),
    ]


def _written() -> list[Row]:
    speed = result("gguf_speed")["results"]["Q4_K_M"]
    parity = result("type_parity")["all"]
    return [
        (
            "safetensors to Q4_K_M, time and peak memory, two layers of Gemma 4 26B's size",
            f"{seconds_of(speed['ours'])}, {gb(peak_of(speed['ours']))}",
            f"{seconds_of(speed['theirs'])}, {gb(peak_of(speed['theirs']))} (converter and "
            "llama-quantize)",
            f"{speed['median_ratio']:.2f} of the time (median of {speed['rounds']})",
        ),
        (
            f"GGUF tensors whose bytes differ from llama-quantize's ({len(parity['file_types'])} "
            "file types)",
            f"{parity['differing_bytes']} of {parity['tensors']:,}", "", "",
        ),
    ]  # fmt: skip


def _calibrated() -> list[Row]:
    passes = result("calibration")
    memory = result("memory")["runs"][0]
    return [
        (
            "calibration (expert statistics and imatrix in one pass) over a plain forward",
            "", "transformers, fp32, its best way",
            " and ".join(
                f"{passes[shape]['calibrate_over_forward']['median']:.2f}"
                for shape in ("gemmule", "wide")
            ) + " of it (two shapes)",
        ),
        (
            f"peak memory, calibrating a checkpoint of 26B width, {memory['layers']} layer"
            + "s" * (memory["layers"] > 1),
            gib(memory["peak_resident_mib"] * MIB), "",
            f"{gib(memory['checkpoint_bytes'])} of weights, {memory['tokens']:,} tokens",
        ),
    ]  # fmt: skip


def _sizes() -> Row:
    sizes = result("sizes")
    return (
        "sizes published on five model cards that the config predicts",
        f"{sizes['reproduced']} of {sizes['rows']}", "",
        f"{sum(sizes['only_with'].values())} more with what their cards do not say",
    )  # fmt: skip
