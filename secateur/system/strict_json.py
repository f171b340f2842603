"""Reading JSON that a stranger wrote: nothing in it may be said twice, or break what uses it."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LARGEST = 1 << 64
"""Whole numbers of at least this size, and at most its negative, count nothing: no tensor, file or
array has as many of anything, and no array of numbers can hold them."""


def loads(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError for what is no JSON, for a key that occurs twice in one
    object (readers disagree on which one counts), for nesting too deep to parse, a whole number of
    more than 64 bits, and half of a surrogate pair, which no file can hold."""
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_int=_whole)
        if isinstance(text, bytes | bytearray):
            text = text.decode(json.detect_encoding(text))
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST < (number := int(digits)) < _LARGEST:
        raise ValueError(f"a number of {len(digits)} digits, {digits[:20]}...")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r:.60} occurs twice")
            seen.add(key)
    return result
