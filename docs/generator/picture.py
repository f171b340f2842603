"""The pictures of docs/, drawn from benchmarks/*.json; told apart without colour.

A file says which data it was drawn from (`source`), so that a test can tell when it is stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from results import BENCHMARKS, held_out, losses, result, shares

DOCS = Path(__file__).resolve().parents[1]

CRITERIA = {
    "rerouted": ("rerouted (default)", "-", "o", "black", 2.2),
    "weighted_frequency": ("weighted frequency", "--", "s", "0.25", 1.2),
    "frequency": ("frequency", ":", "^", "0.35", 1.2),
    "reap": ("REAP", "-.", "D", "0.15", 1.6),
    "random 0": ("random", ":", "x", "0.45", 1.2),
}
"""Criterion -> label, line, marker, grey, width."""

STYLES = (("-", "o", "black"), ("--", "s", "0.3"), (":", "^", "0.45"))
"""Line, marker and grey of one number of experts after the other."""


class Picture(NamedTuple):
    """A file, the data that it is drawn from, and what draws it into axes."""

    path: Path
    data: tuple[str, ...]
    draw: Callable[[Any], None]

    @property
    def source(self) -> str:
        """What says from which data the picture is."""
        digest = hashlib.sha256(b"".join((BENCHMARKS / name).read_bytes() for name in self.data))
        return f"{', '.join(self.data)} {digest.hexdigest()[:16]}"

    @property
    def is_current(self) -> bool:
        """Whether it is there, of the data that is there."""
        return self.path.is_file() and self.source in self.path.read_text("utf-8")

    def write(self) -> None:
        """Draw it; the same data, the same bytes."""
        import matplotlib

        matplotlib.use("svg")
        matplotlib.rcParams["svg.hashsalt"] = "secateur"
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 3.8))
        self.draw(axes)
        axes.minorticks_off()
        axes.grid(axis="y", linewidth=0.3, color="0.7")
        axes.legend(frameon=False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.tight_layout()
        about = {"Date": None, "Source": self.source}
        figure.savefig(self.path, format="svg", metadata=about, facecolor="white")
        plt.close(figure)


def draw_criteria(axes: Any) -> None:
    """KL against the share of experts dropped, a line for each criterion."""
    found = losses()
    documents, tokens = held_out()
    dropped = [100 * share for share in shares()]
    for name, (label, line, marker, grey, width) in CRITERIA.items():
        values = [found[name, share].kl for share in shares()]
        spread = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
        axes.errorbar(
            dropped, [one.value for one in values], yerr=spread, label=label, linestyle=line,
            marker=marker, color=grey, linewidth=width, markersize=6, capsize=3, elinewidth=0.8,
        )  # fmt: skip
    axes.set_xticks(dropped)
    axes.set_xlabel("experts dropped in each layer, %")
    _label_kl(axes, [0.02, 0.05, 0.1, 0.2, 0.4])
    axes.set_title(
        f"gemmule, held-out text: {documents} documents, {tokens:,} tokens, 95 % intervals",
        fontsize=10,
    )


def draw_types(axes: Any) -> None:
    """KL against bytes, a line for each number of experts, its types named."""
    rows = result("experts_or_bits")["rows"]
    samples: Mapping[str, int] = rows[0]["samples"]
    for experts, (line, marker, grey) in zip(
        dict.fromkeys(row["experts"] for row in rows), STYLES, strict=True
    ):
        mine = sorted(
            (row for row in rows if row["experts"] == experts), key=lambda row: row["tensor_bytes"]
        )
        sizes = [row["tensor_bytes"] / 1e6 for row in mine]
        kl = [row["kl_mean"]["value"] for row in mine]
        spread = [[row["kl_mean"]["value"] - row["kl_mean"]["low"] for row in mine],
                  [row["kl_mean"]["high"] - row["kl_mean"]["value"] for row in mine]]  # fmt: skip
        axes.errorbar(
            sizes, kl, yerr=spread, label=f"{experts} of {rows[0]['experts']} experts",
            linestyle=line, marker=marker, color=grey, linewidth=1.2, markersize=5, capsize=2,
            elinewidth=0.7,
        )  # fmt: skip
        if experts == rows[0]["experts"]:
            for row, size, value in zip(mine, sizes, kl, strict=True):
                axes.annotate(row["type"], (size, value), fontsize=7, xytext=(4, 4),
                              textcoords="offset points")  # fmt: skip
    axes.set_xlabel("tensors, MB")
    _label_kl(axes, [0.001, 0.01, 0.1, 1])
    axes.set_title(
        f"gemmule's own answers: {samples['answers']} answers, {samples['tokens']:,} tokens, "
        "95 % intervals",
        fontsize=10,
    )


def _label_kl(axes: Any, ticks: list[float]) -> None:
    axes.set_ylabel("mean KL, nats per token (log)")
    axes.set_yscale("log")
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


PICTURES = (
    Picture(DOCS / "criteria.svg", ("criteria.json", "criteria_some.json"), draw_criteria),
    Picture(DOCS / "experts-or-bits.svg", ("experts_or_bits.json",), draw_types),
)
