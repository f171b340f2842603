"""Rates of this machine for some work: a few seconds of each of its parts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus, Row, Sample, make_corpus
from secateur.errors import WriteError
from secateur.estimation.arithmetic import Shape
from secateur.estimation.assumed import assumed_rates
from secateur.estimation.probe import Passes, PassRates, encode_seconds, probe_pass
from secateur.estimation.rates import COPIED, Rates
from secateur.estimation.work import Calibrating, Work
from secateur.forward.batches import ON_CPU
from secateur.planning.document import Plan
from secateur.system.disk_speed import bytes_to_try, copy_speed, read_speed, write_speed

_HASHED = 16 << 20
"""Bytes that are hashed to learn how fast that is."""
_ROW = 512
"""Tokens of a row of random tokens, where there is no corpus."""


def measure_rates(
    checkpoint: Checkpoint,
    shape: Shape,
    work: Work,
    corpus: Corpus | None,
    passes: Passes,
    *,
    plan: Plan | None = None,
    folder: Path,
    workers: int,
) -> Rates:
    """Try the parts of the work on this machine. `passes` calibrate on a few rows of `corpus`
    (random ones, where there is none); `plan` tells types and widths; `folder` is on the disk that
    is written to.
    """
    assumed = assumed_rates(shape, work.calibrating, workers)
    passed = PassRates(assumed.start, assumed.layers, assumed.rest, 0.0, 0.0)
    if work.runs_model:
        wanted = work.calibrating or Calibrating(_tokens(work), 0, 0.0)
        rows = corpus or _random_corpus(checkpoint, wanted.tokens)
        passed = probe_pass(checkpoint, rows, wanted, shape.layers, passes)
    head, step = assumed.head, assumed.step
    if work.original is not None:
        from secateur.evaluation.tokens.speed import head_seconds

        head = head_seconds(checkpoint, workers)
    if work.answering is not None:
        from secateur.evaluation.tokens.generate import Generation
        from secateur.evaluation.tokens.speed import step_seconds

        asked = work.answering
        mean = asked.prompt_tokens // max(1, asked.prompts)
        settings = Generation(temperature=1.0, batch_size=min(asked.batch, asked.prompts))
        step = step_seconds(checkpoint, mean, workers, settings)

    def copy(there: Path) -> float:
        moved = max(one.read + one.written for one in work.writing)
        return copy_speed(checkpoint.shards, there, bytes_to_try(moved))

    return Rates(
        layers=passed.layers,
        group=ON_CPU.group,
        rest=passed.rest,
        solve=passed.solve,
        solve_layer=passed.solve_layer,
        start=passed.start,
        head=head,
        step=step,
        read=read_speed(checkpoint.shards, bytes_to_try(checkpoint.nbytes)),
        write=_on_disk(folder, write_speed) if passes.with_gram else COPIED,
        copy=_on_disk(folder, copy) if work.writing else COPIED,
        hash=_hash_speed() * workers,
        encode=encode_seconds(_widths(plan), workers) if plan is not None else {},
        gram=passed.gram,
    )


def _tokens(work: Work) -> int:
    return work.original.tokens if work.original is not None else 0


def _widths(plan: Plan) -> dict[str, int]:
    """{type that something is encoded in: width of a row}, of the largest tensor of each."""
    largest: dict[str, tuple[int, int]] = {}
    for tensor in plan.tensors:
        if "convert" in tensor.action:
            entry = tensor.bytes, tensor.shape[-1]
            largest[tensor.type] = max(largest.get(tensor.type, entry), entry)
    return {kind: width for kind, (_, width) in largest.items()}


def _on_disk(folder: Path, speed: Callable[[Path], float]) -> float:
    """What `speed` says of the disk of a folder that may not be there yet."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    try:
        return speed(there)
    except WriteError:
        return COPIED  # it is refused elsewhere, with a better reason


def _hash_speed() -> float:
    data = bytes(_HASHED)
    start = time.perf_counter()
    hashlib.sha256(data).hexdigest()
    return _HASHED / (time.perf_counter() - start)


def _random_corpus(checkpoint: Checkpoint, tokens: int) -> Corpus:
    vocab = checkpoint.family.number(checkpoint.config, "vocab")
    draw = np.random.default_rng(0)
    count = max(1, min(tokens, 4 * ON_CPU.group) // _ROW)
    rows = [
        Row(
            draw.integers(0, vocab, _ROW),
            np.zeros(_ROW, np.int32),
            np.arange(_ROW, dtype=np.int32),
            "random",
            (number,),
        )
        for number in range(count)
    ]
    samples = [Sample("random", "random", f"{number:064x}", _ROW) for number in range(count)]
    return make_corpus(rows, samples, {})
