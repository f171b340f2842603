"""What a page is about: the artefacts of one output, or of several, under short names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from secateur.errors import InputError
from secateur.release.report import ArtefactReport
from secateur.release.results import Results


@dataclass(frozen=True)
class Subject:
    """An artefact: `label` is short and occurs once on the page, `output` names its output, `form`
    is what it is for (gguf, mlx, safetensors)."""

    label: str
    output: str
    form: str
    artefact: ArtefactReport
    results: Results

    @property
    def share(self) -> float:
        """Its size, of the original's."""
        return self.artefact.bytes / self.results.report.original_bytes


def subjects_of(outputs: Sequence[Results]) -> tuple[Subject, ...]:
    """All artefacts, the largest first within an output; outputs in the order given."""
    names = output_names(outputs)
    found = [
        _subject(results, name, artefact)
        for results, name in zip(outputs, names, strict=True)
        for artefact in sorted(results.report.artefacts, key=lambda one: (-one.bytes, one.name))
    ]
    return tuple(found)


def output_names(outputs: Sequence[Results]) -> list[str]:
    """What tells the names of several outputs apart: `28e` and `24e` of gemmule-28e, gemmule-24e.

    One output needs no name: [""].
    """
    if len(outputs) == 1:
        return [""]
    names = [results.name for results in outputs]
    common = os.path.commonprefix(names)
    start = max((place.end() for place in re.finditer(r"[-_.]", common)), default=0)
    short = [name[start:] for name in names]
    return short if all(short) else names


def check_comparable(outputs: Sequence[Results]) -> None:
    """Raise InputError unless all outputs come from one original, were measured on the same
    answers, and have different names."""
    first = outputs[0]
    for other in outputs[1:]:
        if other.report.made["model"]["identity"] != first.report.made["model"]["identity"]:
            raise InputError(
                f"{first.name} was made from {first.report.original}, and {other.name} from "
                f"{other.report.original} with other weights: report them apart"
            )
        if other.report.answers["sha256"] != first.report.answers["sha256"]:
            raise InputError(
                f"{first.name} and {other.name} were measured on other answers, so their numbers "
                "cannot be compared: measure both with the same --answers or --prompts"
            )
    names = sorted(results.name for results in outputs)
    if twice := next((name for name, group in groupby(names) if len(list(group)) > 1), None):
        raise InputError(f"two of the outputs are called {twice}: rename one of the folders")


def _subject(results: Results, output: str, artefact: ArtefactReport) -> Subject:
    form = results.format_of(artefact.name)
    label = form.removeprefix("gguf-") if form.startswith("gguf-") else form
    short = f"{output} {label}".strip()
    return Subject(short, output, form.partition("-")[0], artefact, results)
