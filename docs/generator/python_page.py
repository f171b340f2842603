"""The page of what Python sees: every name of the package, with its arguments and its own words."""

from __future__ import annotations

import inspect
from typing import Any

from file_pages import page
from page_parts import docstring

import secateur

WIDTH = 90


def python() -> str:
    """The page's text."""
    named = [(name, getattr(secateur, name)) for name in secateur.__all__ if name[:2] != "__"]
    functions = sorted((name, one) for name, one in named if inspect.isfunction(one))
    values = sorted((name, one) for name, one in named if inspect.isclass(one))
    return page(
        "Python",
        "Every command is a function of the package `secateur`, and takes and gives the values "
        "below. A model is a path, a hub id, `gemmule` or an open `Checkpoint`.",
        "```python\n" + inspect.cleandoc(_example()) + "\n```",
        "## Functions", *(_entry(name, one) for name, one in functions),
        "## Values and errors", *(_entry(name, one) for name, one in values),
    )  # fmt: skip


def _example() -> str:
    """The example in the package's own documentation."""
    text = secateur.__doc__ or ""
    lines = [line for line in text.splitlines()[1:] if line.startswith("    ") or not line.strip()]
    return "\n".join(lines).strip("\n")


def _entry(name: str, one: Any) -> str:
    text = inspect.cleandoc(one.__doc__ or "") if inspect.isfunction(one) else docstring(one)
    plain = inspect.isclass(one) and issubclass(one, Exception)
    shown = "" if plain else f"```python\n{signature(name, one)}\n```\n\n"
    return f"### {name}\n\n{shown}{text}"


def signature(name: str, one: Any) -> str:
    """`name(argument: type = default, ...)`, an argument a line where it is long."""
    found = inspect.signature(one)
    parts = []
    keyword = False
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            parts.append("*")
            keyword = True
        default = "" if parameter.default is parameter.empty else f" = {_shown(parameter.default)}"
        kind = parameter.annotation if isinstance(parameter.annotation, str) else ""
        parts.append(f"{parameter.name}{f': {kind}' if kind else ''}{default}")
    back = found.return_annotation
    arrow = f" -> {back}" if isinstance(back, str) and inspect.isfunction(one) else ""
    line = f"{name}({', '.join(parts)}){arrow}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){arrow}"])


def _shown(value: Any) -> str:
    """A default as it may be typed; a function by its name, a factory as `...`."""
    if inspect.isfunction(value):
        return "..." if value.__name__ == "<lambda>" else value.__name__
    if type(value).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
        return "..."
    text = repr(value)
    return text if len(text) <= 60 and "<" not in text and " object " not in text else "..."
