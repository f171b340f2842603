"""`release_output`: an output made ready for the hub, and sent there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.api.audit import audit_model, ggufs_in
from secateur.api.models import File
from secateur.api.releasing import Releasing
from secateur.api.verify import verify
from secateur.checkpoint.model_card import MODEL_CARD
from secateur.errors import CardError, OutputError
from secateur.release.card.card import LEDGER, PICTURES, Card, is_ours, make_card, write_card
from secateur.release.card.facts import Results
from secateur.release.card.scope import Scope, scope_of
from secateur.release.evidence import KINDS, asked_of_artefacts, evidence_file, read_evidence
from secateur.release.manifest import MANIFEST, describe_damage
from secateur.release.ollama.write import FILES as OLLAMA_FILES
from secateur.release.ollama.write import OllamaFiles, write_ollama_files
from secateur.release.pages import write_pictures
from secateur.release.report import REPORT
from secateur.release.upload.bundle import Bundle, bundle_of
from secateur.release.upload.push import Pushed, Target, check_login, push
from secateur.system.progress import Counter, Progress, no_progress
from secateur.system.text_files import LARGEST_SETTINGS, read_text

if TYPE_CHECKING:
    from secateur.evaluation.measurement import Measurement


@dataclass(frozen=True)
class Release:
    """An output ready for the hub: its card, what goes up, notes, and what a push did."""

    out: Path
    card: Card = field(repr=False)
    bundle: Bundle
    notes: tuple[str, ...]
    pushed: Pushed | None = None

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        pushed = self.pushed
        return {
            "output": str(self.out),
            "repository": self.card.declared.get("repository"),
            "front_matter": dict(self.card.front_matter),
            "files": [file.to_json() for file in self.bundle.files],
            "bytes": self.bundle.size,
            "left": dict(self.bundle.left),
            "notes": list(self.notes),
            "pushed": None
            if pushed is None
            else {
                "address": pushed.address,
                "commit": pushed.commit,
                "sent": pushed.sent,
                "there": pushed.there,
            },
        }


def release_output(
    out: File,
    request: Releasing | None = None,
    *,
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Release:
    """Make an output ready for the hub: verify it, hold it to its limits, write its card.

    Nothing is sent but with `push`. Raises OutputError for an output that is not as its manifest
    says, or a README.md that we did not write, GateError for a number that misses its limit,
    CardError for a card that cannot be made, and as `release.upload.push.push` does.
    """
    out, request = Path(out), request or Releasing()
    target = _target(request, out)
    if target is not None:
        on_message(f"logged in as {check_login(target)}")
    additional = refuse_damage(out, progress)
    if not (request.force or is_ours(out)):
        raise OutputError(
            f"{out / MODEL_CARD} was written or changed by hand: put words of your own into a file "
            "and name it with about (--about), and let --force replace this one"
        )
    check_limits(out, scope_of(Results(out, request.declared), request.only), request)
    ollama = write_ollama_files(out)
    if (out / REPORT).is_file():
        write_pictures(out)
    card = make_card(out, request.declared, _about(request), request.only)
    write_card(out, card)
    scope = scope_of(Results(out, request.declared), request.only)
    bundle = bundle_of(out, scope, items=request.with_items)
    notes = (
        *_notes(card, additional),
        *_unmeasured(scope, out),
        *_ollama_notes(ollama, scope),
        *_audited(out, bundle, progress),
    )
    pushed = None
    if target is not None:
        pushed = push(bundle, target, "Released by secateur", on_message, progress)
    return Release(out, card, bundle, notes, pushed)


def refuse_damage(out: Path, progress: Progress = no_progress) -> list[str]:
    """The files of an output that its manifest does not list.

    Raises OutputError when one that it lists is missing or was changed, except what releasing
    writes again: an interrupted release may have left it half done. (A README.md that a person
    changed is another matter, which `release_output` decides.)
    """
    found = verify(out, progress)
    damage = [entry for entry in found if entry.is_damage and not _is_written(entry.file)]
    if damage:
        raise OutputError(f"{out} {describe_damage(damage)}")
    return [entry.file for entry in found if not entry.is_damage]


def _is_written(name: str) -> bool:
    """Whether releasing writes a file of an output."""
    return name in (MODEL_CARD, LEDGER, *OLLAMA_FILES) or name.startswith(PICTURES)


def check_limits(out: Path, scope: Scope, request: Releasing) -> None:
    """Hold what is released to the limits that it was measured with, and to those asked for.

    Raises GateError, and OutputError where there are limits and no measurements.
    """
    report = scope.results.report
    words = [*request.gates, *(report.value.get("gates", ()) if report else ())]
    if not words:
        return
    if report is None:
        raise OutputError(f"{out} has no {REPORT}, so {words[0]} cannot be checked: measure it")
    from secateur.evaluation.gate import check_gates, parse_gate
    from secateur.release.card.measured import artefacts_in

    measured = {
        str(one.value["name"]): _measurements(one.value) for one in artefacts_in(scope, report)
    }
    evidence = (read_evidence(out, kind) for kind in KINDS)
    for name, numbers in asked_of_artefacts(one for one in evidence if one is not None).items():
        if name in measured:
            measured[name] += numbers
    check_gates([parse_gate(str(word)) for word in words], measured)


def check_push(request: Releasing | None) -> str | None:
    """The account that a push would be made with, before hours are spent on what it sends; None
    where nothing is to be sent. Raises InputError without a login."""
    target = _target(request, Path()) if request else None
    return check_login(target) if target is not None else None


def _target(request: Releasing, out: Path) -> Target | None:
    if not request.push or request.repository is None:
        return None
    command = f"`{request.command(out)}`"
    return Target(request.repository, not request.public, command, request.force)


def _about(request: Releasing) -> str | None:
    if request.about is None:
        return None
    return read_text(request.about, "your own words in Markdown", CardError, LARGEST_SETTINGS)


def _measurements(artefact: Mapping[str, Any]) -> tuple[Measurement, ...]:
    from secateur.evaluation.measurement import read_measurement

    return tuple(read_measurement(entry) for entry in artefact["measurements"])


def _notes(card: Card, additional: list[str]) -> list[str]:
    """What a person should know before it goes up."""
    front, notes = card.front_matter, []
    if "base_model" not in front:
        notes.append(
            "the card names no base model: the model has no hub id; name it with --base-model"
        )
    if "license" not in front:
        notes.append("the card names no licence: the model's own card has none; give --license")
    unsent = [name for name in additional if name not in (MODEL_CARD, LEDGER, *OLLAMA_FILES)]
    if unsent:
        notes.append(f"not in {MANIFEST}, and so not sent: {', '.join(unsent)}")
    return notes


def _unmeasured(scope: Scope, out: Path) -> list[str]:
    """What the card has to say is not known, and the command that measures it."""
    results = scope.results
    lacking = [kind for kind in KINDS if results.find(evidence_file(kind)) is None]
    if results.report is not None and not lacking:
        return []
    options = {"tasks": "--tasks NAME,...", "loops": "--loops", "speed": "--speed"}
    what = lacking if results.report is not None else ["divergence", *lacking]
    command = f"secateur measure {out} --against {results.manifest['model']['source'].value}"
    return [
        f"the card says that {', '.join(what)} {'is' if len(what) == 1 else 'are'} not known: "
        f"{' '.join((command, *(options[kind] for kind in lacking)))} measures it"
    ]


def _ollama_notes(files: OllamaFiles, scope: Scope) -> list[str]:
    """What is to be said of the files for Ollama, where GGUF files go."""
    if not scope.of("gguf"):
        return []
    notes = [f"Ollama: {note}" for note in files.notes]
    if files.model is not None and not scope.holds(files.model):
        notes.append(
            f"Ollama: the Modelfile is for {files.model}, which is not released: change FROM"
        )
    return notes


def _audited(out: Path, bundle: Bundle, progress: Progress) -> list[str]:
    """What our own audit finds wrong in the card, about each GGUF that goes up."""
    sent = {file.source for file in bundle.files}
    paths = [path for path in ggufs_in(out) if path in sent]
    if not paths:
        return []
    count = Counter(progress, "audit the card", len(paths), "files")
    found: dict[str, None] = {}
    for path in paths:
        audited = audit_model(path, claims=out / MODEL_CARD)
        found |= dict.fromkeys(finding.sentence() for finding in audited.wrong)
        count(1)
    return [f"the card is wrong: {sentence}" for sentence in found]
