"""Answers of the original model: the tokens on which every artefact is compared with it.

An answer is a prompt in the model's chat format and what the original wrote after it. Only what
it wrote is scored, the end of its turn included: `input_ids[begin:]`, each token predicted from
the position before it. What somebody else wrote is of another kind and never mixed with answers:
conversations of a corpus ("turns"), of which the assistant's turns are scored, and plain text
("documents"), scored from its second token on (it ranks chat models wrongly).

The file is JSONL: a header line, then one answer a line. It is what secateur keeps of answers that
were generated here; answers from elsewhere come as conversations (`prompts.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from secateur.corpus.json_lines import read_json_lines
from secateur.errors import CorpusError
from secateur.evaluation.measurement import POOLED
from secateur.system.atomic import write_text
from secateur.system.sizes import show_count

Kind = Literal["answers", "turns", "documents"]
Finish = Literal["stop", "length", "given"]

FORMAT = "secateur answers 2"

HEADER_KEYS = {
    "format": FORMAT,
    "sha256": "over the answers, in order",
    "provenance": "how they were made: prompts, template, model, settings, seed",
}
"""The keys of the header line."""

ANSWER_KEYS = {
    "id": "name of the prompt",
    "domain": "what the numbers are grouped by",
    "kind": "answers, turns (of a conversation that somebody else has led) or documents (text)",
    "input_ids": "list of token ids: prompt and answer",
    "begin": "position of the first token that is scored",
    "finish": "how it ended: stop (end of the turn), length (cut), given (not generated)",
    "gaps": "pairs of positions between which no token is scored; may be left out",
}
"""The keys of an answer's line."""


class Answer(NamedTuple):
    """One conversation (or document) as tokens.

    `input_ids` [T]: prompt and answer. Tokens from `begin` on are scored, but for those in `gaps`,
    each from a position to before another. `finish`: "stop" when the model ended its turn,
    "length" when it was cut, "given" for text that was not generated.
    """

    id: str
    domain: str
    kind: Kind
    input_ids: tuple[int, ...]
    begin: int
    finish: Finish
    gaps: tuple[tuple[int, int], ...] = ()

    @property
    def scored(self) -> int:
        """Number of tokens that are scored."""
        return len(self.input_ids) - self.begin - sum(end - start for start, end in self.gaps)

    @property
    def positions(self) -> NDArray[np.intp]:
        """[scored]: where the tokens that are scored stand in `input_ids`."""
        found = np.arange(self.begin, len(self.input_ids), dtype=np.intp)
        for start, end in self.gaps:
            found = found[(found < start) | (found >= end)]
        return found


class AnswerRow(NamedTuple):
    """An answer as a row of the streamed forward: one document."""

    input_ids: NDArray[np.int64]
    documents: NDArray[np.int32]


@dataclass(frozen=True)
class AnswerSet:
    """Answers, and how they were made.

    `provenance` is JSON-able: the model's identity, the template's hash, the settings and the
    seed. `sha256` is over the answers alone, in order: it tells whether two measurements ran on
    the same tokens. `groups` says how the answers go through a model where that was decided by a
    larger set that they are a part of (evaluation.parts): in groups of micro-batches, of the
    numbers of answers; it is in `sha256`, because numbers depend on it.
    """

    answers: tuple[Answer, ...]
    provenance: Mapping[str, Any] = field(repr=False)
    groups: tuple[tuple[tuple[int, ...], ...], ...] | None = field(default=None, repr=False)

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for answer in self.answers:
            digest.update(_line(answer).encode())
        if self.groups is not None:
            digest.update(json.dumps(self.groups).encode())
        return digest.hexdigest()

    @cached_property
    def offsets(self) -> NDArray[np.intp]:
        """[A + 1]: where each answer's scored tokens begin among all of them."""
        return np.cumsum([0] + [answer.scored for answer in self.answers], dtype=np.intp)

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return int(self.offsets[-1])

    @cached_property
    def answer_of_token(self) -> NDArray[np.intp]:
        """[N]: the index of the answer that each scored token belongs to."""
        return np.repeat(np.arange(len(self.answers)), np.diff(self.offsets))

    @property
    def finishes(self) -> dict[str, int]:
        """{how: how many answers ended that way}; many "length" mean answers were cut."""
        return dict(Counter(entry.finish for entry in self.answers if entry.kind == "answers"))

    @property
    def rows(self) -> list[AnswerRow]:
        """The answers as rows of the streamed forward."""
        return [
            AnswerRow(np.array(entry.input_ids, np.int64), np.zeros(len(entry.input_ids), np.int32))
            for entry in self.answers
        ]


def answer_set(answers: Iterable[Answer], provenance: Mapping[str, Any]) -> AnswerSet:
    """A checked set. Raises CorpusError when it is empty, an id occurs twice, or nothing of an
    answer is scored."""
    found = tuple(answers)
    if not found:
        raise CorpusError("there are no answers: give at least one prompt")
    seen: set[str] = set()
    for entry in found:
        if entry.id in seen:
            raise CorpusError(f"two answers have the id {entry.id!r}: make ids unique")
        seen.add(entry.id)
        if entry.domain == POOLED:
            raise CorpusError(
                f"answer {entry.id!r} has the domain {POOLED!r}, which names all domains together: "
                "call it something else"
            )
        if not 1 <= entry.begin < len(entry.input_ids):
            raise CorpusError(
                f"answer {entry.id!r} has {show_count(len(entry.input_ids), 'token')} and is "
                f"scored from token {entry.begin}, expected a token before the first scored one: "
                "drop it"
            )
        edges = (entry.begin, *(edge for gap in entry.gaps for edge in gap), len(entry.input_ids))
        if any(low > high for low, high in pairwise(edges)) or entry.scored < 1:
            raise CorpusError(
                f"answer {entry.id!r} has the gaps {list(entry.gaps)}, expected some of its tokens "
                "to be left, and ascending gaps: drop it"
            )
    return AnswerSet(found, dict(provenance))


def save_answers(answers: AnswerSet, path: Path) -> None:
    """Write the file: complete or absent. Raises WriteError."""
    head = {
        "format": FORMAT,
        "sha256": answers.sha256,
        "provenance": answers.provenance,
        "provenance_sha256": _hash_provenance(answers.provenance),
    }
    lines = [json.dumps(head, ensure_ascii=False), *(_line(entry) for entry in answers.answers)]
    write_text(path, "\n".join(lines) + "\n")


def load_answers(path: Path, vocab_size: int | None = None) -> AnswerSet:
    """Read a file that `save_answers` wrote.

    `vocab_size`: of the model, to refuse token ids that it does not have. Raises CorpusError,
    naming file and line, when the file is something else or was changed.
    """
    found = read_json_lines(path)
    head = found.records[0] if found.records else {}
    if head.get("format") != FORMAT or not isinstance(head.get("provenance"), dict):
        raise CorpusError(
            f"{path} does not begin with a header of {FORMAT!r}: it holds no answers; "
            "prompts are made into answers first"
        )
    answers = [
        answer_from_json(record, f"{path}:{line}", vocab_size)
        for record, line in zip(found.records[1:], found.lines[1:], strict=True)
    ]
    made = answer_set(answers, head["provenance"])
    noted = head.get("provenance_sha256")
    if noted is not None and noted != _hash_provenance(head["provenance"]):
        raise CorpusError(
            f"{path}: what its header says of its origin does not have the hash beside it: it was "
            "changed, make it again"
        )
    if made.sha256 != head.get("sha256"):
        raise CorpusError(
            f"{path} does not have the hash of its header ({show_count(len(answers), 'answer')}): "
            "it was changed or cut short, make it again"
        )
    return made


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """The answer as one JSON object; gaps are named where there are some."""
    fields = answer._asdict()
    return fields if answer.gaps else {key: fields[key] for key in fields if key != "gaps"}


def answer_from_json(data: Mapping[str, Any], where: str, vocab_size: int | None = None) -> Answer:
    """The answer of one JSON object. Raises CorpusError, naming the place, when it is none."""
    if {*data, "gaps"} != set(ANSWER_KEYS):
        raise CorpusError(
            f"{where}: keys are {', '.join(sorted(data))}, expected {', '.join(ANSWER_KEYS)}"
        )
    ids = _token_ids(data["input_ids"], where, vocab_size)
    begin = data["begin"]
    if type(begin) is not int:
        raise CorpusError(f"{where}: begin is {begin!r}, expected a token position")
    if data["kind"] not in get_args(Kind) or data["finish"] not in get_args(Finish):
        raise CorpusError(
            f"{where}: kind is {data['kind']!r} and finish {data['finish']!r}, expected one of "
            f"{', '.join(get_args(Kind))} and of {', '.join(get_args(Finish))}"
        )
    gaps = data.get("gaps", [])
    if not isinstance(gaps, list) or not all(
        isinstance(gap, list) and len(gap) == 2 and all(type(edge) is int for edge in gap)
        for gap in gaps
    ):
        raise CorpusError(f"{where}: gaps is no list of pairs of token positions")
    return Answer(
        str(data["id"]), str(data["domain"]), data["kind"], ids, begin, data["finish"],
        tuple((start, end) for start, end in gaps),
    )  # fmt: skip


def _token_ids(value: object, where: str, vocab_size: int | None) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise CorpusError(f"{where}: input_ids is no list of token ids")
    limit = vocab_size if vocab_size is not None else 1 << 31
    bad = next((token for token in value if not 0 <= token < limit), None)
    if bad is not None:
        raise CorpusError(
            f"{where}: input_ids holds {bad}, but the model's vocabulary is 0 to {limit - 1}: "
            "the answers were made with another tokenizer"
        )
    return tuple(value)


def _hash_provenance(provenance: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()


def _line(answer: Answer) -> str:
    return json.dumps(answer_to_json(answer), ensure_ascii=False, separators=(",", ":"))


def domains_of(answers: Sequence[Answer], kind: Kind) -> list[str]:
    """The domains of one kind of answers, in the order of their first appearance."""
    return list(dict.fromkeys(entry.domain for entry in answers if entry.kind == kind))
