"""`secateur imatrix`: commands for llama.cpp's importance matrices. Parse, call a verb, print."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.help import CONTEXT, Command, Group
from secateur.cli.options.output import Force, Json, Out
from secateur.cli.options.pruning import DropMap
from secateur.cli.terminal import show

if TYPE_CHECKING:
    from secateur.formats.imatrix.matrix import Imatrix

app = typer.Typer(
    cls=Group,
    help="Look at, merge, slice and convert importance matrices (GGUF or .dat).",
    context_settings=CONTEXT,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="An importance matrix, GGUF or .dat.")]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Importance matrices of one model.")
]
InFile = Annotated[
    int | None,
    typer.Option("--experts", metavar="N", help="Experts per layer, where a .dat does not say."),
]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command("show", cls=Command, epilog="secateur imatrix show imatrix.gguf --least 100")
def show_(
    file: File,
    least: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens wanted per expert.")] = 32,
    experts: InFile = None,
    as_json: Json = False,
) -> None:
    """Entries, tokens, and experts without data or with little, layer by layer."""
    from secateur.api.imatrix import coverage_of_imatrix

    found = coverage_of_imatrix(file, least, experts)
    show(asdict(found), found.sentences(), as_json)


@app.command(cls=Command, epilog="secateur imatrix merge a.gguf b.gguf -o both.gguf")
def merge(
    files: Files, out: Out, experts: InFile = None, force: Force = False, as_json: Json = False
) -> None:
    """Add the sums and counts of several recordings of one model."""
    from secateur.api.imatrix import merge_imatrices

    _written(merge_imatrices(files, out, experts, force=force), out, as_json)


@app.command(
    "slice",
    cls=Command,
    epilog="secateur imatrix slice im.gguf --plan plan.json -o small.gguf",
)
def slice_(
    file: File,
    out: Out,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plan that names the experts to keep.")
    ] = None,
    drop_map: DropMap = None,
    experts: InFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Keep only the experts that a plan or a drop map keeps, renumbered."""
    from secateur.api.imatrix import slice_imatrix

    found = slice_imatrix(file, out, plan=plan, drop_map=drop_map, experts=experts, force=force)
    _written(found, out, as_json)


@app.command(cls=Command, epilog="secateur imatrix convert imatrix.dat -o imatrix.gguf")
def convert(
    file: File, out: Out, experts: InFile = None, force: Force = False, as_json: Json = False
) -> None:
    """Write the form that the suffix of OUT asks for: .dat, or GGUF."""
    from secateur.api.imatrix import convert_imatrix

    _written(convert_imatrix(file, out, experts, force=force), out, as_json)


def _written(imatrix: Imatrix, out: Path, as_json: bool) -> None:
    facts = {
        "imatrix": str(out),
        "entries": len(imatrix.entries),
        "datasets": list(imatrix.datasets),
        "chunks": imatrix.chunk_count,
        "bytes": out.stat().st_size,
    }
    line = (
        f"{out}: {facts['entries']} entries of {facts['chunks']} chunks, {facts['bytes']:,} bytes"
    )
    show(facts, [line], as_json)
