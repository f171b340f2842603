"""A file of JSON lines that is only appended to: what was written survives a kill at any moment."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from secateur.errors import OutputError
from secateur.system import strict_json
from secateur.system.atomic import writing
from secateur.system.text_files import explain


class AppendedLines(AbstractContextManager["AppendedLines"]):
    """Mappings, one a line, for this process alone; may be appended to by several threads.

    `lines` are those of earlier runs. A last line that a kill left torn is cut off. Raises
    OutputError when another process has the file, or a line before the last is damaged; WriteError
    when the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._one_at_a_time = Lock()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        try:
            self._lock()
            self.lines = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with writing(self.path):  # what the disk refused is tried once more
            self._file.close()

    def append(self, content: Mapping[str, Any]) -> None:
        """Write one more line; when this returns, it is on the disk. Raises WriteError."""
        line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self._one_at_a_time, writing(self.path):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another secateur process is writing {self.path} right now: wait for it, or name "
                "another work folder"
            ) from None

    def _read(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with writing(self.path):
                self._file.truncate(whole)
        found: list[dict[str, Any]] = []
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                found.append(dict(strict_json.loads(line.decode())))
            except (ValueError, TypeError) as error:
                raise OutputError(
                    f"{self.path}: line {number} is damaged ({explain(error)}): remove the file, "
                    "and what it held is asked again"
                ) from None
        return found
