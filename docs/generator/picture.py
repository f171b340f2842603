"""docs/criteria.svg: what dropping experts costs, by criterion. Drawn from benchmarks/*.json.

The file says which data it was drawn from (`source`), so that a test can tell when it is stale.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from results import BENCHMARKS, held_out, losses, shares

PICTURE = Path(__file__).resolve().parents[1] / "criteria.svg"

LINES = {
    "rerouted": ("rerouted (default)", "-", "o", "black", 2.2),
    "weighted_frequency": ("weighted frequency", "--", "s", "0.25", 1.2),
    "frequency": ("frequency", ":", "^", "0.35", 1.2),
    "reap": ("REAP", "-.", "D", "0.15", 1.6),
    "random 0": ("random", ":", "x", "0.45", 1.2),
}
"""Criterion -> label, line, marker, grey, width: told apart without colour."""


def source() -> str:
    """What says from which data the picture is."""
    names = ("criteria.json", "criteria_some.json")
    digest = hashlib.sha256(b"".join((BENCHMARKS / name).read_bytes() for name in names))
    return f"{', '.join(names)} {digest.hexdigest()[:16]}"


def is_current() -> bool:
    """Whether the picture is of the data that is there."""
    return PICTURE.is_file() and source() in PICTURE.read_text("utf-8")


def draw() -> None:
    """Draw the picture."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "secateur"
    import matplotlib.pyplot as plt

    found = losses()
    documents, tokens = held_out()
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for name, (label, line, marker, grey, width) in LINES.items():
        values = [found[name, share].kl for share in shares()]
        kl = [one.value for one in values]
        spread = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
        axes.errorbar(
            [100 * share for share in shares()], kl, yerr=spread, label=label, linestyle=line,
            marker=marker, color=grey, linewidth=width, markersize=6, capsize=3, elinewidth=0.8,
        )  # fmt: skip
    axes.set_xticks([100 * share for share in shares()])
    axes.set_xlabel("experts dropped in each layer, %")
    axes.set_ylabel("mean KL, nats per token (log)")
    axes.set_yscale("log")
    axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.4], ["0.02", "0.05", "0.1", "0.2", "0.4"])
    axes.minorticks_off()
    axes.set_title(
        f"gemmule, held-out text: {documents} documents, {tokens:,} tokens, 95 % intervals",
        fontsize=10,
    )
    axes.grid(axis="y", linewidth=0.3, color="0.7")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, format="svg", metadata={"Date": None, "Source": source()},
                   facecolor="white")  # fmt: skip


if __name__ == "__main__":
    draw()
