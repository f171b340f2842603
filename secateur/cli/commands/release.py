"""`secateur release`: an output made ready for the hub, and sent there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.help import STEPS
from secateur.cli.options.measuring import QualityGates
from secateur.cli.options.output import Force, Json
from secateur.cli.options.releasing import CardOptions, HubOptions
from secateur.cli.progress import show_progress
from secateur.cli.register import add_command
from secateur.cli.terminal import note, show, tells

if TYPE_CHECKING:
    from secateur.api.requests import Releasing

EXAMPLES = """
secateur release out
secateur release out --push OWNER/NAME
secateur release out --only gguf --push OWNER/NAME-GGUF
secateur release out --about words.md --public --push OWNER/NAME
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, release, group=STEPS, examples=EXAMPLES)


def release(
    out: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="An output of `apply` or `shrink`.")
    ],
    hub: HubOptions,
    card: CardOptions,
    quality_gates: QualityGates = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the model card, check the output, and send it.

    Without --push nothing is sent, and what would be is listed. Ollama's files are written too. The
    output is compared with its manifest and held to the limits that it was measured with (exit
    code 3); every number of the card stands in a result file. An interrupted push goes on with the
    same command, and sends nothing twice.
    """
    from secateur.api.requests import Releasing, read_words
    from secateur.errors import RequestError

    if hub.push is not None and hub.repository not in (None, hub.push):
        raise RequestError("either --push or --repository names the repository: leave one out")
    request = Releasing(
        repository=hub.push or hub.repository,
        push=hub.push is not None,
        public=hub.public,
        only=read_words(hub.only or ()),
        with_items=hub.with_items,
        gates=tuple(quality_gates or ()),
        force=force,
        **vars(card),
    )
    publish(out, request, as_json)


def publish(out: Path, request: Releasing, as_json: bool) -> None:
    """Release an output, and print what that did."""
    from secateur.api.release import release_output as run
    from secateur.cli.render.release import release_lines

    with show_progress() as progress:
        done = run(out, request, on_message=note, progress=progress)
    show(done.to_json(), release_lines(done, every=tells("INFO")), as_json)
