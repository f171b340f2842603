"""The share of a corpus that is measured on: found, made into prompts, kept for the next variant.

A calibration never sees it. What statistics did see (they list the sha256 of every document) is
left out here, so that no run measures on what another one calibrated on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.api.measuring import Measuring
from secateur.api.models import load_header
from secateur.api.requests import Calibration
from secateur.api.text import build_corpus
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.held_out import SHARE
from secateur.corpus.rows import Chosen, Corpus
from secateur.corpus.text_hashes import TextHashes
from secateur.corpus.tokenizer import hash_tokenizer, load_tokenizer
from secateur.errors import CorpusError
from secateur.statistics.statistics import Statistics
from secateur.statistics.text_file import load_text, text_path
from secateur.system.cache import kept_file, model_folder, touch
from secateur.system.progress import Progress, no_progress
from secateur.system.sizes import show_count

if TYPE_CHECKING:
    from secateur.evaluation.tokens.prompts import Prompt, PromptSet

STATISTICS = "evidence/statistics.safetensors"
"""Of an output, in a folder of its own: some loaders take every *.safetensors next to config.json
for weights."""
OWN_SET = "sets/test.jsonl"
"""Of a model that brings its own test set, as gemmule does."""

HELD_OUT = "held_out"
"""The key of a corpus' description, and of the provenance of what is measured on it."""


@dataclass(frozen=True)
class Text:
    """Where a held-out share may come from: the corpus of a calibration, which the request's own
    goes before, or what statistics say was held out."""

    calibration: Calibration = Calibration()
    statistics: Statistics | None = None

    @property
    def records(self) -> list[Mapping[str, Any]]:
        """What the statistics say was held out, a record a corpus."""
        corpora = () if self.statistics is None else self.statistics.corpora
        return [corpus[HELD_OUT] for corpus in corpora if HELD_OUT in corpus]


NO_TEXT = Text()


def find_questions(original: Checkpoint, request: Measuring, text: Text = NO_TEXT) -> Path | None:
    """The file of prompts or answers to measure on; None for a share of a corpus.

    Raises CorpusError when there is neither.
    """
    path, corpus = request.answers or request.prompts, request.corpus or request.rows
    if path is None and corpus is None and request.held_out is None:
        own = original.path / OWN_SET
        path = own if own.is_file() else None
    if path is not None and not path.is_file():
        raise CorpusError(f"{path} does not exist: name a JSONL file of prompts or answers")
    if path is None and not (corpus or text.calibration.text or text.records):
        raise CorpusError(
            f"{original.name} brings no test set to measure on: name a corpus (--corpus), of which "
            'a share is held out, prompts (--prompts, JSON lines of {"messages": [...], "domain": '
            "...}), or answers of the original (--answers)"
        )
    return path


def statistics_of(output: Path) -> Statistics | None:
    """The statistics in an output, or beside one of its files, without their arrays; None where
    there are none."""
    path = _statistics_path(output)
    return load_header(path) if path.is_file() else None


def calibrated_text_of(output: Path) -> TextHashes | None:
    """The text that an output was calibrated on, as hashes; None where it holds none."""
    path = text_path(_statistics_path(output))
    return load_text(path) if path.is_file() else None


def evidence_files(statistics: Path | None) -> dict[str, Path]:
    """{name in an output: file} of the statistics and of the hashes of their text, where there are
    any."""
    if statistics is None:
        return {}
    text = text_path(statistics)
    found = {str(text_path(Path(STATISTICS))): text} if text.is_file() else {}
    return {STATISTICS: statistics, **found}


def _statistics_path(output: Path) -> Path:
    """Where the statistics of an output, or of a file or folder in one, would lie."""
    inner = output / STATISTICS
    return inner if inner.is_file() else output.parent / STATISTICS


def share_of(request: Measuring, calibration: Calibration) -> float:
    """The share of the documents that is held out."""
    return request.held_out or calibration.held_out or SHARE


def held_out_prompts(
    original: Checkpoint,
    request: Measuring,
    text: Text,
    folder: Path,
    progress: Progress = no_progress,
) -> PromptSet:
    """The prompts of the share, from the corpus if it is named, else as `folder` keeps them.

    Raises CorpusError when the corpus is not named and they are not there.
    """
    source = text.calibration
    if request.corpus or request.rows:
        source = Calibration(request.corpus, request.rows, request.seed)
    if source.text is None:
        return _kept_prompts(original, text, folder)
    share = share_of(request, text.calibration)
    corpus = build_corpus(original, replace(source, held_out=share), progress)
    return make_prompts(original, corpus, text.statistics, folder)


def make_prompts(
    original: Checkpoint, corpus: Corpus, seen_by: Statistics | None, folder: Path
) -> PromptSet:
    """The prompts of what a corpus held out; they are kept in `folder`.

    What the statistics `seen_by` saw is left out. Raises CorpusError when nothing is left.
    """
    from secateur.evaluation.tokens.prompt_file import save_prompts
    from secateur.evaluation.tokens.turns import held_out_prompts as make

    facts = corpus.description[HELD_OUT]
    tokenizer = load_tokenizer(original.path)
    name = corpus.description.get("mix") or corpus.description.get("rows_file")
    described = {key: facts[key] for key in facts if key != "samples"}
    made = replace(
        make(corpus.held_out, tokenizer),
        provenance={
            HELD_OUT: {"corpus": name, **described},
            "tokenizer_sha256": hash_tokenizer(tokenizer),
        },
    )
    save_prompts(made, _path(facts, made.provenance["tokenizer_sha256"], folder))
    known = {} if seen_by is None else _seen(seen_by)
    unseen = {one.sample.sha256[:16] for one in corpus.held_out if _is_unseen(one, known)}
    return _without_seen(made, unseen)


def preview_prompts(original: Checkpoint, corpus: Corpus) -> PromptSet:
    """The prompts of what a corpus holds out, kept nowhere: to count them."""
    from secateur.evaluation.tokens.turns import held_out_prompts as make

    return make(corpus.held_out, load_tokenizer(original.path))


def describe_held_out(corpus: Corpus) -> str:
    """What was held out of a corpus, for a person."""
    facts = corpus.description[HELD_OUT]
    copies = facts["copies_left_out"]
    near = f"; left out: {show_count(copies, 'copy', 'copies')} of them" if copies else ""
    return (
        f"held out to measure on: {show_count(facts['documents'], 'document')}, "
        f"{facts['tokens']:,} tokens; {len(corpus.samples):,} are calibrated on{near}"
    )


def _kept_prompts(original: Checkpoint, text: Text, folder: Path) -> PromptSet:
    from secateur.evaluation.tokens.prompt_file import load_prompts

    assert text.statistics is not None  # else `find_questions` had refused
    tokenizer_sha256 = hash_tokenizer(load_tokenizer(original.path))
    found: list[PromptSet] = []
    for facts in text.records:
        homes = (folder, model_folder(original.identity()))
        paths = [_path(facts, tokenizer_sha256, home) for home in homes]
        path = next((path for path in paths if path.is_file()), paths[0])
        if not path.is_file():
            raise CorpusError(
                f"the statistics were made with {show_count(facts['documents'], 'document')} held "
                f"out to measure on, of which nothing is in {folder} any more: name the corpus "
                "again (--corpus)"
            )
        touch(path)
        found.append(load_prompts(path))
    seen = {sha256[:16] for sha256, was_seen in _seen(text.statistics).items() if was_seen}
    prompts = {one.id: one for part in found for one in part.prompts}
    provenance = (
        found[0].provenance
        if len(found) == 1
        else {
            HELD_OUT: {"corpora": [part.provenance[HELD_OUT] for part in found]},
            "tokenizer_sha256": tokenizer_sha256,
        }
    )
    whole = replace(found[0], prompts=tuple(prompts.values()), provenance=provenance)
    return _without_seen(whole, prompts.keys() - seen)


def _path(facts: Mapping[str, Any], tokenizer_sha256: str, folder: Path) -> Path:
    key = hashlib.sha256(f"{facts['sha256']} {tokenizer_sha256}".encode()).hexdigest()
    return kept_file(folder, "prompts", key)


def _seen(statistics: Statistics) -> dict[str, bool]:
    """{sha256 of a document: whether it was seen}: those run, and those held out of a corpus."""
    held_out = {
        str(sample["sha256"]): False
        for corpus in statistics.corpora
        for sample in corpus.get(HELD_OUT, {}).get("samples", ())
    }
    return held_out | {str(sample["sha256"]): True for sample in statistics.samples}


def _is_unseen(document: Chosen, known: Mapping[str, bool]) -> bool:
    """Of a piece: that it was held out, or that nothing of its text was run."""
    seen = known.get(document.sample.sha256)
    if seen is None and document.part_of is not None:
        return document.part_of not in known
    return not seen


def _without_seen(prompts: PromptSet, unseen: set[str]) -> PromptSet:
    kept: tuple[Prompt, ...] = tuple(one for one in prompts.prompts if one.id in unseen)
    if not kept:
        raise CorpusError(
            f"all {len(prompts.prompts)} documents that were held out to measure on are among "
            "those that the statistics were made with: name another corpus, prompts or answers, "
            "or --no-measure"
        )
    left_out = len(prompts.prompts) - len(kept)
    if not left_out:
        return prompts
    facts = {**prompts.provenance[HELD_OUT], "seen_left_out": left_out}
    return replace(prompts, prompts=kept, provenance={**prompts.provenance, HELD_OUT: facts})
