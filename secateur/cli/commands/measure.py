"""`secateur measure` and `secateur compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from secateur.cli.choices import complete_or_path, models
from secateur.cli.help import LOOKING, STEPS
from secateur.cli.options.asking import (
    CompareAnyway,
    ServingOptions,
    TaskOptions,
    all_words,
    given,
    refuse_without,
)
from secateur.cli.options.measuring import AnswerOptions, GateOptions, HeldOutOptions
from secateur.cli.options.robustness import LoopOptions, SpeedOptions
from secateur.cli.options.running import (
    RUNNING,
    Device,
    EstimateOnly,
    RunOptions,
    Workers,
    WorkOptions,
)
from secateur.cli.progress import show_progress
from secateur.cli.register import add_command
from secateur.cli.render.estimate import show_estimate
from secateur.cli.terminal import show, tells

if TYPE_CHECKING:
    from secateur.api.requests import Measuring

EXAMPLES = """
secateur measure out --against gemmule
secateur measure model-Q4_K_M.gguf --against MODEL --prompts held-out.jsonl
secateur measure out --against gemmule --gate "kl_mean<=0.1"
secateur measure out --against gemmule --tasks gemmule-arithmetic,gemmule-chat
secateur measure out --against MODEL --tasks gsm8k --gate "accuracy>=0.6"
secateur measure out --against MODEL --loops --speed
secateur measure out --against MODEL --prompts held-out.jsonl --engine ray
secateur measure http://localhost:8000/v1 --tasks gsm8k,./mine.yaml -o vllm-a
"""
COMPARE_EXAMPLES = """
secateur compare out/a-Q4_K_M.gguf out/a-Q4_0.gguf --against gemmule
secateur compare out other/a-Q4_K_M.gguf --against gemmule
secateur compare vllm-a vllm-b
"""

ComparedAgainst = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="The original model, for divergence.",
        autocompletion=complete_or_path(models),
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="PART/PARTS",
        help="Make one part of the divergence only, as in 2/3, in the folder of --work; when all "
        "are in one such folder, `measure --parts 3` puts them together.",
        rich_help_panel=RUNNING,
    ),
]
OptionalAgainst = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="The original model; of a server another one, of a log another log.",
        autocompletion=complete_or_path(models),
    ),
]
Work = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keeps the original's answers and probabilities, and the scores. Default: a folder "
        "of ~/.cache/secateur.",
    ),
]
KeepIn = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--keep",
        metavar="FOLDER",
        help="Of a server or a log: keep results, every item and the lock in a new folder or in "
        "the output that the server has.",
    ),
]
KeptArtefact = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which file or folder of the output -o the server has, where it holds several.",
    ),
]


@dataclass(frozen=True)
class KeepOptions:
    """Where the results of a server or a log are kept."""

    keep: KeepIn = None
    artefact: KeptArtefact = None

    def refuse(self, out: str) -> None:
        """Raise RequestError where one is given for an output."""
        from secateur.errors import RequestError

        if self.keep or self.artefact:
            raise RequestError(f"{out} keeps what is measured itself: leave out -o and --artefact")


Artefacts = Annotated[
    list[Path],
    typer.Argument(
        metavar="ARTEFACT...",
        help="Two or more model folders (MLX too) and GGUF files; an output of `apply` stands for "
        "all that it holds. Without --against: outputs and folders that hold tasks.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(app, measure, group=STEPS, examples=EXAMPLES)
    add_command(app, compare, group=LOOKING, examples=COMPARE_EXAMPLES)


def measure(
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUT",
            help="An output of `apply`, a model folder or a GGUF; for tasks also the address of a "
            "server, or a log of inspect-ai (.eval, .json).",
        ),
    ],
    text: HeldOutOptions,
    answering: AnswerOptions,
    gates: GateOptions,
    tasks: TaskOptions,
    loops: LoopOptions,
    speed: SpeedOptions,
    serving: ServingOptions,
    running: RunOptions,
    how: WorkOptions,
    kept: KeepOptions,
    against: OptionalAgainst = None,
    work: Work = None,
    shard: Shard = None,
    device: Device = "auto",
    estimate: EstimateOnly = False,
) -> None:
    """What was lost: divergence from the original, tasks, loops, speed.

    Divergence is measured on the original's own answers: where nothing is named, to what the
    output's calibration held out.
    """
    from secateur.api.elsewhere import is_elsewhere
    from secateur.errors import RequestError

    asked = all_words(gates, tasks, loops, speed, serving)
    request = answering.request(device=device, **vars(text), **asked)
    if is_elsewhere(out):
        unused = _Unused(
            estimate, shard, device, gates.real_engine,
            revision=running.revision, family=running.family,
        )  # fmt: skip
        for name in [name for group in (unused, text, answering, how) for name in given(group)]:
            raise RequestError(f"{out} is asked for its tasks, here and at once: leave out {name}")
        _measure_elsewhere(out, against, request, work, kept, running.as_json)
        return
    kept.refuse(out)
    serving.refuse_unused(request)
    if against is None:
        raise RequestError(f"{out} is measured against its original: name it with --against")
    task = _Task(Path(out), against, request, work)
    if estimate:
        _estimate(task, running, how)
    elif shard is not None:
        _measure_shard(task, shard, running, how)
    else:
        _measure(task, running, how)


@dataclass(frozen=True)
class _Unused:
    """Options beside the groups that decide nothing where no weights are measured."""

    estimate: bool = False
    shard: str | None = None
    device: str = "auto"
    real_engine: bool = False
    work: Path | None = None
    workers: int | None = None
    revision: str | None = None
    family: Path | None = None


class _Task(NamedTuple):
    """What is measured, against what, and where is kept what is needed again."""

    out: Path
    against: str
    request: Measuring
    work: Path | None


def _measure(task: _Task, running: RunOptions, how: WorkOptions) -> None:
    from secateur.api.measure import measure as run
    from secateur.cli.render.measurement import measured_json, measurement_lines

    with show_progress() as progress:
        found = run(
            task.out,
            running.open(task.against, weights=True),
            task.request,
            work=task.work,
            revision=running.revision,
            workers=how.running(),
            progress=progress,
        )
    show(measured_json(found), measurement_lines(found, by_domain=tells("INFO")), running.as_json)
    found.check_gate()


def _measure_shard(task: _Task, shard: str, running: RunOptions, how: WorkOptions) -> None:
    from secateur.api.measure import measure_shard
    from secateur.errors import RequestError

    if how.engine is not None or how.parts is not None:
        raise RequestError("shard makes one part by hand: leave engine and parts out")
    with show_progress() as progress:
        folder = measure_shard(
            task.out,
            running.open(task.against, weights=True),
            task.request,
            shard,
            work=task.work,
            revision=running.revision,
            workers=how.workers,
            progress=progress,
        )
    result = {"shard": shard, "folder": str(folder)}
    show(result, [f"part {shard}: {folder}"], running.as_json)


def _estimate(task: _Task, running: RunOptions, how: WorkOptions) -> None:
    from secateur.api.estimate import estimate_measuring

    with show_progress() as progress:
        expected = estimate_measuring(
            task.out,
            running.open(task.against, weights=True),
            task.request,
            revision=running.revision,
            workers=how.running(),
            progress=progress,
        )
    show_estimate(expected, running.as_json)


def _measure_elsewhere(
    target: str,
    against: str | None,
    request: Measuring,
    work: Path | None,
    kept: KeepOptions,
    as_json: bool,
) -> None:
    from secateur.api.elsewhere import hold_to_limits, measure_elsewhere
    from secateur.api.keep_asked import Keep
    from secateur.cli.render.evidence import evidence_lines
    from secateur.errors import RequestError

    if kept.keep is None and kept.artefact is not None:
        raise RequestError(f"artefact {kept.artefact} is in an output: name that with -o")
    keep = None if kept.keep is None else Keep(kept.keep, kept.artefact)
    with show_progress() as progress:
        found = measure_elsewhere(target, against, request, work=work, keep=keep, progress=progress)
    where = [] if kept.keep is None else [f"kept: {kept.keep}"]
    show(found.to_json(), [*evidence_lines(found), *where], as_json)
    hold_to_limits(found, request)


def compare(
    artefacts: Artefacts,
    text: HeldOutOptions,
    answering: AnswerOptions,
    running: RunOptions,
    against: ComparedAgainst = None,
    work: Work = None,
    device: Device = "auto",
    workers: Workers = None,
    compare_anyway: CompareAnyway = False,
) -> None:
    """Which of several artefacts is nearer to the original, in pairs.

    On the same answers, so that what is hard for both does not count. What `measure` has scored
    already, with the same options, is not scored again. Without an original: what was measured of
    tasks and kept, every two models on the same questions.
    """
    from secateur.errors import RequestError

    if against is None:
        unused = _Unused(
            device=device, work=work, workers=workers,
            revision=running.revision, family=running.family,
        )  # fmt: skip
        for group in (text, answering, unused):
            refuse_without(group, "against")
        _compare_tasks(artefacts, compare_anyway, running.as_json)
        return
    if compare_anyway:
        raise RequestError("--compare-anyway is of kept tasks: leave it or --against out")
    request = answering.request(device=device, **vars(text))
    with show_progress() as progress:
        from secateur.api.compare import compare as run

        found = run(
            artefacts,
            running.open(against, weights=True),
            request,
            work=work,
            revision=running.revision,
            workers=workers,
            progress=progress,
        )
    from secateur.cli.render.measurement import comparison_lines

    show(found.to_json(), comparison_lines(found), running.as_json)


def _compare_tasks(folders: list[Path], anyway: bool, as_json: bool) -> None:
    from secateur.api.compare_tasks import compare_tasks, has_tasks
    from secateur.cli.render.evidence import task_pair_lines
    from secateur.errors import RequestError

    if without := [folder for folder in folders if not has_tasks(folder)]:
        raise RequestError(
            f"{without[0]} holds no tasks, and divergence is compared against the original: name "
            "it with --against"
        )
    pairs = compare_tasks(folders, anyway)
    lines = [line for pair in pairs for line in task_pair_lines(pair)]
    show([pair.to_json() for pair in pairs], lines, as_json)
