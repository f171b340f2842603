"""What decides answers, frozen: results under different locks are not compared in silence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from secateur.evaluation.asking.question import Question

_ABSENT = "nothing"


@dataclass(frozen=True, slots=True)
class RunLock:
    """The conditions of a run.

    `model` is the sha256 of its files, or the name and address that a foreign server gives it.
    `server` is the engine's build, flags and template (serving.identity), or what is known of a
    foreign one. `sent` are the fields that every request had, as they were sent: sampler, thinking,
    seed, limit of tokens. `rules` are what else decides a score (the protocol, the second pass),
    and `data` is the hash of every task's questions.
    """

    model: str
    server: Mapping[str, Any]
    sent: Mapping[str, Any]
    rules: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)

    def key(self, question: Question) -> str:
        """The sha256 of all that decides the answer to one question."""
        asked = [self.model, self.server, question.task, question.id, question.messages]
        return hash_json([*asked, question.fields(self.sent)])

    def to_json(self) -> dict[str, Any]:
        """As JSON, with the hash of all but the model: equal hashes are equal conditions."""
        found = asdict(self)
        return {**found, "sha256": hash_json({**found, "model": None})}

    def differences(self, other: RunLock) -> tuple[str, ...]:
        """In what two locks differ, the model apart: "sent.temperature: 1.0 and 0.7"."""
        mine, theirs = (dict(_leaves(asdict(lock))) for lock in (self, other))
        return tuple(
            f"{name}: {mine.get(name, _ABSENT)} and {theirs.get(name, _ABSENT)}"
            for name in sorted(mine.keys() | theirs.keys())
            if name != "model" and mine.get(name, _ABSENT) != theirs.get(name, _ABSENT)
        )


def hash_json(content: object) -> str:
    """The sha256 of JSON, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _leaves(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{before}.{key}" if before else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, value
