"""Where the tasks of a server or a log are kept: a folder of their own, or an output of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import OutputError, RequestError
from secateur.outputs.apply import PLAN
from secateur.outputs.registry import artefacts_of
from secateur.outputs.safetensors.format import SafetensorsFormat
from secateur.release.asked_folder import write_asked_folder
from secateur.release.evidence import ORIGINAL, Evidence, Items, read_evidence, write_evidence
from secateur.release.manifest import MANIFEST
from secateur.release.report import REPORT
from secateur.system.workdir import refuse_existing

MODEL = "model"
"""What the model behind an address is called where it is no artefact of an output."""


@dataclass(frozen=True)
class Keep:
    """`folder` is made, or is an output, of which the server has the `artefact` (a file or folder
    in it; needed where it holds several)."""

    folder: Path
    artefact: str | None = None

    @property
    def is_output(self) -> bool:
        return (self.folder / PLAN).is_file() and (self.folder / MANIFEST).is_file()

    def check(self) -> str:
        """What the model is called in the evidence.

        Raises OutputError for a folder that exists and is no output, or holds tasks that would be
        lost, RequestError where it is not clear which artefact of an output is meant.
        """
        if not self.is_output:
            refuse_existing(self.folder)
            if self.artefact is not None:
                raise RequestError(
                    f"{self.folder} is no output, so that {self.artefact} cannot be in it: leave "
                    "the artefact out, or name the output that holds it"
                )
            return MODEL
        name = self._find_artefact()
        kept = read_evidence(self.folder, "tasks")
        others = (
            [one.name for one in kept.artefacts if one.name not in (name, ORIGINAL)] if kept else []
        )
        if others:
            raise OutputError(
                f"{self.folder} holds tasks of {', '.join(others)}, in whose place these would "
                "come: give a new folder"
            )
        return name

    def write(self, evidence: Evidence, items: Items, asked: Mapping[str, Any]) -> None:
        """Write it, and render an output's pages again; `asked` says who was asked, for a folder of
        its own. Raises OutputError, WriteError."""
        if not self.is_output:
            write_asked_folder(self.folder, evidence, items, asked)
            return
        write_evidence(self.folder, evidence, items)
        if (self.folder / REPORT).is_file():
            from secateur.release.pages import write_pages

            write_pages(self.folder)

    def _find_artefact(self) -> str:
        names = [
            SafetensorsFormat.name if path == self.folder else path.name
            for path in artefacts_of(self.folder)
        ]
        if self.artefact is None and len(names) == 1:
            return names[0]
        if self.artefact not in names:
            raise RequestError(
                f"{self.folder} holds {', '.join(names)}: say with artefact (--artefact) which of "
                "them the server has"
            )
        return self.artefact
