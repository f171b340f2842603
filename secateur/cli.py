"""The command line: parse, call a verb, print. No decision is made here.

Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 a quality gate was not met, 130 interrupted.
Results go to stdout (one JSON document with --json), progress and errors to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from secateur import __version__
from secateur.errors import SecateurError

if TYPE_CHECKING:
    from secateur.planning.choose import Pruning

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count: 128 and the number of the signal."""

app = typer.Typer(
    name="secateur",
    help="Make Mixture-of-Experts language models smaller, and prove what it cost.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Argument(help="Model folder, hub id (owner/name), or 'gemmule'.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Revision = Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub id.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads. Default: one per core.")]
Stats = Annotated[Path | None, typer.Option("--stats", help="Statistics of `calibrate`.")]
Experts = Annotated[int | None, typer.Option(help="Experts per layer that stay.")]
Drop = Annotated[float | None, typer.Option(help="Share of experts that goes; 0.30 of 128 is 38.")]
Criterion = Annotated[str | None, typer.Option(help="What an expert is worth. Default: rerouted.")]
Aggregation = Annotated[str, typer.Option(help="pooled, mean-rank or worst-category.")]
Gate = Annotated[str, typer.Option(help="true, or reference (softmax only, as REAP's code).")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the criterion `random`.")]
Protect = Annotated[
    list[str] | None, typer.Option(help="LAYER:EXPERT[,EXPERT...] to keep; may be repeated.")
]
PerSample = Annotated[
    int, typer.Option(min=1, help="Experts that `contribution` protects per sample.")
]
Super = Annotated[bool, typer.Option("--protect-super-experts", help="Keep outstanding experts.")]
DropMap = Annotated[Path | None, typer.Option(help="JSON that says which experts stay or go.")]
Types = Annotated[str | None, typer.Option(help="GGUF file types, comma-separated: Q4_K_M,Q8_0.")]
To = Annotated[
    str | None,
    typer.Option(help="safetensors, gguf or both. Default: safetensors, and gguf if --types."),
]
Corpus = Annotated[str | None, typer.Option(help="A mix by name or YAML path, or JSONL/text.")]
Rows = Annotated[Path | None, typer.Option(help="JSONL with input_ids per line, used as given.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]


def main() -> None:
    """Run the command line; the entry point of the `secateur` script."""
    try:
        code = app(prog_name="secateur", standalone_mode=False)
    except SecateurError as error:
        _leave(str(error), error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "secateur"
        _leave(f"{error.format_message().rstrip('.')}: see `{command} --help`", 2)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _leave(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except MemoryError:
        _leave("out of memory: use fewer --workers, or a larger machine", 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        _leave("interrupted", INTERRUPTED)


def _leave(message: str, code: int) -> NoReturn:
    """Say why in one line, and exit."""
    sys.stderr.write(f"secateur: {' '.join(message.split())}\n")
    sys.exit(code)


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
    from secateur import verbs
    from secateur.report_text import inspection_lines

    found = verbs.inspect(model, revision)
    _show(found.to_json(), inspection_lines(found), as_json)


@app.command()
def calibrate(
    model: Model,
    out: Out,
    corpus: Corpus = None,
    rows: Rows = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the mix's own.")] = None,
    sequence_length: Annotated[int | None, typer.Option(min=1, help="Tokens per row.")] = None,
    reroute_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens sampled for `rerouted`; 0 leaves it out.")
    ] = 4096,
    on_nan: Annotated[str, typer.Option(help="stop, or skip tokens that become NaN.")] = "stop",
    revision: Revision = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """One pass over the corpus: expert statistics and imatrix sums."""
    from secateur import verbs
    from secateur.calibration.coverage import coverage
    from secateur.report_text import calibration_lines

    _one_of("--on-nan", on_nan, ("stop", "skip"))
    wish = verbs.Calibration(corpus, rows, seed, sequence_length, reroute_tokens, on_nan)
    with _progress() as report:
        found = verbs.calibrate(
            model, out, wish, revision=revision, workers=workers, tell=_note, progress=report
        )
    summary = {
        "statistics": str(out),
        "tokens": dict(found.tokens),
        "skipped": found.skipped,
        "samples": len(found.samples),
        "warnings": [w for corpus in found.corpora for w in corpus.get("warnings", ())],
        "coverage": coverage(found).sentences(),
    }
    _show(summary, calibration_lines(summary), as_json)


@app.command()
def merge(
    statistics: Annotated[list[Path], typer.Argument(help="Statistics files of one model.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Merge statistics of several runs or machines; exact, in any order."""
    from secateur import verbs

    merged = verbs.merge(statistics, out)
    summary = {"statistics": str(out), "tokens": dict(merged.tokens), "merged": len(statistics)}
    _show(
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

    from secateur import verbs

    found = verbs.coverage(statistics, least)
    _show(asdict(found), found.sentences(), as_json)


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
    from secateur import verbs

    wish = _pruning(
        criterion=criterion,
        gate=gate,
        aggregation=aggregation,
        seed=seed,
        protect_per_sample=protect_per_sample,
    )
    found = verbs.scores(statistics, wish)
    layers = {str(layer): values for layer, values in found.items()}
    lines = [
        f"{wish.criterion}, layer {k}: {' '.join(f'{v:.4g}' for v in vs)}"
        for k, vs in layers.items()
    ]
    _show({"criterion": wish.criterion, "layers": layers}, lines, as_json)


@app.command()
def plan(
    model: Model,
    stats: Stats = None,
    experts: Experts = None,
    drop: Drop = None,
    criterion: Criterion = None,
    aggregation: Aggregation = "pooled",
    gate: Gate = "true",
    seed: Seed = 0,
    protect: Protect = None,
    protect_per_sample: PerSample = 16,
    protect_super_experts: Super = False,
    drop_map: DropMap = None,
    to: To = None,
    types: Types = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the plan here.")] = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Decide every output tensor, its type and exact bytes, before anything is written."""
    from secateur import verbs
    from secateur.planning.plan import to_json
    from secateur.report_text import plan_lines

    wish = _pruning(
        experts=experts, drop=drop, criterion=criterion, aggregation=aggregation, gate=gate,
        seed=seed, protect=protect, protect_per_sample=protect_per_sample,
        protect_super_experts=protect_super_experts, drop_map=drop_map,
    )  # fmt: skip
    decided = verbs.plan(model, wish, _formats(to, types), statistics=stats, revision=revision)
    if out is not None:
        verbs.save_plan(decided, out)
    if as_json:
        sys.stdout.write(to_json(decided))
    else:
        _print(plan_lines(decided, out))


@app.command()
def apply(
    plan: Annotated[Path, typer.Argument(help="The plan of `plan`.")],
    out: Out,
    model: Annotated[str | None, typer.Option(help="Where the model lies, if it moved.")] = None,
    stats: Stats = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write what a plan says into a new folder, complete or absent."""
    from secateur import verbs
    from secateur.report_text import output_lines

    with _progress() as report:
        manifest = verbs.apply(
            plan, out, model=model, statistics=stats, threads=workers, progress=report
        )
    _show(manifest, output_lines(out, manifest), as_json)


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
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Divergence from the original on its own answers, per domain, with intervals."""
    from secateur import verbs
    from secateur.report_text import measurement_lines

    wish = verbs.Measuring(prompts, answers, per_domain, max_kl, min_top1)
    with _progress() as report:
        found = verbs.measure(out, against, wish, work=work, workers=workers, progress=report)
    _show(found.to_json(), measurement_lines(found), as_json)
    found.check_gate()


@app.command()
def shrink(
    model: Model,
    out: Out,
    experts: Experts = None,
    drop: Drop = None,
    types: Types = None,
    to: To = None,
    corpus: Corpus = None,
    rows: Rows = None,
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
    from secateur import verbs
    from secateur.pipeline import Wish
    from secateur.pipeline import shrink as run
    from secateur.report_text import shrink_lines

    pruning = _pruning(
        experts=experts, drop=drop, criterion=criterion, aggregation=aggregation, gate=gate,
        seed=seed, protect=protect, protect_per_sample=protect_per_sample,
        protect_super_experts=protect_super_experts, drop_map=drop_map,
    )  # fmt: skip
    wish = Wish(
        pruning=pruning,
        formats=_formats(to, types),
        calibration=verbs.Calibration(corpus, rows),
        measuring=verbs.Measuring(prompts, answers, per_domain, max_kl, min_top1),
    )
    with _progress() as report:
        result = run(model, out, wish, revision=revision, workers=workers, progress=report)
    _show(result.to_json(), shrink_lines(result, out), as_json)
    result.check_gate()


@app.command()
def verify(
    out: Annotated[Path, typer.Argument(help="An output of `apply` or `shrink`.")],
    as_json: Json = False,
) -> None:
    """Compare an output with its manifest, file by file."""
    from secateur import verbs
    from secateur.errors import OutputError

    with _progress() as report:
        problems = verbs.verify(out, report)
    told = [{"file": problem.file, "what": problem.what} for problem in problems]
    lines = [] if problems else [f"{out}: every file is as its manifest says"]
    _show({"output": str(out), "problems": told}, lines, as_json)
    if problems:
        first = problems[0]
        raise OutputError(
            f"{out} is not what its manifest says: {first.file} {first.what}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
            + ": make it again"
        )


def _pruning(
    protect: list[str] | None = None, criterion: str | None = None, **words: Any
) -> Pruning:
    from secateur.planning.choose import CRITERION, Pruning

    _one_of("--gate", words.get("gate", "true"), ("true", "reference"))
    return Pruning(criterion=criterion or CRITERION, protected=_protected(protect or []), **words)


def _protected(entries: list[str]) -> dict[int, tuple[int, ...]]:
    protected: dict[int, tuple[int, ...]] = {}
    for entry in entries:
        layer, _, experts = entry.partition(":")
        try:
            protected[int(layer)] = tuple(int(expert) for expert in experts.split(","))
        except ValueError:
            raise typer.BadParameter(
                f"{entry!r}: expected LAYER:EXPERT[,EXPERT...], as in 0:3,17",
                param_hint="--protect",
            ) from None
    return protected


def _formats(to: str | None, types: str | None) -> Any:
    from secateur.verbs import Formats

    names = tuple(name.strip() for name in (types or "").split(",") if name.strip())
    wanted = {word.strip() for word in ("safetensors" if to is None else to).split(",")}
    if odd := sorted(wanted - {"safetensors", "gguf"}):
        raise typer.BadParameter(f"unknown format {odd[0]!r}: safetensors, gguf", param_hint="--to")
    if "gguf" in wanted and not names:
        raise typer.BadParameter("a GGUF needs a file type: --types Q4_K_M", param_hint="--to")
    if to is not None and names and "gguf" not in wanted:
        raise typer.BadParameter(
            "--types are for GGUF: add gguf, or leave them out", param_hint="--to"
        )
    return Formats("safetensors" in wanted, names)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise typer.BadParameter(f"{value!r}: expected {' or '.join(allowed)}", param_hint=option)


def _show(data: Any, lines: list[str], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n")
    else:
        _print(lines)


def _note(sentence: str) -> None:
    """A sentence beside the result, for the person who waits."""
    sys.stderr.write(f"{sentence}\n")


def _print(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int, str], None]]:
    """One bar per stage on stderr: share, amount, rate and time left. Silent without a terminal."""
    from rich.console import Console

    from secateur.report_text import amount

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage, done, total, unit: None
        return
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, unit: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, amount="")
            task = next(t for t in bars.tasks if t.id == tasks[stage])
            rate = f", {amount(task.speed, unit)}/s" if task.speed else ""
            bars.update(
                tasks[stage],
                completed=done,
                total=total,
                amount=f"{amount(done, unit)} of {amount(total, unit)}{rate}",
            )

        yield report


if __name__ == "__main__":
    main()
