"""A job: all steps in one file, and `run`, which does what it says.

    model: google/gemma-4-26B-A4B-it
    pruning: {experts: 90}
    formats: {types: [Q4_K_M, Q8_0]}
    calibration: {corpus: mix.yaml}
    measuring: {prompts: test.jsonl, max_kl: 0.1}
    out: out

The keys are the fields of the requests (api/requests.py), by their names; a key that is unknown,
a value of another kind and values that contradict each other are errors with file and line, before
anything else is read.

- Relative paths count from the job's folder. A text that ends like a file (.yaml, .jsonl, .gguf,
  ...) is a path where a name may stand too.
- A key without a value is not given. `measuring: false` measures nothing.
- `calibration.corpus` is a mix's name, a file, or a mix itself, with the keys of its file.
- `secateur run job.yaml --set pruning.experts=90` puts a value into it; its paths count from the
  current folder.

Every output holds the job that made it, resolved, as `job.yaml`: nothing left to a default, the
mix in it, revisions as commits, and under `content` the sha256 of every input and of itself.
Running that gives the same bytes. Inputs are looked for next to it and in the current folder; one
whose content is another is refused, and so is a resolved job that was changed by other means than
`--set`. Of an absolute path it keeps the name only: outputs hold no folder of the machine that
made them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur import __version__
from secateur.api.job_content import MODEL
from secateur.api.job_file import read_job
from secateur.api.models import File, Model, open_same, with_family
from secateur.api.requests import Job
from secateur.api.shrink import estimate_shrink, shrink
from secateur.errors import RequestError
from secateur.system.progress import Progress, no_progress

if TYPE_CHECKING:
    from secateur.estimation.stage import Estimate
    from secateur.release.report import Report


def place_of(job: Job, out: File | None = None) -> Path:
    """Where the output of a job goes: `out`, else the job's. Raises RequestError without either."""
    if out is None and job.out is None:
        raise RequestError("the job does not say where its output goes: give out (-o)")
    return Path(job.out or "" if out is None else out)


def run(
    job: Job | File,
    out: File | None = None,
    *,
    set: Sequence[str] = (),  # noqa: A002 - the option's name
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Report | None:
    """Do all that a job says, as `shrink` does; returns the report, None when it measures nothing.

    `job` is a Job, or the path of a job file, in which `set` puts values as in
    "pruning.experts=90". `out` takes the place of the job's. Raises RequestError with file and
    line for a file that is no job, and for an input whose content is not that of a resolved job;
    see `shrink` for the rest.
    """
    asked = job if isinstance(job, Job) else read_job(Path(job), set)
    if isinstance(job, Job) and set:
        raise RequestError("set is for a job file: use dataclasses.replace for a Job")
    if asked.secateur not in (None, __version__):
        on_message(
            f"the job was resolved by secateur {asked.secateur}, this is {__version__}: the output "
            "may have other bytes"
        )
    return shrink(
        _open_model(asked),
        place_of(asked, out),
        asked,
        revision=asked.revision,
        workers=asked.running,
        on_message=on_message,
        progress=progress,
    )


def estimate(job: Job, out: File | None = None, *, progress: Progress = no_progress) -> Estimate:
    """What a job would take; see `api.shrink.estimate_shrink`."""
    return estimate_shrink(
        _open_model(job),
        place_of(job, out),
        job,
        revision=job.revision,
        workers=job.running,
        progress=progress,
    )


def _open_model(job: Job) -> Model:
    """The model as `shrink` takes it. What a resolved job knows by its hash may be a copy."""
    if MODEL in (job.content or {}):
        return open_same(job.model, job.revision, "shrinking", job.family)
    return with_family(job.model, job.revision, job.family, weights=True)
