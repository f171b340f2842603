"""Which documents of a source go into the corpus, and how much of each.

A source is read in an order shuffled by the seed. A document that any source gave before (same
content hash) is passed over, so is an empty one; both are counted. `samples: N` takes the first
N; `tokens: N` takes documents until they reach N tokens and cuts the last one there, so that
the count is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.corpus.chat_template import loses_tool_calls
from secateur.corpus.fields import Content, hash_content, read_content
from secateur.corpus.hub_data import is_commit
from secateur.corpus.json_lines import Record
from secateur.corpus.mix import Overlong, Source
from secateur.corpus.records import open_records
from secateur.corpus.render import tokenize
from secateur.corpus.rows import Chosen, Sample
from secateur.errors import CorpusError
from secateur.system.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Sampling(NamedTuple):
    """What is the same for all sources. `thought`: the format of thoughts, see `thoughts.py`.

    `vocab_size`: of the model, if known; a token id beyond it is an error. `keep_content` keeps
    what was read with the tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    seed: int
    sequence_length: int
    overlong: Overlong
    thought: str | None
    vocab_size: int | None
    progress: Progress
    keep_content: bool = False


class Taken(NamedTuple):
    """What one source gave, what the description says of it, and warnings."""

    chosen: list[Chosen]
    origin: dict[str, Any]
    warnings: list[str]


def take_documents(source: Source, index: int, sampling: Sampling, seen: set[str]) -> Taken:
    """Choose the documents of source number `index`; their hashes are added to `seen`.

    Raises CorpusError for a record that cannot be used, a token id beyond the vocabulary, and a
    source that has less than was asked of it, unless it allows that.
    """
    stage = f"source {source.name}"
    # Without a unit: how many there are is known when the file or data set has been read.
    sampling.progress(f"read {source.name}", 0, 1, "")
    found = open_records(source)
    sampling.progress(f"read {source.name}", 1, 1, "")
    order = np.random.Generator(np.random.PCG64([sampling.seed, index]))
    counts = {"duplicates": 0, "empty": 0, "dropped": 0, "truncated": 0}
    chosen: list[Chosen] = []
    lost: list[str] = []
    tokens = 0
    for position in order.permutation(len(found.records)):
        if len(chosen) == source.samples or tokens == source.tokens:
            break
        record, where = found.records[int(position)], found.place(int(position))
        content = read_content(record, source.fields, source.thought_tags, where)
        sha256 = hash_content(content, where)
        if sha256 in seen:
            counts["duplicates"] += 1
            continue
        seen.add(sha256)
        ids = _tokenize(content, source, sampling, where)
        if len(ids) and loses_tool_calls(
            sampling.tokenizer, content.messages, content.tools, source.template
        ):
            # Without the folders of this machine: warnings are part of the corpus' description.
            lost.append(where.rsplit("/", 1)[-1])
        too_long = len(ids) > sampling.sequence_length
        if not len(ids):
            counts["empty"] += 1
            continue
        if too_long and sampling.overlong == "drop":
            counts["dropped"] += 1
            continue
        if too_long and sampling.overlong == "truncate":
            counts["truncated"] += 1
            ids = ids[: sampling.sequence_length]
        if source.tokens is not None:
            ids = ids[: source.tokens - tokens]
        tokens += len(ids)
        sample = Sample(source.name, read_category(record, source, where), sha256, len(ids))
        if sampling.keep_content:
            chosen.append(Chosen(sample, ids, content, source.template, sampling.thought))
        else:
            chosen.append(Chosen(sample, ids))
        if source.tokens is not None:
            sampling.progress(stage, tokens, source.tokens, "tokens")
        else:
            total = source.samples or len(found.records)
            sampling.progress(stage, len(chosen), total, "samples")
    origin = {
        "name": source.name, **found.origin, "samples": len(chosen), "tokens": tokens, **counts,
    }  # fmt: skip
    warnings = _warn_of_shortage(source, len(chosen), tokens, counts)
    return Taken(chosen, origin, warnings + _warn_of_source(source, origin, lost))


def _warn_of_source(source: Source, origin: Mapping[str, Any], lost: Sequence[str]) -> list[str]:
    """What may be wrong with a corpus that is made of it; `lost` are conversations whose tool
    calls the chat template does not write."""
    warnings = [f"source {source.name!r}: {lack}" for lack in warn_of_lost_calls(lost)]
    if source.hub is not None and not is_commit(origin["revision"]):
        warnings.append(
            f"source {source.name!r}: which revision of {source.hub} was read is not known, so "
            "this corpus may not be made again; give its commit (40 hex digits) as `revision`"
        )
    return warnings


def _tokenize(
    content: Content, source: Source, sampling: Sampling, where: str
) -> NDArray[np.int64]:
    """The tokens [token] of a document; none if there is not a word in it."""
    if is_empty(content):
        return np.empty(0, np.int64)
    ids = tokenize(content, sampling.tokenizer, source.template, sampling.thought, where)
    if sampling.vocab_size is not None and len(ids) and ids.max() >= sampling.vocab_size:
        raise CorpusError(
            f"{where}: the tokenizer gives token {ids.max()}, but the model's vocabulary is 0 to "
            f"{sampling.vocab_size - 1}; the tokenizer is of another model"
        )
    return ids


def is_empty(content: Content) -> bool:
    """Whether there is not a word in a document, and no tool call."""
    if content.text is not None:
        return not content.text.strip()
    return not any(
        message.get("tool_calls") or _has_words(message.get("content"))
        for message in content.messages
    )


def _has_words(content: Any) -> bool:
    """Whether a message says anything: its content is text, or a list of parts with text."""
    parts = [content] if isinstance(content, str) else [part["text"] for part in content or ()]
    return any(part.strip() for part in parts)


def warn_of_lost_calls(lost: Sequence[str]) -> list[str]:
    """What to say of conversations, by their places, whose tool calls are not written."""
    if not lost:
        return []
    return [
        f"the chat template writes nothing of some tool calls in {len(lost)} of its "
        f"conversations (the first is {lost[0]}), so the model is not calibrated on them; give "
        "those messages another content, or use a template that writes them"
    ]


def read_category(record: Record, source: Source, where: str) -> str:
    """The category of a record. Raises CorpusError for one that names none."""
    if source.category_field is None:
        assert source.category is not None  # a Source has one of the two
        return source.category
    category = record.get(source.category_field)
    if not isinstance(category, str) or not category:
        raise CorpusError(
            f"{where}: {source.category_field} is {category!r:.60}, expected the name of a category"
        )
    return category


def _warn_of_shortage(
    source: Source, samples: int, tokens: int, counts: dict[str, int]
) -> list[str]:
    """A warning if the source has less than was asked; an error unless it allows that."""
    got, wanted, unit = samples, source.samples or 1, "samples"
    if source.tokens is not None:
        got, wanted, unit = tokens, source.tokens, "tokens"
    if got >= wanted:
        return []
    passed_over = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    message = (
        f"source {source.name!r}: {source.location} has only {got} of {wanted} {unit}"
        f"{f' ({passed_over})' if passed_over else ''}"
    )
    if not source.allow_short:
        raise CorpusError(f"{message}; ask for fewer, or set `allow_short: true` in this source")
    return [message]
