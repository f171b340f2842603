"""What an output did when it was asked: tasks, loops and speed, beside the report's divergence.

    OUT/evidence/tasks.json                  every number of all artefacts, what was asked and how
    OUT/evidence/tasks/ARTEFACT/TASK.jsonl   an object a line: each question and what came of it
    OUT/evidence/loops.json, loops/ARTEFACT.jsonl, speed.json, ...

The same inputs give the same bytes: no time of one run belongs into an item (a ledger keeps how
long an answer took). `speed.json` and its items are times of one run, so they are in no manifest,
as run.json is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from secateur.errors import OutputError
from secateur.evaluation.measurement import Measurement, find_measurement, read_measurement
from secateur.release.manifest import amend_manifest, read_manifest
from secateur.system import strict_json
from secateur.system.atomic import write_text
from secateur.system.text_files import explain, read_json, read_text

Kind = Literal["tasks", "loops", "speed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TITLES: Mapping[Kind, str] = {
    "tasks": "Tasks",
    "loops": "Loops and collapse",
    "speed": "Speed and memory",
}

MAIN_NUMBERS: Mapping[Kind, Mapping[str, str]] = {
    "tasks": {
        "accuracy": "accuracy, every failure counted as wrong",
        "accuracy_difference": "accuracy, less the original's",
    },
    "loops": {
        "degenerate_rate": "replies with any failure",
        "degenerate_rate_difference": "replies with any failure, less the original's",
        "loop_rate": "replies that loop",
        "loop_rate_difference": "replies that loop, less the original's",
        "no_answer_rate": "replies without an answer",
    },
    "speed": {
        "generation_speed": "writing an answer",
        "generation_speed_ratio": "writing an answer, beside the original",
        "prefill_speed": "reading a prompt",
        "prefill_speed_ratio": "reading a prompt, beside the original",
        "time_to_first_token": "time to the first token",
        "peak_memory_ratio": "memory, beside the original",
    },
}
"""{a number that says most: its title}, by kind: these have a picture and are on the card."""

FOLDER = "evidence"
ORIGINAL = "original"
"""The name of the original among the artefacts."""

Items = Mapping[str, Iterable[Mapping[str, Any]]]
"""{"ARTEFACT/TASK" or "ARTEFACT": its items, JSON objects}"""

_NAME = re.compile(r"[^/\\\x00-\x1f]+(/[^/\\\x00-\x1f]+)*")


@dataclass(frozen=True)
class ArtefactEvidence:
    """The numbers of one artefact, or of the original, and what is known of how they were made
    (the run lock of its server)."""

    name: str
    measurements: tuple[Measurement, ...]
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def value(self, name: str, domain: str, kind: str) -> Measurement | None:
        """The measurement of that name, domain and kind; None when it was not made."""
        return find_measurement(self.measurements, name, domain, kind)


@dataclass(frozen=True)
class Evidence:
    """All artefacts that were asked the same, and `facts`: what was asked, under which lock.

    `notes` is what a person should know of the numbers, in sentences.
    """

    kind: Kind
    artefacts: tuple[ArtefactEvidence, ...]
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def of(self, name: str) -> ArtefactEvidence | None:
        """The artefact of that name; None where it was not asked."""
        return next((one for one in self.artefacts if one.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {
            "kind": self.kind,
            "artefacts": [
                {
                    "name": one.name,
                    "measurements": [entry.to_json() for entry in one.measurements],
                    "facts": dict(one.facts),
                }
                for one in self.artefacts
            ],
            "facts": dict(self.facts),
            "notes": list(self.notes),
        }


def asked_of_artefacts(evidence: Iterable[Evidence]) -> dict[str, tuple[Measurement, ...]]:
    """{artefact: all its numbers}, without the original's."""
    found: dict[str, tuple[Measurement, ...]] = {}
    for kind in evidence:
        for one in kind.artefacts:
            if one.name != ORIGINAL:
                found[one.name] = found.get(one.name, ()) + one.measurements
    return found


def evidence_file(kind: Kind) -> str:
    """The name of the file in an output: `evidence/tasks.json`."""
    return f"{FOLDER}/{kind}.json"


def item_file(kind: Kind, name: str) -> str:
    """The name of a file of items: `evidence/tasks/ARTEFACT/TASK.jsonl`."""
    return f"{FOLDER}/{kind}/{name}.jsonl"


def write_evidence(out: Path, evidence: Evidence, items: Items | None = None) -> None:
    """Write evidence and its items into an output of ours, in the place of older of this kind.

    Every file is whole or as it was, and the manifest is brought up to date last. Raises
    OutputError when the output has no manifest, WriteError, and ValueError for a number that is
    not finite or a name that is no name of a file.
    """
    read_manifest(out)  # before anything is written
    whole = {item_file(evidence.kind, _checked(name)): of for name, of in (items or {}).items()}
    text = _to_text(evidence.to_json(), indent=1)
    old = [name for name in _item_files(out, evidence.kind) if name not in whole]
    for name, entries in whole.items():
        write_text(out / name, "".join(_to_text(entry) for entry in entries))
    write_text(out / evidence_file(evidence.kind), text)
    for name in old:
        (out / name).unlink()
    amend_manifest(out, (evidence_file(evidence.kind), *whole), gone=old)


def read_evidence(out: Path, kind: Kind) -> Evidence | None:
    """The evidence of that kind in an output; None where there is none.

    Raises OutputError when it is not what we write.
    """
    path = out / evidence_file(kind)
    if not path.is_file():
        return None
    data = read_json(path, f"what was measured of {kind}", OutputError)
    try:
        return _evidence(data, kind)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{path} is not what secateur wrote ({explain(error)}): measure {kind} again"
        ) from None


def read_items(out: Path, kind: Kind, name: str) -> tuple[dict[str, Any], ...]:
    """The items of `write_evidence`, by the name that they had there.

    Raises OutputError when there are none of that name, or they are not what we write.
    """
    path = out / item_file(kind, name)
    lines = read_text(path, f"the questions and answers of {kind}", OutputError).splitlines()
    try:
        return tuple(dict(strict_json.loads(line)) for line in lines)
    except (ValueError, TypeError) as error:
        raise OutputError(
            f"{path} is not what secateur wrote ({explain(error)}): measure {kind} again"
        ) from None


def measured_files(out: Path, kinds: Iterable[Kind] = KINDS) -> tuple[str, ...]:
    """The files that measuring these kinds writes again, which may be damaged before."""
    found: list[str] = []
    for kind in kinds:
        found += [evidence_file(kind), *_item_files(out, kind)]
    return tuple(found)


def _evidence(data: Mapping[str, Any], kind: Kind) -> Evidence:
    if data["kind"] != kind:
        raise ValueError(f"it holds {data['kind']!s:.20}")
    artefacts = tuple(
        ArtefactEvidence(
            str(one["name"]),
            tuple(read_measurement(entry) for entry in one["measurements"]),
            dict(one["facts"]),
        )
        for one in data["artefacts"]
    )
    if len({one.name for one in artefacts}) < len(artefacts):
        raise ValueError("an artefact is in it twice")
    return Evidence(kind, artefacts, dict(data["facts"]), tuple(map(str, data["notes"])))


def _item_files(out: Path, kind: Kind) -> list[str]:
    found = (out / FOLDER / kind).rglob("*.jsonl")
    return sorted(path.relative_to(out).as_posix() for path in found)


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None or any(part in (".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} cannot be the name of a file of items")
    return name


def _to_text(data: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
