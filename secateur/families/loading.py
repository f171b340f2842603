"""A family from its TOML file and the files that it extends.

`extends` names files without their suffix, one or several; later ones stand over earlier ones,
and the file's own tables over all (`toml_tables.inherit`):

    extends = ["_decoder", "_attention"]

What names a family is never taken over: `title`, `model_types` and `[published]`. An inherited
table that a family lacks is left out by `gguf = false`, and so for the others of OPTIONAL. A row
of [[tensor]] or [[gguf.key]] that shall not stand at the end says `after = "NAME"`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from secateur.errors import FamilyError
from secateur.families.format_rules import AlsoKey, GgufRules, MlxRules
from secateur.families.ollama_rules import OllamaRules
from secateur.families.schema import (
    NUMBERS,
    Family,
    MemoryRules,
    PackedRule,
    Published,
    RouterRule,
    ShapeRules,
    TensorRow,
)
from secateur.families.toml_tables import Origin, Table, TomlFile, inherit, nearest, table_of
from secateur.families.typed_tables import read_table
from secateur.families.vllm_rules import VllmParsers

OPTIONAL = ("branch", "gguf", "memory", "mlx", "mmproj", "ollama")
"""Tables that a family may leave out, or remove where it inherits them."""

_NOT_OF_TOWERS = (
    "mmproj", "gguf", "mlx", "memory", "also", "branch", "ollama", "packed", "vllm",
)  # fmt: skip
_OWN = ("extends", "title", "model_types", "published")
_ROWS = {"tensor": "name", "also": "key", "gguf.key": "key", "gguf.generate": "name",
         "mlx.also": "key", "ollama.template": "name", "packed": "method", "vllm": "where",
         "mmproj.tensor": "name", "mmproj.gguf.key": "key"}  # fmt: skip
"""Arrays of tables -> the key that names their rows."""

_WORDS = re.compile(r"\{([^{}|]+(?:\|[^{}|]+)+)\}")
_HOLE = re.compile(r"\{([^{}|]*)\}")
_MODEL = "model"
"""The hole that `prefixes` fill; _HOLES are the others."""
_HOLES = {"layer": r"(?P<layer>\d+)", "expert": r"(?P<expert>\d+)", "rest": r"(?P<rest>.+)"}


@dataclass(frozen=True)
class FamilySource:
    """A file that describes a family or a part of one; `shipped` with secateur, or a user's."""

    name: str
    file: TomlFile
    shipped: bool


Find = Callable[[str], FamilySource | None]
"""The file that an `extends` names; None when there is none."""


@dataclass(frozen=True)
class Branch:
    """[branch]: what follows the experts' sum. `post_norm` is the norm between it and the residual
    stream, a row's name."""

    post_norm: str | None = None


@dataclass(frozen=True)
class FamilyTable:
    """The whole file."""

    title: str
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...]
    config: Mapping[str, tuple[str, ...]]
    router: RouterRule
    rows: tuple[TensorRow, ...] = field(metadata={"key": "tensor"})
    also: tuple[AlsoKey, ...] = ()
    branch: Branch = field(default_factory=Branch)
    shape: ShapeRules = field(default_factory=ShapeRules)
    memory: MemoryRules | None = None
    published: Published = field(default_factory=Published)
    gguf: GgufRules | None = None
    mlx: MlxRules | None = None
    ollama: OllamaRules | None = None
    packed: tuple[PackedRule, ...] = ()
    vllm: tuple[VllmParsers, ...] = ()


def load_family(source: FamilySource, find: Find) -> Family:
    """The family that a file describes. Raises FamilyError, with file and line, for a file that
    is not one, or that extends a file that `find` does not know."""
    used: list[FamilySource] = []
    table = _resolve(source, find, (), used)
    tower = table.entries.get("mmproj")
    family = _family(source, _without(table, ("mmproj",)))
    own = "\0".join(used_one.file.text for used_one in used if not used_one.shipped)
    if own:
        family = replace(family, sha256=hashlib.sha256(own.encode()).hexdigest())
    if tower is None:
        return family
    if not isinstance(tower, Table):
        raise table.error("mmproj", "mmproj is not a table")
    inherited = _without(table, _NOT_OF_TOWERS)
    merged = Table(
        {**inherited.entries, **tower.entries}, {**inherited.origins, **tower.origins}, tower.origin
    )
    return replace(family, mmproj=_family(source, merged))


def load_tables(source: FamilySource, find: Find) -> Table:
    """The file's tables with all that it extends. Raises FamilyError as `load_family` does."""
    return _resolve(source, find, (), [])


def read_rows(table: Table) -> tuple[TensorRow, ...]:
    """The [[tensor]] rows of a file that need not be a whole family."""
    return tuple(read_table(TensorRow, row) for row in table.entries.get("tensor", ()))


def _resolve(
    source: FamilySource, find: Find, trail: Sequence[str], used: list[FamilySource]
) -> Table:
    """The file's table over those that it extends; `used` gets every file that took part."""
    table = table_of(source.file)
    used.append(source)
    parents = table.entries.get("extends", [])
    merged: Table | None = None
    for name in [parents] if isinstance(parents, str) else parents:
        parent = find(name) if isinstance(name, str) else None
        if parent is None:
            raise table.error(
                "extends", f"extends {name!r}, and no such family file is known: name one that "
                "ships with secateur (`secateur family list`), or a file of the same folder"
            )  # fmt: skip
        if name in (*trail, source.name):
            raise table.error("extends", f"extends {name!r}, which extends this file")
        found = _without(_resolve(parent, find, (*trail, source.name), used), _OWN)
        merged = found if merged is None else inherit(merged, found, _ROWS)
    own = _without(table, ("extends",))
    merged = own if merged is None else inherit(merged, own, _ROWS)
    return _without(merged, [key for key in OPTIONAL if merged.entries.get(key) is False])


def _without(table: Table, keys: Sequence[str]) -> Table:
    entries = {key: value for key, value in table.entries.items() if key not in keys}
    return Table(entries, table.origins, table.origin)


def _family(source: FamilySource, table: Table) -> Family:
    read = read_table(FamilyTable, table)
    config = dict(read.config)
    numbers = table.entries["config"]
    for key in config:
        if key not in (*NUMBERS, "sections"):
            known = (*NUMBERS, "sections")
            raise numbers.error(key, f"[config] has no key {key!r}{nearest(key, known)}")
    for key in ("sections", "layers"):
        if key not in config:
            raise numbers.error(None, f"[config] lacks the key {key!r}")
    if not read.prefixes:
        raise table.error("prefixes", 'prefixes is empty, expected the running model\'s, or ""')
    places = [entry.origins.get("name", entry.origin) for entry in table.entries["tensor"]]
    for row, place in zip(read.rows, places, strict=True):
        _check_names(row, place)
    rows = tuple(
        replace(one, pattern=_pattern(one.name, read.prefixes))
        for row in read.rows
        for one in _spread(row)
    )
    _check_rows(table, read, places, {row.name for row in rows})
    return Family(
        name=source.name,
        title=read.title,
        model_types=read.model_types,
        prefixes=read.prefixes,
        rows=rows,
        config={key: value for key, value in config.items() if key != "sections"},
        sections=config["sections"],
        also=read.also,
        router=read.router,
        post_norm=read.branch.post_norm,
        file=source.file.name,
        gguf=read.gguf,
        shape=read.shape,
        memory=read.memory,
        published=read.published,
        mlx=read.mlx,
        ollama=read.ollama,
        packed=read.packed,
        vllm=read.vllm,
    )


def _check_names(row: TensorRow, place: Origin) -> None:
    """A row's name has holes that there are, each once, and its other names as many words."""
    holes = _HOLE.findall(row.name)
    for hole in holes:
        if hole not in (_MODEL, *_HOLES):
            raise FamilyError(
                f"{place}: {row.name} has the hole {hole!r}{nearest(hole, (_MODEL, *_HOLES))}"
            )
        if holes.count(hole) > 1:
            raise FamilyError(f"{place}: {row.name} has the hole {hole!r} twice")
    words = [found.count("|") + 1 for found in _WORDS.findall(row.name)]
    for name in row.gguf:
        if [found.count("|") + 1 for found in _WORDS.findall(name)] != words:
            raise FamilyError(
                f"{place}: {name} has to have words in braces as {row.name} has them, one for each"
            )
    others: list[tuple[str, tuple[str, ...]]] = [(name, ("layer",)) for name in row.gguf]
    others += [(name, (_MODEL, "layer")) for name in row.mlx]
    for name, known in others:
        if odd := [hole for hole in _HOLE.findall(name) if hole not in known]:
            raise FamilyError(f"{place}: {name} has the hole {odd[0]!r}{nearest(odd[0], known)}")


def _check_rows(table: Table, read: FamilyTable, places: Sequence[Origin], names: set[str]) -> None:
    """What one row says of another, or of the axes, holds."""
    for row, place in zip(read.rows, places, strict=True):
        if row.into is not None and row.into not in names:
            near = difflib.get_close_matches(row.into, names, n=1, cutoff=0.0)
            raise FamilyError(
                f"{place}: {row.name} is a part of {row.into!r}, and no row has that name "
                f"(nearest: {', '.join(near)})"
            )
        for axis in row.axes:
            if axis not in read.shape.axes:
                raise FamilyError(
                    f"{place}: {row.name} has the axis {axis!r}, and [shape.axes] gives it no size"
                    f"{nearest(axis, tuple(read.shape.axes))}"
                )
    for number, key in enumerate(read.gguf.keys if read.gguf else ()):
        ways = [bool(key.source), bool(key.per_layer), bool(key.compute), bool(key.rule)]
        if sum(ways) != 1:
            place = table.entries["gguf"].entries["key"][number].origin
            raise FamilyError(
                f"{place}: {key.key} needs one of `from`, `per_layer`, `compute` and `rule`"
            )


def _spread(row: TensorRow) -> Iterator[TensorRow]:
    """The rows that one stands for: one for each word of every `{a|b}` in its name."""
    found = _WORDS.search(row.name)
    if found is None:
        yield row
        return
    for number, word in enumerate(found[1].split("|")):
        gguf = tuple(_fill_words(name, number) for name in row.gguf)
        yield from _spread(replace(row, name=row.name.replace(found[0], word, 1), gguf=gguf))


def _fill_words(text: str, number: int) -> str:
    found = _WORDS.search(text)
    return text.replace(found[0], found[1].split("|")[number], 1) if found else text


def _pattern(name: str, prefixes: Sequence[str]) -> re.Pattern[str]:
    pattern = re.escape(name).replace(r"\{", "{").replace(r"\}", "}")
    longest_first = sorted(prefixes, key=len, reverse=True)
    alternatives = "|".join(re.escape(prefix) for prefix in longest_first)
    pattern = pattern.replace("{model}", f"(?P<model>{alternatives})")
    for hole, expression in _HOLES.items():
        pattern = pattern.replace(f"{{{hole}}}", expression)
    return re.compile(pattern)
