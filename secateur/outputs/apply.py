"""Applying a plan: an output folder that is complete or absent, its manifest last."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur import __version__
from secateur.checkpoint.reader import SHAPE_ONLY, Checkpoint
from secateur.errors import PlanError, StatisticsError, WriteError
from secateur.formats.gguf.writer import unfinished
from secateur.formats.imatrix.file import save_imatrix
from secateur.outputs.build import planned_gguf, planned_mlx, planned_recipe, resolve_again
from secateur.outputs.gguf.write import content_key, write_ggufs
from secateur.outputs.mlx.write import write_mlx
from secateur.outputs.safetensors.write import write_beside, write_checkpoint
from secateur.planning.document import (
    IMATRIX,
    IMATRIX_FROM,
    SAFETENSORS,
    Plan,
    compare,
    published,
    to_json,
)
from secateur.planning.imatrix_policy import FILE, ImatrixFile, Importance, importance_of
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import write_text
from secateur.system.progress import Progress, no_progress

PLAN = "plan.json"


@dataclass(frozen=True)
class Sources:
    """What an output is made from: the checkpoint, and the statistics or the file behind its
    importance matrix."""

    checkpoint: Checkpoint
    statistics: Statistics | None = None
    imatrix: ImatrixFile | None = None


def check_plan(plan: Plan, sources: Sources) -> None:
    """Check a plan, hand-edited or not, against the checkpoint before anything is written.

    Raises PlanError for a plan of another checkpoint, or one whose numbers do not follow from
    its decisions; StatisticsError for statistics of another model.
    """
    check_model(plan.model, sources.checkpoint)
    if sources.statistics is not None:
        check_statistics(sources.statistics, sources.checkpoint)
    compare(plan, resolve_again(plan, sources.checkpoint))
    planned_importance(plan, sources)


def planned_importance(plan: Plan, sources: Sources) -> Importance | None:
    """The importance matrix that a plan quantizes with; None if it uses none.

    Raises PlanError when its source is missing, or is not the one that the plan was made with.
    """
    facts, origin = plan.selection.get(IMATRIX), plan.selection.get(IMATRIX_FROM) or {}
    if not facts or all(form == SAFETENSORS for form in plan.formats):
        return None
    file = sources.imatrix
    if origin.get("from") == "file":
        if file is None or file.sha256 != origin.get("sha256"):
            other = f", not that of {file.sha256}" if file else ""
            raise PlanError(
                "the plan quantizes with the importance matrix of sha256 "
                f"{origin.get('sha256')}{other}: name it with --imatrix"
            )
    elif sources.statistics is None:
        raise PlanError(
            "the plan quantizes with an importance matrix, which is made from the statistics: "
            "name them with --stats"
        )
    else:
        file = None
    weighed = importance_of(
        sources.checkpoint,
        plan.keep,
        sources.statistics,
        file,
        origin.get("unseen_experts", "uniform"),
    )
    assert weighed is not None  # there is a file or there are statistics
    told, found = {**facts, **origin}, {**weighed.facts, **weighed.origin}
    for key in sorted({*told, *found}):
        if told.get(key) != found.get(key):
            raise PlanError(
                f"the plan says of its importance matrix {key} {told.get(key)!r}, but it has "
                f"{found.get(key)!r}: name what the plan was made with, or plan again"
            )
    return weighed


def output_key(plan: Plan, sources: Sources) -> str:
    """A hash of all that decides the bytes of an output, for the name of its work folder.

    Raises as `planned_importance` does.
    """
    weighed = planned_importance(plan, sources)
    content = content_key(sources.checkpoint, weighed.imatrix if weighed else None)
    decides = f"{__version__} {plan.sha256()} {content}"
    return hashlib.sha256(decides.encode()).hexdigest()[:16]


def refuse_shape(model: Any) -> None:
    """Raises PlanError for a plan that was made from a config alone."""
    if model.get(SHAPE_ONLY):
        raise PlanError(
            f"the plan was made from a config alone ({model.get('source')}), which decides sizes "
            "and not experts: plan again with the model and its statistics"
        )


def check_model(model: Any, checkpoint: Checkpoint) -> None:
    """Raises PlanError unless the plan was made for this very checkpoint, and its weights."""
    refuse_shape(model)
    facts = checkpoint.facts()
    for what in ("family", "layers", "experts", "top_k", "identity"):
        if model.get(what) != facts[what]:
            raise PlanError(
                f"the plan is for {model.get('source')} ({what} {model.get(what)!r}), but "
                f"{checkpoint.source} has {what} {facts[what]!r}: plan again for this checkpoint"
            )


def check_statistics(statistics: Statistics, checkpoint: Checkpoint) -> None:
    """Raises StatisticsError unless the statistics were made on this very checkpoint."""
    facts = checkpoint.facts()
    for what in ("family", "layers", "experts", "top_k", "identity"):
        if statistics.model.get(what) != facts[what]:
            raise StatisticsError(
                f"the statistics are of {statistics.model.get('source')} ({what} "
                f"{statistics.model.get(what)!r}), but {checkpoint.source} has {what} "
                f"{facts[what]!r}: calibrate this checkpoint"
            )


def write_output(
    plan: Plan,
    sources: Sources,
    folder: Path,
    *,
    workers: int = 1,
    progress: Progress = no_progress,
) -> dict[str, str]:
    """Write all files of a checked plan into `folder`; returns file -> sha256 where known.

    A GGUF file or a shard of an MLX model that is there already with its planned size was finished
    by an interrupted run (these appear only when they are whole) and is kept, an unfinished GGUF
    is gone on with; all else in `folder` is removed. All GGUF files are made in one pass over the
    weights. Raises WriteError, before it starts, when the disk has not enough room. Peak memory:
    that of write_ggufs or write_mlx.
    """
    checkpoint = sources.checkpoint
    _make_room(plan, folder)
    hashes = write_beside(plan, checkpoint, folder)
    write_text(folder / PLAN, to_json(published(plan)))
    weighed = planned_importance(plan, sources)
    if SAFETENSORS in plan.formats:
        hashes.update(write_checkpoint(plan, checkpoint, folder, progress))
    made_by = {form: planned_recipe(plan, form).to for form in plan.formats if form != SAFETENSORS}
    for form in (form for form, to in made_by.items() if to == "mlx"):
        model = planned_mlx(plan, form, checkpoint)
        written = write_mlx(
            model, checkpoint, plan.keep, folder, workers=workers, progress=progress
        )
        hashes.update(written)
    ggufs = [form for form, to in made_by.items() if to in ("gguf", "mmproj")]
    if ggufs:
        by = plan.sha256()
        forms = [planned_gguf(plan, form, checkpoint).made_by(by) for form in ggufs]
        if weighed is not None:
            save_imatrix(folder / FILE, weighed.imatrix)
        written = write_ggufs(
            forms,
            checkpoint,
            plan.keep,
            folder,
            imatrix=weighed.imatrix if weighed else None,
            workers=workers,
            progress=progress,
        )
        hashes.update(written)
    return hashes


def _make_room(plan: Plan, folder: Path) -> None:
    """Remove what an interrupted run left half done, and check that the rest fits the disk."""
    sizes = {name: n for form in plan.formats for name, n in plan.sizes(form).items()}
    # Of MLX models, which have a folder each, shards of an unfinished one are whole as well.
    finished = {
        folder / name: n
        for name, n in sizes.items()
        if name.endswith(".gguf") or ("/" in name and name.endswith(".safetensors"))
    }
    # A journal beside a finished file is a leftover as well: it goes after the file is in place.
    missing = [path for path in finished if path.suffix == ".gguf" and not path.exists()]
    begun = {aside for path in missing for aside in unfinished(path)}
    homes = {path.parent for path in finished}
    for path in [*folder.iterdir(), *(p for home in homes - {folder} for p in home.glob("*"))]:
        if path.is_dir():
            if path not in homes:
                shutil.rmtree(path)
        elif path not in begun and finished.get(path) != path.stat().st_size:
            path.unlink()
    needed = sum(n for name, n in sizes.items() if not (folder / name).exists())
    needed -= sum(path.stat().st_size for path in begun if path.exists())
    if (free := shutil.disk_usage(folder).free) < needed:
        raise WriteError(
            f"{folder} has {free} bytes free, but the output takes {needed}: "
            "make room or choose another disk"
        )
