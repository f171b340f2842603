"""`apply`: write what a plan says into a new folder, complete or absent."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from secateur.api.choosing import find_chooser
from secateur.api.grams import load_gram
from secateur.api.held_out import evidence_files
from secateur.api.models import File, Model, load_imatrix, load_statistics, open_same
from secateur.checkpoint.reader import FAMILY_FILE, Checkpoint
from secateur.cluster.running import Running, running_with
from secateur.errors import CheckpointError, FamilyError, PlanError, StatisticsError
from secateur.formats.imatrix.file import ImatrixFile
from secateur.outputs.apply import CheckedPlan, check_plan, write_output
from secateur.outputs.feedback import Chooser
from secateur.planning.checks import PlanSources, refuse_shape
from secateur.planning.document import PATH, STATISTICS_PATH, Plan, published, read_plan
from secateur.planning.edits import STATISTICS, edits_of
from secateur.release.card.origin import origin_of
from secateur.release.manifest import MANIFEST, read_manifest, write_manifest
from secateur.release.run_record import add_run
from secateur.statistics.coverage import coverage as coverage_of
from secateur.statistics.identity import statistics_sha256
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import atomic_path
from secateur.system.progress import Progress, no_progress
from secateur.system.stopwatch import timed
from secateur.system.workdir import complete_or_absent


def apply(
    plan: Plan | File,
    out: File,
    *,
    model: Model | None = None,
    statistics: Statistics | File | None = None,
    imatrix: ImatrixFile | File | None = None,
    device: str = "cpu",
    workers: int | Running | None = None,
    progress: Progress = no_progress,
) -> Mapping[str, object]:
    """Write all that a plan says into the new folder `out`; returns its manifest.

    `model` is where the checkpoint is now (default: where the plan found it), or the checkpoint,
    opened with the user's file of its family where it has one; `statistics` or `imatrix` are what
    the plan was made with. The output keeps the statistics and the hashes of their text: those of
    the file given, else of the one that the plan names, if it is still there and still the same.
    The folder is complete or absent; after an interruption the same call resumes. `device` is where
    codes are chosen with error feedback: on the cores, or on a CUDA GPU, with last bits of its own
    (api.choosing; auto: on the first, if there is one); the manifest says where.
    `workers` are threads, or say that outputs are written in parts, and by whom (cluster.running).
    Raises PlanError for a plan that does not fit, OutputError when `out` exists or another output
    is being made there, WriteError when the disk fails.
    """
    decided = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    checkpoint = open_planned(decided, model)
    progress = timed(progress)
    checkpoint.identity(progress, running_with(workers).threads)
    sources = PlanSources(
        checkpoint,
        load_statistics(statistics),
        load_imatrix(imatrix, checkpoint),
        load_gram(statistics),
    )
    checked = check_plan(decided, sources)
    file = statistics
    if statistics is None and (file := _named_statistics(decided)) is not None:
        checked = replace(checked, statistics=load_statistics(file))
    copies = (
        {} if isinstance(file, Statistics) else evidence_files(None if file is None else Path(file))
    )
    return write_plan(
        checked, Path(out), copies=copies, device=device, workers=workers, progress=progress
    )


def _named_statistics(decided: Plan) -> Path | None:
    """The file of statistics that a plan names; None where it is gone or another one by now."""
    path = decided.model.get(STATISTICS_PATH)
    if path is None or not Path(path).is_file():
        return None
    try:
        loaded = load_statistics(Path(path))
    except StatisticsError:  # whatever lies there now, nothing needs it
        return None
    same = loaded is not None and statistics_sha256(loaded) == decided.selection.get(STATISTICS)
    return Path(path) if same else None


def open_planned(decided: Plan, model: Model | None, family: File | None = None) -> Checkpoint:
    """The checkpoint that a plan is of, with the user's file of its family; see `apply`. Raises
    PlanError, CheckpointError."""
    refuse_shape(decided.model)
    origin = model if model is not None else decided.model.get(PATH, decided.model["source"])
    try:
        return open_same(origin, decided.model.get("revision"), "applying a plan", family)
    except FamilyError as error:
        needed = decided.model.get(FAMILY_FILE)
        if needed is None:
            raise
        raise PlanError(
            f"{error}; the plan was made with the family file {needed.get('name')} (sha256 "
            f"{needed.get('sha256')}): open the model with it (--family)"
        ) from None
    except CheckpointError as error:
        hint = "" if model is not None else " (a model that moved is named with model)"
        raise CheckpointError(f"{error}{hint}") from None


def write_plan(
    checked: CheckedPlan,
    out: Path,
    *,
    copies: Mapping[str, Path] = MappingProxyType({}),
    device: str = "cpu",
    workers: int | Running | None = None,
    progress: Progress = no_progress,
) -> Mapping[str, object]:
    """Write a checked plan into the new folder `out`; returns its manifest.

    `copies` are files to copy into it: {name in the folder: path}. Raises as `apply` does.
    """
    running = running_with(workers)
    chooser = find_chooser(checked, device, running, progress)
    with complete_or_absent(out, checked.key(chooser)) as folder:
        if (folder / MANIFEST).exists():  # interrupted just before its last step
            return read_manifest(folder)
        hashes = write_output(checked, folder, workers=running, chooser=chooser, progress=progress)
        for name, path in copies.items():
            (folder / name).parent.mkdir(exist_ok=True)
            with atomic_path(folder / name) as partial:
                shutil.copyfile(path, partial)
        add_run(folder, timed(progress))
        checked.checkpoint.check_unchanged()
        return write_manifest(folder, manifest_facts(checked, chooser), hashes)


def manifest_facts(checked: CheckedPlan, chooser: Chooser) -> dict[str, object]:
    """What a manifest says an output was made from."""
    plan, statistics = checked.plan, checked.statistics
    made: dict[str, object] = {
        "model": dict(published(plan).model),
        "origin": origin_of(checked.checkpoint),
        "experts": plan.experts,
        "selection": dict(plan.selection),
        "plan_sha256": plan.sha256(),
        "edited": edits_of(plan).sentences(),
        "edits": [],
    }
    if checked.gram is not None:
        made["codes_chosen_on"] = chooser.name
    if statistics is not None:
        warnings = [str(w) for corpus in statistics.corpora for w in corpus.get("warnings", ())]
        made["calibration"] = {
            "tokens": dict(statistics.tokens),
            "samples": len(statistics.samples),
            "skipped_tokens": statistics.skipped,
            "coverage": coverage_of(statistics).sentences(),
            "corpora": [
                {key: corpus[key] for key in ("mix", "rows_file", "sha256") if key in corpus}
                for corpus in statistics.corpora
            ],
            "warnings": warnings,
        }
    return made
