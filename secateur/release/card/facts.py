"""The results of an output as facts: each value with the file and the path where it stands.

A card is made of nothing else. What a person says themselves (a repository's name, the model it was
made from, a licence, limits) is a file of its own here, `DECLARED`, and never holds a measured
number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.checkpoint.hub import CONFIG
from secateur.errors import CardError, FamilyError, OutputError
from secateur.families.registry import family_of
from secateur.families.vllm_rules import find_parsers
from secateur.outputs.apply import PLAN
from secateur.release.manifest import MANIFEST, is_of_one_run, read_manifest
from secateur.release.report import REPORT
from secateur.system.text_files import read_json, read_text

DECLARED = "declared"
"""What the person who releases an output says of it: names and limits, no results."""

FAMILY = "family"
"""What the model's family is called by other programs: names, no results."""

CHAT_TEMPLATE = "chat_template.jinja"

_ALSO_JSON = ("params",)
"""Files of JSON whose names do not say so: Ollama's parameters."""

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Fact:
    """A value and where it stands: `path` within the JSON of `file`."""

    file: str
    path: Path_
    value: Any = field(repr=False)

    def __getitem__(self, key: str | int) -> Fact:
        """The value below. Raises CardError where there is none."""
        found = self.get(key)
        if found is None:
            raise CardError(f"{self.file} has no {show_path((*self.path, key))}: measure again")
        return found

    def get(self, *keys: str | int) -> Fact | None:
        """The value at a path below this one; None where there is none, or null."""
        value, path = self.value, self.path
        for key in keys:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
            path = (*path, key)
        return None if value is None else Fact(self.file, path, value)

    def __iter__(self) -> Iterator[Fact]:
        """The values of a list or an object, in order."""
        keys: Sequence[str | int]
        keys = list(self.value) if isinstance(self.value, Mapping) else range(len(self.value))
        for key in keys:
            yield Fact(self.file, (*self.path, key), self.value[key])

    @property
    def key(self) -> str:
        """The last word of its path."""
        return str(self.path[-1])


@dataclass(frozen=True)
class Results:
    """All result files of an output. `declared` is what a person says of it."""

    folder: Path
    declared: Mapping[str, str] = field(default_factory=dict)
    _read: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def file(self, name: str) -> Fact:
        """The content of a file. Raises OutputError when the output has no such result."""
        found = self.find(name)
        if found is None:
            raise OutputError(f"{self.folder} has no {name} in its manifest: make the output again")
        return found

    def find(self, name: str) -> Fact | None:
        """The content of a file of JSON that the manifest lists, or that tells of one run; the
        manifest itself; None for any other."""
        if name not in self._read:
            self._read[name] = self._load(name)
        content = self._read[name]
        return None if content is None else Fact(name, (), content)

    def at(self, file: str, path: Sequence[str | int]) -> Fact | None:
        """The value at a path of a file; None where there is none."""
        root = self.find(file)
        return None if root is None else root.get(*path)

    @property
    def manifest(self) -> Fact:
        return self.file(MANIFEST)

    @property
    def plan(self) -> Fact:
        return self.file(PLAN)

    @property
    def report(self) -> Fact | None:
        return self.find(REPORT)

    def _load(self, name: str) -> Any:
        if name == DECLARED:
            return dict(self.declared)
        if name == FAMILY:
            return self._family()
        if name == MANIFEST:
            return read_manifest(self.folder)
        listed = self.manifest.value["files"]
        if not (name.endswith(".json") or name in _ALSO_JSON):
            return None
        of_one_run = is_of_one_run(name) and (self.folder / name).is_file()
        if name not in listed and not of_one_run:
            return None
        return read_json(self.folder / name, "a result of an output", OutputError)

    def _family(self) -> dict[str, Any] | None:
        """The names of vLLM's parsers for the model of the output's own folder."""
        config, template = self.folder / CONFIG, self.folder / CHAT_TEMPLATE
        if not (config.is_file() and template.is_file()):
            return None
        try:
            family = family_of(read_json(config, "the config of a model", OutputError))
        except FamilyError:  # of a family that only its user's file describes
            return None
        text = read_text(template, "a chat template", OutputError)
        found = find_parsers(family.vllm, text)
        return None if found is None else {"vllm": asdict(found)}


def show_path(path: Sequence[str | int]) -> str:
    """A path as people write it: artefacts[0].name."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in path]
    return "".join(parts).removeprefix(".") or "content"
