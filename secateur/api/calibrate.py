"""`calibrate`: observe a model on a corpus."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.api.answers import measure_folder
from secateur.api.calibrate_parts import (
    STATISTICS,
    OpenInputs,
    PartsJob,
    calibrate_in_parts,
    count_parts,
)
from secateur.api.estimating import Task, announce
from secateur.api.held_out import describe_held_out, make_prompts
from secateur.api.models import File, Model, check_file, open_weights
from secateur.api.requests import Calibration
from secateur.api.statistics_key import pass_key
from secateur.api.text import build_corpus, check_text
from secateur.checkpoint.reader import Checkpoint
from secateur.cluster.running import Running, running_with
from secateur.errors import NumericError, RequestError
from secateur.statistics import file as statistics_file
from secateur.statistics.gram_file import gram_path
from secateur.statistics.sample_file import sample_path
from secateur.statistics.statistics import Statistics
from secateur.statistics.text_file import save_text, text_path
from secateur.system.progress import Progress, no_progress
from secateur.system.sizes import show_bytes
from secateur.system.workdir import publish_files, work_folder

if TYPE_CHECKING:
    from secateur.calibration.pass_folder import PassFolder
    from secateur.corpus.rows import Corpus
    from secateur.forward.backends.base import Backend


def calibrate(
    model: Model,
    out: File,
    request: Calibration,
    *,
    revision: str | None = None,
    workers: int | Running | None = None,
    force: bool = False,
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Statistics:
    """Observe a model on a corpus and write the statistics to `out`.

    The text is written next to it as hashes (text_path), in which questions are looked for later;
    with `keep_sample`, or of a shard, the token sample (sample_path), and with `gram` the Gram
    matrices (gram_path). What is held out to be measured on is kept in
    `measure_folder`, where measuring finds it.
    `workers` are threads, or say that it is done in parts, and by whom (cluster.running); `force`
    overwrites what is there. `on_message` is called with what the run will cost before it
    starts. Raises CorpusError, CheckpointError, OutputError; RequestError where memory or disk
    cannot suffice; NumericError (see calibration.layer_pass).
    """
    out, running = Path(out), running_with(workers)
    check_parts(request, running)
    check_file(out, force)
    checkpoint = open_weights(model, revision, "calibrating")
    check_text(checkpoint, request)
    check_model(checkpoint, running.threads, progress)
    from secateur.forward.backends.choose import is_cpu

    corpus = build_corpus(checkpoint, request, progress)
    if corpus.held_out:
        make_prompts(checkpoint, corpus, None, measure_folder(checkpoint))
        on_message(describe_held_out(corpus))
    # Rates of other devices and machines are not tried.
    if is_cpu(request.device) and running.engine == "here":
        parts = count_parts(running, checkpoint, corpus, request.device)
        task = Task(out, corpus, request, parts=parts)
        announce(checkpoint, task, on_message, running.workers, progress)
    return observe(
        checkpoint, corpus, request, out, workers=running, on_message=on_message, progress=progress
    )


def check_parts(request: Calibration, running: Running) -> None:
    """Raise RequestError where a part is made by hand, and parts are asked for."""
    if running.in_parts and request.shard is not None:
        raise RequestError("shard makes one part by hand: leave engine and parts out")


def load_libraries(progress: Progress) -> None:
    """Import torch and transformers, which takes seconds, and say so."""
    if "torch" in sys.modules:
        return
    stage = "load torch and transformers"
    progress(stage, 0, 1, "")
    import_module("secateur.calibration.layer_pass")
    progress(stage, 1, 1, "")


def check_model(checkpoint: Checkpoint, workers: int | None, progress: Progress) -> None:
    """What can be known of the model before the text is read: transformers accepts its config, and
    its weights, which are hashed here, can be read. Raises CheckpointError.
    """
    load_libraries(progress)
    from secateur.forward.skeleton import check_config

    check_config(checkpoint.config)
    checkpoint.identity(progress, workers)


def observe(
    checkpoint: Checkpoint,
    corpus: Corpus,
    request: Calibration,
    out: Path,
    *,
    workers: int | Running | None = None,
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Statistics:
    """Observe a model on rows and write the statistics to `out`; see `calibrate`.

    In parts where `workers` says so (`api.calibrate_parts`). Else everything is made in a work
    folder next to `out`, where an interrupted run is found again by what decides its result, and
    goes on after its last finished layer.
    """
    from secateur.calibration.cost import cost_of
    from secateur.forward.backends.choose import choose_backend, product_type
    from secateur.forward.backends.memory import fit_memory

    gram = None if request.gram == "none" else request.gram
    cost = cost_of(checkpoint, corpus, request.reroute_tokens, gram, request.gram_tokens)
    on_message(f"calibrating on {corpus.tokens:,} tokens: {cost.sentence()}")
    running = running_with(workers)
    if running.in_parts:
        check_parts(request, running)
        parts = PartsJob(checkpoint, corpus, request, running, make_part)
        return calibrate_in_parts(parts, out, on_message=on_message, progress=progress)
    chosen = choose_backend(request.device, workers=running.workers, dtype=product_type(checkpoint))
    job = _Job(checkpoint, corpus, request, on_message, progress)
    with work_folder(out, replaces=True) as work:
        made = fit_memory(chosen, lambda backend: _make(job, backend, work, out.name), on_message)
        beside = {
            "token sample": sample_path(made),
            "Gram matrices": gram_path(made),
            "text": text_path(made),
        }
        there = {what: out.with_name(path.name) for what, path in beside.items() if path.exists()}
        publish_files((*beside.values(), made), out.parent)  # the last says that all is there
    for what, path in there.items():
        if what != "text":
            on_message(f"{what}: {path}, {show_bytes(path.stat().st_size)}")
    return statistics_file.load(out)


def make_part(inputs: OpenInputs, part: str, folder: Path, threads: int) -> None:
    """The statistics of a part such as 3/12, and what belongs to them, in a folder."""
    request = replace(inputs.request, shard=part)
    observe(inputs.checkpoint, inputs.corpus, request, folder / STATISTICS, workers=threads)


@dataclass(frozen=True)
class _Job:
    """What one call observes."""

    checkpoint: Checkpoint
    corpus: Corpus
    request: Calibration
    on_message: Callable[[str], None]
    progress: Progress


def _make(job: _Job, backend: Backend, work: Path, name: str) -> Path:
    """The statistics, and what belongs to them, in the folder of this pass in `work`.

    An earlier run may have got anywhere with them. Raises NumericError, after which nothing is kept
    of the pass: it would meet the same again.
    """
    from secateur.calibration.layer_pass import calibrate as run
    from secateur.calibration.observers.registry import find_observers
    from secateur.calibration.pass_folder import PassFolder
    from secateur.calibration.shards import WHOLE, read_shard
    from secateur.calibration.token_sample import Sampling

    request = job.request
    path = work / pass_key(job.checkpoint, job.corpus, request, backend)
    made = path / name
    if made.exists():  # and what was beside it may be published already
        return made
    folder = PassFolder(path)
    _say_done(folder, job.checkpoint.layers, job.on_message)
    shard = read_shard(request.shard) if request.shard else WHOLE
    # Without its sample a part could not be merged into what a pass over the whole corpus gives.
    kept = request.reroute_tokens > 0 and (request.keep_sample or shard.parts > 1)
    sampling = Sampling(
        request.reroute_tokens,
        keep=sample_path(made) if kept else None,
        gram=None if request.gram == "none" else request.gram,
        gram_tokens=request.gram_tokens,
        gram_file=gram_path(made),
        resume=folder,
    )
    try:
        found = run(
            job.checkpoint,
            job.corpus,
            sampling=sampling,
            shard=shard,
            backend=backend,
            skip_bad=request.on_nan == "skip",
            observers=find_observers(request.observe),
            progress=job.progress,
        )
    except NumericError:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    _keep_text(job.checkpoint, job.corpus, made)
    statistics_file.save(found, made)
    return made


def _say_done(folder: PassFolder, layers: int, on_message: Callable[[str], None]) -> None:
    """Say what an interrupted run has left for this one."""
    if folder.damage is not None:
        on_message(
            f"what an interrupted run left in {folder.path} cannot be used ({folder.damage}): "
            "calibrating from the beginning"
        )
    elif folder.done.layers:
        on_message(f"going on after {folder.done.layers} of {layers} layers of an interrupted run")


def _keep_text(checkpoint: Checkpoint, corpus: Corpus, out: Path) -> None:
    """Write the hashes of what is calibrated on next to the statistics `out`.

    Rows of tokens of a model that brings no tokenizer have no words: then there is no such file.
    """
    from secateur.corpus.text_hashes import hash_corpus
    from secateur.corpus.tokenizer import has_tokenizer, load_tokenizer

    if has_tokenizer(checkpoint.path):
        save_text(hash_corpus(corpus, load_tokenizer(checkpoint.path)), text_path(out))
