"""The model card of an output: gathered from its results, rendered, checked, written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from secateur.checkpoint.model_card import MODEL_CARD
from secateur.errors import CardError, OutputError
from secateur.release.card.asked import sections_of
from secateur.release.card.check import (
    Source,
    author_section,
    check_numbers,
    sources_of,
)
from secateur.release.card.facts import DECLARED, Results
from secateur.release.card.front_matter import check_terms, front_matter_of, pipeline_tag_of
from secateur.release.card.limits import limits_of
from secateur.release.card.lineage import edited_words, edits_of_output, steps_of
from secateur.release.card.making import files_of, making_of
from secateur.release.card.measured import divergence_of
from secateur.release.card.render import render, template_text
from secateur.release.card.running import running_of
from secateur.release.card.scope import Scope, scope_of
from secateur.release.card.shown import PICTURES as MAIN_PICTURES
from secateur.release.card.shown import Shown, show
from secateur.release.card.yaml_rows import plain, yaml_rows
from secateur.release.manifest import amend_manifest
from secateur.system.atomic import PARTIAL, sync, write_text, writing
from secateur.system.text_files import read_json, read_text

LEDGER = "evidence/card.json"
NO_REPOSITORY = "OWNER/NAME"
PICTURES = "evidence/pictures/"
"""Where the report's pictures lie."""

_OLD_KEY = "told"
"""What `declared` is called in older ledgers."""

_ABOUT = "<!-- about -->"
"""The line of the rendered card at whose place the author's words come."""


@dataclass(frozen=True)
class Card:
    """A card: its text, its front matter as the Hub reads it, and where each number stands."""

    text: str
    front_matter: Mapping[str, Any]
    ledger: tuple[Source, ...]
    declared: Mapping[str, str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def make_card(
    out: Path,
    declared: Mapping[str, str] | None = None,
    about: str | None = None,
    only: Sequence[str] = (),
    template: str | None = None,
) -> Card:
    """The card of an output, every number of it checked against its results.

    `declared` is what the releaser says: repository, base_model, license, license_name,
    license_link, quantized_by. `about` is Markdown of theirs, which gets a section that says so.
    `only` names the outputs that it is about (scope.scope_of). Raises CardError for a number
    without a source and for words that the Hub does not know, OutputError for results that cannot
    be read.
    """
    results = Results(out, dict(declared or {}))
    scope = scope_of(results, only)
    front = front_matter_of(scope)
    text, places = render(template or template_text(), _values(scope, front))
    text, ledger = _with_author(text, sources_of(places), about)
    check_numbers(text, ledger, results)
    card = Card(text, _read_back(text, front), ledger, results.declared)
    check_terms(card.front_matter)
    return card


def write_card(out: Path, card: Card) -> None:
    """Write README.md and its ledger into an output, and into its manifest. Raises WriteError.

    The ledger waits beside its place until the card is there: so the card is known as ours
    (`is_ours`) wherever this is interrupted.
    """
    document = {
        "card": MODEL_CARD,
        "sha256": card.sha256,
        "declared": dict(card.declared),
        "numbers": [{**asdict(source), "path": list(source.path)} for source in card.ledger],
    }
    waiting, ledger = _waiting(out), out / LEDGER
    write_text(waiting, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    write_text(out / MODEL_CARD, card.text)
    with writing(ledger):
        waiting.replace(ledger)
        sync(ledger.parent)
    amend_manifest(out, (MODEL_CARD, LEDGER))


def check_card(out: Path) -> None:
    """Check the card that lies in an output by its ledger, without making it again.

    Raises CardError for a number that no result holds, OutputError where there is no card.
    """
    text = read_text(out / MODEL_CARD, "a model card", OutputError)
    found = read_json(out / LEDGER, "where the numbers of a card stand", OutputError)
    try:
        ledger = [_source(one) for one in found["numbers"]]
        declared = found["declared"] if "declared" in found else found[_OLD_KEY]
        results = Results(out, {str(key): str(word) for key, word in declared.items()})
    except (TypeError, KeyError, AttributeError):
        raise OutputError(
            f"{out / LEDGER} is not what secateur wrote: write the card anew"
        ) from None
    check_numbers(text, ledger, results)


def _source(entry: Mapping[str, Any]) -> Source:
    """An entry of a ledger as it was written."""
    file = DECLARED if entry["file"] == _OLD_KEY else entry["file"]
    return Source(**{**entry, "path": tuple(entry["path"]), "file": file})


def is_ours(out: Path) -> bool:
    """Whether README.md is the card that we wrote, unchanged; True where there is none."""
    path = out / MODEL_CARD
    if not path.is_file():
        return True
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    ledgers = [ledger for ledger in (out / LEDGER, _waiting(out)) if ledger.is_file()]
    found = (read_json(one, "where the numbers of a card stand", OutputError) for one in ledgers)
    return any(isinstance(one, dict) and one.get("sha256") == digest for one in found)


def _waiting(out: Path) -> Path:
    """Where the ledger of a card is that is just being written."""
    ledger = out / LEDGER
    return ledger.with_name(f".{ledger.name}{PARTIAL}")


def _values(scope: Scope, front: Mapping[str, Any]) -> Mapping[str, Any]:
    divergence = divergence_of(scope)
    files = files_of(scope, divergence["artefacts"] if divergence else {})
    model = scope.results.manifest["model"]["source"]
    return {
        "front_matter": list(yaml_rows(front)),
        "model": show(model, "short name"),
        "short_name": show(model, "short name"),
        "done": _done(scope),
        "making": making_of(scope),
        "is_ladder": scope.is_ladder,
        "files": files,
        "has_memory": any(file.memory is not None for file in files),
        "about": _ABOUT,
        "divergence": divergence,
        "has_choice": any(file.use is not None and file.use.worth_it for file in files),
        "asked": sections_of(scope),
        "has_page": (scope.results.folder / "report.html").is_file(),
        "pictures": _pictures(scope),
        "limits": limits_of(scope),
        "steps": steps_of(scope),
        "edits": edits_of_output(scope),
        "edited_before": bool(edited_words(scope)) or any(step.edited for step in steps_of(scope)),
        "running": running_of(scope),
        "repository": scope.repository or NO_REPOSITORY,
        "pipeline_tag": pipeline_tag_of(scope),
        "license": front.get("license_name") or front.get("license"),
        "license_link": front.get("license_link"),
    }


def _pictures(scope: Scope) -> list[Mapping[str, Shown]]:
    """The pictures among the output's files that say most; all are in report.html."""
    listed = scope.results.manifest["files"]
    names = (f"{PICTURES}{name}.svg" for name in MAIN_PICTURES)
    found = [name for name in names if name in listed.value]
    return [
        {"about": show(listed[name], "picture"), "name": show(listed[name], "key")}
        for name in found
    ]


def _done(scope: Scope) -> str:
    """What was done, in words."""
    words = ["pruned"] if scope.is_pruned else []
    words += ["quantized"] if any(one.recipe is not None for one in scope.outputs) else []
    words += ["edited by hand"] if edits_of_output(scope) else []
    return " and ".join(words) or "copied"


def _with_author(
    text: str, ledger: tuple[Source, ...], about: str | None
) -> tuple[str, tuple[Source, ...]]:
    """The text with the author's section, if there is one, in its place; lines after it move."""
    lines = text.split("\n")
    at = lines.index(_ABOUT)
    section = author_section(about).split("\n") if about else []
    # Without words the line and an empty one around it go.
    last = at + 1 if about else at + 2
    more = len(section) - (last - at)
    moved = (replace(one, line=one.line + more) if one.line > at else one for one in ledger)
    return "\n".join([*lines[:at], *section, *lines[last:]]), tuple(moved)


def _read_back(text: str, front: Mapping[str, Any]) -> Mapping[str, Any]:
    """The front matter as it is read. Raises CardError when that is not what was written."""
    found = yaml.safe_load(text.split("---\n")[1])
    if found != plain(front):
        raise CardError("the front matter of the card is not read back as it was written")
    return dict(found)
