"""CPU time of commands that need no weights, now and at an earlier commit. Writes startup.json.

The real model's config with a stand-in vocabulary of its size (gemma4_facts.py): `plan` of one
file type, with and without the vocabulary, `--help`, and the help of a command. Every command is
started anew, the two versions in turns, after one start that is not counted (it compiles the
modules). CPU time is that of the process, user and system; intervals are 95 %, by resampling.

    python benchmarks/startup.py [--before be73234] [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gemma4_facts
import numpy as np
from goals import result_path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default="be73234")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gemma4_facts.write_model(folder)
        earlier = folder / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", earlier, options.before], check=True)
        try:
            seconds = measure({"before": earlier, "now": ROOT}, commands(folder), options.rounds)
        finally:
            subprocess.run([*git, "remove", "--force", earlier], check=True)
    result = {
        "before": options.before,
        "rounds": options.rounds,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "cpu_seconds": {name: summarise(found) for name, found in seconds.items()},
    }
    text = json.dumps(result, indent=1) + "\n"
    result_path("startup").write_text(text, "utf-8")
    print(text)


def commands(folder: Path) -> dict[str, list[str]]:
    """What is started."""
    plan = ["plan", str(folder / "config.json"), "--experts", "109", "--types", "Q4_K_M"]
    return {
        "plan": plan,
        "plan with vocabulary": [*plan, "--tokenizer", str(folder / "vocabulary.gguf")],
        "--help": ["--help"],
        "plan --help": ["plan", "--help"],
    }


def measure(
    versions: dict[str, Path], words: dict[str, list[str]], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """{command: {version: CPU seconds of each start}}."""
    found = {name: {version: [] for version in versions} for name in words}
    for number in range(rounds + 1):
        for name, command in words.items():
            for version, tree in versions.items():
                taken = cpu_seconds(tree, command)
                if number:
                    found[name][version].append(taken)
    return found


def cpu_seconds(tree: Path, words: list[str]) -> float:
    """User and system time of one start."""
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "secateur", *words],
        {**os.environ, "PYTHONPATH": str(tree)},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"secateur {' '.join(words)} of {tree} failed")
    return usage.ru_utime + usage.ru_stime


def summarise(found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians with intervals, and the ratio of the two, paired by round."""
    ratios = [now / then for now, then in zip(found["now"], found["before"], strict=True)]
    return {
        **{version: median(values) for version, values in found.items()},
        "ratio": median(ratios),
    }


def median(values: list[float]) -> dict[str, Any]:
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return {
        "median": round(float(np.median(values)), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


if __name__ == "__main__":
    main()
