"""A TOML table as a frozen dataclass, read strictly by the types of its fields.

The dataclass is the only list of keys there is: a key that is no field, a field without a default
that is no key, and a value of another type than the field's are errors with file and line. A field
may say in its metadata:

    key          its name in TOML, where that is no name in Python
    one_or_many  True: a value that is no list counts as a list of one
    expression   True: texts in it are of the language of `expressions.py`
    derived      True: no key; whoever reads the table fills it in
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from secateur.errors import FamilyError
from secateur.families.expressions import parse
from secateur.families.toml_tables import Table, nearest

_T = TypeVar("_T")
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_table(cls: type[_T], table: Table) -> _T:
    """The table as a `cls`. Raises FamilyError with file and line for what it cannot be."""
    hints = _hints(cls)  # type: ignore[arg-type]
    known = keys_of(cls)
    for key in table.entries:
        if key not in known:
            raise table.error(key, f"{table.title} has no key {key!r}{nearest(key, tuple(known))}")
    values: dict[str, Any] = {}
    for key, field in known.items():
        if key in table.entries:
            values[field.name] = _read_field(table, key, field, hints[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise table.error(None, f"{table.title} lacks the key {key!r}")
    return cls(**values)


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """The types of a dataclass' fields: a family has hundreds of rows of the same few."""
    return get_type_hints(cls)


def keys_of(cls: type) -> dict[str, Field[Any]]:
    """{key in TOML: field} of all that such a table may have."""
    return {
        field.metadata.get("key", field.name): field
        for field in fields(cls)
        if not field.metadata.get("derived")
    }


def _read_field(table: Table, key: str, field: Field[Any], hint: Any) -> Any:
    value = table.entries[key]
    if field.metadata.get("one_or_many") and not isinstance(value, list):
        value = [value]

    def refuse(expected: str) -> FamilyError:
        return table.error(key, f"{table.title} has {key} = {_shown(value)}, expected {expected}")

    read = _convert(value, hint, refuse)
    if field.metadata.get("expression"):
        for text in read.values() if isinstance(read, Mapping) else (read,):
            if isinstance(text, str):
                try:
                    parse(text)
                except FamilyError as error:
                    raise table.error(key, str(error)) from None
    return read


def _convert(  # noqa: PLR0911 - one for each kind of field
    value: Any, hint: Any, refuse: Callable[[str], FamilyError]
) -> Any:
    """The value as `hint` wants it; `refuse` makes the error from what was expected."""
    if hint is Any:
        return plain(value)
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return _convert(value, next(part for part in parts if part is not type(None)), refuse)
    if kind is Literal:
        if value not in parts:
            raise refuse(f"one of {', '.join(map(str, parts))}")
        return value
    if kind is tuple:
        if not isinstance(value, list):
            raise refuse("a list")
        return tuple(_convert(item, parts[0], refuse) for item in value)
    if kind is not None and issubclass(kind, Mapping):
        if not isinstance(value, Table):
            raise refuse("a table")
        return {key: _convert(entry, parts[1], refuse) for key, entry in value.entries.items()}
    if is_dataclass(hint):
        if not isinstance(value, Table):
            raise refuse("a table")
        return read_table(hint, value)  # type: ignore[arg-type]
    if type(value) is not hint and not (hint is float and type(value) is int):
        raise refuse(_NAMES[hint])
    return value


def plain(value: Any) -> Any:
    """A value without its places: tables as dictionaries."""
    if isinstance(value, Table):
        return {key: plain(entry) for key, entry in value.entries.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    text = repr(plain(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
