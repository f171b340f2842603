"""What decides statistics, as a hash: what an interrupted run has made is found by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from secateur import __version__
from secateur.api.held_out import HELD_OUT
from secateur.api.requests import Calibration
from secateur.checkpoint.reader import FAMILY_FILE, Checkpoint
from secateur.corpus.rows import Corpus
from secateur.release.manifest import versions

if TYPE_CHECKING:
    from secateur.forward.backends.base import Backend


def statistics_key(checkpoint: Checkpoint, corpus: Corpus, calibration: Calibration) -> str:
    """A hash of all that decides statistics: model, rows, settings, and our versions."""
    return _hash(_decisive(checkpoint, corpus, calibration))


def pass_key(
    checkpoint: Checkpoint, corpus: Corpus, calibration: Calibration, backend: Backend
) -> str:
    """A hash of all that decides what a pass keeps on its way: that, which part of the corpus it
    is, where it runs, and how documents are put together there."""
    more = {
        "shard": calibration.shard,
        "keep_sample": calibration.keep_sample,
        "device": backend.name,
        "dtype": str(backend.dtype),
        "batches": astuple(backend.batch_size),
    }
    return _hash({**_decisive(checkpoint, corpus, calibration), **more})


def _decisive(checkpoint: Checkpoint, corpus: Corpus, calibration: Calibration) -> dict[str, Any]:
    return {
        "secateur": __version__,
        "versions": versions(),
        "model": checkpoint.identity(),
        "family": checkpoint.facts().get(FAMILY_FILE),
        "corpus": corpus.sha256,
        "held_out": corpus.description.get(HELD_OUT),
        "reroute_tokens": calibration.reroute_tokens,
        "on_nan": calibration.on_nan,
        "observe": calibration.observe,
        "gram": calibration.gram,
        "gram_tokens": calibration.gram_tokens,
    }


def _hash(decides: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
