"""What a mix will give, from a sample of each source: told before hours are spent on it.

Documents are taken in the very order in which the corpus is made, so what is counted of a source
that is looked at whole is exact; of a longer one the sample is extrapolated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median, quantiles
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.corpus.chat_template import loses_tool_calls
from secateur.corpus.evaluation_sets import find_evaluation_set
from secateur.corpus.fields import Content, hash_content, read_content
from secateur.corpus.load import choose_thought_format
from secateur.corpus.mix import Mix, Source
from secateur.corpus.records import Records, open_records
from secateur.corpus.render import tokenize
from secateur.corpus.sampling import is_empty, read_category, warn_of_lost_calls
from secateur.errors import SecateurError
from secateur.system.progress import Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 200
"""Documents of each source that are rendered, where not said otherwise."""

_SHOWN = 400
"""Characters of the example that is shown of a source."""


class Lengths(NamedTuple):
    """Tokens of documents, before any cut."""

    mean: float
    median: float
    p95: float
    longest: int


@dataclass(frozen=True)
class SourceCheck:
    """What one source holds, and what the mix will have of it.

    `records` are those it has and `sampled` those that were rendered; `usable`, `duplicates`,
    `empty` and `overlong` count in the sample, `overlong` those of more tokens than a row has.
    `asked` is the amount that the mix wants in `unit` (None: all), `documents` and `tokens` what it
    will get; exact where the whole source was looked at. `assistant` is the share of the sample's
    tokens that the assistant wrote; `categories` {category: share of the sample's tokens}.
    `problems` say what is wrong, `example` is the beginning of the first document as rendered.
    """

    name: str
    location: str
    asked: int | None = None
    unit: str = "documents"
    records: int = 0
    sampled: int = 0
    usable: int = 0
    duplicates: int = 0
    empty: int = 0
    overlong: int = 0
    lengths: Lengths | None = None
    documents: int = 0
    tokens: int = 0
    assistant: float = 0.0
    categories: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    fails: bool = False
    example: str = ""

    @property
    def exact(self) -> bool:
        """Whether all of it was looked at."""
        return self.sampled == self.records


@dataclass(frozen=True)
class MixCheck:
    """What all sources of a mix give together; `drawn` are the tokens [token] of the sampled
    documents, with their category, for an estimate."""

    mix: Mix
    sources: tuple[SourceCheck, ...]
    problems: tuple[str, ...]
    drawn: tuple[tuple[str, NDArray[np.int64]], ...] = field(repr=False, default=())

    @property
    def tokens(self) -> int:
        """Tokens of all sources."""
        return sum(source.tokens for source in self.sources)

    @property
    def categories(self) -> dict[str, int]:
        """{category: tokens} over all sources, by name."""
        found: Counter[str] = Counter()
        for source in self.sources:
            for category, share in source.categories.items():
                found[category] += round(share * source.tokens)
        return dict(sorted(found.items()))

    @property
    def fails(self) -> bool:
        """Whether the corpus cannot be made as it is."""
        return any(source.fails for source in self.sources)


def check_sources(
    mix: Mix,
    tokenizer: PreTrainedTokenizerBase,
    sample: int = SAMPLE,
    progress: Progress = no_progress,
) -> MixCheck:
    """Render `sample` documents of every source with the model's chat template, and count.

    A source that cannot be used is told in its `problems`, so that all are told at once. Raises
    CorpusError for thoughts that the model has no format for.
    """
    thought, problems = choose_thought_format(mix, tokenizer)
    seen: set[str] = set()
    checks: list[SourceCheck] = []
    drawn: list[tuple[str, NDArray[np.int64]]] = []
    for index, source in enumerate(mix.sources):
        progress("check", index, len(mix.sources), "sources")
        view = _View(mix, tokenizer, thought, sample, seen, drawn)
        checks.append(_check_source(source, index, view))
    progress("check", len(mix.sources), len(mix.sources), "sources")
    return MixCheck(mix, tuple(checks), tuple(problems), tuple(drawn))


class _View(NamedTuple):
    """What is the same for all sources."""

    mix: Mix
    tokenizer: PreTrainedTokenizerBase
    thought: str | None
    sample: int
    seen: set[str]
    drawn: list[tuple[str, NDArray[np.int64]]]


class _Document(NamedTuple):
    category: str
    ids: NDArray[np.int64]
    assistant: int


def _check_source(source: Source, index: int, view: _View) -> SourceCheck:
    unit = "tokens" if source.tokens is not None else "documents"
    begun = SourceCheck(source.name, source.location, source.tokens or source.samples, unit)
    problems: list[str] = []
    if (known := find_evaluation_set(source)) is not None:
        problems.append(f"reads {known}, a set that models are scored on")
    documents: list[_Document] = []
    counts: Counter[str] = Counter()
    lost: list[str] = []
    example = ""
    try:
        found = open_records(source)
        order = np.random.Generator(np.random.PCG64([view.mix.seed, index]))
        for position in order.permutation(len(found.records))[: view.sample]:
            made = _read(source, found, int(position), view, counts, lost)
            if made is not None:
                documents.append(made[1])
                example = example or made[0]
    except SecateurError as error:
        return replace(begun, problems=(*problems, str(error)), fails=True)
    view.drawn.extend((one.category, one.ids) for one in documents)
    checked = _count(begun, len(found.records), documents, counts, view)
    short = _shortage(source, checked)
    return replace(
        checked,
        problems=(*problems, *short, *warn_of_lost_calls(lost)),
        fails=bool(short) and not source.allow_short,
        example=example,
    )


def _read(
    source: Source,
    found: Records,
    position: int,
    view: _View,
    counts: Counter[str],
    lost: list[str],
) -> tuple[str, _Document] | None:
    """The document of a record with its text; None for one that is not used, which is counted.

    `lost` gets the place of a conversation whose tool calls are not written.
    """
    record, where = found.records[position], found.place(position)
    content = read_content(record, source.fields, source.thought_tags, where)
    counts["sampled"] += 1
    sha256 = hash_content(content, where)
    if sha256 in view.seen:
        counts["duplicates"] += 1
        return None
    view.seen.add(sha256)
    ids = (
        np.empty(0, np.int64)
        if is_empty(content)
        else tokenize(content, view.tokenizer, source.template, view.thought, where)
    )
    if not len(ids):
        counts["empty"] += 1
        return None
    if loses_tool_calls(view.tokenizer, content.messages, content.tools, source.template):
        lost.append(where.rsplit("/", 1)[-1])
    category = read_category(record, source, where)
    text = str(view.tokenizer.decode(ids[:_SHOWN].tolist()))[:_SHOWN]
    return text, _Document(category, ids, _count_assistant(content, view.tokenizer, len(ids)))


def _count(
    begun: SourceCheck,
    records: int,
    documents: Sequence[_Document],
    counts: Counter[str],
    view: _View,
) -> SourceCheck:
    """What the source gives, from its sample."""
    row, drop = view.mix.sequence_length, view.mix.overlong
    lengths = [len(one.ids) for one in documents]
    overlong = sum(length > row for length in lengths)
    if drop == "drop":
        usable = [one for one in documents if len(one.ids) <= row]
        kept = [len(one.ids) for one in usable]
    else:
        kept = [min(length, row) for length in lengths] if drop == "truncate" else lengths
    sampled = counts["sampled"]
    share = len(kept) / max(1, sampled)
    there = round(records * share)
    each = mean(kept) if kept else 0.0
    tokens = sum(kept) if sampled == records else round(there * each)
    got, got_tokens = there, tokens
    if begun.asked is not None and begun.unit == "tokens":
        got_tokens = min(tokens, begun.asked)
        got = min(there, round(got_tokens / each + 0.5)) if each else 0
    elif begun.asked is not None:
        got = min(there, begun.asked)
        got_tokens = round(got * each)
    everything = max(1, sum(lengths))
    categories: Counter[str] = Counter()
    for one in documents:
        categories[one.category] += len(one.ids)
    return replace(
        begun,
        records=records, sampled=sampled, usable=len(kept), duplicates=counts["duplicates"],
        empty=counts["empty"], overlong=overlong, lengths=_lengths(lengths), documents=got,
        tokens=got_tokens, assistant=sum(one.assistant for one in documents) / everything,
        categories={name: count / everything for name, count in sorted(categories.items())},
    )  # fmt: skip


def _shortage(source: Source, found: SourceCheck) -> list[str]:
    if not found.usable:
        return [f"has no usable document among the {found.sampled} that were looked at"]
    got = found.tokens if found.unit == "tokens" else found.documents
    if found.asked is None or got >= found.asked:
        return []
    about = "" if found.exact else "about "
    return [
        f"is short: {about}{got:,} of {found.asked:,} {found.unit}"
        + ("" if source.allow_short else "; ask for fewer, or set `allow_short: true`")
    ]


def _count_assistant(content: Content, tokenizer: PreTrainedTokenizerBase, most: int) -> int:
    """About how many tokens of a conversation the assistant wrote: its texts by themselves."""
    texts = [
        part
        for message in content.messages
        if message["role"] == "assistant"
        for part in _texts_of(message)
    ] + list(content.thoughts.values())
    if not texts:
        return 0
    found = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return min(most, sum(map(len, found)))


def _texts_of(message: Any) -> list[str]:
    content = message.get("content")
    parts = [content] if isinstance(content, str) else [part["text"] for part in content or ()]
    return [text for text in parts if text]


def _lengths(lengths: Sequence[int]) -> Lengths | None:
    if not lengths:
        return None
    p95 = quantiles(lengths, n=20, method="inclusive")[-1] if len(lengths) > 1 else lengths[0]
    return Lengths(mean(lengths), median(lengths), float(p95), max(lengths))
