"""Talking to one or more served models: lines in, answers out as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TextIO

from secateur.cli.plain_text import plain_text
from secateur.errors import EngineError
from secateur.serving.chat_server import NoAnswer
from secateur.serving.conversation import Conversation, Kind, Turn
from secateur.serving.engine_server import EngineServer
from secateur.serving.thought_marks import tokenize

_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_PROMPT = "> "
_MARKS = 8
"""Tokens that belong to no text: marks of the thought, the end of the turn, blanks at its ends."""
_HELP = "/new forgets what was said, /system TEXT sets the system message, /quit ends"


@dataclass(frozen=True)
class Speaker:
    """A model that answers, by the name that is shown."""

    name: str
    server: EngineServer
    conversation: Conversation


class Screen:
    """Where answers are written: thoughts dimmed on a terminal, and left out elsewhere unless
    they are asked for."""

    def __init__(self, out: TextIO, *, thoughts: bool = False) -> None:
        self._out, self._colour = out, out.isatty()
        self._thoughts = thoughts or self._colour
        self._kind: Kind | None = None

    def name(self, name: str) -> None:
        """Say who speaks."""
        name = plain_text(name)
        self._write(f"{_BOLD}{name}{_PLAIN}\n" if self._colour else f"{name}:\n")

    def piece(self, kind: Kind, text: str) -> None:
        """Some text of an answer. A thought ends with a line of its own."""
        if kind == "thought" and not self._thoughts:
            return
        if kind != self._kind and self._kind == "thought":
            self._write("\n")
        self._kind, text = kind, plain_text(text)
        dim = kind == "thought" and self._colour
        self._write(f"{_DIM}{text}{_PLAIN}" if dim else text)

    def end(self, sentence: str = "") -> None:
        """End an answer, with a sentence about it."""
        self._write("\n" if self._kind is not None else "")
        sentence = plain_text(sentence)
        if sentence:
            self._write(f"{_DIM}({sentence}){_PLAIN}\n" if self._colour else f"({sentence})\n")
        self._write("\n")
        self._kind = None

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def talk(speakers: Sequence[Speaker], screen: Screen, seed: int) -> None:
    """Answer lines of standard input until it ends or says /quit.

    Turn N has the seed `seed` + N, the same for all speakers. Raises EngineError when an engine has
    ended.
    """
    turn = 0
    for line in _lines():
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return
        if word == "/new":
            for speaker in speakers:
                speaker.conversation.forget()
            turn = 0
        elif word == "/system":
            for speaker in speakers:
                speaker.conversation.system = rest.strip() or None
        elif word.startswith("/"):
            screen.end(_HELP)
        elif line:
            for speaker in speakers:
                if len(speakers) > 1:
                    screen.name(speaker.name)
                _answer(speaker, line, seed + turn, screen)
            turn += 1


def _lines() -> Iterator[str]:
    """Lines as they are typed, with a prompt on a terminal."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # no encoding of a pipe ends a conversation
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield line.strip()
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - it makes lines editable, and gives back earlier ones
    while True:
        try:
            yield input(_PROMPT).strip()
        except EOFError:
            return


def _answer(speaker: Speaker, line: str, seed: int, screen: Screen) -> None:
    """One answer. Ctrl-C stops it, and on a terminal only it."""
    conversation = speaker.conversation
    try:
        for piece in conversation.say(line, seed):
            screen.piece(piece.kind, piece.text)
    except NoAnswer as error:
        if ended := speaker.server.failure():
            raise EngineError(ended) from None
        screen.end(f"no answer: {error}")
        return
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        screen.end("stopped, and not remembered")
        return
    assert conversation.last is not None
    screen.end(_remark(conversation.last, speaker.server))


def _remark(turn: Turn, server: EngineServer) -> str:
    """What is to be said of an answer that is not what it seems."""
    if turn.finish == "length":
        return "cut: the limit of tokens or the context ended it"
    if not turn.answer.strip():
        return "no answer: the thought did not end" if turn.thought else "an empty answer"
    if turn.tokens is None or server.identity.engine != "llama.cpp":
        return ""
    shown = sum(len(tokenize(server, text)) for text in (turn.thought, turn.answer) if text)
    lost = turn.tokens - shown
    return f"{lost} tokens of it were lost by the server's parser" if lost > _MARKS else ""
