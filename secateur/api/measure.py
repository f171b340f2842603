"""Measuring artefacts against the original: answers, teacher, scores, report.

Everything costly is kept in a folder under names that hold the hash of what decides it, so that
the next artefact of the same original, or the next try, finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from secateur.api.answers import check_can_measure, get_answers, measure_folder
from secateur.api.gather import gather_evidence
from secateur.api.held_out import (
    Text,
    calibrated_text_of,
    find_questions,
    held_out_prompts,
    statistics_of,
)
from secateur.api.measure_parts import MeasuringInParts
from secateur.api.measuring import Measuring
from secateur.api.models import File, Model, open_weights
from secateur.api.original_gguf import check_room
from secateur.api.report import (
    additional_notes,
    describe_answers,
    engine_notes,
    interval_notes,
    publish_pages,
    publish_report,
    routing_notes,
    seen_notes,
)
from secateur.api.subjects import AskedOutput, artefact_subjects, original_subject
from secateur.calibration.shards import read_shard
from secateur.checkpoint.reader import Checkpoint
from secateur.cluster.running import Running, running_with
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import RequestError
from secateur.evaluation.engine import InOurPath, measure_engine
from secateur.evaluation.floor import Floor, measure_floor
from secateur.evaluation.kept_experts import find_kept_experts
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.memory import weight_bytes
from secateur.evaluation.scores import Scores, score_once
from secateur.evaluation.seen_text import SeenText, find_seen
from secateur.evaluation.summary import summarise, summarise_layers
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.prompts import PromptSet
from secateur.evaluation.tokens.teacher import Teacher, teacher_for
from secateur.forward.backends.base import Backend
from secateur.forward.backends.choose import choose_backend, places_for_all_layers, product_type
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.skeleton import check_config
from secateur.forward.weights import CheckpointWeights
from secateur.outputs.base import Artefact
from secateur.outputs.identity import identify
from secateur.outputs.registry import artefacts_of, open_artefact
from secateur.release.evidence import (
    KINDS,
    Evidence,
    Kind,
    evidence_file,
    measured_files,
    read_evidence,
)
from secateur.release.manifest import MANIFEST, check_undamaged
from secateur.release.report import REPORT, ArtefactReport, Report
from secateur.serving.teacher_forced_logits import run_llama_cpp, run_mlx_lm
from secateur.system.atomic import remove_abandoned, writing
from secateur.system.cache import name_model
from secateur.system.folder_lock import in_use
from secateur.system.progress import Progress, no_progress, within
from secateur.system.stopwatch import timed


def measure(
    out: File,
    against: Model,
    request: Measuring,
    *,
    work: File | None = None,
    revision: str | None = None,
    workers: int | Running | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure all artefacts of an output, or a model folder or GGUF file, against the original.

    An output of ours is compared with its manifest first; at the end the report is written into
    it (report.json, which is added to the manifest, and report.md). Where nothing is named to
    measure on, it is what the output's own calibration held out. `work` keeps the
    original's answers and probabilities and the artefacts' scores for the next time (default:
    `measure_folder`). `workers` are threads, or say that the divergence is measured in parts, and
    by whom (cluster.running). Raises OutputError when a file of the output is missing or was
    changed, InputError or EngineError for what cannot be measured: all before the original
    answers, which takes long.
    """
    out = Path(out)
    request.check_served()
    request.check_limits(_measured_before(out))
    original = open_weights(against, revision, "measuring")
    text = Text(statistics=statistics_of(out))
    return measure_output(out, start(original, request, text, work, workers, timed(progress)))


def measure_output(out: Path, run: Run) -> Report:
    """Measure all artefacts of an output, as `measure` does, in a run that was started."""
    stopwatch = timed(run.progress)
    is_ours = (out / MANIFEST).is_file()
    if is_ours:
        remove_abandoned(out)  # of a measurement that was killed while it wrote its report
    # The report is written again whatever it holds; an interrupted run may have left half of it.
    written = (REPORT, *measured_files(out, run.request.kinds))
    additional = check_undamaged(out, written, stopwatch) if is_ours else ()
    opened = [run.open(path) for path in artefacts_of(out)]
    with in_use(run.folder):
        answers, teacher = run.ask_original()
        if run.running.in_parts:
            run.in_parts.score(answers, teacher, opened)
        floor = run.measure_floor(answers, teacher)
        measured = tuple(run.measure(artefact, answers, teacher) for artefact in opened)
    report = Report(
        original=run.original.name,
        original_bytes=sum(path.stat().st_size for path in run.original.shards),
        answers=describe_answers(answers, teacher),
        artefacts=measured,
        notes=(
            *interval_notes(answers),
            *routing_notes(measured),
            *(engine_notes(opened) if run.request.real_engine else ()),
            *seen_notes(run.find_seen("this output", answers, out)),
            *additional_notes(additional),
        ),
        gates=run.request.limits,
        floor=floor.measurements,
    )
    if not is_ours:
        return replace(report, evidence=_gather(None, run, opened))
    report = replace(publish_report(report, out), earlier=_read_earlier(out, run.request))
    try:
        return replace(report, evidence=_gather(out, run, opened))
    finally:  # of what was measured, where a server failed, too
        publish_pages(out, stopwatch)


def measure_shard(
    out: File,
    against: Model,
    request: Measuring,
    shard: str,
    *,
    work: File | None = None,
    revision: str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Make one part of a measurement, such as 3/12, and no report; returns the folder of the parts.

    When all are there (in one folder `work`, wherever each was made), `measure` with as many parts
    puts them together. Raises as `measure` does; CorpusError for answers that are too few;
    RequestError where something else than the divergence is asked for.
    """
    out, part = Path(out), read_shard(shard)
    others = [*request.kinds, *(f"the gate {gate}" for gate in request.limits)]
    others += ["real_engine"] if request.real_engine else []
    if others:
        raise RequestError(
            f"a shard is a part of the divergence: leave {others[0]} to the run that puts parts "
            "together"
        )
    original = open_weights(against, revision, "measuring")
    text = Text(statistics=statistics_of(out))
    run = start(original, request, text, work, workers, progress)
    opened = [run.open(path) for path in artefacts_of(out)]
    with in_use(run.folder):
        return run.in_parts.make_shard(run.answers(), opened, part)


def _measured_before(out: Path) -> tuple[Kind, ...]:
    """The kinds of evidence that an output holds already."""
    return tuple(kind for kind in KINDS if (out / evidence_file(kind)).is_file())


def _read_earlier(out: Path, request: Measuring) -> tuple[Evidence, ...]:
    """The evidence of earlier runs that limits are about, and this run does not measure again."""
    wanted = {gate.kind for gate in request.limits} - set(request.kinds)
    found = (read_evidence(out, kind) for kind in KINDS if kind in wanted)
    return tuple(one for one in found if one is not None)


def _gather(out: Path | None, run: Run, opened: Sequence[Artefact]) -> tuple[Evidence, ...]:
    """What the models did when they were asked, written into an output of ours."""
    if not run.request.kinds:
        return ()
    request, workers = run.request, run.backend.workers
    subjects, notes = artefact_subjects(opened, run.folder, workers, run.progress)
    first = original_subject(run.original, request.serving, run.folder, workers, run.progress)
    everyone = (*first, *subjects)
    asked = AskedOutput(
        everyone,
        request.serving,
        run.folder,
        workers,
        run.progress,
        notes,
        original=run.original,
    )
    with in_use(run.folder):
        return gather_evidence(asked, request, out)


@dataclass(frozen=True)
class Run:
    """What all measurements of one call share. `asked` is what the original is asked, or where
    that may come from."""

    original: Checkpoint
    request: Measuring
    asked: PromptSet | Text
    folder: Path
    backend: Backend
    progress: Progress
    running: Running = Running()

    @property
    def in_parts(self) -> MeasuringInParts:
        """The same in parts."""
        return MeasuringInParts(
            self.original, self.request.device, self.backend, self.running, self.folder,
            self.progress,
        )  # fmt: skip

    def open(self, path: Path) -> Artefact:
        return open_artefact(path, self.original, workers=self.backend.workers)

    def ask_original(self) -> tuple[AnswerSet, Teacher]:
        """The original's answers and what it says of every token of them."""
        answers = self.answers()
        if self.running.in_parts:
            return answers, self.in_parts.teach(answers)
        teacher = teacher_for(
            CheckpointWeights(self.original),
            self.original.identity(),
            answers,
            self.folder,
            backend=self.backend,
            progress=within("original", self.progress),
        )
        return answers, teacher

    def answers(self) -> AnswerSet:
        """What is measured on."""
        return get_answers(
            self.original,
            self.request,
            self.folder,
            self._questions(),
            backend=self._answering(),
            progress=self.progress,
        )

    def _answering(self) -> Backend:
        """Where the original answers, which takes all of its weights at once: on a device in the
        type that it calibrates in."""
        if not isinstance(self.backend, TorchDevice):
            return self.backend
        need = weight_bytes(self.original)
        chosen: Backend = self.backend
        device = _device_here(self.request, self.running)
        for chosen in places_for_all_layers(device, self.backend.workers):
            if need <= chosen.free_memory():
                break
        if not isinstance(chosen, TorchDevice):
            return chosen
        if chosen.layers_ahead > self.backend.layers_ahead:
            said = "one GPU has no room for the original: it answers on all of them"
            self.progress(said, 1, 1, "")
        return replace(chosen, dtype=product_type(self.original))

    def _questions(self) -> PromptSet | None:
        """What a corpus held out; None where there is a file of prompts or answers."""
        if not isinstance(self.asked, Text):
            return self.asked
        if find_questions(self.original, self.request, self.asked) is not None:
            return None
        return held_out_prompts(self.original, self.request, self.asked, self.folder, self.progress)

    def score(self, artefact: Artefact, answers: AnswerSet, teacher: Teacher) -> Scores:
        return score_once(
            teacher,
            artefact.source,
            self._identify(artefact),
            answers,
            self.folder,
            kept=find_kept_experts(artefact.source, CheckpointWeights(self.original)),
            backend=self.backend,
            progress=within(artefact.name, self.progress),
        )

    def measure_floor(self, answers: AnswerSet, teacher: Teacher) -> Floor:
        """How far the original diverges from itself in another kernel."""
        return measure_floor(
            teacher,
            CheckpointWeights(self.original),
            answers,
            self.folder,
            backend=self.backend,
            progress=within("floor", self.progress),
        )

    def find_seen(self, name: str, answers: AnswerSet, output: Path) -> SeenText:
        """What of the answers the calibration of an output, or of a file in one, saw."""
        if (calibrated := calibrated_text_of(output)) is None:
            return SeenText(name, len(answers.answers), None)
        return find_seen(name, answers, load_tokenizer(self.original.path), calibrated)

    def _identify(self, artefact: Artefact) -> str:
        return identify(artefact, self.backend.workers, within(artefact.name, self.progress))

    def measure(self, artefact: Artefact, answers: AnswerSet, teacher: Teacher) -> ArtefactReport:
        scores = self.score(artefact, answers, teacher)
        measurements = summarise(scores, answers) + summarise_layers(scores, answers)
        if self.request.real_engine and (artefact.runs_in_llama_cpp or artefact.runs_in_mlx_lm):
            measurements += self._measure_engine(artefact, scores, answers, teacher)
        nbytes = sum(file.stat().st_size for file in artefact.files)
        return ArtefactReport(artefact.name, nbytes, measurements)

    def _measure_engine(
        self, artefact: Artefact, scores: Scores, answers: AnswerSet, teacher: Teacher
    ) -> tuple[Measurement, ...]:
        """The artefact in llama.cpp or mlx-lm, beside our own path."""
        progress = within(artefact.name, self.progress)
        own = teacher_for(
            artefact.source,
            self._identify(artefact),
            answers,
            self.folder,
            backend=self.backend,
            progress=within("in our path", progress),
        )
        kept = find_kept_experts(artefact.source, CheckpointWeights(self.original))
        longest = max(len(answer.input_ids) for answer in answers.answers)
        shown = own.experts.shape[1], own.experts.shape[2]
        if artefact.runs_in_mlx_lm:
            running = run_mlx_lm(artefact.path)
        else:
            workers = self.backend.workers
            running = run_llama_cpp(artefact.path, context=longest, experts=shown, workers=workers)
        with running as engine:
            ours = InOurPath(own, scores, kept)
            return measure_engine(engine, teacher, ours, answers, progress=progress)


def start(
    original: Checkpoint,
    request: Measuring,
    asked: PromptSet | Text,
    work: File | None,
    workers: int | Running | None,
    progress: Progress,
) -> Run:
    """Refuse what can be refused at once, and make the folder `work` (see `measure`).

    Raises InputError or EngineError for what cannot be measured, WriteError for a disk without
    room for the original where that is asked, too.
    """
    folder = Path(work) if work is not None else None
    if isinstance(asked, Text):
        check_can_measure(original, request, asked, folder)
    check_config(original.config)
    running = running_with(workers)
    backend = choose_backend(_device_here(request, running), workers=running.threads)
    original.identity(progress, running.threads)
    folder = folder or measure_folder(original)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
    name_model(folder, original.name)
    if request.kinds and request.serving.original is None:
        check_room(original, folder)
    return Run(original, request, asked, folder, backend, progress, running)


def _device_here(request: Measuring, running: Running) -> str:
    """What this machine computes on: the device that is asked for may be that of an engine."""
    return request.device if running.engine == "here" else "auto"
