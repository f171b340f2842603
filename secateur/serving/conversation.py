"""A conversation with a served model, whose answers come in pieces as they are generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from secateur.serving.answer_facts import REASONING
from secateur.serving.chat_server import ChatServer

Kind = Literal["thought", "answer"]


class Piece(NamedTuple):
    """Some text of an answer, as it comes."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A whole answer, how it ended, and the tokens that were generated for it."""

    thought: str
    answer: str
    finish: str | None
    tokens: int | None


@dataclass
class Conversation:
    """Messages that were said, and the server that says the next one.

    `fields` are sent with every request. `last` is the turn that `say` gave last.
    """

    server: ChatServer
    system: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    last: Turn | None = None

    def say(self, text: str, seed: int) -> Iterator[Piece]:
        """The answer to a text, piece by piece; both are remembered when the answer is whole.

        A thought is no part of what the model is shown of its own answer later. Raises NoAnswer
        when the server gives none, and then nothing is remembered.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        shown = [*([{"role": "system", "content": self.system}] if self.system else []), *asked]
        said: dict[Kind, list[str]] = {"thought": [], "answer": []}
        finish, tokens = None, None
        with closing(self.server.stream(shown, {**self.fields, "seed": seed})) as chunks:
            for chunk in chunks:
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
                    for piece in _pieces(choice.delta):
                        said[piece.kind].append(piece.text)
                        yield piece
        answer = "".join(said["answer"])
        self.last = Turn("".join(said["thought"]), answer, finish, tokens)
        self.messages = [*asked, {"role": "assistant", "content": answer}]

    def forget(self) -> None:
        """Begin anew, with the same system message."""
        self.messages = []


def _pieces(delta: Any) -> Iterator[Piece]:
    for name in REASONING:
        if text := getattr(delta, name, None):
            yield Piece("thought", text)
            break
    if delta.content:
        yield Piece("answer", delta.content)
