"""Answers in parts, for several machines: what is measured of all parts is what one run measures.

What a group of micro-batches gives does not depend on the groups around it (calibration.shards). So
a part is whole groups of all answers, and remembers them; its arrays are put where they belong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.calibration.shards import Shard, take_groups
from secateur.errors import EngineError
from secateur.evaluation.scores import Scores
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import ARRAYS, Teacher
from secateur.forward.batches import BatchSize, Group, group_micro_batches, make_micro_batches


class AnswersPart(NamedTuple):
    """Some answers of a set."""

    numbers: tuple[int, ...]
    """of the answers among all, ascending"""
    answers: AnswerSet

    def place(self, whole: AnswerSet) -> NDArray[np.intp]:
        """[n]: the numbers of its scored tokens among all."""
        return np.flatnonzero(np.isin(whole.answer_of_token, self.numbers))


def take_answers(whole: AnswerSet, numbers: Sequence[int]) -> AnswersPart:
    """The answers of these numbers, in order."""
    taken = tuple(sorted(numbers))
    some = tuple(whole.answers[number] for number in taken)
    return AnswersPart(taken, replace(whole, answers=some, groups=None))


def split_answers(
    whole: AnswerSet, hidden: int, size: BatchSize, parts: int
) -> tuple[AnswersPart, ...]:
    """All answers in so many parts, or as many as they make groups for a model of width `hidden`.

    Depends on the answers, the number and the kind of device (`size`) alone.
    """
    groups = group_micro_batches(make_micro_batches(whole.rows, hidden, size), size)
    parts = min(parts, len(groups))
    return tuple(
        _take_groups(whole, take_groups(groups, Shard(number, parts))[0])
        for number in range(1, parts + 1)
    )


def _take_groups(whole: AnswerSet, groups: Sequence[Group]) -> AnswersPart:
    taken = [[[line.row for line in batch.lines] for batch in group] for group in groups]
    numbers = sorted(row for group in taken for batch in group for row in batch)
    new = {number: place for place, number in enumerate(numbers)}
    arranged = tuple(tuple(tuple(new[row] for row in batch) for batch in group) for group in taken)
    part = take_answers(whole, numbers)
    return part._replace(answers=replace(part.answers, groups=arranged))


def take_teacher(teacher: Teacher, whole: AnswerSet, part: AnswersPart) -> Teacher:
    """What the original says of a part's tokens."""
    place = part.place(whole)
    arrays: dict[str, Any] = {
        name: getattr(teacher, name)[place] for name in ARRAYS if name != "layers"
    }
    return replace(teacher, **arrays, answers_sha256=part.answers.sha256)


def join_teachers(
    whole: AnswerSet, parts: Sequence[AnswersPart], teachers: Sequence[Teacher]
) -> Teacher:
    """What the original says of all tokens. Raises EngineError for parts that were made in
    different ways: on other devices, or with other versions of torch."""
    first = teachers[0]
    for other in teachers:
        if other.provenance != first.provenance:
            _refuse(first.provenance, other.provenance)
    names = [name for name in ARRAYS if name != "layers"]
    found = [{name: getattr(teacher, name) for name in names} for teacher in teachers]
    return replace(first, **_join(whole, parts, found), answers_sha256=whole.sha256)


def join_scores(
    whole: AnswerSet, teacher: Teacher, parts: Sequence[AnswersPart], scores: Sequence[Scores]
) -> Scores:
    """The scores of all tokens; `teacher` is of all of them, too."""
    provenance = {**scores[0].provenance, "teacher": teacher.sha256}
    arrays = _join(whole, parts, [one.arrays for one in scores])
    return Scores(arrays, whole.sha256, provenance)


def _join(
    whole: AnswerSet,
    parts: Sequence[AnswersPart],
    found: Sequence[Mapping[str, NDArray[Any]]],
) -> dict[str, Any]:
    """Arrays of all tokens from those of the parts."""
    arrays: dict[str, Any] = {
        name: np.empty((whole.tokens, *array.shape[1:]), array.dtype)
        for name, array in found[0].items()
    }
    for part, some in zip(parts, found, strict=True):
        place = part.place(whole)
        for name, array in some.items():
            arrays[name][place] = array
    return arrays


def _refuse(first: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    key = next(key for key in first if first[key] != other.get(key))
    raise EngineError(
        f"the parts were made in different ways ({key}: {first[key]} and {other.get(key)}): "
        "measure on machines of one kind, with the same versions"
    )
