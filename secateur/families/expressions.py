"""The small language in which a family's TOML computes with its config: a part of Python's.

    "heads * head"                                          arithmetic: + - * // %
    "per_layer[layer].head_dim or global_head_dim"          a path; what is missing is None
    "layer >= first_dense and layer not in mlp_only"        conditions
    "window if layer_type == 'sliding_attention' else 0"    a choice

The caller's lookup gives names their values. Nothing can be called, nothing outside is reached.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from secateur.errors import FamilyError

Lookup = Callable[[str], Any]
"""The value of a name; None when there is none."""

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, many: item in many,
    ast.NotIn: lambda item, many: item not in many,
}

_PLAIN = (
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.List, ast.IfExp, ast.BoolOp,
)  # fmt: skip
_LONGEST = 1000
"""Characters of an expression: what Python can parse, and evaluate one call in the other."""


def evaluate(text: str, lookup: Lookup) -> Any:
    """The value of an expression.

    Raises FamilyError for text that is not of this language, and for one that computes with a
    value that is missing or of the wrong type, naming it.
    """
    return _evaluate(parse(text), lookup, text)


def entry(container: Any, key: Any) -> Any:
    """An item of a list or mapping; None when there is none.

    A layer's number finds its key however wide that is: transformers pads layer numbers with
    zeros, so layer 5 of 30 is "05".
    """
    if isinstance(container, list | tuple):
        return (
            container[key]
            if isinstance(key, int) and -len(container) <= key < len(container)
            else None
        )
    if not isinstance(container, Mapping):
        return None
    if key in container:
        return container[key]
    if str(key).isdigit():
        written = (k for k in container if str(k).isdigit() and int(k) == int(key))
        return container.get(next(written, key))
    return None


@cache
def parse(text: str) -> ast.expr:
    """The syntax tree of an expression. Raises FamilyError for text that is none, or not of this
    language."""
    if len(text) > _LONGEST:
        raise FamilyError(f"an expression of a family's table is longer than {_LONGEST} characters")
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise FamilyError(f"expression {text!r} of a family's table: {error.msg}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and not _is_known(node):
            raise FamilyError(
                f"expression {text!r} of a family's table: {ast.unparse(node)!r} is not of its "
                "language"
            )
    return tree


def _is_known(node: ast.expr) -> bool:
    match node:
        case ast.UnaryOp():
            return isinstance(node.op, ast.Not)
        case ast.BinOp():
            return type(node.op) in _ARITHMETIC
        case ast.Compare():
            return len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS
    return isinstance(node, _PLAIN)


def _evaluate(node: ast.expr, lookup: Lookup, text: str) -> Any:  # noqa: PLR0911 - one for each kind
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return lookup(node.id)
        case ast.Attribute():
            return entry(_evaluate(node.value, lookup, text), node.attr)
        case ast.Subscript():
            return entry(_evaluate(node.value, lookup, text), _evaluate(node.slice, lookup, text))
        case ast.List():
            return [_evaluate(item, lookup, text) for item in node.elts]
        case ast.IfExp():
            chosen = node.body if _evaluate(node.test, lookup, text) else node.orelse
            return _evaluate(chosen, lookup, text)
        case ast.UnaryOp():
            return not _evaluate(node.operand, lookup, text)
        case ast.BoolOp():
            return _evaluate_logical(node, lookup, text)
        case ast.BinOp():
            return _compute(_ARITHMETIC[type(node.op)], [node.left, node.right], lookup, text)
        case ast.Compare():
            pair = [node.left, node.comparators[0]]
            return _compute(_COMPARISONS[type(node.ops[0])], pair, lookup, text)
    raise AssertionError(text)  # `parse` knows no others


def _evaluate_logical(node: ast.BoolOp, lookup: Lookup, text: str) -> Any:
    """`and`, `or`: as Python's, the value that decides, and no further."""
    value = None
    for part in node.values:
        value = _evaluate(part, lookup, text)
        if bool(value) is isinstance(node.op, ast.Or):
            return value
    return value


def _compute(
    function: Callable[[Any, Any], Any], pair: list[ast.expr], lookup: Lookup, text: str
) -> Any:
    values = [_evaluate(part, lookup, text) for part in pair]
    try:
        return function(*values)
    except (TypeError, ZeroDivisionError):
        operands = ", ".join(
            f"{ast.unparse(part)} is {'missing' if value is None else repr(value)}"
            for part, value in zip(pair, values, strict=True)
            if not isinstance(part, ast.Constant)
        )
        raise FamilyError(
            f"config.json does not give what {text!r} needs: {operands}: check the config"
        ) from None
