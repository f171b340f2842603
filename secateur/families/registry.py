"""The families that are known: those that ship with secateur, and the user's own.

A user's families are the TOML files in the folder `families` of the configuration directory, and
the file of `--family`. They may extend each other and those that ship.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from secateur.errors import FamilyError
from secateur.families.loading import FamilySource, load_family, load_tables, read_rows
from secateur.families.schema import Family, TensorRow
from secateur.families.toml_tables import TomlFile
from secateur.families.typed_tables import plain
from secateur.system.resources import config_folder
from secateur.system.text_files import LARGEST_SETTINGS, read_text

_NAME = re.compile(r"[\w-]+")
_COUNT_OF_EXPERTS = re.compile(r"experts?($|_)")


def families(own: Path | None = None) -> tuple[Family, ...]:
    """All families: those that ship, by name, then the user's, and that of the file `own`.

    Raises FamilyError, with file and line, for a file that is no family, and for two families of
    one name or `model_type`.
    """
    found = [_shipped(name) for name in _shipped_names()]
    mine = {path.resolve(): path for path in _user_files()}
    if own is not None:
        mine[own.resolve()] = own
    found += [_load_user(path) for path in mine.values()]
    _check_collisions(found)
    return tuple(found)


def family_of(
    config: Mapping[str, Any], own: Family | Path | None = None, where: str | Path = "config.json"
) -> Family:
    """The family that a model's config belongs to, by its `model_type`.

    `own` is a family, or the user's file of one, that comes first; `where` names the config in
    errors. Raises FamilyError when no family describes it: the config is none of a model, or of a
    dense one, or a family is missing.
    """
    kind = config.get("model_type")
    if isinstance(own, Family):
        if kind in own.model_types:
            return own
        own = None
    if own is None and not _user_files() and (name := _shipped_kinds().get(str(kind))):
        return _shipped(name)
    known = {kind: family for family in families(own) for kind in family.model_types}
    if isinstance(kind, str) and kind in known:
        return known[kind]
    if not isinstance(kind, str):
        raise FamilyError(
            f"{where} has no model_type, so it is not the config.json of a transformers model: "
            "name a model folder, its config.json or a hub id"
        )
    if not names_experts(config):
        raise FamilyError(
            f"{where} (model_type {kind!r}) is not the config of a Mixture-of-Experts model: it "
            "names no number of experts, and secateur prunes experts"
        )
    raise FamilyError(
        f"{where}: no family describes the model_type {kind!r} (known: "
        f"{', '.join(sorted(known))}): `secateur family draft MODEL` writes a draft of one; put "
        f"the file into {user_folder()}, or give it with --family FILE"
    )


def names_experts(config: Mapping[str, Any]) -> bool:
    """Whether a config, or a section of it, names a number of experts above one."""
    return any(
        names_experts(value)
        if isinstance(value, Mapping)
        else type(value) is int and value > 1 and _COUNT_OF_EXPERTS.search(key) is not None
        for key, value in config.items()
    )


@dataclass(frozen=True)
class SharedFile:
    """A file that others extend and that is no family itself.

    `own` are the rows that it adds to those of the files that it `extends`; `axes`, `names` and
    `router` are what it says of [shape] and [router], inherited or not.
    """

    name: str
    extends: tuple[str, ...]
    rows: tuple[TensorRow, ...]
    own: tuple[TensorRow, ...]
    axes: Mapping[str, str]
    names: Mapping[str, str]
    router: Mapping[str, Any]


@cache
def shared_files() -> tuple[SharedFile, ...]:
    """The shared files with rows that ship with secateur, by name."""
    found = []
    for name in _shipped_names(r"_.*\.toml"):
        source = _find_shipped(name)
        assert source is not None  # it was listed
        table = load_tables(source, _find_shipped)
        rows = read_rows(table)
        if not rows:
            continue
        content = source.file.content
        own = {row["name"] for row in content["tensor"]}
        extends = content.get("extends", [])
        shape, router = plain(table.entries.get("shape")), plain(table.entries.get("router"))
        found.append(
            SharedFile(
                name,
                (extends,) if isinstance(extends, str) else tuple(extends),
                rows,
                tuple(row for row in rows if row.name in own),
                (shape or {}).get("axes", {}),
                (shape or {}).get("names", {}),
                router or {},
            )
        )
    return tuple(found)


def user_folder() -> Path:
    """Where the user's own families lie."""
    return config_folder() / "families"


def _user_files() -> list[Path]:
    folder = user_folder()
    return sorted(folder.glob("[!_]*.toml")) if folder.is_dir() else []


def _shipped_names(pattern: str = r"[^_].*\.toml") -> list[str]:
    folder = resources.files(__package__) / "data"
    names = (entry.name for entry in folder.iterdir())
    return sorted(n.removesuffix(".toml") for n in names if re.fullmatch(pattern, n))


@cache
def _shipped_kinds() -> Mapping[str, str]:
    """{model_type: the family that ships for it}, without reading what else their files say."""
    sources = [source for name in _shipped_names() if (source := _find_shipped(name))]
    return {
        kind: source.name
        for source in sources
        for kind in source.file.content.get("model_types", ())
    }


@cache
def _shipped(name: str) -> Family:
    source = _find_shipped(name)
    if source is None:
        raise FamilyError(f"no family {name!r} ships with secateur")
    return load_family(source, _find_shipped)


def _find_shipped(name: str) -> FamilySource | None:
    entry = resources.files(__package__) / "data" / f"{name}.toml"
    if not _NAME.fullmatch(name) or not entry.is_file():
        return None
    return FamilySource(name, TomlFile(str(entry), entry.read_text("utf-8")), shipped=True)


def _load_user(path: Path) -> Family:
    folders = (path.parent, user_folder())

    def find(name: str) -> FamilySource | None:
        files = (folder / f"{name}.toml" for folder in folders)
        own = next((file for file in files if file.is_file()), None)
        return _read_user(own) if own else _find_shipped(name)

    return load_family(_read_user(path), find)


def _read_user(path: Path) -> FamilySource:
    text = read_text(path, "a family as TOML", FamilyError, LARGEST_SETTINGS)
    return FamilySource(path.stem, TomlFile(str(path), text), shipped=False)


def _check_collisions(found: list[Family]) -> None:
    names: dict[str, Family] = {}
    kinds: dict[str, Family] = {}
    for family in found:
        other = names.setdefault(family.name, family)
        if other is not family:
            raise FamilyError(
                f"{family.file} and {other.file} are both the family {family.name!r}: rename "
                "one of the files"
            )
        for kind in family.model_types:
            other = kinds.setdefault(kind, family)
            if other is not family:
                raise FamilyError(
                    f"{family.file} and {other.file} both describe the model_type {kind!r}: take "
                    "it out of the model_types of one of them"
                )
