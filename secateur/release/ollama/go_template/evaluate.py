"""What a parsed template writes for given data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.release.ollama.go_template.functions import Missing, Struct, call, is_true, show
from secateur.release.ollama.go_template.nodes import (
    Action,
    Branch,
    Call,
    Chain,
    Command,
    Field,
    Function,
    GoTemplateError,
    Literal,
    Node,
    Operand,
    Pipeline,
    Template,
    Text,
)

_DEEPEST = 50


class _Jumped(Exception):
    """break or continue, on its way to the range that it is in."""


def render(template: Template, data: Mapping[str, Any]) -> str:
    """The template's text for `data`.

    Values are str, bool, int, float, None, list, dict (a Go map) and `Struct`. Raises
    GoTemplateError where Go would fail or where a result is not known here.
    """
    written: list[str] = []
    _State(template, dict(data), written, 0).walk(template.root, data)
    return "".join(written)


class _State:
    """The variables of one template that is running, innermost last."""

    def __init__(self, template: Template, root: Any, written: list[str], depth: int) -> None:
        self.template = template
        self.variables: list[tuple[str, Any]] = [("", root)]
        self.written = written
        self.depth = depth

    def walk(self, nodes: Sequence[Node], dot: Any) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self.written.append(node.text)
            elif isinstance(node, Action):
                value = self.pipeline(node.pipeline, dot)
                if not node.pipeline.declared:
                    self.written.append(show(value))
            elif isinstance(node, Branch):
                self.branch(node, dot)
            elif isinstance(node, Call):
                self.call_template(node, dot)
            else:
                raise _Jumped(node.kind)

    def branch(self, node: Branch, dot: Any) -> None:
        before = len(self.variables)
        if node.kind == "range":
            self.range(node, dot)
        else:
            value = self.pipeline(node.pipeline, dot)
            inner = value if node.kind == "with" and is_true(value) else dot
            self.walk(node.body if is_true(value) else node.otherwise, inner)
        del self.variables[before:]

    def range(self, node: Branch, dot: Any) -> None:
        value = self.pipeline(Pipeline(node.pipeline.commands), dot)
        items: list[tuple[Any, Any]]
        if isinstance(value, dict):
            items = sorted(value.items())
        elif isinstance(value, list):
            items = list(enumerate(value))
        elif value is None or isinstance(value, Missing):
            items = []
        else:
            raise GoTemplateError("range over a value that is neither a map nor a slice")
        if not items:
            self.walk(node.otherwise, dot)
        names = node.pipeline.declared
        for key, item in items:
            before = len(self.variables)
            given = (key, item) if len(names) == 2 else (item,)
            self.variables += list(zip(names, given, strict=False))
            try:
                self.walk(node.body, item)
            except _Jumped as jump:
                if str(jump) == "break":
                    return
            finally:
                del self.variables[before:]

    def call_template(self, node: Call, dot: Any) -> None:
        if node.name not in self.template.defined:
            raise GoTemplateError(f"the template {node.name!r} is not defined")
        if self.depth == _DEEPEST:
            raise GoTemplateError(f"templates call each other more than {_DEEPEST} deep")
        given = None if node.pipeline is None else self.pipeline(node.pipeline, dot)
        inner = _State(self.template, given, self.written, self.depth + 1)
        inner.walk(self.template.defined[node.name], given)

    def pipeline(self, pipeline: Pipeline, dot: Any) -> Any:
        value: Any = None
        for number, command in enumerate(pipeline.commands):
            value = self.command(command, dot, () if number == 0 else (value,))
        for name in pipeline.declared:
            if pipeline.assigns:
                self.variables[self.place(name)] = (name, value)
            else:
                self.variables.append((name, value))
        return value

    def command(self, command: Command, dot: Any, final: tuple[Any, ...]) -> Any:
        first, *rest = command
        if not isinstance(first, Function):
            if rest or final:
                raise GoTemplateError("a value that is no function is given arguments")
            return self.operand(first, dot)
        if first.name in ("and", "or"):
            return self.decide(first.name == "or", rest, dot, final)
        return call(first.name, [*(self.operand(one, dot) for one in rest), *final])

    def decide(
        self, until: bool, operands: Sequence[Operand], dot: Any, final: tuple[Any, ...]
    ) -> Any:
        """The first argument whose truth is `until`, else the last; the rest is not evaluated."""
        value: Any = None
        for operand in operands:
            value = self.operand(operand, dot)
            if is_true(value) is until:
                return value
        return final[0] if final else value

    def operand(self, operand: Operand, dot: Any) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Field):
            return _follow(dot, operand.names)
        if isinstance(operand, Chain):
            return _follow(self.pipeline(operand.inner, dot), operand.names)
        if isinstance(operand, Function):
            return self.command((operand,), dot, ())
        return _follow(self.variables[self.place(operand.name)][1], operand.names)

    def place(self, name: str) -> int:
        """Where the innermost variable of a name stands."""
        for at in range(len(self.variables) - 1, -1, -1):
            if self.variables[at][0] == name:
                return at
        raise GoTemplateError(f"the variable ${name} is not defined")


def _follow(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        if isinstance(value, Struct):
            if name not in value.fields:
                raise GoTemplateError(f"there is no field .{name}")
            value = value.fields[name]
        elif isinstance(value, Mapping):
            value = value.get(name, Missing(name))
        else:
            raise GoTemplateError(f".{name} of a value that has no fields")
    return value
