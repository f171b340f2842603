"""Which outputs a card is about, and the files of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.checkpoint.hub import CONFIG
from secateur.errors import CardError
from secateur.outputs.registry import FORMATS
from secateur.release.card.facts import DECLARED, Fact, Results
from secateur.release.card.shown import Shown, show

FEW = 3
"""Outputs of which a card tells one by one."""


@dataclass(frozen=True)
class Output:
    """One output of a plan: its format's name, and its weight files as the manifest lists them."""

    format_id: str
    to: str
    files: tuple[Fact, ...]
    facts: Fact
    recipe: Fact | None

    @property
    def folder(self) -> str:
        """The folder within the output that its files lie in; "" for the output's own."""
        return self.files[0].key.rpartition("/")[0]

    def has(self, name: str) -> bool:
        """Whether a file is its own: its weights, and all that lies in its folder."""
        inside = bool(self.folder) and name.startswith(f"{self.folder}/")
        return inside or any(name == file.key for file in self.files)

    def owns(self, artefact: str) -> bool:
        """Whether a report means this output by an artefact's name."""
        if self.recipe is None:
            return artefact == self.format_id
        return artefact in (self.folder, *(file.key for file in self.files))


@dataclass(frozen=True)
class Scope:
    """The results, and those of their outputs that are released together; `others` are not."""

    results: Results
    outputs: tuple[Output, ...]
    others: tuple[Output, ...] = ()

    @property
    def is_ladder(self) -> bool:
        """Whether there are so many outputs that a card tells of them in tables only."""
        return len(self.outputs) > FEW

    def of(self, to: str) -> list[Output]:
        """The outputs of one format."""
        return [output for output in self.outputs if output.to == to]

    @property
    def root(self) -> str:
        """The folder of the output that becomes the repository's own: of a model in a folder that
        is released alone, as mlx-lm's users expect it. "" for the output's own."""
        folders = {output.folder for output in self.outputs}
        return folders.pop() if len(folders) == 1 else ""

    def holds(self, name: str) -> bool:
        """Whether a file of the manifest belongs to what is released."""
        own = [one for one in self.others if one.has(name)]
        if own and not any(one.has(name) for one in self.outputs):
            return False
        listed = self.results.manifest["files"].value
        return (
            not self.root or name.startswith(f"{self.root}/") or f"{self.root}/{name}" not in listed
        )

    @property
    def how_to_name(self) -> str:
        """How a file is named (shown.HOW), as it lies in the repository."""
        return "base name" if self.root else "key"

    def place_of(self, name: str) -> str:
        """Where a file of the output lies in the repository."""
        return name.removeprefix(f"{self.root}/") if self.root else name

    @property
    def repository(self) -> Shown | None:
        """The repository that it goes to, as far as that is known."""
        found = self.results.at(DECLARED, ("repository",))
        return show(found, "code") if found else None

    @property
    def is_pruned(self) -> bool:
        made = self.results.manifest
        return bool(made["experts"].value < made["model"]["experts"].value)

    def config(self, *keys: str | int) -> Fact | None:
        """A value of the model's config, of the text model's section where it has one."""
        for file in (CONFIG, *(f"{one.folder}/{CONFIG}" for one in self.outputs if one.folder)):
            for section in (("text_config",), ()):
                if found := self.results.at(file, (*section, *keys)):
                    return found
        return None


def scope_of(results: Results, only: Sequence[str] = ()) -> Scope:
    """All outputs of a plan, or those named in `only`: by format (gguf) or format id (gguf-Q8_0).

    Raises CardError for a name that the plan does not have.
    """
    plan, listed = results.plan, results.manifest["files"]
    outputs = []
    for form in plan["files"]:
        recipe = plan.get("formats", form.key)
        files = tuple(listed[name] for name in form.value if name in listed.value)
        to = form.key if recipe is None else str(recipe["to"].value)
        if files:
            outputs.append(Output(form.key, to, files, plan["outputs"][form.key], recipe))
    known = {name for one in outputs for name in (one.to, one.format_id)}
    if odd := [name for name in only if name not in known]:
        raise CardError(f"only {odd[0]!r}: the output has {', '.join(sorted(known))}")
    wanted = [one for one in outputs if not only or {one.to, one.format_id} & set(only)]
    wanted += [one for one in outputs if one not in wanted and _goes_along(one, wanted)]
    others = tuple(one for one in outputs if one not in wanted)
    return Scope(results, tuple(wanted), others)


def _goes_along(output: Output, wanted: Sequence[Output]) -> bool:
    """A tower's GGUF goes where the model's GGUF goes: llama.cpp needs both."""
    form = FORMATS.get(output.to)
    return form is not None and form.goes_with in {one.to for one in wanted}
