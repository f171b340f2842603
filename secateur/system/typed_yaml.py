"""A YAML mapping as a frozen dataclass, read strictly by the types of its fields.

The dataclass is the only list of keys there is: a key that is no field, a field without a default
that is no key, and a value of another type than the field's are errors with file and line. So is
what the dataclass refuses itself; the line is then that of the last key that the error names.

    text, whole number, number, true or false     as YAML has them; a number may be `1e-3`
    Literal                                        one of its words, `true` included
    Path                                           a text, which `Reader.find` turns into a path
    tuple, Sequence; Mapping                       a list; `key: value` pairs
    str | Sequence[str]                            a list, or a text of words with commas between
    another dataclass                              its keys, nested
    X | None                                       a key without a value is None; an optional
                                                   dataclass is left out by `false`

A field whose metadata say `key: False` is no key.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from secateur.errors import InputError
from secateur.system.settings import LONGEST_NUMBER
from secateur.system.yaml_nodes import Node, entries, place

_T = TypeVar("_T")
_NULL, _BOOL, _INT, _FLOAT, _STR = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")
)
_EXPECTED = {
    str: "text (in quotes, where it looks like a number)",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
}
FILE_ENDINGS = (
    ".yaml", ".yml", ".json", ".jsonl", ".txt", ".toml", ".gguf", ".dat", ".safetensors",
)  # fmt: skip
"""A text that ends so is the path of a file, also where a name may stand; an address is not."""

_WORDS = {str, Sequence[str]}
"""The kinds of a field that takes a list of texts, or one text of them with commas."""


@dataclass(frozen=True)
class Reader:
    """How nodes become values. `find(text, node)` gives the path that a text means; `special` are
    types that are read in a way of their own, from a node that is no scalar."""

    error: type[InputError]
    find: Callable[[str, Node], Path]
    special: Mapping[type, Callable[[Node], Any]] = field(default_factory=dict)

    def refuse(self, node: Node, what: str) -> InputError:
        """The error with the node's place, to be raised."""
        return self.error(f"{place(node)}: {what}")


def keys_of(cls: type) -> dict[str, Field[Any]]:
    """{key: field} of a dataclass that is read from YAML."""
    return {one.name: one for one in fields(cls) if one.metadata.get("key", True)}


def read_dataclass(cls: type[_T], node: Node, reader: Reader, title: str = "") -> _T:
    """The mapping at `node` as a `cls`; `title` is what errors call it, dotted.

    Raises the reader's error with file and line for what it cannot be.
    """
    if not isinstance(node, yaml.MappingNode):
        hint = (
            f": give some of its keys ({', '.join(list(keys_of(cls))[:3])}, ...), or leave it out"
        )
        raise reader.refuse(node, f"{title or 'the file'} has no keys{hint if title else ''}")
    given, known, hints = entries(node, reader.error), keys_of(cls), get_type_hints(cls)
    for key, (where, _) in given.items():
        if key not in known:
            owner = f"{title} has no key" if title else "there is no key"
            raise reader.refuse(where, f"{owner} {key!r}{_nearest(key, list(known))}")
    values: dict[str, Any] = {}
    for key, one in known.items():
        dotted = f"{title}.{key}" if title else key
        if key in given:
            values[key] = read_value(given[key][1], hints[key], reader, dotted)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise reader.refuse(node, f"{dotted} is missing")
    try:
        return cls(**values)
    except InputError as found:
        refused = str(found)
        named = [where for key, (where, _) in given.items() if re.search(rf"\b{key}\b", refused)]
        what = f"{title}: {refused}" if title else refused
        raise reader.refuse(named[-1] if named else node, what) from None


def read_value(node: Node, hint: Any, reader: Reader, title: str) -> Any:
    """The value at `node` as `hint` wants it. Raises the reader's error with file and line."""
    if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
        raise reader.refuse(node, f"{title} holds a zero byte, which no name and no text has")
    choices = _choices(hint)
    nested: list[Any] = [one for one in choices if is_dataclass(one) and one not in reader.special]
    optional = type(None) in choices
    if node.tag == _NULL and not nested:
        if optional:
            return None
        raise reader.refuse(node, f"{title} has no value, expected {_describe(choices)}")
    if optional and nested and node.tag == _BOOL and node.value.lower() in ("false", "no", "off"):
        return None
    if set(choices) >= _WORDS and _fits(node, str, reader):
        words = (word.strip() for word in node.value.split(","))
        return ",".join(_text(word, node, reader) for word in words)
    for choice in choices:
        if choice is not type(None) and _fits(node, choice, reader):
            return _convert(node, choice, reader, title)
    if nested:  # says that it has no keys
        return read_dataclass(nested[0], node, reader, title)
    raise reader.refuse(node, f"{title} is {_shown(node)}, expected {_describe(choices)}")


def _choices(hint: Any) -> tuple[Any, ...]:
    """The members of a union, itself if it is none; unions in it flattened."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(one for part in get_args(hint) for one in _choices(part))
    return (hint,)


def _fits(  # noqa: PLR0911 - one for each kind of value
    node: Node, kind: Any, reader: Reader
) -> bool:
    """Whether a node is of a kind, looking at itself and not at what is in it."""
    origin = get_origin(kind) or kind
    scalar = isinstance(node, yaml.ScalarNode)
    if kind in reader.special:
        return not scalar
    if origin is Literal:
        return scalar and node.value in get_args(kind)
    if origin in (str, Path):
        return scalar and node.tag == _STR and node.value != ""
    if origin in (int, bool):
        return scalar and node.tag == (_INT if origin is int else _BOOL)
    if origin is float:
        return scalar and _number(node) is not None
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(node, yaml.SequenceNode)
    is_mapping = is_dataclass(origin) or (isinstance(origin, type) and issubclass(origin, Mapping))
    return is_mapping and isinstance(node, yaml.MappingNode)


def _convert(  # noqa: PLR0911 - one for each kind of value
    node: Node, kind: Any, reader: Reader, title: str
) -> Any:
    """The value of a node that fits a kind."""
    if kind in reader.special:
        return reader.special[kind](node)
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind):
        return read_dataclass(kind, node, reader, title)  # type: ignore[arg-type]
    if isinstance(node, yaml.SequenceNode):
        return tuple(read_value(item, parts[0], reader, title) for item in node.value)
    if isinstance(node, yaml.MappingNode):
        return {
            read_value(key, parts[0], reader, f"a key of {title}"): read_value(
                value, parts[1], reader, f"{title}.{key.value}"
            )
            for key, value in entries(node, reader.error).values()
        }
    if origin is Path:
        return reader.find(node.value, node)
    if origin is str:
        return _text(node.value, node, reader)
    if origin is float:
        return _number(node)
    if origin in (int, bool):
        if len(node.value) > LONGEST_NUMBER:
            raise reader.refuse(node, f"{title} is a number of {len(node.value)} characters")
        return yaml.safe_load(node.value)
    return node.value


def _text(text: str, node: Node, reader: Reader) -> str:
    """A text of a node; where it names a file, the file's path."""
    is_file = text.lower().endswith(FILE_ENDINGS) and "://" not in text
    return str(reader.find(text, node)) if is_file else text


def _number(node: Node) -> float | None:
    """The finite number that a scalar without quotes is; YAML itself takes 1e-3 for a text."""
    if not isinstance(node, yaml.ScalarNode) or node.style or node.tag == _BOOL:
        return None
    try:
        value = float(node.value)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _describe(choices: Sequence[Any]) -> str:
    """What is expected, for people."""
    words = []
    for kind in choices:
        origin = get_origin(kind) or kind
        if origin is Literal:
            words.append(f"one of {', '.join(map(str, get_args(kind)))}")
        elif origin in _EXPECTED:
            words.append(_EXPECTED[origin])
        elif isinstance(origin, type) and issubclass(origin, Sequence):
            words.append("a list")
        elif kind is not type(None) and isinstance(origin, type) and issubclass(origin, Mapping):
            words.append("`key: value` pairs")
    return " or ".join(dict.fromkeys(words)) or "something else"


def _shown(node: Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"{node.value!r:.60}"
    return "a list" if isinstance(node, yaml.SequenceNode) else "`key: value` pairs"


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
