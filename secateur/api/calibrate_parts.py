"""A calibration in parts that are merged: to the bytes of one pass, whoever makes the parts.

The parts are cut from the corpus by its documents alone (calibration.shards), so their number, not
that of the machines, decides what each of them holds; and the merged sums are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.api.requests import Calibration, Solving
from secateur.api.statistics import merge_inside
from secateur.api.statistics_key import statistics_key
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.shared_model import SharedModel, share_model
from secateur.cluster.base import Work
from secateur.cluster.registry import ENGINES
from secateur.cluster.running import PARTS, Running
from secateur.statistics.sample_file import sample_path
from secateur.statistics.statistics import Statistics
from secateur.system.progress import Counter, Progress
from secateur.system.sizes import show_count
from secateur.system.workdir import publish_files, work_folder

if TYPE_CHECKING:
    from secateur.corpus.rows import Corpus

STATISTICS = "statistics.safetensors"
"""A part's file."""


@dataclass(frozen=True)
class SharedInputs:
    """What all parts have in common, as it is sent to other machines."""

    model: SharedModel
    corpus: Corpus = field(repr=False)
    request: Calibration


@dataclass(frozen=True)
class OpenInputs:
    """The same with the model opened."""

    checkpoint: Checkpoint
    corpus: Corpus
    request: Calibration


MakePart = Callable[[OpenInputs, str, Path, int], None]
"""Makes the part named by a text such as 3/12, in a folder, with so many threads."""


@dataclass(frozen=True)
class PartsJob:
    """One calibration, and the function that makes a part of it."""

    checkpoint: Checkpoint
    corpus: Corpus
    request: Calibration
    running: Running
    make: MakePart


def open_inputs(shared: SharedInputs) -> OpenInputs:
    """Raises CheckpointError where the model is not there, or is another one."""
    return OpenInputs(shared.model.open(), shared.corpus, shared.request)


def calibrate_in_parts(
    job: PartsJob,
    out: Path,
    *,
    on_message: Callable[[str], None],
    progress: Progress,
) -> Statistics:
    """Let the engine make all parts, then merge them into `out`.

    Parts lie in a work folder next to `out`: those that are there are not made again. Raises what
    making a part raises; see `cluster.ray_engine` for what the engine does.
    """
    checkpoint, corpus, request = job.checkpoint, job.corpus, job.request
    running = job.running
    engine = ENGINES[running.engine](request.device, running.workers, on_message)
    with work_folder(out, replaces=True) as work, engine as place:
        count = count_parts(running, checkpoint, corpus, place.device)
        decided = replace(request, device=place.device)
        key = statistics_key(checkpoint, corpus, request)
        folder = work / f"{key}-{place.device}-{count}"
        folder.mkdir(exist_ok=True)
        names = {f"part-{n:05d}": f"{n}/{count}" for n in range(1, count + 1)}
        left = {name: part for name, part in names.items() if not (folder / name).exists()}
        on_message(
            f"calibrating in {show_count(count, 'part')}, {count - len(left)} of them made before"
        )
        done = Counter(progress, "calibrate", count, "parts", before=count - len(left))
        shared = SharedInputs(share_model(checkpoint), corpus, decided)
        place.make(Work(open_inputs, job.make, shared, left), folder, done)
        paths = [folder / name / STATISTICS for name in names]
        model = checkpoint if request.reroute_tokens else None
        here = request.device if running.engine == "here" else "auto"
        found, files = merge_inside(
            work, paths, out, model=model, solving=Solving(workers=running.threads, device=here),
            on_message=on_message, progress=progress,
        )  # fmt: skip
        if not request.keep_sample:
            files[0].unlink(missing_ok=True)
            sample_path(out).unlink(missing_ok=True)  # of an earlier run: it is of other statistics
        publish_files(files, out.parent)
    return found


def count_parts(running: Running, checkpoint: Checkpoint, corpus: Corpus, device: str) -> int:
    """In how many parts a corpus is run: as many as are asked for, or as it makes groups of
    documents on a kind of device."""
    from secateur.forward.backends.choose import is_cpu
    from secateur.forward.batches import ON_CPU, ON_DEVICE, group_micro_batches, make_micro_batches

    if not running.in_parts:
        return 1
    size = ON_CPU if is_cpu(device) else ON_DEVICE
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    groups = group_micro_batches(make_micro_batches(corpus.rows, hidden, size), size)
    return min(running.parts or PARTS, max(1, len(groups)))
