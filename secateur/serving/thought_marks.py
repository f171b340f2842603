"""The tokens between which a served model thinks, as its server tokenizes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secateur.corpus.thoughts import known_formats, markers_of
from secateur.serving.engine_server import EngineServer


@dataclass(frozen=True, slots=True)
class ThoughtMarks:
    """`opening` are the tokens that begin a thought, `closing` the one that ends it.

    A budget is counted from the token after `opening` (llama.cpp), so a newline there is part of
    the thought. `opening_text` and `closing_text` say the same.
    """

    opening: tuple[int, ...]
    closing: int
    opening_text: str
    closing_text: str

    def split(self, tokens: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...] | None] | None:
        """(thought, what follows its end or None where it has none) of an answer's tokens; None for
        an answer without a thought.

        A thought that the chat template opened has no opening tokens here, only an end.
        """
        count = len(self.opening)
        opened = tuple(tokens[:count]) == self.opening
        closed = self.closing in tokens
        if not opened and not closed:
            return None
        start = count if opened else 0
        if not closed:
            return tuple(tokens[start:]), None
        end = list(tokens).index(self.closing)
        return tuple(tokens[start:end]), tuple(tokens[end + 1 :])


def find_marks(server: EngineServer) -> ThoughtMarks | None:
    """The marks of the first known way to write thoughts (corpus/thought_formats.yaml) whose
    markers are all single tokens of the served model; None where none is.

    Raises EngineError.
    """
    return choose_marks(lambda text: tokenize(server, text))


def tokenize(server: EngineServer, text: str) -> tuple[int, ...]:
    """Tokens of a text in which markers are tokens. Raises EngineError."""
    asked = {"content": text, "parse_special": True, "add_special": False}
    return tuple(int(token) for token in server.ask("/tokenize", asked)["tokens"])


def choose_marks(tokens_of: Callable[[str], tuple[int, ...]]) -> ThoughtMarks | None:
    """As `find_marks`, with a tokenizer."""
    for form in known_formats():
        opening, _, closing = form.partition("{thought}")
        if all(len(tokens_of(marker)) == 1 for marker in markers_of(form)):
            end = markers_of(closing)[0]
            text = opening.rstrip()
            return ThoughtMarks(tokens_of(text), tokens_of(end)[0], text, end)
    return None
