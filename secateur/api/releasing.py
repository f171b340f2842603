"""What to release of an output, and how: a request, without anything that runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import join

from secateur.errors import RequestError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WORD = re.compile(r"[\w.+ -]{1,80}")


@dataclass(frozen=True)
class Releasing:
    """What the person who releases an output says.

    `only` names the outputs that go, by format (gguf) or format id (gguf-Q8_0); none: all. `about`
    is a Markdown file of their own words for the card. `repository` is where the output will lie;
    `push` sends it there, `public` makes a new repository public. `base_model` is the hub id of
    the model that it was made from, `license`, `license_name` and `license_link` its licence, where
    the model's own card does not say or says otherwise. `with_items` sends the questions and
    answers of tasks, too. `force` replaces a README.md that we did not write. `gates` are limits
    in addition to those that the output was measured with (evaluation.gate).
    """

    repository: str | None = None
    push: bool = False
    public: bool = False
    only: tuple[str, ...] = ()
    about: Path | None = None
    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    with_items: bool = False
    force: bool = False
    gates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("repository", "base_model"):
            given = getattr(self, name)
            if given is not None and _HUB_ID.fullmatch(given) is None:
                raise RequestError(f"{name} is {given!r}, expected a hub id (owner/name)")
        for name in ("license", "license_name"):
            given = getattr(self, name)
            if given is not None and _WORD.fullmatch(given) is None:
                raise RequestError(f"{name} is {given!r}, expected a name such as gemma")
        link = self.license_link
        if link is not None and re.fullmatch(r"(https?://|LICENSE)\S*", link) is None:
            raise RequestError(f"license_link is {link!r}, expected an address or a LICENSE file")
        if self.push and self.repository is None:
            raise RequestError("push: name the repository (owner/name) that it goes to")
        if self.public and not self.push:
            raise RequestError(
                "public is about a repository that a push makes: push, or leave it out"
            )

    def command(self, out: Path) -> str:
        """The command that does the same to an output that is finished."""
        words = ["secateur", "release", str(out)]
        for one in fields(self):
            value, option = getattr(self, one.name), f"--{one.name.replace('_', '-')}"
            if one.name == "repository" and value is not None:
                words += ["--push" if self.push else option, value]
            elif one.name == "gates":
                words += [word for gate in value for word in ("--gate", gate)]
            elif value is True and one.name != "push":
                words.append(option)
            elif value and value is not True:
                words += [option, ",".join(value) if isinstance(value, tuple) else str(value)]
        return join(words)

    @property
    def declared(self) -> dict[str, str]:
        """What the card takes from the person, not from results (release.card.facts.DECLARED)."""
        owner = self.repository.partition("/")[0] if self.repository else None
        words = {
            "repository": self.repository,
            "quantized_by": owner,
            "base_model": self.base_model,
            "license": self.license,
            "license_name": self.license_name,
            "license_link": self.license_link,
            "gates": ", ".join(self.gates) or None,
        }
        return {key: word for key, word in words.items() if word is not None}
