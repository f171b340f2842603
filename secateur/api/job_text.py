"""A job as YAML text, which `job_file.py` reads as the same job."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

import yaml

from secateur.api.models import check_file
from secateur.api.requests import Job
from secateur.checkpoint.hub import GEMMULE
from secateur.corpus.mix import Mix
from secateur.corpus.mix_settings import mix_settings
from secateur.system.atomic import write_text
from secateur.system.secret_words import hide_secrets
from secateur.system.typed_yaml import FILE_ENDINGS, keys_of

SEAL = "job"
"""Among the hashes of a resolved job's `content`: that of its own text."""
UNSEALED = "0" * 64
"""What stands in the place of that hash in the text that is hashed."""

NO_COMMITS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Paths:
    """How paths are written: relative ones as they were (`written`: in a job file), of absolute
    ones only the name, or with a `base`, which is a folder, all so that they lead there from it.
    """

    written: Mapping[Path, str] = field(default_factory=dict)
    base: Path | None = None

    def file(self, path: Path) -> str:
        """A file's path as text."""
        if self.base is not None:
            return str(path) if path.is_absolute() else os.path.relpath(path, self.base)
        text = self.written.get(path, str(path))
        return Path(text).name if Path(text).is_absolute() else text

    def folder(self, path: Path) -> str:
        """The path of a folder that other paths are relative to, as text."""
        text = self.file(path)
        absolute = Path(self.written.get(path, str(path))).is_absolute()
        return "." if absolute and self.base is None else text


def job_text(
    job: Job, paths: Paths, leave_out: Sequence[str] = (), commits: Mapping[str, str] = NO_COMMITS
) -> str:
    """A job as YAML, every key with its value.

    `paths` says how they are written; `leave_out` are keys of the top; `commits` of the hub
    take the place of the revisions of an inline mix, by source.
    """
    writer = _Writer(paths, commits)
    whole = writer.mapping(job)
    order = sorted(whole, key=lambda key: key not in _FIRST)  # else as the fields stand
    kept = {key: whole[key] for key in order if key not in leave_out}
    return yaml.dump(kept, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def seal_of(text: str) -> str:
    """The sha256 of a job's text, in which UNSEALED stands for it."""
    return hashlib.sha256(text.encode()).hexdigest()


def save_job(job: Job, path: Path) -> None:
    """Write a job as a file that `run` reads: every key, and paths so that they lead there from it.

    Raises OutputError when there is a file already, WriteError.
    """
    check_file(path, force=False)
    paths = Paths(base=Path(os.path.abspath(path.parent)))
    is_folder = job.model != GEMMULE and Path(job.model).exists()
    moved = replace(
        job,
        model=paths.file(Path(job.model)) if is_folder else job.model,
        out=None if job.out is None else paths.file(Path(job.out)),
    )
    write_text(path, job_text(moved, paths, leave_out=("content", "secateur")))


_FIRST = ("model", "revision", "family", "out")


class _Writer:
    """Values as YAML has them."""

    def __init__(self, paths: Paths, commits: Mapping[str, str]) -> None:
        self.paths, self.commits = paths, commits

    def mapping(self, values: Any) -> dict[str, Any]:
        """A dataclass as {key: value}; one that is optional and not there is `false`."""
        hints = get_type_hints(type(values))
        return {
            key: self.value(found) if (found := getattr(values, key)) is not None
            else (False if any(map(_is_section, get_args(hints[key]))) else None)
            for key in keys_of(type(values))
        }  # fmt: skip

    def value(self, value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
        if isinstance(value, Mix):
            return mix_settings(value, self.commits, self.paths.folder(value.folder))
        if is_dataclass(value):
            return self.mapping(value)
        if isinstance(value, Path):
            return self.paths.file(value)
        if isinstance(value, str):
            is_file = value.lower().endswith(FILE_ENDINGS) and "://" not in value
            return self.paths.file(Path(value)) if is_file else hide_secrets(value)
        if isinstance(value, Mapping):
            return {key: self.value(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(entry) for entry in value]
        return value


def _is_section(kind: Any) -> bool:
    return is_dataclass(kind) and kind is not Mix


class _Dumper(yaml.SafeDumper):
    """Lists of plain values in one line, all else in lines of its own."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list_node(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    plain = not any(isinstance(entry, list | dict) for entry in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


_Dumper.add_representer(list, _list_node)
