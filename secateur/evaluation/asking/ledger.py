"""All replies that a model gave, by what decides them: nothing that was finished is asked twice."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from secateur.errors import OutputError
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Reply, read_reply
from secateur.system.appended_lines import AppendedLines


class Ledger(AbstractContextManager["Ledger"]):
    """A file to which every reply is appended as it comes; may be used by several threads.

    A reply that is an error of the moment does not count as finished; one that the server would
    give again (a prompt longer than the context) does, but where `retry_errors` asks for all
    errors that the file holds again.
    """

    def __init__(self, path: Path, retry_errors: bool = False) -> None:
        """Open it, and read what it holds. Raises OutputError, WriteError (AppendedLines)."""
        self._file = AppendedLines(path)
        try:
            self._found = dict(map(_read, self._file.lines))
        except (KeyError, TypeError, AttributeError):
            self._file.__exit__(None, None, None)
            raise OutputError(
                f"{path} is of another version of secateur: remove it, and its questions are "
                "asked again"
            ) from None
        if retry_errors:
            self._found = {key: reply for key, reply in self._found.items() if not reply.error}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def find(self, key: str) -> Reply | None:
        """The finished reply under a lock's key of a question; None where it has to be asked."""
        found = self._found.get(key)
        return None if found is None or (found.error and not found.refused) else found

    def add(self, key: str, question: Question, reply: Reply) -> None:
        """Append a reply. Raises WriteError."""
        line = {"key": key, "task": question.task, "id": question.id, "reply": reply.to_json()}
        self._file.append(line)
        self._found[key] = reply


def _read(line: Mapping[str, Any]) -> tuple[str, Reply]:
    return str(line["key"]), read_reply(line["reply"])
