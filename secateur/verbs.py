"""The verbs of the command line as plain functions: what `import secateur` offers.

Each opens what it is given, calls the rooms, and returns values; none prints. Long work reports
to `progress(stage, done, total, unit)`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.calibration import statistics as statistics_file
from secateur.calibration.coverage import LEAST, Coverage
from secateur.calibration.coverage import coverage as coverage_of
from secateur.calibration.statistics import Statistics
from secateur.checkpoint.folder import complete_or_absent
from secateur.checkpoint.inspection import Inspection, inspect_checkpoint
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.errors import CorpusError, OutputError
from secateur.planning.choose import Pruning, choose, scores_of
from secateur.planning.plan import GGUF, SAFETENSORS, Plan, read_plan, to_json
from secateur.release import manifest as manifest_file
from secateur.release.manifest import Problem

if TYPE_CHECKING:
    from secateur.corpus.rows import Corpus
    from secateur.evaluation.answers import AnswerSet
    from secateur.release.report import Report

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, unit)."""

Model = Checkpoint | str | Path
"""An opened checkpoint, a folder, a hub id, or `gemmule`."""

REROUTE_TOKENS = 4096


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Report to nobody."""


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
    """What to write: the pruned checkpoint, and GGUF files by llama.cpp's file types."""

    safetensors: bool = True
    types: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The formats as plans name them."""
        first = (SAFETENSORS,) if self.safetensors else ()
        return (*first, *(GGUF + name for name in self.types))


@dataclass(frozen=True)
class Measuring:
    """What to measure on, and the limits to hold.

    `prompts` are answered by the original first, `answers` were answered by it elsewhere; with
    neither, the test set that lies beside the model is taken (gemmule has one). `per_domain`
    takes that many of each domain. Limits: mean KL in nats at most, top-1 agreement at least.
    """

    prompts: Path | None = None
    answers: Path | None = None
    per_domain: int | None = None
    max_kl: float | None = None
    min_top1: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, as the gate calls them."""
        named = {"max_mean_kl": self.max_kl, "min_top1": self.min_top1}
        return {name: value for name, value in named.items() if value is not None}


def _opened(model: Model, revision: str | None) -> Checkpoint:
    return model if isinstance(model, Checkpoint) else open_checkpoint(model, revision)


def inspect(model: Model, revision: str | None = None) -> Inspection:
    """Look at a model by its headers. Reads no weights."""
    return inspect_checkpoint(_opened(model, revision))


def calibrate(
    model: Model,
    out: Path,
    wish: Calibration,
    *,
    revision: str | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Statistics:
    """Observe a model on a corpus and write the statistics to `out`.

    Raises CorpusError, CheckpointError, NumericError (see calibration.calibrate).
    """
    from secateur.calibration.calibrate import calibrate as run

    checkpoint = _opened(model, revision)
    corpus = corpus_for(checkpoint, wish)
    found = run(
        checkpoint,
        corpus,
        reroute_tokens=wish.reroute_tokens,
        seed=wish.seed or 0,
        workers=workers,
        skip_bad=wish.on_nan == "skip",
        progress=lambda done, total: progress("calibrate", done, total, "tokens"),
    )
    statistics_file.save(found, out)
    return found


def corpus_for(checkpoint: Checkpoint, wish: Calibration) -> Corpus:
    """The rows of a calibration wish, checked against the model's vocabulary."""
    from secateur.corpus.load import load_corpus, load_rows, load_tokenizer

    vocabulary = checkpoint.family.number(checkpoint.config, "vocab")
    if (wish.corpus is None) == (wish.rows is None):
        raise CorpusError("say what to calibrate on: either a mix (--corpus) or rows (--rows)")
    if wish.rows is not None:
        return load_rows(wish.rows, vocabulary)
    return load_corpus(
        str(wish.corpus),
        load_tokenizer(checkpoint.path),
        seed=wish.seed,
        sequence_length=wish.sequence_length,
        vocab_size=vocabulary,
    )


def merge(paths: Sequence[Path], out: Path) -> Statistics:
    """Merge statistics files of one model into one; exact, whatever the order."""
    if not paths:
        raise CorpusError("name at least one statistics file to merge")
    merged = statistics_file.load(paths[0])
    for path in paths[1:]:
        merged = statistics_file.merge(merged, statistics_file.load(path))
    statistics_file.save(merged, out)
    return merged


def coverage(statistics: Path, least: int = LEAST) -> Coverage:
    """Which experts saw fewer than `least` tokens."""
    return coverage_of(statistics_file.load(statistics), least)


def scores(statistics: Path, wish: Pruning) -> Mapping[int, list[float]]:
    """{MoE layer: score per expert} by the wish's criterion; higher stays."""
    found = scores_of(statistics_file.load(statistics), wish)
    return {layer: values.tolist() for layer, values in found.items()}


def plan(
    model: Model,
    wish: Pruning,
    formats: Formats,
    *,
    statistics: Path | None = None,
    revision: str | None = None,
) -> Plan:
    """Decide every output tensor. Reads headers, tokenizer and statistics; no weights."""
    from secateur.output.write import check_statistics
    from secateur.planning.resolve import make_plan

    checkpoint = _opened(model, revision)
    loaded = statistics_file.load(statistics) if statistics else None
    if loaded is not None:
        check_statistics(loaded, checkpoint)
    choice = choose(checkpoint, loaded, wish)
    return make_plan(checkpoint, choice, formats.names, has_imatrix=loaded is not None)


def apply(
    plan: Plan | Path,
    out: Path,
    *,
    model: Model | None = None,
    statistics: Path | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Mapping[str, object]:
    """Write all that a plan says into the new folder `out`; returns its manifest.

    `model` is where the checkpoint lies now (default: where the plan found it). The folder is
    complete or absent. Raises PlanError for a plan that does not fit, OutputError when `out`
    exists, WriteError when the disk fails.
    """
    from secateur.output.write import Sources, check_plan, write_output

    decided = read_plan(plan) if isinstance(plan, Path) else plan
    origin = model if model is not None else decided.model["source"]
    checkpoint = _opened(origin, decided.model.get("revision"))
    loaded = statistics_file.load(statistics) if statistics else None
    sources = Sources(checkpoint, loaded)
    check_plan(decided, sources)
    with complete_or_absent(out) as folder:
        hashes = write_output(
            decided,
            sources,
            folder,
            threads=threads or os.cpu_count() or 1,
            progress=lambda form, done, total: progress(f"write {form}", done, total, "bytes"),
        )
        return manifest_file.write_manifest(folder, facts(decided, loaded), hashes)


def facts(plan: Plan, statistics: Statistics | None) -> dict[str, object]:
    """What a manifest says an output was made from."""
    corpora = statistics.corpora if statistics else ()
    return {
        "model": dict(plan.model),
        "experts": plan.experts,
        "selection": dict(plan.selection),
        "plan_sha256": plan.sha256(),
        "corpora": [
            {key: corpus.get(key) for key in ("mix", "rows_file", "sha256", "tokens")}
            for corpus in corpora
        ],
        "edits": [],
    }


def measure(
    out: Path,
    against: Model,
    wish: Measuring,
    *,
    work: Path | None = None,
    revision: str | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure an output folder, a model folder or a GGUF file against the original.

    In an output of ours the report is written (report.json, report.md) and the manifest brought
    up to date. `work` keeps the original's answers and probabilities for the next time (default:
    the user's cache folder). Raises InputError when there is nothing to measure on.
    """
    from secateur.evaluation.decode import open_artefact
    from secateur.evaluation.divergence import score
    from secateur.evaluation.summary import summarise
    from secateur.evaluation.teacher import TOP_K, teacher_for
    from secateur.forward.weights import CheckpointWeights
    from secateur.release.report import ArtefactReport, Report, write_report

    original = _opened(against, revision)
    threads = workers or os.cpu_count() or 1
    folder = work or _cache() / original.identity()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    answers = answers_for(original, wish, folder, progress)
    teacher = teacher_for(
        CheckpointWeights(original),
        original.identity(),
        answers,
        folder,
        workers=threads,
        progress=lambda done, total, unit: progress("original", done, total, unit),
    )
    reports = []
    for path in artefacts_of(out):
        artefact = open_artefact(path, original, threads=threads)
        stage = f"measure {path.name}"
        found = score(
            teacher,
            artefact.source,
            artefact.identity,
            answers,
            workers=threads,
            progress=lambda done, total, unit, stage=stage: progress(stage, done, total, unit),  # type: ignore[misc]
        )
        files = path.glob("*.safetensors") if path.is_dir() else [path]
        nbytes = sum(file.stat().st_size for file in files)
        name = "safetensors" if path.is_dir() else path.name
        reports.append(ArtefactReport(name, nbytes, summarise(found, answers)))
    kinds = [answer.kind for answer in answers.answers]
    measured_on = {
        "answers": kinds.count("answers"),
        "raw": kinds.count("raw"),
        "tokens": answers.tokens,
        "sha256": answers.sha256,
        "top_k": min(TOP_K, teacher.top_ids.shape[1]),
        "provenance": dict(answers.provenance),
    }
    ours = (out / manifest_file.MANIFEST).is_file()
    made = manifest_file.read_manifest(out) if ours else {}
    known = {name: entry["sha256"] for name, entry in made.pop("files", {}).items()}
    report = Report(
        original=original.source,
        made={key: made[key] for key in made if key not in ("secateur", "versions")},
        calibration={},
        sizes=_sizes(out) if ours else {},
        answers=measured_on,
        artefacts=tuple(reports),
        limits=wish.limits,
    )
    if ours:
        write_report(report, out)
        for name in ("report.json", "report.md"):
            known.pop(name, None)
        manifest_file.write_manifest(out, report.made, known)
    return report


def artefacts_of(out: Path) -> list[Path]:
    """What can be measured in `out`: the folder itself when it holds a checkpoint, its GGUF files.

    Raises OutputError when there is nothing.
    """
    if out.suffix == ".gguf":
        return [out]
    found = [out] if any(out.glob("model*.safetensors")) else []
    found += sorted(path for path in out.glob("*.gguf") if path.name != "imatrix.gguf")
    if not found:
        raise OutputError(f"{out} holds neither a checkpoint nor a GGUF file: nothing to measure")
    return found


def answers_for(
    original: Checkpoint, wish: Measuring, folder: Path, progress: Progress = silent
) -> AnswerSet:
    """The original's answers: given, kept in `folder` from an earlier run, or generated now."""
    from secateur.corpus.load import load_tokenizer
    from secateur.evaluation.answers import load_answers
    from secateur.evaluation.generate import generate_answers, stop_tokens
    from secateur.evaluation.prompts import given_answers, read_prompts

    tokenizer = load_tokenizer(original.path)
    if wish.answers is not None:
        return given_answers(wish.answers, tokenizer, per_domain=wish.per_domain)
    prompts = wish.prompts or original.path / "sets" / "test.jsonl"
    if not prompts.is_file():
        raise CorpusError(
            f"nothing to measure on: {prompts} does not exist; name held-out prompts with "
            "--prompts, or the original's answers with --answers"
        )
    asked = read_prompts(prompts, tokenizer, per_domain=wish.per_domain)
    key = hashlib.sha256(
        json.dumps(
            [original.identity(), dict(asked.provenance), wish.per_domain],
            sort_keys=True,
            default=str,
        ).encode()
    ).hexdigest()
    path = folder / f"answers-{key[:16]}.jsonl"
    if path.exists():
        return load_answers(path, original.family.number(original.config, "vocab"))
    return generate_answers(
        original,
        asked,
        path,
        stop_ids=stop_tokens(original, tokenizer),
        progress=lambda done, total, unit: progress("answers", done, total, unit),
    )


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "secateur"


def _sizes(out: Path) -> dict[str, dict[str, int]]:
    """{format: predicted and written bytes} of an output, by its plan."""
    decided = read_plan(out / "plan.json")
    return {
        form: {
            "predicted": decided.file_bytes(form),
            "written": sum((out / name).stat().st_size for name in decided.files[form]),
        }
        for form in decided.formats
    }


def verify(out: Path, progress: Progress = silent) -> tuple[Problem, ...]:
    """Compare an output with its manifest; empty when all is as it was written."""
    listed = manifest_file.read_manifest(out)["files"]
    total = sum(int(entry["bytes"]) for entry in listed.values())
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress("verify", done, total, "bytes")

    return manifest_file.verify(out, advance)


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan as JSON, complete or absent."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(to_json(plan), "utf-8")
    aside.replace(path)


__all__ = [
    "Calibration",
    "Formats",
    "Measuring",
    "Pruning",
    "apply",
    "calibrate",
    "coverage",
    "inspect",
    "measure",
    "merge",
    "plan",
    "save_plan",
    "scores",
    "verify",
]
