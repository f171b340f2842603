"""Commands about statistics files: merge them, see what they cover, score experts by them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.api.models import File, Model, check_file, open_weights
from secateur.api.requests import Pruning, Solving
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import RequestError, StatisticsError
from secateur.pruning.choose import scores_of
from secateur.statistics import file as statistics_file
from secateur.statistics.coverage import LEAST, Coverage
from secateur.statistics.coverage import coverage as coverage_of
from secateur.statistics.gram_file import gram_path
from secateur.statistics.merge_files import (
    Merged,
    merge_files,
    write_merged_grams,
    write_merged_sample,
    write_merged_text,
)
from secateur.statistics.sample_file import sample_path
from secateur.statistics.statistics import Statistics
from secateur.statistics.text_file import text_path
from secateur.system.atomic import writing
from secateur.system.progress import Progress, no_progress
from secateur.system.workdir import publish_files, work_folder

if TYPE_CHECKING:
    from secateur.forward.backends.base import Backend

CPU = "cpu"
"""The device of sums that were made on CPUs (Backend.name), and the word for it."""


def merge(
    paths: Sequence[File],
    out: File,
    *,
    model: Model | None = None,
    solving: Solving = Solving(),  # noqa: B008 - frozen
    force: bool = False,
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Statistics:
    """Merge statistics files of one model into one; exact, whatever the order.

    With `model` the criterion `rerouted` is solved again, from the token samples next to the
    files, as `solving` says. Those, Gram matrices and hashes of the text are merged as well, where
    every file has them. `force` overwrites what is there. `on_message` is called with what the
    merged file lacks. Raises StatisticsError for files that cannot be merged, for the same text
    twice, and when `model` is given but a file has no sample; RequestError for a device that is not
    there, and for `solving` without a model.
    """
    out = Path(out)
    check_file(out, force)
    if model is None and solving != Solving():
        raise RequestError(
            "revision, device and workers are of solving 'rerouted': name the model, or leave them "
            "out"
        )
    with work_folder(out, replaces=True) as work:
        found, files = merge_inside(
            work, paths, out, model=model, solving=solving, on_message=on_message, progress=progress
        )
        publish_files(files, out.parent)
    return found


def merge_inside(
    work: Path,
    paths: Sequence[File],
    out: Path,
    *,
    model: Model | None,
    solving: Solving,
    on_message: Callable[[str], None],
    progress: Progress,
) -> tuple[Statistics, tuple[Path, ...]]:
    """As `merge`, in a folder of its own in `work`: the statistics, and the files that belong next
    to `out`, its own the last of them."""
    merged = merge_files([Path(path) for path in paths])
    opened = None if model is None else _open_to_solve(model, merged, solving)
    folder = work / "merged"
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run's
    with writing(folder):
        folder.mkdir()
    made = folder / out.name
    statistics, sample = merged.statistics, write_merged_sample(merged, made)
    write_merged_grams(merged, made)
    write_merged_text([Path(path) for path in paths], made)
    if opened is not None and sample is not None:
        from secateur.calibration.solve import solve_sample
        from secateur.forward.backends.memory import fit_memory

        checkpoint, chosen = opened
        statistics = fit_memory(
            chosen,
            lambda backend: solve_sample(
                checkpoint, merged.statistics, sample, backend=backend, progress=progress
            ),
            on_message,
        )
    statistics_file.save(statistics, made)
    for note in merged.notes(statistics):
        on_message(note)
    return statistics, (sample_path(made), gram_path(made), text_path(made), made)


def _open_to_solve(model: Model, merged: Merged, solving: Solving) -> tuple[Checkpoint, Backend]:
    """The model, and where its experts run; raises as `merge`."""
    statistics = merged.statistics
    if merged.without_sample:
        raise StatisticsError(
            f"{merged.without_sample[0]} has no token sample next to it to solve 'rerouted' "
            "from: calibrate again with --keep-sample, or merge without --model"
        )
    checkpoint = open_weights(model, solving.revision, "solving 'rerouted'")
    if checkpoint.identity() != statistics.model["identity"]:
        raise StatisticsError(
            f"the statistics were made on {statistics.model['source']}, not on "
            f"{checkpoint.source}: name that model, or merge without --model"
        )
    from secateur.forward.backends.choose import choose_backend, product_type

    by_cpu = solving.device == "auto" and statistics.devices == (CPU,)
    device = CPU if by_cpu else solving.device
    return checkpoint, choose_backend(
        device, workers=solving.workers, dtype=product_type(checkpoint)
    )


def coverage(statistics: File, least: int = LEAST) -> Coverage:
    """Which experts saw fewer than `least` tokens."""
    return coverage_of(statistics_file.load(Path(statistics)), least)


def scores(statistics: File, request: Pruning) -> Mapping[int, list[float]]:
    """{MoE layer: score per expert} by the request's criterion; higher is kept."""
    found = scores_of(statistics_file.load(Path(statistics)), request)
    return {layer: values.tolist() for layer, values in found.items()}
