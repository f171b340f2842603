"""The command line: parse, call a verb, print. No decision is made here.

Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 a quality gate was not met, 130 interrupted.
Results go to stdout (one JSON document with --json), progress and errors to stderr.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur import __version__
from secateur.cli.commands import audit as audit_cli
from secateur.cli.commands import imatrix as imatrix_cli
from secateur.cli.commands import plan as plan_cli
from secateur.cli.commands import recipe as recipe_cli
from secateur.cli.options import (
    Aggregation,
    Corpus,
    Criterion,
    Drop,
    DropMap,
    Experts,
    Gate,
    Imatrix,
    Json,
    LayerImportance,
    Mmproj,
    Model,
    OnNan,
    Out,
    Pad,
    PerSample,
    Protect,
    Recipes,
    RerouteTokens,
    Revision,
    Rows,
    Seed,
    SequenceLength,
    SplitMaxSize,
    Stats,
    Super,
    TensorTypes,
    To,
    Types,
    UnseenExperts,
    Workers,
    one_of,
)
from secateur.cli.parsing import formats_of, policy_of, pruning_of
from secateur.cli.terminal import leave, note, progress_bars, show
from secateur.errors import SecateurError

if TYPE_CHECKING:
    pass

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count: 128 and the number of the signal."""

app = typer.Typer(
    name="secateur",
    help="Make Mixture-of-Experts language models smaller, and prove what it cost.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(imatrix_cli.app)
app.add_typer(recipe_cli.app, name="recipe")


def main() -> None:
    """Run the command line; the entry point of the `secateur` script."""
    try:
        code = app(prog_name="secateur", standalone_mode=False)
    except SecateurError as error:
        leave(str(error), error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "secateur"
        leave(f"{error.format_message().rstrip('.')}: see `{command} --help`", 2)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        leave(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except MemoryError:
        leave("out of memory: use fewer --workers, or a larger machine", 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        leave("interrupted", INTERRUPTED)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"secateur {__version__}\n")
    elif context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command()
def inspect(model: Model, revision: Revision = None, as_json: Json = False) -> None:
    """Shape, experts, parameters and bytes of a model. Reads no weights."""
    from secateur.api import verbs
    from secateur.cli.render.results import inspection_lines

    found = verbs.inspect(model, revision)
    show(found.to_json(), inspection_lines(found), as_json)


@app.command()
def calibrate(
    model: Model,
    out: Out,
    corpus: Corpus = None,
    rows: Rows = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the mix's own.")] = None,
    sequence_length: SequenceLength = None,
    reroute_tokens: RerouteTokens = 16384,
    on_nan: OnNan = "stop",
    revision: Revision = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """One pass over the corpus: expert statistics and imatrix sums."""
    from secateur.api import verbs
    from secateur.cli.render.results import calibration_lines
    from secateur.statistics.coverage import coverage

    one_of("--on-nan", on_nan, ("stop", "skip"))
    request = verbs.Calibration(corpus, rows, seed, sequence_length, reroute_tokens, on_nan)
    with progress_bars() as report:
        found = verbs.calibrate(
            model,
            out,
            request,
            revision=revision,
            workers=workers,
            on_message=note,
            progress=report,
        )
    summary = {
        "statistics": str(out),
        "tokens": dict(found.tokens),
        "skipped": found.skipped,
        "samples": len(found.samples),
        "warnings": [w for corpus in found.corpora for w in corpus.get("warnings", ())],
        "coverage": coverage(found).sentences(),
    }
    show(summary, calibration_lines(summary), as_json)


@app.command()
def merge(
    statistics: Annotated[list[Path], typer.Argument(help="Statistics files of one model.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Merge statistics of several runs or machines; exact, in any order."""
    from secateur.api import verbs

    merged = verbs.merge(statistics, out)
    summary = {"statistics": str(out), "tokens": dict(merged.tokens), "merged": len(statistics)}
    show(
        summary,
        [f"{out}: {sum(merged.tokens.values())} tokens of {len(statistics)} files"],
        as_json,
    )


@app.command()
def coverage(
    statistics: Annotated[Path, typer.Argument(help="Statistics of `calibrate`.")],
    least: Annotated[int, typer.Option(min=1, help="Tokens wanted per expert.")] = 32,
    as_json: Json = False,
) -> None:
    """Experts that saw too few tokens, and how many more would do."""
    from dataclasses import asdict

    from secateur.api import verbs

    found = verbs.coverage(statistics, least)
    show(asdict(found), found.sentences(), as_json)


@app.command()
def scores(
    statistics: Annotated[Path, typer.Argument(help="Statistics of `calibrate`.")],
    criterion: Criterion = None,
    gate: Gate = "true",
    aggregation: Aggregation = "pooled",
    seed: Seed = 0,
    protect_per_sample: PerSample = 16,
    as_json: Json = False,
) -> None:
    """Every expert's score by a criterion; higher stays."""
    from secateur.api import verbs

    request = pruning_of(
        criterion=criterion,
        gate=gate,
        aggregation=aggregation,
        seed=seed,
        protect_per_sample=protect_per_sample,
    )
    found = verbs.scores(statistics, request)
    layers = {str(layer): values for layer, values in found.items()}
    lines = [
        f"{request.criterion}, layer {k}: {' '.join(f'{v:.4g}' for v in vs)}"
        for k, vs in layers.items()
    ]
    show({"criterion": request.criterion, "layers": layers}, lines, as_json)


app.command()(plan_cli.plan)
app.command()(plan_cli.fit)
app.command()(audit_cli.audit)


@app.command()
def apply(
    plan: Annotated[Path, typer.Argument(help="The plan of `plan`.")],
    out: Out,
    model: Annotated[str | None, typer.Option(help="Where the model lies, if it moved.")] = None,
    stats: Stats = None,
    imatrix: Imatrix = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write what a plan says into a new folder, complete or absent. Resumes where it stopped."""
    from secateur.api import verbs
    from secateur.cli.render.results import output_lines

    with progress_bars() as report:
        manifest = verbs.apply(
            plan, out, model=model, statistics=stats, imatrix=imatrix, workers=workers,
            progress=report,
        )  # fmt: skip
    show(manifest, output_lines(out, manifest), as_json)


@app.command()
def measure(
    out: Annotated[Path, typer.Argument(help="An output of `apply`, a model folder or a GGUF.")],
    against: Annotated[str, typer.Option(help="The original model.")],
    prompts: Annotated[Path | None, typer.Option(help="JSONL of held-out prompts.")] = None,
    answers: Annotated[Path | None, typer.Option(help="JSONL of the original's answers.")] = None,
    per_domain: Annotated[int | None, typer.Option(min=1, help="Prompts per domain.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder that keeps answers and teacher.")
    ] = None,
    max_kl: Annotated[float | None, typer.Option(help="Gate: mean KL at most (nats).")] = None,
    min_top1: Annotated[float | None, typer.Option(help="Gate: top-1 agreement at least.")] = None,
    revision: Revision = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Divergence from the original on its own answers, per domain, with intervals."""
    from secateur.api import verbs
    from secateur.cli.render.results import measurement_lines

    request = verbs.Measuring(prompts, answers, per_domain, max_kl, min_top1)
    with progress_bars() as report:
        found = verbs.measure(
            out, against, request, work=work, revision=revision, workers=workers, progress=report
        )
    show(found.to_json(), measurement_lines(found), as_json)
    found.check_gate()


@app.command()
def shrink(
    model: Model,
    out: Out,
    experts: Experts = None,
    drop: Drop = None,
    types: Types = None,
    recipe: Recipes = None,
    tensor_type_file: TensorTypes = None,
    layer_importance: LayerImportance = None,
    to: To = None,
    pad: Pad = False,
    split_max_size: SplitMaxSize = None,
    mmproj: Mmproj = None,
    imatrix: Imatrix = None,
    unseen_experts: UnseenExperts = "uniform",
    corpus: Corpus = None,
    rows: Rows = None,
    sequence_length: SequenceLength = None,
    reroute_tokens: RerouteTokens = 16384,
    on_nan: OnNan = "stop",
    criterion: Criterion = None,
    aggregation: Aggregation = "pooled",
    gate: Gate = "true",
    seed: Seed = 0,
    protect: Protect = None,
    protect_per_sample: PerSample = 16,
    protect_super_experts: Super = False,
    drop_map: DropMap = None,
    prompts: Annotated[Path | None, typer.Option(help="JSONL of held-out prompts.")] = None,
    answers: Annotated[Path | None, typer.Option(help="JSONL of the original's answers.")] = None,
    per_domain: Annotated[int | None, typer.Option(min=1, help="Prompts per domain.")] = None,
    max_kl: Annotated[float | None, typer.Option(help="Gate: mean KL at most (nats).")] = None,
    min_top1: Annotated[float | None, typer.Option(help="Gate: top-1 agreement at least.")] = None,
    revision: Revision = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """The whole line: calibrate, plan, apply, measure, report. Resumes where it stopped."""
    from secateur.api import verbs
    from secateur.api.shrink import ShrinkRequest
    from secateur.api.shrink import shrink as run
    from secateur.cli.render.results import shrink_lines

    one_of("--on-nan", on_nan, ("stop", "skip"))
    pruning = pruning_of(
        experts=experts, drop=drop, criterion=criterion, aggregation=aggregation, gate=gate,
        seed=seed, protect=protect, protect_per_sample=protect_per_sample,
        protect_super_experts=protect_super_experts, drop_map=drop_map,
    )  # fmt: skip
    request = ShrinkRequest(
        pruning=pruning,
        formats=formats_of(
            to, types, recipe, tensor_type_file, layer_importance, pad, split_max_size, mmproj
        ),
        calibration=verbs.Calibration(corpus, rows, None, sequence_length, reroute_tokens, on_nan),
        measuring=verbs.Measuring(prompts, answers, per_domain, max_kl, min_top1),
        imatrix=imatrix,
        unseen_experts=policy_of(unseen_experts),
    )
    with progress_bars() as report:
        result = run(model, out, request, revision=revision, workers=workers, progress=report)
    show(result.to_json(), shrink_lines(result, out), as_json)
    result.check_gate()


@app.command()
def verify(
    out: Annotated[Path, typer.Argument(help="An output of `apply` or `shrink`.")],
    as_json: Json = False,
) -> None:
    """Compare an output with its manifest, file by file."""
    from secateur.api import verbs
    from secateur.errors import OutputError

    with progress_bars() as report:
        problems = verbs.verify(out, report)
    told = [{"file": problem.file, "what": problem.what} for problem in problems]
    lines = [] if problems else [f"{out}: every file is as its manifest says"]
    show({"output": str(out), "problems": told}, lines, as_json)
    if problems:
        first = problems[0]
        raise OutputError(
            f"{out} is not what its manifest says: {first.file} {first.what}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
            + ": make it again"
        )


if __name__ == "__main__":
    main()
