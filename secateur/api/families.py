"""Families: which there are, what their files say, and a draft of one that is missing."""

from __future__ import annotations

from pathlib import Path

from secateur.api.models import File
from secateur.checkpoint.hub import GEMMULE, gemmule_folder, resolve
from secateur.checkpoint.reader import read_config, read_specs
from secateur.errors import FamilyError, OutputError
from secateur.families.draft import draft
from secateur.families.registry import families
from secateur.families.schema import Family
from secateur.system.atomic import write_text


def list_families(own: File | None = None) -> tuple[Family, ...]:
    """All families: those that ship, the user's, and that of the file `own`."""
    return families(None if own is None else Path(own))


def find_family(name: str, own: File | None = None) -> Family:
    """The family of that name. Raises FamilyError when there is none."""
    known = {family.name: family for family in list_families(own)}
    if name not in known:
        raise FamilyError(f"no family is called {name!r}; known: {', '.join(sorted(known))}")
    return known[name]


def draft_family(model: str | Path, revision: str | None = None) -> str:
    """The text of a family's TOML as far as a model's config and headers tell.

    Reads no weights. Raises FamilyError for a model without layers or experts, CheckpointError
    for one without safetensors.
    """
    path = resolve(gemmule_folder() if str(model) == GEMMULE else model, revision)[0]
    return draft(read_config(path), {name: spec.shape for name, spec in read_specs(path).items()})


def save_draft(text: str, out: File) -> None:
    """Write a draft. Raises OutputError for a file that exists: it may be filled in."""
    if Path(out).exists():
        raise OutputError(f"{out} exists, and may be filled in already: name another file")
    write_text(Path(out), text)
