"""`secateur cache`: what is kept of earlier work, and removing it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from secateur.cli.options.output import Json
from secateur.cli.register import add_command, new_app
from secateur.cli.terminal import note, show

OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", metavar="TIME", help="Not used for so long: 12h, 30d or 8w."),
]
OfModel = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="Of this original: its name, or digits of its identity."
    ),
]
Damaged = Annotated[bool, typer.Option("--damaged", help="Files that are damaged.")]
All = Annotated[bool, typer.Option("--all", help="Everything.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def list_(as_json: Json = False) -> None:
    """What is kept: size, last use, what made it, and what is damaged."""
    from secateur.api.cache import list_cache
    from secateur.cli.render.cache import cache_lines
    from secateur.system.resources import cache_folder

    found = list_cache()
    show(
        {"folder": str(cache_folder()), "files": [file.to_json() for file in found]},
        cache_lines(found),
        as_json,
    )


def clean_(
    older_than: OlderThan = None,
    model: OfModel = None,
    damaged: Damaged = False,
    everything: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove what is kept, by age, model or damage; asks before it does.

    Nothing is lost but time: what is removed is made again when it is needed. What another process
    uses is left alone.
    """
    from secateur.api.cache import Cleaning, choose_to_clean, clean_cache
    from secateur.cli.render.cache import cache_lines, read_age, summary_of
    from secateur.errors import RequestError

    age = None if older_than is None else read_age(older_than)
    chosen = choose_to_clean(Cleaning(age, model, damaged, everything))
    removed = chosen
    busy: tuple[str, ...] = ()
    if chosen and not dry_run:
        if not yes:
            if not sys.stdin.isatty():
                raise RequestError(
                    f"this would remove {summary_of(chosen)}, and there is no terminal to ask on: "
                    "say --yes, or look first with --dry-run"
                )
            sys.stderr.write("\n".join(cache_lines(chosen)) + "\n")
            sys.stderr.write(f"Remove {summary_of(chosen)}? [y/N] ")
            sys.stderr.flush()
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                note("nothing was removed")
                return
        removed, busy = clean_cache(chosen)
    for name in busy:
        note(f"in use by another process, left alone: {name}")
    verb = "would remove" if dry_run else "removed"
    show(
        {
            "removed": [file.to_json() for file in removed],
            "in_use": list(busy),
            "dry_run": dry_run,
        },
        [*(cache_lines(removed) if dry_run else []), f"{verb} {summary_of(removed)}"],
        as_json,
    )


app = new_app(
    "What is kept of earlier work: answers, scores, Gram matrices.",
    epilog="secateur cache list",
)
add_command(app, list_, name="list", examples="secateur cache list")
add_command(
    app,
    clean_,
    name="clean",
    examples="""
secateur cache clean --older-than 30d --dry-run
secateur cache clean --model gemmule
""",
)
