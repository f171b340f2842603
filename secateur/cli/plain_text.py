"""Text of a stranger on a terminal: what a terminal would take for a command is shown instead.

A model's reply, a tensor's name or a server's message may hold escape sequences, which move the
cursor, rename the window, write to the clipboard or hide what stands before them.
"""

from __future__ import annotations

_PICTURES = 0x2400
"""Unicode shows control characters from here on: U+241B is the picture of Escape."""
_REPLACED = "\N{REPLACEMENT CHARACTER}"

_SHOWN: dict[int, str] = {
    **{code: chr(_PICTURES + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys(range(0x80, 0xA0), _REPLACED),
    **dict.fromkeys(range(0xD800, 0xE000), _REPLACED),
}
"""Control characters (C0 without line ends and tabs, Delete, C1) and halves of surrogate pairs."""
_ESCAPED: dict[int, str] = {code: f"\\u{code:04x}" for code in _SHOWN}


def plain_text(text: str) -> str:
    """The text with a picture in the place of every control character; lines and tabs stay."""
    return text.translate(_SHOWN)


def plain_json(text: str) -> str:
    """JSON with control characters escaped as JSON has them: who parses it gets what was meant."""
    return text.translate(_ESCAPED)
