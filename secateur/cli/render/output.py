"""What the commands about output folders print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.errors import OutputError
from secateur.release.manifest import Difference, describe_damage
from secateur.system.sizes import show_bytes, show_count


def output_lines(out: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The files of an output."""
    files = manifest["files"]
    total = sum(entry["bytes"] for entry in files.values())
    return [
        f"{out}: {show_count(len(files), 'file')}, {show_bytes(total)}",
        *(f"  {name}: {show_bytes(entry['bytes'])}" for name, entry in files.items()),
    ]


def verification_lines(
    out: Path, problems: Sequence[Difference], unchecked: Sequence[str]
) -> list[str]:
    """What there is to say of an output without damage, and of its files that are not in the
    manifest: additional ones, and those that were compared with nothing."""
    additional = [problem.file for problem in problems if not problem.is_damage]
    is_damaged = len(additional) < len(problems)
    whole = [] if is_damaged else [f"{out}: every file is as its manifest says"]
    notes = [f"note: {name} is not in the manifest" for name in additional]
    notes += [f"note: {name} tells of one run, and is not checked" for name in unchecked]
    return whole + notes


def refuse_problems(out: Path, problems: Sequence[Difference], *, strict: bool) -> None:
    """Raise OutputError for a missing or changed file, naming the first; when `strict`, also for
    files that are not in the manifest."""
    damage = [problem for problem in problems if problem.is_damage]
    if damage:
        raise OutputError(f"{out} {describe_damage(damage)}")
    if strict and problems:
        raise OutputError(
            f"{out} holds files that are not in its manifest: "
            f"{', '.join(problem.file for problem in problems)}: remove them, or leave --strict out"
        )
