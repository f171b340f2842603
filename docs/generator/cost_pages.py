"""Parts of docs/measured.md: what a model of the real width takes, and what feedback costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page_parts import code, table
from results import result


def width() -> str:
    """Every step with 2, 4 and 8 layers of Gemma 4 26B-A4B's width, and what 30 would take."""
    found = result("width")
    rows = [
        (
            step, layers, f"{one['tokens']:,}", f"{one['wall_seconds']:.0f} s",
            f"{one['cpu_seconds']:.0f} s", f"{one['peak_resident_gib']:.2f} GiB",
            f"{one['read_from_disk_gb']:.1f} GB", f"{one['temporary_gb']:.1f} GB",
            f"{one['took_over_estimated']:.2f}",
        )
        for step, runs in found["runs"].items()
        for layers, one in runs.items()
    ]  # fmt: skip
    lines = [
        (step, *(_line(one[key]) for key in ("wall_seconds", "cpu_seconds", "peak_resident_gib")))
        for step, one in found["line"].items()
    ]
    calibrating = found["line"]["calibrate"]
    shares, of_cpu = (
        ", ".join(f"{share:.2f} ({layers} layers)" for layers, share in calibrating[key].items())
        for key in ("share_of_product", "share_of_product_cpu")
    )
    return (
        "## At the real width (`width.py`)\n\nLayers of Gemma 4 26B-A4B's size with random "
        f"weights, {found['workers']} cores, a fifth of the experts dropped where something is "
        "written; a step is a process of its own, with the model's files not in memory. The disk "
        "of this machine is shared: its speed changed fivefold between runs.\n\n"
        + table(
            ("step", "layers", "tokens", "time", "CPU time", "peak resident", "read",
             "temporary files", "took over estimated"), rows)
        + "\n\nStraight lines through these: fixed + per layer, and what they say of "
        "30 layers.\n\n"
        + table(("step", "seconds", "CPU seconds", "peak resident, GiB"), lines)
        + "\n\nCalibrating takes "
        f"{calibrating['milliseconds_per_token_and_layer']:.2f} ms a token and layer, which is of "
        f"the rate of one large float32 product in the same process: {shares}; by processor time, "
        f"which does not wait for the disk, {of_cpu}."
    )  # fmt: skip


def _line(one: Mapping[str, float]) -> str:
    (key,) = (key for key in one if key.startswith("at_"))
    return f"{one['fixed']:.2f} + {one['per_layer']:.2f} a layer: {one[key]:.1f}"


def feedback_cost() -> str:
    """What Gram matrices cost a calibration, and feedback the encoding."""
    cost, speed = result("rounding_cost"), result("rounding_speed")
    types = [key for key in next(iter(cost["encoding_over_nearest"].values())) if key != FACTOR]
    rows = [
        (width, f"{one[FACTOR]:.2f} s", *(f"{one[kind]:.1f}" for kind in types))
        for width, one in cost["encoding_over_nearest"].items()
    ]
    passes = "; ".join(
        f"{shape} "
        + ", ".join(
            f"{ratio:.2f} ({kind})" for kind, ratio in one["over_none"].items() if kind != "none"
        )
        for shape, one in cost["calibration"].items()
    )
    files = "; ".join(_file(kind, one) for kind, one in speed["types"].items())
    return (
        "## What feedback costs (`rounding_cost.py`, `rounding_speed.py`)\n\nProcessor time of a "
        f"calibration with Gram matrices over one without, in one thread: {passes}. Of encoding "
        "with feedback over nearest, by the width of rows, the factor of a Gram matrix made "
        "once:\n\n"
        + table(("width", "factor", *types), rows)
        + f"\n\nWhole files of two layers of the real width, {speed['workers']} threads: {files}."
    )


FACTOR = "factor_cpu_seconds"


def _file(kind: str, one: Mapping[str, Any]) -> str:
    turns = len(one["cpu_seconds"]["nearest"])
    return (
        f"{code(kind)} {one['wall_ratio']:.1f} of nearest's time, {one['cpu_ratio']:.1f} of its "
        f"processor time ({turns} turns)"
    )
