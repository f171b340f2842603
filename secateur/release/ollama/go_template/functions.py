"""The functions of Go's templates, and those that Ollama adds: as far as its templates use them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.release.ollama.go_template.nodes import GoTemplateError


@dataclass(frozen=True)
class Struct:
    """A Go struct: it has these fields and no others. `text` is what its String() gives, if any."""

    fields: Mapping[str, Any]
    text: str | None = None


@dataclass(frozen=True)
class Missing:
    """What a map gives for a key that it does not have: false, and not to be written."""

    key: str = field(default="")

    def __bool__(self) -> bool:
        return False


def is_true(value: Any) -> bool:
    """Go's truth: false, 0, nil and what is empty are not true; a struct always is."""
    return True if isinstance(value, Struct) else bool(value)


def show(value: Any) -> str:
    """What `{{ value }}` writes. Raises GoTemplateError for what Go writes in a form of its own
    (maps, slices, structs without String(), nil) or what depends on the number's size."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Struct) and value.text is not None:
        return value.text
    what = f"the missing key {value.key!r}" if isinstance(value, Missing) else _type(value)
    raise GoTemplateError(f"the template writes {what} as it is, which is not evaluated here")


def call(name: str, arguments: Sequence[Any]) -> Any:
    """The result of a function. Raises GoTemplateError for one that is not known here, or for
    arguments that Go refuses."""
    if name not in _FUNCTIONS:
        known = ", ".join(sorted((*_FUNCTIONS, "and", "or")))
        raise GoTemplateError(f"the function {name} is not known here (known: {known})")
    return _FUNCTIONS[name](*arguments)


def _equal(first: Any, *others: Any) -> bool:
    for other in others:
        kinds = {type(value) for value in (first, other)} - {Missing}
        if len(kinds) > 1 or not kinds <= {str, int, bool, float}:
            raise GoTemplateError(f"eq compares {_type(first)} with {_type(other)}")
    return any(first == other for other in others)


def _ordered(first: Any, second: Any) -> tuple[Any, Any]:
    if type(first) is not type(second) or not isinstance(first, str | int):
        raise GoTemplateError(f"{_type(first)} is compared with {_type(second)}")
    return first, second


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if not isinstance(value, list | dict):
        raise GoTemplateError(f"len of {_type(value)}")
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, Missing(str(key)))
        elif isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            raise GoTemplateError(f"index {key!r} of {_type(value)} is not there")
    return value


def _slice(value: Any, start: int = 0, end: int | None = None) -> Any:
    if not isinstance(value, list) or not 0 <= start <= (len(value) if end is None else end):
        raise GoTemplateError(f"slice of {_type(value)} from {start} is not evaluated here")
    return value[start:end]


def _printf(form: str, *values: Any) -> str:
    pieces = form.replace("%%", "\0").split("%")
    text = pieces[0]
    for piece, value in zip(pieces[1:], values, strict=True):
        verb = piece[:1]
        if verb == "T":
            text += _type(value)
        elif verb in ("s", "v") or verb == "d" and isinstance(value, int):
            text += show(value)
        else:
            raise GoTemplateError(f"printf with %{verb} of {_type(value)} is not evaluated here")
        text += piece[1:]
    return text.replace("\0", "%")


def _json(value: Any) -> str:
    """Ollama's `json`: Go's encoding/json, sorted keys, and <, >, & as escapes."""
    if isinstance(value, Struct | Missing):
        raise GoTemplateError("json of a struct is not evaluated here")
    text = json.dumps(_plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _plain(value: Any) -> Any:
    """Numbers as Go has them: a whole one is written without a fraction."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _type(value: Any) -> str:
    """Go's name of the type that encoding/json makes of a value (numbers are all float64)."""
    names = {str: "string", bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}
    if value is None or isinstance(value, Missing):
        return "<nil>"
    return names.get(type(value), "float64" if isinstance(value, int | float) else "a struct")


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),
    "lt": lambda first, second: (pair := _ordered(first, second))[0] < pair[1],
    "le": lambda first, second: (pair := _ordered(first, second))[0] <= pair[1],
    "gt": lambda first, second: (pair := _ordered(first, second))[0] > pair[1],
    "ge": lambda first, second: (pair := _ordered(first, second))[0] >= pair[1],
    "not": lambda value: not is_true(value),
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": lambda *values: "".join(map(show, values)) if len(values) == 1 else _refuse_print(),
    "printf": _printf,
    "json": _json,
}
"""`and` and `or` are evaluated as Go does since 1.18: they stop at the value that decides."""


def _refuse_print() -> str:
    raise GoTemplateError("print of several values is not evaluated here: use printf")
