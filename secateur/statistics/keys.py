"""Every key of a statistics file's JSON header, for the reference; a test holds files against it.

A dotted name is a key within a key; `*` stands for a name that depends on the run.
"""

from __future__ import annotations

from secateur.checkpoint.reader import MODEL_KEYS

HEADER_KEYS = {
    "version": "of the file's form",
    "model": "the model that was observed",
    **{f"model.{key}": about for key, about in MODEL_KEYS.items()},
    "categories": "categories of text, in the order of the arrays",
    "tokens.*": "tokens of each category",
    "skipped": "tokens left out as NaN or infinite",
    "corpora": "every corpus that was merged in: a list",
    "corpora.mix": "name of the mix",
    "corpora.rows_file": "name of the file of rows, instead",
    "corpora.rows_file_sha256": "its sha256",
    "corpora.seed": "seed of the mix",
    "corpora.sequence_length": "tokens of a row",
    "corpora.overlong": "what became of longer documents",
    "corpora.packed": "whether rows hold several documents",
    "corpora.thought": "how thoughts were written",
    "corpora.rows": "how many rows there are",
    "corpora.tokens": "tokens of them",
    "corpora.tokens_by_category.*": "the same by category",
    "corpora.sha256": "sha256 of the rows",
    "corpora.tokenizer_sha256": "sha256 of the tokenizer",
    "corpora.sources.**": "of each source: where it lies, its hash or revision, documents taken, "
    "left out, cut",
    "corpora.held_out.**": "where documents were held out to measure on: the share, how many, "
    "their tokens, near copies left out, the sha256 of each",
    "corpora.warnings": "what was odd about the text",
    "samples": "every document: a list",
    "samples.source": "the source that it is of",
    "samples.category": "its category",
    "samples.sha256": "sha256 of its tokens",
    "samples.tokens": "tokens of it",
    "sums.*": "the kind of every named sum: sum, count, largest or per_sample",
    "devices": "the devices that computed the sums",
    "shards": "[sha256 of the corpus, part, parts] of corpora of which not all is there",
    "hashes.*": "sha256 of each array, with its name, type and shape",
}
"""All keys of the header."""
