"""Pieces of Markdown that the reference is put together from."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; `|` in cells is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    """Text as a table may hold it."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Text as code."""
    return f"`{text}`"


def keys(rows: Mapping[str, str]) -> str:
    """A table of keys and what each holds."""
    return table(("key", "holds"), [(code(key), about) for key, about in rows.items()])


def docstring(thing: Any) -> str:
    """The documentation of a module or class. Lists that are indented stay so."""
    first, _, rest = (thing.__doc__ or "").partition("\n")
    indent = "" if inspect.ismodule(thing) else "    "
    lines = [line.removeprefix(indent).rstrip() for line in rest.splitlines()]
    return "\n".join([first.strip(), *lines]).strip()


def value_of(hint: Any) -> str:  # noqa: PLR0911 - one for each kind of hint
    """What a field of this type holds, in words."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(value_of(part) for part in parts if part is not type(None))
    if kind is Literal:
        return ", ".join(map(str, parts))
    if kind in (tuple, list) or (isinstance(kind, type) and issubclass(kind, Sequence)):
        return f"list of {value_of(parts[0])}"
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return f"table: name to {value_of(parts[1])}"
    if is_dataclass(hint):
        return "table, below"
    words = {
        Path: "path",
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        Any: "any",
    }
    return words.get(hint) or getattr(hint, "__name__", str(hint))


def default_of(field: Field[Any]) -> str:
    """A field's default as YAML or TOML would write it; "required" without one."""
    if field.default is MISSING and field.default_factory is MISSING:
        return "required"
    value = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
    if value is None or value in ((), {}, "") or is_dataclass(value):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
