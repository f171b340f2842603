"""The verbs of the command line as plain functions: what `import secateur` offers.

Each opens what it is given, calls the rooms, and returns values; none prints. Long work reports
to `progress(stage, done, total, unit)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.api.measuring import Measuring
from secateur.checkpoint.inspection import Inspection, inspect_checkpoint
from secateur.checkpoint.reader import Checkpoint, open_checkpoint, open_shape
from secateur.errors import CheckpointError, CorpusError, StatisticsError
from secateur.outputs.build import (
    DEFAULT_ASSUMPTIONS,
    Output,
    PlanningAssumptions,
    is_gguf,
    make_plan,
)
from secateur.outputs.gguf.mmproj import tower_recipe
from secateur.planning.document import PATH, Plan, published, read_plan, to_json
from secateur.planning.imatrix_policy import ImatrixFile, read_imatrix_file
from secateur.planning.unseen_experts import Policy
from secateur.pruning.choose import Pruning, choose, scores_of
from secateur.recipes.layer_importance import layer_importance
from secateur.recipes.recipe import Recipe
from secateur.recipes.suites import find_recipes
from secateur.release import manifest as manifest_file
from secateur.release.manifest import Problem
from secateur.statistics import statistics as statistics_file
from secateur.statistics.coverage import LEAST, Coverage
from secateur.statistics.coverage import coverage as coverage_of
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import check_writable, write_text
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cache_folder, cores
from secateur.system.workdir import complete_or_absent

if TYPE_CHECKING:
    from secateur.corpus.rows import Corpus
    from secateur.outputs.fit import Fit
    from secateur.release.report import Report

File = str | os.PathLike[str]
"""The path of a file or folder."""

Model = Checkpoint | str | Path
"""An opened checkpoint, a folder, a hub id, or `gemmule`."""

REROUTE_TOKENS = 16384


@dataclass(frozen=True)
class Calibration:
    """What to calibrate on, and how. Exactly one of `corpus` (a mix by name or path) and `rows`.

    `on_nan` is `stop` or `skip`; `reroute_tokens` are sampled for the criterion `rerouted`.
    """

    corpus: str | None = None
    rows: Path | None = None
    seed: int | None = None
    sequence_length: int | None = None
    reroute_tokens: int = REROUTE_TOKENS
    on_nan: str = "stop"


@dataclass(frozen=True)
class Formats:
    """What to write: the pruned checkpoint, and files by recipes.

    `types` are file types of llama.cpp, names of shipped recipes, paths of YAML recipes
    (planning.recipe) or suites (planning.suites); `recipes` are recipes made in Python.
    `layer_importance` says what ranks layers for recipes with tiers: a measure of the statistics,
    or a file (planning.layer_importance). GGUF files of more than `split_max_size` bytes of tensors
    are cut. `mmproj` is the type of the vision tower's own GGUF, or "none"; by default it is
    written as F16 beside GGUF files of a model that has such a tower.
    """

    safetensors: bool = True
    types: tuple[str, ...] = ()
    recipes: tuple[Recipe, ...] = ()
    layer_importance: str | Path | None = None
    split_max_size: int | None = None
    mmproj: str | None = None

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs, in order. Raises PlanError for an unknown type or recipe."""
        first: tuple[Output, ...] = ("safetensors",) if self.safetensors else ()
        named = (recipe for word in self.types for recipe in find_recipes(word))
        return (*first, *named, *self.recipes)

    def outputs_of(self, checkpoint: Checkpoint) -> tuple[Output, ...]:
        """The outputs for a model, which may have a tower; raises PlanError as `outputs` does."""
        outputs = self.outputs
        wanted = any(is_gguf(output) for output in outputs)
        return (*outputs, *tower_recipe(checkpoint, self.mmproj, wanted))


def _opened(model: Model, revision: str | None, what: str) -> Checkpoint:
    """A checkpoint with weights, which `what` needs."""
    opened = model if isinstance(model, Checkpoint) else open_checkpoint(model, revision)
    opened.need_weights(what)
    return opened


def _shape(model: Model, revision: str | None) -> Checkpoint:
    """A checkpoint whose weights may be missing: a config is enough."""
    return model if isinstance(model, Checkpoint) else open_shape(model, revision)


def inspect(model: Model, revision: str | None = None) -> Inspection:
    """Look at a model by its headers, or by its config alone. Reads no weights."""
    return inspect_checkpoint(_shape(model, revision))


def calibrate(
    model: Model,
    out: File,
    request: Calibration,
    *,
    revision: str | None = None,
    workers: int | None = None,
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Statistics:
    """Observe a model on a corpus and write the statistics to `out`.

    `on_message` is called with what the run will cost before it starts. Raises CorpusError,
    CheckpointError, NumericError (see calibration.calibrate).
    """
    from secateur.calibration.layer_pass import calibrate as run
    from secateur.calibration.layer_pass import cost_of

    checkpoint = _opened(model, revision, "calibrating")
    out = Path(out)
    check_writable(out)
    corpus = corpus_for(checkpoint, request)
    on_message(
        f"calibrating on {corpus.tokens:,} tokens: "
        f"{cost_of(checkpoint, corpus, request.reroute_tokens).sentence()}"
    )
    found = run(
        checkpoint,
        corpus,
        reroute_tokens=request.reroute_tokens,
        seed=request.seed or 0,
        workers=workers,
        skip_bad=request.on_nan == "skip",
        progress=progress,
    )
    statistics_file.save(found, out)
    return found


def corpus_for(checkpoint: Checkpoint, request: Calibration) -> Corpus:
    """The rows of a calibration request, checked against the model's vocabulary."""
    from secateur.corpus.load import load_corpus, load_rows, load_tokenizer

    vocabulary = checkpoint.family.number(checkpoint.config, "vocab")
    if (request.corpus is None) == (request.rows is None):
        raise CorpusError("say what to calibrate on: either a mix (--corpus) or rows (--rows)")
    if request.rows is not None:
        return load_rows(request.rows, vocabulary)
    return load_corpus(
        str(request.corpus),
        load_tokenizer(checkpoint.path),
        seed=request.seed,
        sequence_length=request.sequence_length,
        vocab_size=vocabulary,
    )


def merge(paths: Sequence[File], out: File) -> Statistics:
    """Merge statistics files of one model into one; exact, whatever the order."""
    if not paths:
        raise StatisticsError("name at least one statistics file to merge")
    check_writable(Path(out))
    merged = statistics_file.load(Path(paths[0]))
    for path in paths[1:]:
        merged = statistics_file.merge(merged, statistics_file.load(Path(path)))
    statistics_file.save(merged, Path(out))
    return merged


def coverage(statistics: File, least: int = LEAST) -> Coverage:
    """Which experts saw fewer than `least` tokens."""
    return coverage_of(statistics_file.load(Path(statistics)), least)


def scores(statistics: File, request: Pruning) -> Mapping[int, list[float]]:
    """{MoE layer: score per expert} by the request's criterion; higher stays."""
    found = scores_of(statistics_file.load(Path(statistics)), request)
    return {layer: values.tolist() for layer, values in found.items()}


def plan(
    model: Model,
    request: Pruning,
    formats: Formats,
    *,
    statistics: File | None = None,
    imatrix: File | None = None,
    unseen_experts: Policy = "uniform",
    assumptions: PlanningAssumptions = DEFAULT_ASSUMPTIONS,
    revision: str | None = None,
) -> Plan:
    """Decide every output tensor. Reads headers, tokenizer and statistics; no weights.

    `model` may be a config alone (its file, or a folder without shards): then the first experts
    stand in for those that stay, and the plan says all sizes but cannot be applied. `assumptions`
    says what such a plan, and the memory counted, rest on.

    `imatrix` is an importance matrix of llama.cpp to use instead of the statistics' own, of this
    model or of the pruned one; `unseen_experts` says what becomes of experts without data in it:
    "uniform", "stop" or "mean" (planning.unseen_experts).
    """
    from secateur.outputs.apply import check_statistics

    if statistics or (assumptions.fetch and not _is_local(model)):
        checkpoint = _opened(model, revision, "planning with statistics")
    else:
        checkpoint = _shape(model, revision)
    loaded = statistics_file.load(Path(statistics)) if statistics else None
    if loaded is not None:
        check_statistics(loaded, checkpoint)
    choice = choose(checkpoint, loaded, request)
    decided = make_plan(
        checkpoint,
        choice,
        formats.outputs_of(checkpoint),
        loaded,
        imatrix=_imatrix(imatrix, checkpoint),
        unseen_experts=unseen_experts,
        layer_importance=layer_importance(formats.layer_importance, loaded, checkpoint.layers),
        split=formats.split_max_size,
        assumptions=assumptions,
    )
    return replace(decided, model={**decided.model, PATH: checkpoint.source})


def fit(
    model: Model,
    memory: int,
    *,
    context: int | None = None,
    experts: Sequence[int] = (),
    types: Sequence[str] = (),
    tokenizer: File | None = None,
    revision: str | None = None,
) -> Fit:
    """What fits in `memory` bytes with so many tokens of context: the largest first.

    A config is enough. `experts` and `types` (file types or recipes) are what to try; without
    them, useful shares of the experts and all file types of llama.cpp.
    """
    from secateur.outputs.fit import fit as run

    keys = Path(tokenizer) if tokenizer is not None else None
    return run(
        _shape(model, revision),
        memory,
        counts=experts,
        recipes=[recipe for word in types for recipe in find_recipes(word)],
        assumptions=PlanningAssumptions(keys, context),
    )


def _is_local(model: Model) -> bool:
    return isinstance(model, Checkpoint) or Path(model).exists()


def apply(
    plan: Plan | File,
    out: File,
    *,
    model: Model | None = None,
    statistics: File | None = None,
    imatrix: File | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Mapping[str, object]:
    """Write all that a plan says into the new folder `out`; returns its manifest.

    `model` is where the checkpoint lies now (default: where the plan found it); `statistics` or
    `imatrix` are what the plan was made with. The folder is complete or absent; interrupted, the
    same call goes on with the work beside it. Raises PlanError for a plan that does not fit,
    OutputError when `out` exists or other work lies beside it, WriteError when the disk fails.
    """
    from secateur.outputs.apply import Sources, check_plan, output_key, refuse_shape, write_output

    decided = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    refuse_shape(decided.model)
    origin = model if model is not None else decided.model.get(PATH, decided.model["source"])
    try:
        checkpoint = _opened(origin, decided.model.get("revision"), "applying a plan")
    except CheckpointError as error:
        hint = "" if model is not None else " (a model that moved is named with --model)"
        raise CheckpointError(f"{error}{hint}") from None
    loaded = statistics_file.load(Path(statistics)) if statistics else None
    sources = Sources(checkpoint, loaded, _imatrix(imatrix, checkpoint))
    check_plan(decided, sources)
    with complete_or_absent(Path(out), output_key(decided, sources)) as folder:
        if (folder / manifest_file.MANIFEST).exists():  # interrupted just before its last step
            return manifest_file.read_manifest(folder)
        hashes = write_output(
            decided,
            sources,
            folder,
            workers=workers or cores(),
            progress=progress,
        )
        return manifest_file.write_manifest(folder, facts(decided, loaded), hashes)


def _imatrix(path: File | None, checkpoint: Checkpoint) -> ImatrixFile | None:
    return None if path is None else read_imatrix_file(Path(path), checkpoint)


def facts(plan: Plan, statistics: Statistics | None) -> dict[str, object]:
    """What a manifest says an output was made from."""
    made: dict[str, object] = {
        "model": dict(published(plan).model),
        "experts": plan.experts,
        "selection": dict(plan.selection),
        "plan_sha256": plan.sha256(),
        "edits": [],
    }
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


def measure(
    out: File,
    against: Model,
    request: Measuring,
    *,
    work: File | None = None,
    revision: str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure an output folder, a model folder or a GGUF file against the original.

    In an output of ours the report is written (report.json, report.md) and the manifest brought
    up to date. `work` keeps the original's answers and probabilities for the next time (default:
    the user's cache folder). Raises InputError when there is nothing to measure on.
    """
    from secateur.api.measure import measure_output

    original = _opened(against, revision, "measuring")
    folder = Path(work) if work else cache_folder() / original.identity()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return measure_output(
        Path(out), original, request, folder, workers=workers or cores(), progress=progress
    )


def verify(out: File, progress: Progress = no_progress) -> tuple[Problem, ...]:
    """Compare an output with its manifest; empty when all is as it was written."""
    return manifest_file.verify(Path(out), progress)


def save_plan(plan: Plan, path: File) -> None:
    """Write a plan as JSON, complete or absent. Raises OutputError or WriteError."""
    write_text(Path(path), to_json(plan))


__all__ = [
    "Calibration",
    "Formats",
    "Measuring",
    "Pruning",
    "PlanningAssumptions",
    "apply",
    "calibrate",
    "coverage",
    "fit",
    "inspect",
    "measure",
    "merge",
    "plan",
    "save_plan",
    "scores",
    "verify",
]
