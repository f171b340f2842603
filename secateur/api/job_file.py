"""Reading a job file: strictly, with file and line for every mistake, before any other file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from secateur.api.job_text import SEAL, UNSEALED, seal_of
from secateur.api.requests import Job, resolve_recipes, resolve_split
from secateur.checkpoint.hub import GEMMULE, is_hub_id
from secateur.corpus.load import check_mix
from secateur.corpus.mix import Mix, parse_mix
from secateur.errors import InputError, RequestError
from secateur.system.text_files import read_text
from secateur.system.typed_yaml import Reader, read_dataclass
from secateur.system.yaml_nodes import (
    Node,
    content,
    entries,
    is_assigned,
    place,
    read_nodes,
    set_value,
)

JOB = "job.yaml"
"""The resolved job among the files of an output."""

OPTION = "--set"


def read_job(path: Path, assignments: Sequence[str] = ()) -> Job:
    """The job in a file, after the `assignments` (KEY.KEY=VALUE) are put into it.

    Paths are relative to the file's folder, those of assignments to the current one. The inputs
    of a resolved job, which knows their hashes, are also looked for in the current folder. Raises
    RequestError with file and line for what cannot be; reads the job, recipes and a mix only.
    """
    root = read_nodes(path, "a job in YAML", RequestError)
    for assignment in assignments:
        set_value(root, assignment, OPTION, RequestError)
    resolved = isinstance(root, yaml.MappingNode) and "content" in entries(root, RequestError)
    _check_seal(path, root)
    files = _Files(path.parent, (Path(),) if resolved else ())
    reader = Reader(RequestError, files.find, {Mix: files.read_mix})
    job = read_dataclass(Job, root, reader)
    _check_words(job, root, reader)
    found = files.locate(job.model, _node(root, "model"))
    if job.out is not None:
        base = Path() if is_assigned(_node(root, "out")) else path.parent
        job = replace(job, out=str(base / Path(job.out).expanduser()))
    return replace(job, model=found, written=files.written)


@dataclass(frozen=True)
class _Files:
    """Where a job's inputs lie: next to its file, or in one of the `other` folders."""

    folder: Path
    other: tuple[Path, ...]
    written: dict[Path, str] = field(default_factory=dict)

    def find(self, text: str, node: Node) -> Path:
        """The file that a text means. Raises RequestError where there is none."""
        path = Path(text).expanduser()
        bases = self.bases(node)
        for base in bases:
            if (base / path).exists():
                self.written[base / path] = text
                self.written[(base / path).parent] = str(path.parent)
                return base / path
        looked = " or ".join(str(one) if one.parts else "the current folder" for one in bases)
        where = "" if path.is_absolute() else f" in {looked}"
        other = f" (name it with {OPTION} KEY=PATH)" if self.other else ""
        raise RequestError(f"{place(node)}: there is no {text}{where}{other}")

    def bases(self, node: Node) -> tuple[Path, ...]:
        """The folders that a path at a node may be relative to."""
        return (Path(),) if is_assigned(node) else (self.folder, *self.other)

    def locate(self, model: str, node: Node) -> str:
        """A model's folder where there is one; else a hub id, or the name of the included one."""
        folders = (base / Path(model).expanduser() for base in self.bases(node))
        if model == GEMMULE or (is_hub_id(model) and not any(one.exists() for one in folders)):
            return model
        return str(self.find(model, node))

    def read_mix(self, node: Node) -> Mix:
        """A mix that stands in the job itself. Raises RequestError, CorpusError."""
        settings = content(node, RequestError)
        folder = settings.pop("folder", None) if isinstance(settings, dict) else None
        text = folder if isinstance(folder, str) else "."
        try:
            mixes = [
                parse_mix(settings, base / text / "mix.yaml", f"{place(node)}: corpus")
                for base in self.bases(node)
            ]
        except InputError as error:
            raise RequestError(str(error)) from None
        mix = next((mix for mix in mixes if _has_all(mix)), mixes[0])
        self.written[mix.folder] = text
        return mix


def _has_all(mix: Mix) -> bool:
    return all(source.path is None or source.path.exists() for source in mix.sources)


def _check_seal(path: Path, root: Node) -> None:
    """Refuse a resolved job whose text is not the one that was written."""
    seal = _node(root, f"content.{SEAL}")
    if not isinstance(seal, yaml.ScalarNode) or is_assigned(seal):
        return
    text = read_text(path, "a job in YAML", RequestError)
    if seal_of(text.replace(seal.value, UNSEALED)) != seal.value:
        raise RequestError(
            f"{path} was changed after secateur wrote it (content.{SEAL} is another sha256): put "
            f"it back, change it with {OPTION} alone, or take it as it is with {OPTION} "
            "content=null"
        )


def _check_words(job: Job, root: Node, reader: Reader) -> None:
    """Refuse words that only what they name can judge: types, recipes, sums, sources of a mix."""
    from secateur.calibration.observers.registry import find_observers

    checks: Mapping[str, Callable[[], Any]] = {
        "formats.types": lambda: resolve_recipes(job.formats),
        "formats.split_max_size": lambda: resolve_split(job.formats),
        "calibration.observe": lambda: find_observers(job.calibration.observe),
        "calibration.corpus": lambda: check_mix(job.calibration.corpus or GEMMULE),
    }
    for dotted, check in checks.items():
        try:
            check()
        except InputError as error:
            raise reader.refuse(_node(root, dotted), f"{dotted}: {error}") from None


def _node(root: Node, dotted: str) -> Node:
    """The innermost node on the way to a key that is there."""
    node = root
    for key in dotted.split("."):
        if not isinstance(node, yaml.MappingNode):
            break
        found = entries(node, RequestError).get(key)
        if found is None:
            break
        node = found[1]
    return node
