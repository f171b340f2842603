"""Reading JSON that a stranger wrote: nothing in it may be said twice."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError for what is no JSON, for a key that occurs twice in one
    object (readers disagree on which one counts), and for nesting too deep to parse."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r:.60} occurs twice")
            seen.add(key)
    return result
