"""How long work will take on this machine, and what memory and disk it needs.

Everything is counted first, as the commands themselves count it. When that alone says that the
work may take longer than `stage.SHORT`, a few seconds of it are tried (estimation.probe).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.api.requests import Calibration, Gram
from secateur.checkpoint.identity import bytes_to_hash
from secateur.checkpoint.reader import Checkpoint
from secateur.cluster.running import PARTS, Running
from secateur.corpus.rows import Corpus
from secateur.errors import RequestError
from secateur.estimation.stage import SHORT, Estimate, Need, Stage, same_disk
from secateur.estimation.table import table
from secateur.estimation.work import Answering, Calibrating, Scoring, Work, Writing, writing_of
from secateur.planning.document import Plan
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cache_folder, cores, free_memory
from secateur.system.workdir import SUFFIX

if TYPE_CHECKING:
    from secateur.estimation.arithmetic import Shape
    from secateur.estimation.probe import Passes


@dataclass(frozen=True)
class Task:
    """What is to be estimated: the parts of a request that will be done, as they were prepared.

    `corpus` with its request is calibrated on (of which there may be only a sample: `tokens` is
    what all of it has), in so many `parts` one after the other, `plan` is written to `out`, with
    `feedback` or not, `answering` and `scoring` are what measuring will ask and run; `artefacts`
    {name: how its stages are called}. `hashes`: whether the model has to be identified first.
    `notes`: what the times leave out. `running` says in how many parts answers are measured and
    outputs are written.
    """

    out: Path
    corpus: Corpus | None = None
    calibration: Calibration = Calibration()
    plan: Plan | None = None
    answering: Answering | None = None
    scoring: Scoring | None = None
    artefacts: Mapping[str, str] = field(default_factory=dict)
    hashes: bool = True
    tokens: int | None = None
    feedback: bool = False
    notes: tuple[str, ...] = ()
    parts: int = 1
    running: Running = Running()


def estimate(
    checkpoint: Checkpoint,
    task: Task,
    *,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """The stages of a task with time, memory and disk. Loads torch; tries for some seconds what
    may take long, which `progress` calls "estimate"."""
    from secateur.estimation.arithmetic import shape_of, stages
    from secateur.estimation.assumed import assumed_rates

    workers = workers or cores()
    shape, work = shape_of(checkpoint), _work(checkpoint, task)
    rates = assumed_rates(shape, work.calibrating, workers)
    if sum(stage.seconds for stage in stages(shape, work, rates, workers)) > SHORT:
        from secateur.estimation.measure import measure_rates

        progress("estimate", 0, 1, "")
        rates = measure_rates(
            checkpoint,
            shape,
            work,
            task.corpus,
            _passes_of(checkpoint, task, workers),
            plan=task.plan,
            folder=task.out.parent,
            workers=workers,
        )
        progress("estimate", 1, 1, "")
    made = stages(shape, work, rates, workers)
    needs = _needs(task, shape, work.calibrating, made)
    return Estimate(made, needs, workers, rates.probed, task.notes)


def check_can_estimate(running: Running, *devices: str) -> None:
    """Raise RequestError for what is not known: how fast other machines and devices are."""
    from secateur.forward.backends.choose import is_cpu

    if running.engine != "here":
        raise RequestError(
            f"engine {running.engine}: estimates are made for this machine: leave engine out"
        )
    for device in devices:
        if not is_cpu(device):
            raise RequestError(f"device {device}: estimates are made for the CPU: add --device cpu")


def _passes_of(checkpoint: Checkpoint, task: Task, workers: int) -> Passes:
    """A calibration as the task's, on whatever corpus: of its tokens as large a share counts for
    Gram matrices as of the whole."""
    from secateur.calibration.layer_pass import calibrate
    from secateur.calibration.observers.registry import find_observers
    from secateur.calibration.token_sample import Sampling
    from secateur.estimation.probe import Passes
    from secateur.forward.backends.cpu import CpuBackend

    request = task.calibration
    whole = task.tokens or (task.corpus.tokens if task.corpus is not None else 0)

    def run(corpus: Corpus, sampled: int, progress: Progress, gram: Gram = "none") -> object:
        counted = request.gram_tokens * corpus.tokens // max(1, whole)
        sampling = Sampling(
            sampled,
            gram=None if gram == "none" else gram,
            gram_tokens=max(1, counted) if request.gram_tokens else 0,
        )
        return calibrate(
            checkpoint,
            corpus,
            sampling=sampling,
            backend=CpuBackend(workers),
            skip_bad=True,
            observers=find_observers(request.observe),
            progress=progress,
        )

    makes = task.corpus is not None and request.gram != "none"
    return Passes(run, partial(run, gram=request.gram) if makes else None)


def _work(checkpoint: Checkpoint, task: Task) -> Work:
    from secateur.calibration.cost import cost_of, limit_sample, list_inputs
    from secateur.calibration.shards import read_shard

    inputs = list_inputs(checkpoint, "own") if task.feedback else []
    widest = max((one.columns for one in inputs), default=0)
    calibrating = None
    if task.corpus is not None:
        wanted = task.calibration.reroute_tokens
        gram = None if task.calibration.gram == "none" else task.calibration.gram
        cost = cost_of(checkpoint, task.corpus, wanted, gram, task.calibration.gram_tokens)
        parts = read_shard(task.calibration.shard).parts if task.calibration.shard else 1
        tokens = (task.tokens or task.corpus.tokens) // parts
        limit = limit_sample(checkpoint, wanted)
        each = cost.reroute / max(1, min(limit, task.corpus.tokens) * len(checkpoint.moe_layers))
        sampled = min(limit, tokens) if parts == 1 else 0  # of a part nothing is solved
        gram_each = cost.gram / max(1, task.corpus.tokens)
        calibrating = Calibrating(
            tokens, sampled, each, gram_each, cost.gram_bytes, min(task.parts, max(1, tokens))
        )
    return Work(
        unhashed=bytes_to_hash(checkpoint.shards) if task.hashes else 0,
        calibrating=calibrating,
        writing=() if task.plan is None else _writing(checkpoint, task.plan, widest, task.running),
        answering=task.answering,
        original=_scoring(task),
        artefacts=task.artefacts,
    )


def _writing(
    checkpoint: Checkpoint, plan: Plan, widest: int, running: Running
) -> tuple[Writing, ...]:
    from secateur.outputs.write_parts import divide_outputs

    parts = dict(divide_outputs(plan, running.parts)).values() if running.in_parts else ()
    return writing_of(plan, checkpoint.nbytes, widest, parts)


def _scoring(task: Task) -> Scoring | None:
    """What is scored, in about as many parts as its tokens make groups of."""
    from secateur.forward.batches import ON_CPU

    if task.scoring is None or not task.running.in_parts:
        return task.scoring
    groups = -(-task.scoring.tokens // ON_CPU.group)
    return replace(task.scoring, parts=max(1, min(task.running.parts or PARTS, groups)))


def _needs(
    task: Task, shape: Shape, calibrating: Calibrating | None, made: Sequence[Stage]
) -> tuple[Need, ...]:
    from secateur.estimation.arithmetic import hidden_file, kept_states

    disk = {stage.name: stage.disk for stage in made}
    out = sum(size for name, size in disk.items() if name.startswith("write"))
    cached = sum(s for name, s in disk.items() if name == "original" or name.startswith("measure"))
    at_a_time = 0 if calibrating is None else calibrating.at_a_time
    scoring = _scoring(task)
    tokens = max(at_a_time, 0 if scoring is None else scoring.at_a_time)
    hidden = Path(tempfile.gettempdir())
    # With an output, Gram matrices are moved into the cache in the end: maybe to another disk.
    if (
        calibrating is not None
        and task.plan is not None
        and not same_disk(task.out.parent, cache_folder())
    ):
        cached += calibrating.gram_bytes
    kept = kept_states(shape, at_a_time) - _begun_states(task.out)
    needs = (
        Need("output", task.out.parent, out, "make room, or choose another disk for the output"),
        Need(
            "statistics" if task.calibration.gram == "none" else "statistics and Gram matrices",
            task.out.parent,
            disk.get("calibrate", 0),
            "make room, or choose another disk for the output",
        ),
        Need(
            "hidden states",
            hidden,
            hidden_file(shape, tokens),
            f"set TMPDIR to a folder of a larger disk than that of {hidden}, or calibrate in parts "
            "(parts, or shard)",
        ),
        Need(
            "what a stopped calibration goes on with",
            task.out.parent,
            max(0, kept),
            "make room, or choose another disk for the output, or calibrate in parts (parts, or "
            "shard)",
        ),
        Need("cache", cache_folder(), cached, "`secateur cache clean`, or set XDG_CACHE_HOME"),
    )
    return tuple(need for need in needs if need.bytes)


def _begun_states(out: Path) -> int:
    """Bytes of hidden states that an interrupted calibration has left for this output."""
    from secateur.calibration.pass_folder import STATES

    work = out.with_name(out.name + SUFFIX)
    return sum(path.stat().st_size for path in work.rglob(f"{STATES}*") if path.is_file())


def announce(
    checkpoint: Checkpoint,
    task: Task,
    on_message: Callable[[str], None],
    workers: int | None,
    progress: Progress,
) -> Estimate:
    """Estimate a task that is about to begin, and say it if it is long.

    Raises RequestError when this machine's memory or disks cannot suffice.
    """
    found = estimate(checkpoint, task, workers=workers, progress=progress)
    found.check(free_memory())
    if found.probed:
        on_message("\n".join(table(found)))
    else:
        for note in found.notes:
            on_message(note)
    return found
