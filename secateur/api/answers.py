"""The original's answers to measure on: what can be refused at once, and getting them.

The checks load neither torch nor a tokenizer where they can, so that `shrink` makes them before
anything long.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.api.measuring import Measuring
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import CorpusError
from secateur.evaluation.memory import check_memory, weight_bytes
from secateur.evaluation.tokens.answers import AnswerSet, load_answers
from secateur.evaluation.tokens.prompts import (
    PromptSet,
    check_lengths,
    check_lines,
    read_answers,
    read_prompts,
)
from secateur.system.cache import kept_file, kept_files, model_folder, touch
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cache_folder, free_memory

if TYPE_CHECKING:
    from secateur.forward.backends.base import Backend


def measure_folder(original: Checkpoint) -> Path:
    """Where the answers, probabilities and scores of an original are kept from run to run."""
    return model_folder(original.identity())


def find_questions(original: Checkpoint, request: Measuring) -> Path:
    """The file of prompts or answers. Raises CorpusError when there is none."""
    path = request.answers or request.prompts or original.path / "sets" / "test.jsonl"
    if path.is_file():
        return path
    if request.answers or request.prompts:
        raise CorpusError(f"{path} does not exist: name a JSONL file of prompts or answers")
    raise CorpusError(
        f"{original.name} brings no test set to measure on: name held-out prompts with --prompts "
        '(JSON lines of {"messages": [...], "domain": ...}), or answers of the original with '
        "--answers"
    )


def check_can_measure(original: Checkpoint, request: Measuring, folder: Path | None = None) -> None:
    """Raise InputError or EngineError for what would otherwise show only after a long time.

    The file of prompts or answers is there and every line can be used, and the original fits in
    memory if it has to answer; `folder` may hold its answers already (`measure_folder`).
    """
    path = find_questions(original, request)
    check_lines(path, need_answers=request.answers is not None)
    check_can_answer(original, request, folder)


def check_can_answer(original: Checkpoint, request: Measuring, folder: Path | None = None) -> None:
    """Raise EngineError unless the original has answered already, or fits in memory to answer."""
    memory = free_memory()
    if request.answers is not None or weight_bytes(original) <= memory:
        return
    asked = _read_prompts(original, request)
    if all(prompt.kind != "answers" for prompt in asked.prompts) or (
        _has_answers(folder)
        and _answers_path(original, request, asked, folder or measure_folder(original)).exists()
    ):
        return
    check_memory(original, memory)


def _has_answers(folder: Path | None) -> bool:
    """Whether any answers are kept, of whatever model: its identity may take minutes to know."""
    return bool(kept_files(cache_folder() if folder is None else folder, "answers"))


def check_can_tokenize(original: Checkpoint, request: Measuring) -> None:
    """Raise InputError for a conversation that the chat template refuses, or that is too long.

    Loads the tokenizer, which takes seconds: made before anything that takes longer.
    """
    if request.answers is not None:
        _read_answers(original, request)
    else:
        check_lengths(original, _read_prompts(original, request), request.answer_tokens)


def get_answers(
    original: Checkpoint,
    request: Measuring,
    folder: Path,
    *,
    backend: Backend,
    progress: Progress = no_progress,
) -> AnswerSet:
    """The original's answers: given, kept in `folder` from an earlier run, or generated now.

    Raises CorpusError for a file that cannot be used, EngineError when the model does not fit in
    memory.
    """
    if request.answers is not None:
        return _read_answers(original, request)
    asked = _read_prompts(original, request)
    path = _answers_path(original, request, asked, folder)
    if path.exists():
        touch(path)
        return load_answers(path, original.family.number(original.config, "vocab"))
    from secateur.evaluation.tokens.generate import Generation, generate_answers, stop_tokens

    return generate_answers(
        original,
        asked,
        path,
        stop_ids=stop_tokens(original, load_tokenizer(original.path)),
        settings=Generation(request.answer_tokens, request.temperature),
        backend=backend,
        progress=progress,
    )


def _read_answers(original: Checkpoint, request: Measuring) -> AnswerSet:
    vocabulary = original.family.number(original.config, "vocab")
    path, tokenizer = find_questions(original, request), load_tokenizer(original.path)
    return read_answers(path, tokenizer, vocabulary, per_domain=request.per_domain)


def _read_prompts(original: Checkpoint, request: Measuring) -> PromptSet:
    path = find_questions(original, request)
    return read_prompts(path, load_tokenizer(original.path), per_domain=request.per_domain)


def _answers_path(original: Checkpoint, request: Measuring, asked: PromptSet, folder: Path) -> Path:
    """Its name holds the hash of all that decides the answers."""
    decides: list[Any] = [
        original.identity(),
        dict(asked.provenance),
        request.answer_tokens,
        request.temperature,
    ]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return kept_file(folder, "answers", key)
