"""YAML as nodes that know the file and line they stand in; an option may set values in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from secateur.errors import InputError
from secateur.system.settings import UniqueKeys, unusable
from secateur.system.text_files import LARGEST_SETTINGS, read_text

Node = yaml.Node
Pair = tuple[yaml.ScalarNode, Node]


class _Assignment(str):
    """Where a value stands that was set by an option: no file, and no line."""


def read_nodes(path: Path, expected: str, error: type[InputError]) -> Node:
    """The node of a YAML file that holds one document. Raises `error`, naming the line."""
    text = read_text(path, expected, error, LARGEST_SETTINGS)
    node = _compose(text, str(path), error)
    if node is None:
        raise error(f"{path} is empty, expected {expected}")
    return node


def place(node: Node) -> str:
    """`FILE:LINE` of a node, or the assignment that set it."""
    mark = node.start_mark
    return str(mark.name) if is_assigned(node) else f"{mark.name}:{mark.line + 1}"


def is_assigned(node: Node) -> bool:
    """Whether a node was set by `set_value`."""
    return isinstance(node.start_mark.name, _Assignment)


def entries(node: yaml.MappingNode, error: type[InputError]) -> dict[str, Pair]:
    """{key: (its node, its value's)}. Raises `error` for a key that is no text or comes twice."""
    found: dict[str, Pair] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise error(f"{place(key)}: a key is no text")
        if key.value in found:
            first = place(found[key.value][0])
            raise error(f"{place(key)}: {key.value!r} is given twice, first in {first}")
        found[key.value] = (key, value)
    return found


def content(node: Node, error: type[InputError]) -> Any:
    """A node's plain content: dictionaries, lists, texts and numbers. Raises `error`."""
    loader = UniqueKeys("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as found:
        raise unusable(node.start_mark.name, found, error) from None
    finally:
        loader.dispose()


def set_value(root: Node, assignment: str, option: str, error: type[InputError]) -> None:
    """Put the value of `KEY.KEY=VALUE` into a tree of mappings; `option` is what errors call it.

    The value is read as YAML. Mappings that are not there are made; a number names an item of a
    list. Raises `error` for what is no assignment, or leads through a value that has no keys.
    """
    dotted, equals, text = assignment.partition("=")
    where = _Assignment(f"{option} {assignment}")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise error(f"{where}: expected KEY=VALUE, as in pruning.experts=90")
    value = _compose(text, where, error) or _mark(yaml.ScalarNode(_NULL, ""), where)
    node = root
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
            if last:
                node.value[int(key)] = value
            node = node.value[int(key)]
            continue
        if not isinstance(node, yaml.MappingNode):
            raise error(f"{where}: {'.'.join(keys[:depth]) or 'the file'} has no keys to set")
        node = _set(node, key, value if last else None, where)


_NULL = "tag:yaml.org,2002:null"
_MAP = "tag:yaml.org,2002:map"
_STR = "tag:yaml.org,2002:str"


def _set(node: yaml.MappingNode, key: str, value: Node | None, where: _Assignment) -> Node:
    """Put `value` under a key, or without one a mapping unless there is a value; returns it."""
    for number, (name, held) in enumerate(node.value):
        if name.value == key:
            if value is None and held.tag != _NULL:
                known: Node = held
                return known
            new = value or _mark(yaml.MappingNode(_MAP, []), where)
            node.value[number] = (_mark(yaml.ScalarNode(_STR, key), where), new)
            return new
    new = value or _mark(yaml.MappingNode(_MAP, []), where)
    node.value.append((_mark(yaml.ScalarNode(_STR, key), where), new))
    return new


def _mark(node: Node, where: _Assignment) -> Node:
    node.start_mark = yaml.Mark(where, 0, 0, 0, None, 0)
    return node


def _compose(text: str, name: str, error: type[InputError]) -> Node | None:
    try:
        loader = UniqueKeys(text)
        loader.name = name
        try:
            node: Node | None = loader.get_single_node()
            return node
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as found:
        raise unusable(name, found, error) from None
