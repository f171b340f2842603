"""Measuring artefacts against the original: answers, teacher, scores, report.

Everything costly is kept in a folder under names that hold the hash of what decides it, so that
the next artefact of the same original, or the next try, finds it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.api.measuring import Measuring
from secateur.api.models import File, Model, open_weights
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import CorpusError, OutputError
from secateur.evaluation.metrics.divergence import score
from secateur.evaluation.metrics.summary import summarise
from secateur.evaluation.tokens.answers import AnswerSet, load_answers
from secateur.evaluation.tokens.generate import Generation, generate_answers, stop_tokens
from secateur.evaluation.tokens.prompts import read_answers, read_prompts
from secateur.evaluation.tokens.teacher import Teacher, teacher_for
from secateur.formats.gguf.naming import MMPROJ
from secateur.formats.gguf.split import part_name
from secateur.forward.weights import CheckpointWeights
from secateur.outputs.gguf.weights import Artefact, open_artefact
from secateur.planning import imatrix_policy as importance
from secateur.planning.document import read_plan
from secateur.release.manifest import MANIFEST, read_manifest, write_manifest
from secateur.release.report import REPORT, REPORT_TEXT, ArtefactReport, Report, write_report
from secateur.system.progress import Progress, no_progress, within
from secateur.system.resources import cache_folder, cores

GENERATION = Generation(temperature=1.0)
"""Answers are drawn from the model's own distribution, with a fixed seed: greedy ones of a small
model run in circles, and lie where the model is surest (docs/log.md)."""

_NO_MODEL = (importance.FILE, MMPROJ)
"""How the names of GGUF files begin that are not models."""


def measure_output(
    out: Path,
    original: Checkpoint,
    request: Measuring,
    folder: Path,
    *,
    workers: int,
    progress: Progress,
) -> Report:
    """Measure all artefacts of `out`; `folder` keeps the original's answers and probabilities.

    In an output of ours the report is written and the manifest brought up to date.
    """
    # What cannot be measured shall show before the original has answered, which takes long.
    opened = [open_artefact(path, original, workers=workers) for path in artefacts_of(out)]
    answers = answers_for(original, request, folder, workers, progress)
    teacher = teacher_for(
        CheckpointWeights(original),
        original.identity(),
        answers,
        folder,
        workers=workers,
        progress=within("original", progress),
    )
    artefacts = tuple(
        _measured(artefact, answers, teacher, workers, progress) for artefact in opened
    )
    report = Report(
        original=original.name,
        original_bytes=sum(path.stat().st_size for path in original.shards),
        made={},
        sizes={},
        answers=_measured_on(answers, teacher),
        artefacts=artefacts,
        limits=request.limits,
    )
    return _published(report, out) if (out / MANIFEST).is_file() else report


def artefacts_of(out: Path) -> list[Path]:
    """What can be measured in `out`: itself when it is a model, its GGUF files, its MLX models.

    The first part of a split GGUF stands for all; a later one without it is named, to be refused.
    Raises OutputError when there is nothing.
    """
    if out.suffix == ".gguf":
        return [out]
    found = [out] if any(out.glob("model*.safetensors")) else []
    ggufs = {path.name for path in out.glob("*.gguf") if not path.name.startswith(_NO_MODEL)}
    found += [out / name for name in sorted(ggufs) if not _is_behind(name, ggufs)]
    found += sorted(path.parent for path in out.glob("mlx-*/config.json"))
    if not found:
        raise OutputError(f"{out} holds no checkpoint, GGUF or MLX model: nothing to measure")
    return found


def _is_behind(name: str, others: set[str]) -> bool:
    """Whether it is a part of a split GGUF whose first part is there."""
    part = part_name(name)
    return part is not None and part.number > 1 and part._replace(number=1).file in others


def answers_for(
    original: Checkpoint, request: Measuring, folder: Path, workers: int, progress: Progress
) -> AnswerSet:
    """The original's answers: given, kept in `folder` from an earlier run, or generated now."""
    tokenizer = load_tokenizer(original.path)
    vocabulary = original.family.number(original.config, "vocab")
    if request.answers is not None:
        return read_answers(
            measured_on(original, request), tokenizer, vocabulary, per_domain=request.per_domain
        )
    asked = read_prompts(measured_on(original, request), tokenizer, per_domain=request.per_domain)
    decides: list[Any] = [
        original.identity(),
        dict(asked.provenance),
        request.per_domain,
        GENERATION,
    ]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()
    path = folder / f"answers-{key[:16]}.jsonl"
    if path.exists():
        return load_answers(path, vocabulary)
    return generate_answers(
        original,
        asked,
        path,
        stop_ids=stop_tokens(original, tokenizer),
        settings=GENERATION,
        workers=workers,
        progress=progress,
    )


def measured_on(original: Checkpoint, request: Measuring) -> Path:
    """The file of prompts or answers. Raises CorpusError when there is none, or both are named."""
    if request.prompts is not None and request.answers is not None:
        raise CorpusError("measuring takes either prompts (--prompts) or answers (--answers)")
    path = request.answers or request.prompts or original.path / "sets" / "test.jsonl"
    if not path.is_file():
        raise CorpusError(
            f"nothing to measure on: {path} does not exist; name held-out prompts with "
            "--prompts, or the original's answers with --answers"
        )
    return path


def _measured(
    artefact: Artefact,
    answers: AnswerSet,
    teacher: Teacher,
    workers: int,
    progress: Progress,
) -> ArtefactReport:
    name = artefact.path.name
    scores = score(
        teacher,
        artefact.source,
        artefact.identity,
        answers,
        workers=workers,
        progress=within(name, progress),
    )
    nbytes = sum(file.stat().st_size for file in artefact.files)
    name = "safetensors" if artefact.kind == "safetensors" else name
    return ArtefactReport(name, nbytes, summarise(scores, answers))


def _measured_on(answers: AnswerSet, teacher: Teacher) -> dict[str, Any]:
    kinds = [answer.kind for answer in answers.answers]
    return {
        "answers": kinds.count("answers"),
        "raw": kinds.count("raw"),
        "tokens": sum(answer.scored for answer in answers.answers if answer.kind == "answers"),
        "finishes": answers.finishes,
        "sha256": answers.sha256,
        "top_k": int(teacher.top_ids.shape[1]),
        "provenance": dict(answers.provenance),
    }


def _published(report: Report, out: Path) -> Report:
    """The report with the facts of the output it belongs to, written into it."""
    made = read_manifest(out)
    files = made.pop("files")
    decided = read_plan(out / "plan.json")
    sizes = {
        form: {
            "predicted": sum(decided.sizes(form).values()),
            "written": sum((out / name).stat().st_size for name in decided.files[form]),
        }
        for form in decided.formats
    }
    facts = {key: made[key] for key in made if key not in ("secateur", "versions")}
    whole = replace(report, made=facts, sizes=sizes, notes=decided.notes)
    write_report(whole, out)
    known = {name: entry["sha256"] for name, entry in files.items()}
    for name in (REPORT, REPORT_TEXT):
        known.pop(name, None)
    write_manifest(out, facts, known)
    return whole


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
    original = open_weights(against, revision, "measuring")
    folder = Path(work) if work else cache_folder() / original.identity()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return measure_output(
        Path(out), original, request, folder, workers=workers or cores(), progress=progress
    )
