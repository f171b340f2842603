"""The parts of a parsed template."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.errors import FormatError


class GoTemplateError(FormatError):
    """A template that Go would refuse, or that leaves the subset evaluated here."""


@dataclass(frozen=True)
class Text:
    """Text that is written as it stands."""

    text: str


@dataclass(frozen=True)
class Literal:
    """A string, an integer, true, false or nil."""

    value: str | int | bool | None


@dataclass(frozen=True)
class Field:
    """`.A.B`; without names it is the dot itself."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Variable:
    """`$name.A.B`; `$` is the template's argument."""

    name: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    """The name of a function."""

    name: str


@dataclass(frozen=True)
class Chain:
    """`(pipeline).A.B`"""

    inner: Pipeline
    names: tuple[str, ...]


Operand = Literal | Field | Variable | Function | Chain
Command = tuple[Operand, ...]
"""An operand alone, or a function and its arguments."""


@dataclass(frozen=True)
class Pipeline:
    """Commands, each given the result of the one before as its last argument.

    `declared` are variables that get the result; `assigns` says that they existed before.
    """

    commands: tuple[Command, ...]
    declared: tuple[str, ...] = ()
    assigns: bool = False


@dataclass(frozen=True)
class Action:
    """`{{ pipeline }}`: its result is written, unless it goes into a variable."""

    pipeline: Pipeline


@dataclass(frozen=True)
class Branch:
    """if, with, range: `kind`, what decides, the two bodies."""

    kind: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True)
class Call:
    """`{{ template "name" pipeline }}`"""

    name: str
    pipeline: Pipeline | None


@dataclass(frozen=True)
class Jump:
    """break or continue."""

    kind: str


Node = Text | Action | Branch | Call | Jump


@dataclass(frozen=True)
class Template:
    """A parsed template: its own nodes, and those that it defines, by name."""

    root: tuple[Node, ...]
    defined: dict[str, tuple[Node, ...]]
    text: str

    def names(self) -> frozenset[str]:
        """The names of all fields and variables that the template reads, as Ollama collects them
        to know what a template can do ("Messages", "Tools", "Thinking", ...)."""
        found: set[str] = set()
        for nodes in (self.root, *self.defined.values()):
            _collect(nodes, found)
        return frozenset(found)


def _collect(nodes: tuple[Node, ...], found: set[str]) -> None:
    for node in nodes:
        if isinstance(node, Action | Branch | Call) and node.pipeline is not None:
            _collect_pipeline(node.pipeline, found)
        if isinstance(node, Branch):
            _collect(node.body, found)
            _collect(node.otherwise, found)


def _collect_pipeline(pipeline: Pipeline, found: set[str]) -> None:
    for command in pipeline.commands:
        for operand in command:
            if isinstance(operand, Field | Variable | Chain):
                found.update(operand.names)
            if isinstance(operand, Chain):
                _collect_pipeline(operand.inner, found)
