"""Protocols: how questions are put, as data, so that two people can ask in the same way.

protocols/NAME.yaml are shipped; a user's own is a file of the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secateur.errors import RequestError
from secateur.evaluation.asking.reply import Outcome
from secateur.serving.settings import Sampler, Thinking
from secateur.system.settings import check_least
from secateur.system.typed_yaml import Reader, read_dataclass
from secateur.system.yaml_nodes import Node, read_nodes

_FOLDER = Path(__file__).parent / "protocols"
_THOUGHT_TOKENS = 8192
"""Tokens of a thought that has no budget, at most; half of the context where that is less."""


@dataclass(frozen=True, slots=True)
class SecondPass:
    """A second question to those that gave no answer to a choice of letters: the assistant's turn
    begins with `prefill`, and the most probable of the letters is taken.

    The same rule for every model; `of` are the outcomes that it is for. Its score is given beside
    the first one, never in its place.
    """

    prefill: str = "The answer is ("
    of: tuple[str, ...] = (Outcome.EMPTY.value, Outcome.TRUNCATED.value)

    def __post_init__(self) -> None:
        known = [one.value for one in Outcome]
        if odd := [one for one in self.of if one not in known]:
            raise RequestError(f"of has {odd[0]!r}, expected some of {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Protocol:
    """How questions are put to every model.

    `max_tokens` of an answer with its thought; None: what the task asks for, and as many as the
    thought may have. `context` is needed per slot. `limit` questions of a task, `shots` examples
    before each; None: what the task says. `thought_end` ends a thought that a server leaves in the
    text. Where several filters of lm-eval read an answer, `filter` is the one that counts.
    """

    title: str
    sampler: Sampler = Sampler(temperature=0.0, seed=42)
    thinking: Thinking = Thinking()
    max_tokens: int | None = None
    context: int | None = None
    limit: int | None = None
    shots: int | None = None
    thought_end: str | None = None
    filter: str | None = None
    second_pass: SecondPass | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "context", "limit"):
            check_least(name, getattr(self, name), 1, RequestError)
        check_least("shots", self.shots, 0, RequestError)

    def sent(self) -> dict[str, Any]:
        """The fields that every request has."""
        return {**self.thinking.request(), **self.sampler.request()}

    def tokens(self, answer: int, context: int | None) -> int:
        """`max_tokens` of a question whose answer may have `answer` tokens."""
        if self.max_tokens is not None:
            return self.max_tokens
        if self.thinking.enabled is False:
            return answer
        if self.thinking.budget is not None:
            return answer + self.thinking.budget
        return answer + min(_THOUGHT_TOKENS, (context or _THOUGHT_TOKENS) // 2)

    def to_json(self) -> dict[str, Any]:
        """As JSON, for a lock."""
        return asdict(self)


def protocols() -> Mapping[str, Path]:
    """The protocols that are shipped."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_protocol(name: str) -> Protocol:
    """A protocol by name, or from a YAML file. Raises RequestError, with what there is."""
    path = protocols().get(name, Path(name))
    if not path.is_file():
        raise RequestError(
            f"there is no protocol {name!r:.80}; there are {', '.join(protocols())}, and files of "
            "the same keys"
        )
    return read_dataclass(
        Protocol, read_nodes(path, "a protocol in YAML", RequestError), Reader(RequestError, _path)
    )


def _path(text: str, node: Node) -> Path:
    return Path(text)
