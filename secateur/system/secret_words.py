"""Secrets that may stand in a text by accident, and the text without them.

Known are the keys and tokens of the environment and of the hub's login, and whatever stands where
an address has its user and password, or a key among its parameters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

HIDDEN = "***"

_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)\Z", re.IGNORECASE)
"""A variable of the environment whose name ends so holds a secret."""
_SHORTEST = 8
"""Characters of a secret at least: what is shorter is a word."""
_LARGEST_TOKEN = 4096
_USER = re.compile(r"(?<=://)[^/?#\s@]+(?=@)")
_PARAMETER = re.compile(
    r"(?<=[?&])((?:api[_-]?|access[_-]?)?(?:key|token|secret|password|signature|sig)=)[^&#\s'\"]+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{20,}\b|\bsk-[A-Za-z0-9_-]{20,}")
"""What tokens of the hub and of OpenAI look like."""


def hide_secrets(text: str) -> str:
    """The text with `***` in the place of every secret."""
    for secret in _known():
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _PARAMETER.sub(rf"\1{HIDDEN}", _USER.sub(HIDDEN, text))
    return _TOKEN.sub(HIDDEN, text)


def _known() -> Iterator[str]:
    for name, value in os.environ.items():
        if _VARIABLE.search(name) and len(value.strip()) >= _SHORTEST:
            yield value.strip()
    base = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    try:
        login = Path(os.environ.get("HF_TOKEN_PATH") or Path(base) / "token").expanduser()
        token = login.read_text("utf-8").strip() if login.stat().st_size < _LARGEST_TOKEN else ""
    except (OSError, ValueError, RuntimeError):
        return
    if len(token) >= _SHORTEST:
        yield token
