"""The resolved job that every output holds, and the hashes of all that it reads.

A resolved job leaves nothing open: every key has its value, a mix stands in it, revisions are
commits, and `content` has the sha256 of every input by the key that names it: of files, of the
model (checkpoint.identity), of the rows that calibrated it, and as `job` that of its own text. It
holds no folder of this machine (of an absolute path only the name), no number of threads and no
place of an output, so that the same inputs give the same file everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from secateur import __version__
from secateur.api.held_out import Text, find_questions
from secateur.api.job_text import SEAL, UNSEALED, Paths, job_text, seal_of
from secateur.api.models import load_header
from secateur.api.requests import (
    Calibration,
    Formats,
    Job,
    ShrinkRequest,
    resolve_outputs,
)
from secateur.checkpoint.identity import file_hashes
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.mix import Mix, list_mixes, read_mix
from secateur.errors import RequestError
from secateur.outputs.gguf.format import TOWER
from secateur.outputs.gguf.mmproj import NONE
from secateur.outputs.registry import format_of
from secateur.pruning.criteria.registry import find_criterion
from secateur.recipes.layer_importance import DEFAULT, layer_importance
from secateur.recipes.recipe import Recipe
from secateur.statistics.statistics import Statistics
from secateur.system.device_names import read_device
from secateur.system.progress import Progress, no_progress
from secateur.system.typed_yaml import FILE_ENDINGS, keys_of

MODEL = "model"
ROWS = "calibration.rows"
"""In `content`: the rows of tokens that calibrated the model, whatever they were made of."""
_NO_INPUTS = ("content", "model", "family")


def with_mix(calibration: Calibration) -> Calibration:
    """The calibration with its mix read, unless the mix ships with secateur and brings its text."""
    corpus = calibration.corpus
    if corpus is None or isinstance(corpus, Mix):
        return calibration
    mix = read_mix(corpus)
    brought = corpus in list_mixes() and any(source.path for source in mix.sources)
    return calibration if brought else replace(calibration, corpus=mix)


def input_files(request: ShrinkRequest, checkpoint: Checkpoint) -> dict[str, Path]:
    """{what names it: file} of all files that a request reads, those of its mix included."""
    found = dict(_files_of(request, ""))
    if request.measuring is not None:
        if request.measuring.corpus is not None:
            found |= dict(_files_of(read_mix(request.measuring.corpus), "measuring.corpus"))
        key = "measuring.answers" if request.measuring.answers else "measuring.prompts"
        text = Text(request.calibration, load_header(request.statistics))
        if (path := find_questions(checkpoint, request.measuring, text)) is not None:
            found[key] = path
    return found


def check_files(
    request: ShrinkRequest, checkpoint: Checkpoint, progress: Progress = no_progress
) -> dict[str, str]:
    """{what names it: sha256} of all files that a request reads, but of rows, which are known by
    their tokens (ROWS).

    Raises RequestError for one that a resolved job knows with another content.
    """
    files = {k: path for k, path in input_files(request, checkpoint).items() if k != ROWS}
    hashes = file_hashes(set(files.values()), progress)
    found = {
        key: check_content(request, key, hashes[path], path.name) for key, path in files.items()
    }
    own = checkpoint.family.sha256
    return found | ({"family": check_content(request, "family", own, "its file")} if own else {})


def check_content(request: ShrinkRequest, key: str, sha256: str, name: str) -> str:
    """The hash; raises RequestError when a resolved job expects another one of this input."""
    expected = (request.content or {}).get(key, sha256)
    if sha256 != expected:
        raise RequestError(
            f"{key}: {name} is not what the job was made with (sha256 {sha256[:12]}..., expected "
            f"{expected[:12]}...): put it back as it was, or take what is there now with "
            "--set content=null"
        )
    return sha256


def resolved_job(
    request: ShrinkRequest,
    checkpoint: Checkpoint,
    statistics: Statistics | None,
    files: Mapping[str, str],
) -> str:
    """The text of the job that gives an output again; see the module's docstring.

    `files` are the hashes of `check_files`, `statistics` what the output is made with, if it is.
    """
    content = {SEAL: UNSEALED, MODEL: checkpoint.identity(), **files}
    calibration, commits = request.calibration, {}
    if request.statistics is None:
        calibration = _resolve_calibration(calibration)
    if request.statistics is None and statistics is not None:
        corpus = statistics.corpora[0]
        content[ROWS] = str(corpus["sha256"])
        commits = {
            str(source["name"]): str(source["revision"])
            for source in corpus.get("sources", ())
            if source.get("revision") is not None
        }
        made_on = statistics.devices[0].partition(":")[0]
        calibration = replace(calibration, device=resolve_device(calibration.device, made_on))
    measuring = request.measuring
    if measuring is not None:
        measuring = replace(measuring, device=resolve_device(measuring.device))
    values = {one.name: getattr(request, one.name) for one in fields(ShrinkRequest)}
    family = request.family if isinstance(request, Job) else None
    paths = Paths(request.written)
    job = Job(
        **{
            **values,
            "calibration": calibration,
            "measuring": measuring,
            "pruning": replace(
                request.pruning, criterion=find_criterion(request.pruning.criterion).name
            ),
            "formats": _resolve_formats(request.formats, checkpoint, statistics),
            "content": content,
            "model": paths.file(checkpoint.path) if _is_folder(checkpoint) else checkpoint.source,
            "revision": checkpoint.revision,
            "family": family,
            "secateur": __version__,
        }
    )

    text = _HEAD + job_text(job, paths, leave_out=("out", "running"), commits=commits)
    return text.replace(UNSEALED, seal_of(text))


_HEAD = """\
# What made this output. `secateur run job.yaml -o FOLDER` makes it again, to the byte, where the
# inputs lie next to this file or in the current folder.
"""


def _is_folder(checkpoint: Checkpoint) -> bool:
    """Whether the model was named by its folder."""
    return Path(checkpoint.source) == checkpoint.path


def resolve_device(device: str, made_on: str | None = None) -> str:
    """The device that was used, where `device` was asked for: of the kind `made_on`, where that is
    known (an earlier run, or other machines, may have done the work); torch is loaded where there
    was one."""
    from secateur.forward.backends.choose import is_cpu

    kind = read_device(device).kind
    made_on = made_on or ("cpu" if is_cpu(device) else "cuda" if kind == "auto" else kind)
    return device if kind == made_on else made_on


def _resolve_calibration(calibration: Calibration) -> Calibration:
    """With the mix's seed and length where it has none of its own."""
    if calibration.corpus is None:
        return calibration
    mix = read_mix(calibration.corpus)
    seed = mix.seed if calibration.seed is None else calibration.seed
    length = calibration.sequence_length or mix.sequence_length
    corpus = calibration.corpus
    if isinstance(corpus, Mix):
        corpus = replace(corpus, seed=seed, sequence_length=length)
    return replace(calibration, corpus=corpus, seed=seed, sequence_length=length)


def _resolve_formats(
    formats: Formats, checkpoint: Checkpoint, statistics: Statistics | None
) -> Formats:
    """With every format and the tower's type by name, and what ranks the layers."""
    outputs = resolve_outputs(formats, checkpoint)
    towers = [
        output.base for output in outputs if isinstance(output, Recipe) and output.to == TOWER
    ]
    ranked = layer_importance(None, statistics, checkpoint.layers) is not None
    measured = DEFAULT if ranked else None
    return replace(
        formats,
        to=tuple(dict.fromkeys(format_of(output).name for output in outputs)),
        mmproj=towers[0] if towers else NONE,
        layer_importance=measured if formats.layer_importance is None else formats.layer_importance,
    )


def _files_of(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    """(what names it, file) of the files in a request."""
    if isinstance(value, Mix):
        for source in value.sources:
            if source.path is not None and source.path.is_file():
                yield f"{key}.{source.name}", source.path
    elif is_dataclass(value):
        for name in keys_of(type(value)):
            if name not in _NO_INPUTS:
                yield from _files_of(getattr(value, name), f"{key}.{name}" if key else name)
    elif isinstance(value, Path):
        yield key, value
    elif isinstance(value, str):
        if value.lower().endswith(FILE_ENDINGS) and "://" not in value:
            yield key, Path(value)
    elif isinstance(value, tuple | list):
        for number, entry in enumerate(value):
            yield from _files_of(entry, f"{key}.{number}")
