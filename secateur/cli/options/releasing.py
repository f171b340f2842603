"""Options: where an output goes on the hub, and what its card says beside results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.options.asking import refuse_without

if TYPE_CHECKING:
    from secateur.api.requests import Releasing

HUB, CARD = "Hub", "Card"

Push = Annotated[
    str | None,
    typer.Option(
        "--push",
        metavar="OWNER/NAME",
        help="Send it to this repository on the Hugging Face hub, which is made where there is "
        "none. The login is the hub's own (hf auth login, or HF_TOKEN).",
        rich_help_panel=HUB,
    ),
]
Public = Annotated[
    bool,
    typer.Option(
        "--public",
        help="Make a new repository public. Default: private; one that is there stays as it is.",
        rich_help_panel=HUB,
    ),
]
Repository = Annotated[
    str | None,
    typer.Option(
        "--repository",
        metavar="OWNER/NAME",
        help="The repository that the card names; nothing is sent.",
        rich_help_panel=HUB,
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        metavar="OUTPUT[,OUTPUT...]",
        help="The outputs that go, by format or name: gguf, gguf-Q8_0, safetensors, mlx. A folder "
        "for mlx-lm that goes alone becomes the repository's own.",
        rich_help_panel=HUB,
    ),
]
WithItems = Annotated[
    bool,
    typer.Option(
        "--with-items",
        help="Send the questions and answers of tasks, too; some sets ask not to be published.",
        rich_help_panel=HUB,
    ),
]
About = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Words of your own in Markdown; they get a section of the card that says so.",
        rich_help_panel=CARD,
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        metavar="OWNER/NAME",
        help="Hub id of the model that it was made from. Default: as the model or its card says.",
        rich_help_panel=CARD,
    ),
]
License = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Default: that of the model's card.", rich_help_panel=CARD),
]
LicenseName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of a licence that is `other`.", rich_help_panel=CARD),
]
LicenseLink = Annotated[
    str | None, typer.Option(metavar="URL", help="Where its terms stand.", rich_help_panel=CARD)
]


@dataclass(frozen=True)
class HubOptions:
    """Where it goes, and what of it."""

    push: Push = None
    public: Public = False
    repository: Repository = None
    only: Only = None
    with_items: WithItems = False


@dataclass(frozen=True)
class CardOptions:
    """What the card says that follows from no result."""

    about: About = None
    base_model: BaseModel = None
    license: License = None
    license_name: LicenseName = None
    license_link: LicenseLink = None


@dataclass(frozen=True)
class PushOptions:
    """Sending what is made, after all other steps."""

    push: Push = None
    public: Public = False

    def request(self) -> Releasing | None:
        """None where nothing is to be sent. Raises RequestError for --public without --push."""
        from secateur.api.requests import Releasing

        if self.push is None:
            refuse_without(self, "push")
            return None
        return Releasing(repository=self.push, push=True, public=self.public)
