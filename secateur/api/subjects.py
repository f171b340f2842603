"""The models that are asked: the original first, then the artefacts, each served in its turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from secateur.api.original_gguf import gguf_of_original
from secateur.checkpoint.identity import file_hashes
from secateur.checkpoint.reader import Checkpoint
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.request import NO_ORIGINAL, Serving
from secateur.evaluation.asking.server import AskedServer, ask_engine, ask_url
from secateur.outputs.base import Artefact
from secateur.outputs.mlx.format import MlxFormat
from secateur.release.evidence import ORIGINAL
from secateur.serving.chat_server import is_url, public_address
from secateur.serving.engine_server import serve_model
from secateur.serving.settings import ServerSettings
from secateur.system.progress import Progress, no_progress, within


@dataclass(frozen=True)
class Subject:
    """A model that is asked. `source` is a GGUF, an MLX folder, or the address of a server (which
    calls it `model`); `identity` is a hash of all its bytes, or the address."""

    name: str
    source: Path | str
    identity: str
    model: str | None = None


@dataclass(frozen=True)
class Asked:
    """All models that are asked the same, and how.

    `folder` keeps what was answered; `notes` are sentences about models that are not asked.
    """

    subjects: tuple[Subject, ...]
    serving: Serving
    folder: Path
    workers: int | None = None
    progress: Progress = no_progress
    notes: tuple[str, ...] = ()

    @contextmanager
    def serve(self, subject: Subject, settings: ServerSettings) -> Iterator[AskedServer]:
        """A connection to one of them, which is served until the block ends.

        Raises RequestError, FormatError, EngineError (serving.engine_server.serve_model).
        """
        if isinstance(subject.source, str):
            with ask_url(subject.source, subject.model, self.serving.slots) as server:
                yield server
            return
        log = self.folder / "served" / f"{subject.name}.log"
        with serve_model(subject.source, settings, log) as engine, ask_engine(engine) as server:
            yield server

    def open_ledger(self, subject: Subject) -> Ledger:
        """All its replies until now. Raises OutputError, WriteError."""
        name = sha256(subject.identity.encode()).hexdigest()[:16]
        path = self.folder / "replies" / f"{name}.jsonl"
        return Ledger(path, self.serving.retry_errors)

    def settings(self, context: int | None) -> ServerSettings:
        """How each is served; `context` where the request says none."""
        return ServerSettings(
            context=self.serving.context or context,
            slots=self.serving.slots,
            workers=self.workers,
            gpu_layers=self.serving.gpu_layers,
        )


@dataclass(frozen=True, kw_only=True)
class AskedOutput(Asked):
    """The artefacts of an output that are asked beside the `original` that they are of."""

    original: Checkpoint


def original_subject(
    original: Checkpoint, serving: Serving, folder: Path, workers: int, progress: Progress
) -> tuple[Subject, ...]:
    """The original as it is asked; nothing where it is left out.

    Raises RequestError, FormatError, WriteError (api.original_gguf.gguf_of_original).
    """
    given = serving.original
    if given == NO_ORIGINAL:
        return ()
    if given is not None and is_url(given):
        return (url_subject(ORIGINAL, given, serving.original_model),)
    path = gguf_of_original(
        original,
        folder,
        given=given,
        workers=workers,
        progress=within(ORIGINAL, progress),
    )
    return (_file_subject(ORIGINAL, path, workers, progress),)


def artefact_subjects(
    artefacts: Sequence[Artefact], folder: Path, workers: int, progress: Progress
) -> tuple[tuple[Subject, ...], tuple[str, ...]]:
    """The artefacts that an engine serves, and a note for each that is not asked.

    A folder of safetensors is asked as a GGUF in its own precision where nothing else was made.
    """
    served = [one for one in artefacts if one.runs_in_llama_cpp or is_mlx(one.path)]
    if not served:
        found = []
        for one in artefacts:
            path = gguf_of_original(one.path, workers=workers, progress=within(one.name, progress))
            found.append(_file_subject(one.name, path, workers, progress))
        return tuple(found), ()
    notes = tuple(
        f"{one.name} was not asked: neither engine serves safetensors, and what was quantized "
        "stands for it"
        for one in artefacts
        if one not in served
    )
    return tuple(
        Subject(one.name, one.path, _identify(one.files, one.name, workers, progress))
        for one in served
    ), notes


def url_subject(name: str, url: str, model: str | None) -> Subject:
    """What any server serves. Raises RequestError for what is no address."""
    return Subject(name, url, f"{model or 'the model'} at {public_address(url)}", model)


def is_mlx(path: Path) -> bool:
    """Whether it is a folder that mlx-lm serves."""
    return path.is_dir() and MlxFormat().recognises(path)


def _file_subject(name: str, path: Path, workers: int, progress: Progress) -> Subject:
    return Subject(name, path, _identify((path,), name, workers, progress))


def _identify(files: Sequence[Path], name: str, workers: int, progress: Progress) -> str:
    hashes = file_hashes(files, within(name, progress), workers)
    return " ".join(hashes[file] for file in files)
