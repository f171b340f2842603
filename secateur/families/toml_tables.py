"""TOML whose every key knows the file and line it stands in, and which tables inherit from others.

`tomllib` gives values without lines. A line is looked for only when there is an error to report.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from secateur.errors import FamilyError

TomlPath = tuple[str | int, ...]
"""Where a value stands in a file: keys, and positions in arrays of tables."""


@dataclass(frozen=True)
class TomlFile:
    """A file and its text; `name` is what errors call it."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def content(self) -> dict[str, Any]:
        """The parsed file. Raises FamilyError naming the line that is not TOML."""
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise FamilyError(f"{self.name}: is not TOML: {error}") from None
        except RecursionError:
            raise FamilyError(f"{self.name}: is nested too deeply") from None
        except ValueError:  # of Python's int, for thousands of digits
            raise FamilyError(f"{self.name}: holds a number of too many digits") from None

    @cached_property
    def lines(self) -> Mapping[TomlPath, int]:
        """Path of every table and key -> the number of its line."""
        found: dict[TomlPath, int] = {}
        header: TomlPath = ()
        counts: dict[TomlPath, int] = {}
        for number, statement in _statements(self.text):
            content = tomllib.loads(statement)
            if statement.startswith("["):
                header = _header(content, counts)
                found.setdefault(header, number)
                continue
            for path in _paths(content):
                found.setdefault((*header, *path), number)
        return found

    def line(self, path: TomlPath) -> int:
        """The line of the innermost part of `path` that has one; 1 for the whole file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return 1


@dataclass(frozen=True)
class Origin:
    """Where a key or table stands."""

    file: TomlFile
    path: TomlPath

    def __str__(self) -> str:
        return f"{self.file.name}:{self.file.line(self.path)}"


@dataclass(frozen=True)
class Table:
    """A table of one file, or of several that inherit from each other.

    Its entries are Tables, lists of Tables, or plain values; `origins` says where each key stands.
    """

    entries: Mapping[str, Any]
    origins: Mapping[str, Origin] = field(repr=False)
    origin: Origin

    @property
    def title(self) -> str:
        """What errors call it: `[shape.axes]`, or `the file`."""
        names = [str(step) for step in self.origin.path if isinstance(step, str)]
        return f"[{'.'.join(names)}]" if names else "the file"

    def error(self, key: str | None, what: str) -> FamilyError:
        """An error at a key, or at the table's beginning."""
        return FamilyError(f"{self.origins.get(key or '', self.origin)}: {what}")


def table_of(file: TomlFile) -> Table:
    """The whole file as a table. Raises FamilyError for a file that is not TOML."""
    return _table(file.content, file, ())


def inherit(parent: Table, child: Table, keys: Mapping[str, str], path: str = "") -> Table:
    """`child` over `parent`: tables join, an array of tables by the rows' names, the rest replaces.

    `keys` gives for an array of tables (dotted path) the key that names its rows. A row replaces
    the inherited row of its name, in that row's place; a new one follows the row that its `after`
    names, or stands at the end. Raises FamilyError for an `after` that names no row.
    """
    entries, origins = dict(parent.entries), {**parent.origins, **child.origins}
    for key, value in child.entries.items():
        inside = f"{path}.{key}" if path else key
        held = entries.get(key)
        if isinstance(value, Table) and isinstance(held, Table):
            entries[key] = inherit(held, value, keys, inside)
        elif inside in keys and _is_rows(value):
            entries[key] = _join_rows(held or [], value, keys[inside])
        else:
            entries[key] = value
    return Table(entries, origins, child.origin)


def nearest(word: str, known: Collection[str]) -> str:
    """A hint for a misspelt word: ": did you mean 'x'?", or what is known."""
    close = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _join_rows(held: list[Table], added: list[Table], name: str) -> list[Table]:
    rows = list(held)
    for row in added:
        after = row.entries.get("after")
        same = _position(rows, name, row.entries.get(name))
        bare = Table(
            {k: v for k, v in row.entries.items() if k != "after"}, row.origins, row.origin
        )
        if same is not None:
            rows[same] = bare
        elif after is None:
            rows.append(bare)
        elif (place := _position(rows, name, after)) is not None:
            rows.insert(place + 1, bare)
        else:
            raise row.error("after", f"{row.title} stands after {after!r}, and no row is that")
    return rows


def _position(rows: list[Table], name: str, value: Any) -> int | None:
    return next((i for i, row in enumerate(rows) if row.entries.get(name) == value), None)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Table) for v in value)


def _table(content: Mapping[str, Any], file: TomlFile, path: TomlPath) -> Table:
    return Table(
        {key: _entry(value, file, (*path, key)) for key, value in content.items()},
        {key: Origin(file, (*path, key)) for key in content},
        Origin(file, path),
    )


def _entry(value: Any, file: TomlFile, path: TomlPath) -> Any:
    if isinstance(value, dict):
        return _table(value, file, path)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [_table(item, file, (*path, number)) for number, item in enumerate(value)]
    return value


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every statement of a file that is TOML: a header, or a key and its value."""
    start, statement = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        start = start if statement else number
        statement += line + "\n"
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # continued on the next line
        if content:
            yield start, statement.lstrip()
        statement = ""


def _header(content: dict[str, Any], counts: dict[TomlPath, int]) -> TomlPath:
    """The path that a header opens; `counts` has the position of each array's last table."""
    path: TomlPath = ()
    node: Any = content
    while node:
        (key, node), *_ = node.items()
        path = (*path, key)
        if isinstance(node, list):
            counts[path] = counts.get(path, -1) + 1
            return (*path, counts[path])
        if path in counts:
            path = (*path, counts[path])
    return path


def _paths(content: Mapping[str, Any]) -> Iterator[TomlPath]:
    for key, value in content.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in _paths(value))
