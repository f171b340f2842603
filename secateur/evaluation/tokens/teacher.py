"""What the original says at every scored token, small enough to keep: its top K and the rest.

Per token: the K most probable ids with their log-probabilities, the log of all the mass outside
them (one rest bin), the log-probability of the token that is really there, the most probable
token, and the experts that were chosen in every layer. With the default K that is 2 KiB a token,
and a byte for each expert, where the full vocabulary of a large model takes a megabyte. A
divergence over these bins bounds the full one from below (data processing inequality), is exact
when K covers the vocabulary, and is exactly 0 between equal logits.

Computed once per original and set of answers, kept in one safetensors file, used for every
artefact.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import InputError
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher_forced import Chunk, run_teacher_forced
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.weights import WeightSource
from secateur.system.array_file import read_arrays, write_arrays
from secateur.system.cache import kept_file, touch
from secateur.system.locks import made_once
from secateur.system.progress import Progress, no_progress

TOP_K = 256
_log = logging.getLogger(__name__)

FORMAT = "secateur teacher 4"

_TINY = 1e-30
"""Mass outside the top, relative to the most probable token, below which float32 loses parts."""


class Bins(NamedTuple):
    """Log-probabilities of n tokens over K + 1 bins, in float32."""

    top: Tensor
    """[n, K]: of the ids asked for."""
    rest: Tensor
    """[n]: of all other ids together; -inf when there are none."""
    actual: Tensor
    """[n]: of the token that is there."""


@dataclass(frozen=True)
class Teacher:
    """The original's view of N scored tokens. Arrays are float32 and int32; natural logarithms."""

    top_ids: NDArray[np.int32] = field(repr=False)
    """[N, K], most probable first."""
    top: NDArray[np.float32] = field(repr=False)
    """[N, K]"""
    rest: NDArray[np.float32] = field(repr=False)
    """[N]"""
    actual: NDArray[np.float32] = field(repr=False)
    """[N]: log-probability of the token that is there."""
    best: NDArray[np.int32] = field(repr=False)
    """[N]: the most probable token."""
    layers: NDArray[np.int32] = field(repr=False)
    """[L]: the layers that have experts."""
    experts: NDArray[np.integer[Any]] = field(repr=False)
    """[N, L, k]: the experts that were chosen where the token is predicted, in no order."""
    answers_sha256: str
    provenance: Mapping[str, Any]
    """JSON-able: the original's identity, K, the versions of what computed it."""

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return len(self.rest)

    @property
    def sha256(self) -> str:
        """Of what determined the numbers: original, answers, K, versions."""
        return _key(self.answers_sha256, self.provenance)


def bins(logits: Tensor, ids: Tensor, target: Tensor) -> Bins:
    """Log-probabilities of float32 logits [n, V] at `ids` [n, K], of the rest, and at target [n].

    exp() is float32, of differences to the largest logit; sums run in float64 (a float32 sum over a
    vocabulary loses the tail), and so do logarithms; results are rounded to float32. A token's
    numbers depend on its own logits alone. Memory: the logits once more.
    """
    most = logits.amax(-1, keepdim=True)
    weights = (logits - most).exp_()
    most = most.double()
    total = most + weights.sum(-1, keepdim=True, dtype=torch.float64).log()
    top = (logits.gather(-1, ids) - total).float()
    actual = (logits.gather(-1, target.unsqueeze(-1)) - total).squeeze(-1).float()
    if ids.shape[-1] == logits.shape[-1]:
        return Bins(top, torch.full_like(actual, -torch.inf), actual)
    # Not log(1 - sum of top): that cancels when the rest is small.
    others = weights.scatter_(-1, ids, 0).sum(-1, dtype=torch.float64)
    rest = others.log() + (most - total).squeeze(-1)
    tiny = others < _TINY
    if bool(tiny.any()):
        rest[tiny] = _rest(logits[tiny].double(), ids[tiny]) - total[tiny].squeeze(-1)
    return Bins(top, rest.float(), actual)


def _rest(logits: Tensor, ids: Tensor) -> Tensor:
    """Log of the mass of all but `ids`, before it is normalised, where float32 cannot hold it."""
    return torch.logsumexp(logits.scatter_(-1, ids, -torch.inf), -1)


def teach(
    source: WeightSource,
    identity: str,
    answers: AnswerSet,
    *,
    top_k: int = TOP_K,
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    layers: int | None = None,
    progress: Progress = no_progress,
) -> Teacher:
    """Run the original over the answers. `identity`: its hash, `Checkpoint.identity()`.

    K is `top_k`, or the whole vocabulary when that is smaller. `layers`: as `run_teacher_forced`
    takes them. Peak memory: the streamed
    forward's, and 8 * (K + 2) bytes per scored token and 1 (2 above 256 experts) for each expert
    that it chose.
    """
    vocab = source.family.number(source.config, "vocab")
    kept = min(top_k, vocab)
    count = answers.tokens
    ids_NK = np.empty((count, kept), np.int32)
    top_NK = np.empty((count, kept), np.float32)
    rest_N, actual_N = np.empty(count, np.float32), np.empty(count, np.float32)

    def work(chunk: Chunk, logits: Tensor) -> None:
        ids = torch.topk(logits, kept, dim=-1).indices
        found = bins(logits, ids, torch.from_numpy(chunk.target).to(logits.device))
        ids_NK[chunk.token] = ids.cpu().numpy()
        top_NK[chunk.token] = found.top.cpu().numpy()
        rest_N[chunk.token] = found.rest.cpu().numpy()
        actual_N[chunk.token] = found.actual.cpu().numpy()
        best_N[chunk.token] = logits.argmax(-1).cpu().numpy()

    best_N = np.empty(count, np.int32)
    chosen = run_teacher_forced(
        source, answers, work, backend=backend, layers=layers, progress=progress
    )
    return Teacher(
        ids_NK,
        top_NK,
        rest_N,
        actual_N,
        best_N,
        np.array(chosen.layers, np.int32),
        chosen.experts,
        answers.sha256,
        _provenance(identity, kept, backend.name),
    )


def teacher_for(
    source: WeightSource,
    identity: str,
    answers: AnswerSet,
    folder: Path,
    *,
    top_k: int = TOP_K,
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    progress: Progress = no_progress,
) -> Teacher:
    """The teacher kept in `folder`, or computed and put there.

    The file's name is the hash of the original, the answers, K, the device and the versions of
    torch and transformers (other kernels give other last bits, and identity would no longer be
    exactly 0). Of two processes one waits for the other's.
    """

    def make() -> Teacher:
        return teach(source, identity, answers, top_k=top_k, backend=backend, progress=progress)

    key = teacher_key(source, identity, answers, backend.name, top_k)
    return keep_teacher(key, answers, folder, make, progress)


def teacher_key(
    source: WeightSource, identity: str, answers: AnswerSet, device: str, top_k: int = TOP_K
) -> str:
    """`Teacher.sha256` of what `teach` makes on a backend of the name `device`."""
    kept = min(top_k, source.family.number(source.config, "vocab"))
    return _key(answers.sha256, _provenance(identity, kept, device))


def keep_teacher(
    key: str,
    answers: AnswerSet,
    folder: Path,
    make: Callable[[], Teacher],
    progress: Progress = no_progress,
) -> Teacher:
    """The teacher of a key (`teacher_key`) that is kept in `folder`, or what `make` makes, put
    there; see `teacher_for`."""
    path = kept_file(folder, "probabilities", key)

    def load() -> Teacher:
        teacher = load_teacher(path)
        check_same_answers(teacher, answers, path)
        if teacher.sha256 != key:
            raise InputError(f"{path} was made from another original: delete it")
        touch(path)
        _log.info("%s: the original's probabilities of an earlier run, used again", path)
        return teacher

    def make_and_save() -> Teacher:
        teacher = make()
        save_teacher(teacher, path)
        return teacher

    return made_once(
        path, load, make_and_save, lambda: progress("wait for another process", 0, 1, "")
    )


def check_same_answers(teacher: Teacher, answers: AnswerSet, where: object = "the teacher") -> None:
    """Raise InputError unless the teacher saw exactly these answers."""
    if (teacher.answers_sha256, teacher.tokens) != (answers.sha256, answers.tokens):
        raise InputError(
            f"{where} was computed on answers {teacher.answers_sha256[:12]} ({teacher.tokens} "
            f"scored tokens), but these are {answers.sha256[:12]} ({answers.tokens}): "
            "compute the teacher for these answers"
        )


def save_teacher(teacher: Teacher, path: Path) -> None:
    """Write the file: complete or absent. Raises WriteError."""
    arrays = {name: getattr(teacher, name) for name in ARRAYS}
    head = {
        "format": FORMAT,
        "answers_sha256": teacher.answers_sha256,
        "provenance": json.dumps(teacher.provenance, sort_keys=True),
    }
    write_arrays(path, arrays, head)


def load_teacher(path: Path) -> Teacher:
    """Read a file that `save_teacher` wrote. Raises InputError when it is something else."""
    arrays, head = read_arrays(path, FORMAT, ARRAYS)
    return Teacher(**arrays, answers_sha256=head["answers_sha256"], provenance=head["provenance"])


ARRAYS = ("top_ids", "top", "rest", "actual", "best", "layers", "experts")
"""Of a Teacher, in its file."""


def _provenance(identity: str, top_k: int, device: str) -> dict[str, Any]:
    import transformers

    return {
        "original": identity,
        "top_k": top_k,
        "device": device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _key(answers_sha256: str, provenance: Mapping[str, Any]) -> str:
    content = {"answers": answers_sha256, "format": FORMAT, **provenance}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
