"""The command line: commands are put together here, and errors become one line and an exit code.

Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 a quality gate was not met, 130 interrupted.
Results go to stdout (one JSON document with --json), progress and errors to stderr.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from typing import Annotated

import typer

from secateur import __version__
from secateur.cli.commands import (
    audit,
    cache,
    calibrate,
    chat,
    corpus,
    family,
    imatrix,
    inspect,
    measure,
    output,
    plan,
    recipe,
    release,
    report,
    run,
    serve,
    shrink,
    statistics,
    synth,
)
from secateur.cli.help import CONTEXT, FILES, Group
from secateur.cli.register import Detail, Quiet, Verbose
from secateur.cli.terminal import Interrupted, exit_with
from secateur.errors import SecateurError
from secateur.system.allocator import return_large_blocks
from secateur.system.bus_error import explained_bus_errors

app = typer.Typer(
    cls=Group,
    name="secateur",
    help="Make Mixture-of-Experts language models smaller, and prove what it cost.",
    epilog="""
    secateur inspect gemmule
    secateur shrink gemmule --experts 24 --types Q4_K_M -o out
    secateur COMMAND --help
    """,
    context_settings=CONTEXT,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (
    inspect, calibrate, statistics, plan, output, measure, report, release, shrink, run, serve,
    chat, audit, synth,
):  # fmt: skip
    module.add_to(app)
app.add_typer(imatrix.app, name="imatrix", rich_help_panel=FILES)
app.add_typer(recipe.app, name="recipe", rich_help_panel=FILES)
app.add_typer(family.app, name="family", rich_help_panel=FILES)
app.add_typer(corpus.app, name="corpus", rich_help_panel=FILES)
app.add_typer(cache.app, name="cache", rich_help_panel=FILES)


def main() -> None:
    """Run the command line; the entry point of the `secateur` script."""
    return_large_blocks()
    # Commands that answer at once make no cycles to speak of, and looking for them takes a tenth
    # of their time; long work (cli/progress.py) turns it on again.
    gc.disable()
    try:
        with explained_bus_errors():
            _run()
    finally:
        gc.enable()


def _run() -> None:
    """Run the command line; errors become a line and an exit code."""
    try:
        code = app(prog_name="secateur", standalone_mode=False)
    except SecateurError as error:
        exit_with(str(error), error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "secateur"
        message = error.format_message().rstrip(".").replace("Value error, ", "")
        exit_with(f"{message}: see `{command} --help`", 2)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # A name that no file can have is the user's; all else may be the disk's.
        code = 2 if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else 1
        exit_with(
            f"{str(error.filename or 'input or output')[:300]}: {error.strerror or error}", code
        )
    except MemoryError:
        exit_with("out of memory: use fewer --workers, or a larger machine", 1)
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    if code == Interrupted.exit_code:  # before or after the command itself
        exit_with("interrupted", code)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    context.obj = Detail(verbose, quiet)
    if version:
        sys.stdout.write(f"secateur {__version__}\n")
    elif context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


if __name__ == "__main__":
    main()
