"""YAML settings read strictly: known keys only, each once, each of its kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from secateur.errors import InputError
from secateur.system.text_files import LARGEST_SETTINGS, explain, read_text

_T = TypeVar("_T")


def read_yaml(path: Path, error: type[InputError]) -> object:
    """The content of a YAML file. Raises `error` naming the file, and the line if it can."""
    text = read_text(path, "settings in YAML", error, LARGEST_SETTINGS)
    try:
        return yaml.load(text, UniqueKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as found:
        raise unusable(path, found, error) from None


def unusable(where: Path | str, found: Exception, error: type[InputError]) -> InputError:
    """The error for a text that YAML's parser refuses, with the line if it says one."""
    match found:
        case yaml.MarkedYAMLError():
            mark = found.problem_mark or found.context_mark
            place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            reason = f"{place}{found.problem:.80}"
        case RecursionError():
            reason = "it is nested too deeply"
        case _:
            reason = explain(found)
    return error(f"{where} is not usable YAML ({reason})")


def check_least(name: str, value: int | None, least: int, error: type[InputError]) -> None:
    """Raise `error` for a number that is too small."""
    if value is not None and value < least:
        raise error(f"{name} is {value}, expected {least} or more")


_MOST_NODES = 1_000_000
"""Values in a YAML file at most, where every alias counts as what it stands for."""
LONGEST_NUMBER = 64
"""Characters of a number at most: long ones to the base of 60, which YAML has, take for ever."""


class BoundedYaml(yaml.SafeLoader):
    """YAML without Python's own types, in which aliases cannot multiply and numbers are short."""

    def compose_document(self) -> yaml.Node | None:
        node = super().compose_document()
        if node is not None:
            _count(node, {})
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        _check_length(node)
        return int(super().construct_yaml_int(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        _check_length(node)
        return float(super().construct_yaml_float(node))


BoundedYaml.add_constructor("tag:yaml.org,2002:int", BoundedYaml.construct_yaml_int)
BoundedYaml.add_constructor("tag:yaml.org,2002:float", BoundedYaml.construct_yaml_float)


def _check_length(node: yaml.ScalarNode) -> None:
    if len(node.value) > LONGEST_NUMBER:
        what = f"a number of {len(node.value)} characters"
        raise yaml.MarkedYAMLError(None, None, what, node.start_mark)


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """The values in a node, aliases written out. Raises yaml.MarkedYAMLError for too many, and
    for a value that holds itself."""
    known = counted.get(id(node))
    if known is None and not isinstance(node, yaml.ScalarNode):
        counted[id(node)] = 0
        pairs = isinstance(node, yaml.MappingNode)
        parts = (part for pair in node.value for part in pair) if pairs else node.value
        known = 1 + sum(_count(part, counted) for part in parts)
        counted[id(node)] = known
    if known == 0 or (known or 1) > _MOST_NODES:
        what = "holds an alias of itself" if known == 0 else "has aliases of aliases without end"
        raise yaml.MarkedYAMLError(None, None, what, node.start_mark)
    return known or 1


class UniqueKeys(BoundedYaml):
    """A key given twice is an error; plain YAML forgets the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(None, None, f"{key.value!r} twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, slots=True)
class Settings:
    """A mapping of settings, and where it stands. Every method raises `error` naming both.

    A key without a value counts as not given.
    """

    values: Mapping[str, Any]
    where: str
    error: type[InputError]

    @classmethod
    def of(
        cls, content: object, where: str, known: Collection[str], error: type[InputError]
    ) -> Settings:
        """Take a mapping whose keys are all `known`."""
        if not isinstance(content, dict):
            found = "nothing" if content is None else f"a {type(content).__name__}"
            raise error(f"{where}: found {found}, expected `key: value` lines")
        for key in content:
            if key not in known:
                raise error(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
        return cls({k: v for k, v in content.items() if v is not None}, where, error)

    def text(self, key: str) -> str | None:
        """Text that is not empty."""
        value = self._of_kind(key, str, "text (quote it)")
        if value == "":
            raise self.error(f"{self.where}: {key} is empty, expected text")
        return value

    def whole(self, key: str, least: int) -> int | None:
        """A whole number of at least `least`."""
        value = self._of_kind(key, int, "a whole number")
        check_least(f"{self.where}: {key}", value, least, self.error)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._of_kind(key, bool, "true or false")
        return default if value is None else value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of `choices`; the first if not given."""
        value = self.text(key)
        if value is not None and value not in choices:
            raise self.error(
                f"{self.where}: {key} is {value!r}, expected one of {', '.join(choices)}"
            )
        return value or choices[0]

    def listing(self, key: str) -> list[Any] | None:
        """A list."""
        return self._of_kind(key, list, "a list")

    def pairs(self, key: str) -> dict[Any, Any] | None:
        """A mapping."""
        return self._of_kind(key, dict, "`key: value` pairs")

    def _of_kind(self, key: str, kind: type[_T], expected: str) -> _T | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"{self.where}: {key} is {value!r:.60}, expected {expected}")
        return value
