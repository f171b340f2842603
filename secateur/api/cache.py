"""`cache`: what is kept of earlier work, and removing it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.corpus.json_lines import read_json_lines
from secateur.errors import InputError, RequestError
from secateur.evaluation.tokens.answers import load_answers
from secateur.statistics.gram_file import GramFile
from secateur.system.array_file import check_arrays
from secateur.system.atomic import writing
from secateur.system.cache import MODEL, Entry, list_entries
from secateur.system.folder_lock import alone_in
from secateur.system.resources import cache_folder

DAY = 86400.0


@dataclass(frozen=True)
class KeptFile:
    """A file of the cache; `made_by` says what made it, `damage` what is wrong with it."""

    entry: Entry
    made_by: str = ""
    damage: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON; times in seconds since 1970."""
        return {
            "file": str(self.entry.path),
            "what": self.entry.what,
            "model": self.entry.model,
            "identity": self.entry.identity,
            "bytes": self.entry.bytes,
            "used": self.entry.used,
            "made_by": self.made_by,
            "damage": self.damage,
        }


@dataclass(frozen=True)
class Cleaning:
    """Which files to remove: not used for `older_than` seconds, of `model` (its name, or the
    first digits of its identity), `damaged`, or `everything`; of several, those that meet all."""

    older_than: float | None = None
    model: str | None = None
    damaged: bool = False
    everything: bool = False

    def __post_init__(self) -> None:
        if self.older_than is not None and self.older_than < 0:
            raise RequestError(f"older_than is {self.older_than}, expected 0 or more")
        chosen = self.older_than is not None or self.model is not None or self.damaged
        if self.everything == chosen:
            raise RequestError(
                "say what to remove: older_than, model or damaged files, or else everything"
            )


def list_cache() -> tuple[KeptFile, ...]:
    """All files of the cache with what made them, each checked: reads them once."""
    return tuple(_look(entry) for entry in list_entries())


def choose_to_clean(request: Cleaning) -> tuple[KeptFile, ...]:
    """The files that a request is about. Raises RequestError for a model that has none."""
    found = list_cache() if request.damaged else tuple(map(KeptFile, list_entries()))
    if request.model is not None:
        found = tuple(file for file in found if _is_of(file.entry, request.model))
        if not found:
            raise RequestError(
                f"the cache in {cache_folder()} has nothing of {request.model!r}: "
                "`secateur cache list` shows what there is"
            )
    if request.older_than is not None:
        limit = time.time() - request.older_than
        found = tuple(file for file in found if file.entry.used < limit)
    if request.damaged:
        found = tuple(file for file in found if file.damage is not None)
    return found


def clean_cache(files: Sequence[KeptFile]) -> tuple[tuple[KeptFile, ...], tuple[str, ...]]:
    """Remove files; (those removed, the names of models that are in use, and left alone).

    Raises WriteError when the disk refuses.
    """
    removed: list[KeptFile] = []
    busy: list[str] = []
    by_folder: dict[Path, list[KeptFile]] = {}
    for file in files:
        top = file.entry.identity
        by_folder.setdefault(cache_folder() / top if top else cache_folder(), []).append(file)
    for folder, mine in by_folder.items():
        with suppress(FileNotFoundError), alone_in(folder) as free:
            if not free:
                busy.append(mine[0].entry.model or folder.name)
                continue
            for file in mine:
                with writing(file.entry.path):
                    file.entry.path.unlink(missing_ok=True)
                removed.append(file)
            _remove_empty(folder)
    return tuple(removed), tuple(busy)


def _remove_empty(folder: Path) -> None:
    """Remove folders without files; one that names its model only has none."""
    inner = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    for path in (*inner, folder):
        if path != cache_folder() and {one.name for one in path.iterdir()} <= {MODEL}:
            with suppress(OSError):
                (path / MODEL).unlink(missing_ok=True)
                path.rmdir()


def _is_of(entry: Entry, model: str) -> bool:
    named = entry.model == model or entry.model == Path(model).name
    digits = len(model) >= 6 and entry.identity.startswith(model[: len(entry.identity)])
    return bool(entry.identity) and (named or digits)


def _look(entry: Entry) -> KeptFile:
    """A file, checked as far as it can be."""
    try:
        if entry.what == "answers":
            load_answers(entry.path)
            head = read_json_lines(entry.path).records[0]["provenance"]
            return KeptFile(entry, _describe_answers(head))
        if entry.what in ("probabilities", "scores"):
            return KeptFile(entry, _describe_arrays(check_arrays(entry.path)))
        if entry.what == "Gram matrices":
            described = GramFile(entry.path).description
            return KeptFile(entry, f"{described.kind}, of {len(described.columns)} inputs")
    except InputError as error:
        return KeptFile(entry, damage=str(error))
    return KeptFile(entry)


def _describe_answers(provenance: dict[str, Any]) -> str:
    words = []
    if isinstance(asked := provenance.get("prompts"), dict) and asked.get("file"):
        words.append(str(asked["file"]))
    drawn = provenance.get("generation")
    if isinstance(drawn, dict):
        words.append(f"{drawn.get('max_new_tokens')} tokens")
        words.append(f"temperature {drawn.get('temperature')}")
    return ", ".join(words)


def _describe_arrays(provenance: dict[str, Any]) -> str:
    if "top_k" in provenance:
        return f"top {provenance['top_k']}, torch {provenance.get('torch')}"
    return f"artefact {str(provenance.get('artefact', ''))[:12]}"
