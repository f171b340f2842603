"""How the results of benchmarks/ stand to the goals."""

from __future__ import annotations

import json
import sys

from results import BENCHMARKS

sys.path.append(str(BENCHMARKS))  # pytest has it there already

import goals  # noqa: E402


def goals_section() -> str:
    """A section of docs/measured.md."""
    return (
        "## The goals (`goals.py`)\n\nWhat this project holds itself to, and how the results below "
        "stand to it. Each result states it, too, so that a change shows in its difference.\n\n"
        + goals.table({"": goals.FOLDER})
    )


def goals_met() -> str:
    """How many goals are met, of how many."""
    files = [(BENCHMARKS / f"{name}.json").read_text("utf-8") for name in goals.RESULTS]
    stated = [status["met"] for text in files for status in json.loads(text)["goals"]]
    return f"{stated.count(True)} of {len(stated)}"
