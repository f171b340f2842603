"""What decides answers, frozen: results under different locks are not compared in silence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

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


class Comparison(NamedTuple):
    """Whether two runs are compared, and what has to be known of that; None for equal locks."""

    compared: bool
    note: str | None


def compare_locks(
    name: str,
    original: RunLock,
    other: RunLock,
    anyway: bool = False,
    beside: str = "the original",
) -> Comparison:
    """Whether the run `name` is compared with the original's, or that of another model (`beside`).

    Under equal locks it is. Where another engine answered, and nothing but what belongs to it is
    different, it is compared and that is said: no engine runs both a GGUF and an MLX folder. Under
    any other difference only with `anyway`, which is said, too.
    """
    different = original.differences(other)
    if not different:
        return Comparison(True, None)
    how = f"({'; '.join(different[:6])}{'; ...' if len(different) > 6 else ''})"
    engines = original.server.get("engine"), other.server.get("engine")
    if engines[0] != engines[1] and _differ_by_engine(original, other, different):
        return Comparison(
            True,
            f"{name} was asked through {engines[1]} and {beside} through {engines[0]}: their "
            f"difference is that of the weights and of the engines {how}",
        )
    if anyway:
        return Comparison(
            True,
            f"{name} is compared with {beside} although both were asked under different "
            f"conditions {how}",
        )
    return Comparison(
        False,
        f"{name} is not compared with {beside}: both were asked under different conditions "
        f"{how}; compare_anyway does",
    )


def _differ_by_engine(one: RunLock, other: RunLock, different: Sequence[str]) -> bool:
    """Whether two locks with engines of ours differ in what every engine has for itself alone."""
    if "unknown" in (one.server.get("engine"), other.server.get("engine")):
        return False
    templates = {lock.server.get("template_sha256") for lock in (one, other)} - {None}
    return len(templates) < 2 and all(entry.startswith("server.") for entry in different)


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
