"""A secret in a file that only its owner may read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from secateur.errors import RequestError
from secateur.system.atomic import temporary_path, writing
from secateur.system.locks import locked
from secateur.system.text_files import read_text

_LARGEST = 4096


def read_or_make_secret(path: Path) -> str:
    """The secret in a file; a new one, written there, where there is no file.

    Raises RequestError for a file that cannot be one or that others may read, WriteError.
    """
    if not path.exists():
        with locked(path):  # of two processes one makes it
            if not path.exists():
                _write(path, secrets.token_urlsafe(32) + "\n")
    if path.stat().st_mode & 0o077:
        raise RequestError(f"{path} holds a key, and others may read it: chmod 600 {path}")
    found = read_text(path, "a key", RequestError, _LARGEST).strip()
    if not found:
        raise RequestError(f"{path} is empty, expected a key: remove it, and one is made")
    return found


def _write(path: Path, text: str) -> None:
    """A file that nobody else may read at any time, whole from the beginning."""
    partial = temporary_path(path)
    try:
        with writing(path):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
