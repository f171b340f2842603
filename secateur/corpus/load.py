"""A mix and a tokenizer to the rows that calibrate a model.

Everything is decided by the mix, its seed and the content of its sources: the same three give
the same rows and the same hash on every machine. The chosen documents of all sources are
shuffled together before they are packed, so any first part of the rows is a fair sample.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.corpus.evaluation_sets import find_evaluation_set
from secateur.corpus.held_out import HoldOut, hold_out
from secateur.corpus.hub_data import NEEDS_DATASETS
from secateur.corpus.mix import Mix, list_mixes, read_mix
from secateur.corpus.packing import Document, pack
from secateur.corpus.row_file import load_rows
from secateur.corpus.rows import PADDING, Chosen, Corpus, Row, Sample, make_corpus
from secateur.corpus.sampling import Sampling, take_documents
from secateur.corpus.thoughts import find_thought_format, find_unknown_markers
from secateur.corpus.tokenizer import hash_tokenizer, load_tokenizer
from secateur.errors import CorpusError
from secateur.system.progress import Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PADDING", "Corpus", "Row", "Sample", "check_mix", "load_corpus", "load_rows",
    "load_tokenizer", "list_mixes",
]  # fmt: skip


def check_mix(mix: Path | str | Mix) -> None:
    """Raise what `load_corpus` would about the mix itself and the places of its sources.

    Takes no time: reads no source, loads no tokenizer and none of the large libraries. Raises
    CorpusError.
    """
    for source in read_mix(mix).sources:
        where = f"source {source.name!r}"
        if source.path is not None and not source.path.exists():
            raise CorpusError(f"{where}: there is no {source.path}; paths are relative to the mix")
        if (source.path is None or source.path.is_dir()) and find_spec("datasets") is None:
            raise CorpusError(f"{where}: {NEEDS_DATASETS.format(source.location)}")


def load_corpus(
    mix: Path | str | Mix,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int | None = None,
    sequence_length: int | None = None,
    vocab_size: int | None = None,
    held_out: HoldOut | None = None,
    progress: Progress = no_progress,
) -> Corpus:
    """Build the rows of a mix, named by path (.yaml, .jsonl, .txt) or by name (`list_mixes()`).

    `seed` and `sequence_length` (tokens) take the place of the mix's own. `vocab_size`: of the
    model, to refuse token ids that it does not have. `held_out`: the share of the documents that
    is no part of the rows, to measure on; amounts that the mix asks for are of both together.
    Raises CorpusError for anything wrong with the mix, its sources or their records, and
    EngineError when the hub cannot be reached. Peak memory: the token ids of the corpus and the
    largest local file, parsed.
    """
    plan = override(read_mix(mix), seed, sequence_length)
    thought, warnings = choose_thought_format(plan, tokenizer)
    sampling = Sampling(
        tokenizer,
        plan.seed,
        plan.sequence_length,
        plan.overlong,
        thought,
        vocab_size,
        progress,
        keep_content=held_out is not None,
    )
    chosen, origins, found = _take(plan, sampling)
    warnings += found
    kept_out: tuple[Chosen, ...] = ()
    facts: dict[str, Any] = {}
    if held_out is not None:
        chosen, kept_out, described = hold_out(chosen, held_out)
        facts = {"held_out": described}
    order = np.random.Generator(np.random.PCG64([plan.seed, len(plan.sources)]))
    documents = (
        Document(int(index), chosen[index].sample.category, chosen[index].input_ids)
        for index in order.permutation(len(chosen))
    )
    description = {
        **_describe(plan, thought, tokenizer),
        "sources": origins,
        "warnings": warnings,
        **facts,
    }
    return make_corpus(
        pack(documents, plan.sequence_length, together=plan.pack),
        (entry.sample for entry in chosen),
        description,
        kept_out,
    )


def _describe(mix: Mix, thought: str | None, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "mix": mix.name,
        "seed": mix.seed,
        "sequence_length": mix.sequence_length,
        "overlong": mix.overlong,
        "packed": mix.pack,
        "thought": thought,
        "tokenizer_sha256": hash_tokenizer(tokenizer),
    }


def _take(mix: Mix, sampling: Sampling) -> tuple[list[Chosen], list[dict[str, Any]], list[str]]:
    """(the documents of all sources, what the description says of each source, warnings)"""
    chosen: list[Chosen] = []
    origins = []
    warnings: list[str] = []
    seen: set[str] = set()
    for index, source in enumerate(mix.sources):
        if (known := find_evaluation_set(source)) is not None:
            warnings.append(
                f"source {source.name!r} reads {known}, a set that models are scored on; scores "
                "on it will flatter a model that was calibrated with this corpus"
            )
        taken = take_documents(source, index, sampling, seen)
        chosen += taken.chosen
        origins.append(taken.origin)
        warnings += taken.warnings
    if not chosen:
        raise CorpusError(f"the mix {mix.name!r} has no usable documents, so it gives no rows")
    return chosen, origins, warnings


def override(mix: Mix, seed: int | None, sequence_length: int | None) -> Mix:
    """The mix with these in the place of its own. Raises CorpusError for what cannot be."""
    if seed is not None and seed < 0:
        raise CorpusError(f"seed is {seed}, expected 0 or more")
    if sequence_length is not None and sequence_length < 1:
        raise CorpusError(f"sequence length is {sequence_length} tokens, expected 1 or more")
    return replace(
        mix,
        seed=mix.seed if seed is None else seed,
        sequence_length=mix.sequence_length if sequence_length is None else sequence_length,
    )


def choose_thought_format(
    mix: Mix, tokenizer: PreTrainedTokenizerBase
) -> tuple[str | None, list[str]]:
    """The format of the mix's thoughts, if it has any, and warnings about it.

    Raises CorpusError when the model has none.
    """
    if not any(source.fields.thought or source.thought_tags for source in mix.sources):
        return None, []
    form = find_thought_format(tokenizer, mix.thought)
    unknown = [] if form is None else find_unknown_markers(form, tokenizer)
    return form, [
        f"the mix writes thoughts with {marker}, which is no token of this tokenizer; its "
        "`thought` may be the format of another model"
        for marker in unknown
    ]
