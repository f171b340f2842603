"""`secateur imatrix`: commands for llama.cpp's importance matrices. Parse, call a verb, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.options.output import Force, Json, Out
from secateur.cli.options.pruning import DropMap
from secateur.cli.register import add_command, new_app
from secateur.cli.terminal import show
from secateur.system.sizes import show_count

if TYPE_CHECKING:
    from secateur.formats.imatrix.matrix import Imatrix

File = Annotated[Path, typer.Argument(metavar="FILE", help="An importance matrix, GGUF or .dat.")]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Importance matrices of one model.")
]
InFile = Annotated[
    int | None,
    typer.Option(
        "--experts-in-file", metavar="N", help="Experts per layer, for a .dat that does not say."
    ),
]


def show_(
    file: File,
    least: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens wanted per expert.")] = 32,
    experts: InFile = None,
    as_json: Json = False,
) -> None:
    """Entries, tokens, and experts without data or with little."""
    from secateur.api.imatrix import coverage_of_imatrix

    found = coverage_of_imatrix(file, least, experts)
    show(asdict(found), found.sentences(), as_json)


def merge(
    files: Files, out: Out, experts: InFile = None, force: Force = False, as_json: Json = False
) -> None:
    """Add the sums and counts of several recordings of one model."""
    from secateur.api.imatrix import merge_imatrices

    _written(merge_imatrices(files, out, experts, force=force), out, as_json)


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
    entries = show_count(len(imatrix.entries), "entry", "entries")
    chunks = show_count(imatrix.chunk_count, "chunk")
    line = f"{out}: {entries} of {chunks}, {facts['bytes']:,} bytes"
    show(facts, [line], as_json)


app = new_app(
    "Look at, merge, slice and convert importance matrices.",
    epilog="secateur imatrix show imatrix.gguf",
)
add_command(app, show_, name="show", examples="secateur imatrix show imatrix.gguf --least 100")
add_command(app, merge, examples="secateur imatrix merge a.gguf b.gguf -o both.gguf")
add_command(
    app,
    slice_,
    name="slice",
    examples="secateur imatrix slice im.gguf --plan plan.json -o small.gguf",
)
add_command(app, convert, examples="secateur imatrix convert imatrix.dat -o imatrix.gguf")
