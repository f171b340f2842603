"""Which keys of a JSON document a table of documented keys describes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def unknown(data: Any, known: Mapping[str, str]) -> list[str]:
    """The dotted keys of a document that no entry of `known` describes."""
    patterns = [_pattern(key) for key in known]
    return sorted({p for p in paths(data) if not any(one.fullmatch(p) for one in patterns)})


def _pattern(key: str) -> re.Pattern[str]:
    """`*` is any one name, whatever it holds (`model.safetensors`); `**` is anything below."""
    text = re.escape(key).replace(r"\*\*", ".+").replace(r"\*", ".+")
    return re.compile(text)


def paths(data: Any, at: str = "") -> Iterator[str]:
    """The dotted keys of all that is no table; items of a list have the list's key."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from paths(value, f"{at}.{key}" if at else key)
    elif isinstance(data, list) and any(isinstance(item, dict) for item in data):
        for item in data:
            yield from paths(item, at)
    else:
        yield at


def unused(documents: Iterable[Any], known: Mapping[str, str]) -> list[str]:
    """The entries of `known` that describe no key of any of the documents."""
    found = {path for document in documents for path in paths(document)}
    return [key for key in known if not any(map(_pattern(key).fullmatch, found))]
