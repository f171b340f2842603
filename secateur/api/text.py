"""The text of a request: a mix or rows, checked before anything is loaded, and as a corpus."""

from __future__ import annotations

from secateur.api.requests import Calibration
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.held_out import HoldOut
from secateur.corpus.load import check_mix, load_corpus
from secateur.corpus.row_file import load_rows
from secateur.corpus.rows import Corpus
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import RequestError
from secateur.system.progress import Progress, no_progress

_NEEDS_TEXT = "say what to calibrate on: either a mix (corpus) or rows of tokens (rows)"


def check_text(checkpoint: Checkpoint, request: Calibration) -> None:
    """Refuse what can be known of the text without the tokenizer, and so without torch.

    Raises RequestError, or CorpusError for a mix that cannot be read or names a file that is not
    there.
    """
    if request.rows is not None:
        load_rows(request.rows, _vocabulary(checkpoint))
        return
    if request.corpus is None:
        raise RequestError(_NEEDS_TEXT)
    check_mix(request.corpus)


def build_corpus(
    checkpoint: Checkpoint, request: Calibration, progress: Progress = no_progress
) -> Corpus:
    """The rows of a calibration request, checked against the model's vocabulary, and what it
    holds out of them."""
    held_out = None if request.held_out is None else HoldOut(request.held_out)
    if request.rows is not None:
        return load_rows(request.rows, _vocabulary(checkpoint), held_out)
    if request.corpus is None:
        raise RequestError(_NEEDS_TEXT)
    return load_corpus(
        request.corpus,
        load_tokenizer(checkpoint.path),
        seed=request.seed,
        sequence_length=request.sequence_length,
        vocab_size=_vocabulary(checkpoint),
        held_out=held_out,
        progress=progress,
    )


def _vocabulary(checkpoint: Checkpoint) -> int:
    """Number of token ids that the model has."""
    return checkpoint.family.number(checkpoint.config, "vocab")
