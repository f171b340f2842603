"""`calibrate`: observe a model on a corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.api.models import File, Model, open_weights
from secateur.api.requests import Calibration
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import RequestError
from secateur.statistics import file as statistics_file
from secateur.statistics.sample_file import sample_path
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import check_writable
from secateur.system.progress import Progress, no_progress
from secateur.system.sizes import show_bytes

if TYPE_CHECKING:
    from secateur.corpus.rows import Corpus


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

    With `keep_sample`, or of a shard, the token sample is written next to it (sample_path).
    `on_message` is called with what the run will cost before it starts. Raises CorpusError,
    CheckpointError, NumericError (see calibration.calibrate).
    """
    from secateur.calibration.cost import cost_of
    from secateur.calibration.layer_pass import calibrate as run
    from secateur.calibration.observers.registry import find_observers
    from secateur.calibration.shards import WHOLE, read_shard
    from secateur.calibration.token_sample import Sampling

    observers = find_observers(request.observe)
    shard = read_shard(request.shard) if request.shard else WHOLE
    checkpoint = open_weights(model, revision, "calibrating")
    out = Path(out)
    check_writable(out)
    # Without its sample a part could not be merged into what a pass over the whole corpus gives.
    kept = request.reroute_tokens > 0 and (request.keep_sample or shard.parts > 1)
    sample = sample_path(out) if kept else None
    corpus = corpus_for(checkpoint, request)
    on_message(
        f"calibrating on {corpus.tokens:,} tokens: "
        f"{cost_of(checkpoint, corpus, request.reroute_tokens).sentence()}"
    )
    found = run(
        checkpoint,
        corpus,
        sampling=Sampling(request.reroute_tokens, keep=sample),
        shard=shard,
        workers=workers,
        skip_bad=request.on_nan == "skip",
        observers=observers,
        progress=progress,
    )
    statistics_file.save(found, out)
    if sample is not None:
        on_message(f"token sample: {sample}, {show_bytes(sample.stat().st_size)}")
    return found


def corpus_for(checkpoint: Checkpoint, request: Calibration) -> Corpus:
    """The rows of a calibration request, checked against the model's vocabulary."""
    from secateur.corpus.load import load_corpus, load_rows, load_tokenizer

    vocabulary = checkpoint.family.number(checkpoint.config, "vocab")
    if (request.corpus is None) == (request.rows is None):
        raise RequestError(
            "say what to calibrate on: either a mix (corpus) or rows of tokens (rows)"
        )
    if request.rows is not None:
        return load_rows(request.rows, vocabulary)
    return load_corpus(
        str(request.corpus),
        load_tokenizer(checkpoint.path),
        seed=request.seed,
        sequence_length=request.sequence_length,
        vocab_size=vocabulary,
    )
