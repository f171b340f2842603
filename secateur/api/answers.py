"""The original's answers to measure on: what can be refused at once, and getting them.

The checks load neither torch nor a tokenizer where they can, so that `shrink` makes them before
anything long.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from secateur.api.held_out import NO_TEXT, Text, find_questions
from secateur.api.measuring import Measuring
from secateur.checkpoint.identity import file_hashes
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import RequestError
from secateur.estimation.work import Answering, Scoring
from secateur.evaluation.memory import check_memory, weight_bytes
from secateur.evaluation.tokens.answers import AnswerSet, load_answers
from secateur.evaluation.tokens.prompts import (
    PromptSet,
    check_lengths,
    check_lines,
    context_of,
    pass_long_turns,
    read_answers,
    read_prompts,
    take_prompts,
)
from secateur.serving.chat_server import is_url, public_address
from secateur.system.cache import kept_file, kept_files, model_folder, touch
from secateur.system.device_names import read_device
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cache_folder, free_memory

if TYPE_CHECKING:
    from secateur.evaluation.tokens.served import Asking
    from secateur.forward.backends.base import Backend

Writer = Literal["original", "server", "gguf", "corpus"]
"""Who writes what is measured."""

WRITTEN_BY = "written_by"
"""The key of an answer set's provenance that says so."""


def measure_folder(original: Checkpoint) -> Path:
    """Where the answers, probabilities and scores of an original are kept from run to run."""
    return model_folder(original.identity())


def check_can_measure(
    original: Checkpoint, request: Measuring, text: Text = NO_TEXT, folder: Path | None = None
) -> None:
    """Raise InputError or EngineError for what would otherwise show only after a long time.

    There is something to measure on, every line of a file of prompts or answers can be used, and
    the original fits in memory if it has to answer; `folder` may hold its answers already
    (`measure_folder`).
    """
    path = find_questions(original, request, text)
    if path is not None:
        check_lines(path, need_answers=request.answers is not None)
    if request.answers_from is not None:
        _check_source(request.answers_from)
    else:
        check_can_answer(original, request, folder, text)


def check_can_answer(
    original: Checkpoint, request: Measuring, folder: Path | None = None, text: Text = NO_TEXT
) -> None:
    """Raise EngineError unless the original has answered already, or fits in memory to answer.

    Conversations of a corpus need no answer, unless one is asked for.
    """
    if request.answers is not None:
        return
    memory = _memory_to_answer(original, request)
    if weight_bytes(original) <= memory:
        return
    path = find_questions(original, request, text)
    if path is None:
        if request.turns == "original":
            check_memory(original, memory)
        return
    asked = _read_prompts(original, request, path)
    if all(prompt.kind != "answers" for prompt in asked.prompts) or (
        _has_answers(folder)
        and _answers_path(original, request, asked, folder or measure_folder(original)).exists()
    ):
        return
    check_memory(original, memory)


def _memory_to_answer(original: Checkpoint, request: Measuring) -> int:
    """Bytes that are free where the original would answer: with `auto` on a GPU, all of them, or
    the CPU, whichever has most. Loads torch where that is the question."""
    kind, here = read_device(request.device).kind, free_memory()
    if kind == "cpu" or (kind == "auto" and weight_bytes(original) <= here):
        return here
    from secateur.forward.backends.choose import is_cpu, places_for_all_layers

    if is_cpu(request.device):
        return here
    try:
        return max(place.free_memory() for place in places_for_all_layers(request.device))
    except RequestError:  # it is another machine's (cluster), or refused when it is needed
        return here


def check_can_tokenize(original: Checkpoint, request: Measuring, text: Text = NO_TEXT) -> None:
    """Raise InputError for a conversation that the chat template refuses, or that is too long.

    Loads the tokenizer, which takes seconds: made before anything that takes longer.
    """
    path = find_questions(original, request, text)
    if request.answers is not None and path is not None:
        _read_answers(original, request, path)
    elif path is not None:
        check_lengths(original, _read_prompts(original, request, path), request.answer_tokens)


def get_answers(
    original: Checkpoint,
    request: Measuring,
    folder: Path,
    asked: PromptSet | None = None,
    *,
    backend: Backend,
    progress: Progress = no_progress,
) -> AnswerSet:
    """The original's answers: given, kept in `folder` from an earlier run, or made now.

    `asked` is what a corpus held out; without it there is a file of prompts or answers. Raises
    CorpusError for a file that cannot be used, EngineError when the model does not fit in memory
    or a server fails.
    """
    path = None if asked is not None else find_questions(original, request)
    if path is not None and request.answers is not None:
        return _read_answers(original, request, path)
    prompts = _take(original, request, asked if path is None else path)
    path = _answers_path(original, request, prompts, folder)
    if path.exists() and request.turns != "corpus":
        touch(path)
        return load_answers(path, original.family.number(original.config, "vocab"))
    writer = _choose_writer(original, request, prompts, backend)
    if writer == "corpus":
        from secateur.evaluation.tokens.answering import unanswered

        return unanswered(prompts, {**prompts.provenance, WRITTEN_BY: "the corpus"})
    if writer != "original":
        task = _Task(path, backend.workers, progress)
        return _answer_elsewhere(original, request, prompts, task)
    from secateur.evaluation.tokens.generate import Generation, generate_answers, stop_tokens

    return generate_answers(
        original,
        prompts,
        path,
        stop_ids=stop_tokens(original, load_tokenizer(original.path)),
        settings=Generation(request.answer_tokens, request.temperature, seed=request.answer_seed),
        backend=backend,
        progress=progress,
    )


def expected_work(
    original: Checkpoint, request: Measuring, asked: PromptSet | None, backend: Backend
) -> tuple[Answering | None, Scoring]:
    """What the original will be asked here, and what will be scored, at most; `asked` as
    `get_answers` takes it. Raises as `get_answers` does for what cannot be used."""
    from secateur.evaluation.tokens.generate import Generation

    path = None if asked is not None else find_questions(original, request)
    if path is not None and request.answers is not None:
        given = _read_answers(original, request, path).answers
        return None, Scoring(sum(len(one.input_ids) for one in given), sum(o.scored for o in given))
    prompts = _take(original, request, asked if path is None else path)
    by_corpus = _choose_writer(original, request, prompts, backend) == "corpus"
    questions = [one for one in prompts.prompts if one.kind == "answers" and not by_corpus]
    asking = sum(len(one.input_ids) for one in questions)
    answered = len(questions) * request.answer_tokens
    given_ids = [
        (len(one.turns.input_ids), one.turns.scored)
        if one.turns is not None
        else (len(one.input_ids), len(one.input_ids))
        for one in prompts.prompts
        if one.kind != "answers" or by_corpus
    ]
    tokens = asking + answered + sum(whole for whole, _ in given_ids)
    scoring = Scoring(tokens, answered + sum(scored for _, scored in given_ids))
    if not questions or request.answers_from is not None:
        return None, scoring
    batch = Generation().batch_size
    return Answering(len(questions), asking, request.answer_tokens, batch), scoring


@dataclass(frozen=True)
class _Task:
    """Where answers go, and what they are made with."""

    path: Path
    workers: int
    progress: Progress


def _answer_elsewhere(
    original: Checkpoint, request: Measuring, prompts: PromptSet, task: _Task
) -> AnswerSet:
    """The answers of a server, or of a GGUF of the original."""
    from secateur.evaluation.tokens.served import Asking, answer_with_gguf, answer_with_server
    from secateur.serving.chat_server import ChatServer, Drawing

    check_lengths(original, prompts, request.answer_tokens)
    tokenizer, source = load_tokenizer(original.path), str(request.answers_from)
    drawing = Drawing(request.answer_tokens, request.temperature, request.answer_seed)

    def asking(written_by: Any) -> Asking:
        provenance = {"original": original.identity(), WRITTEN_BY: written_by}
        return Asking(prompts, task.path, drawing, provenance, task.progress)

    if not is_url(source):
        written_by = _describe_gguf(Path(source), task)
        return answer_with_gguf(Path(source), asking(written_by), tokenizer, workers=task.workers)
    with ChatServer(source, request.answers_model) as server:
        written_by = {"server": server.address, "model": server.model}
        return answer_with_server(server, asking(written_by), tokenizer)


def _describe_gguf(file: Path, task: _Task) -> dict[str, str]:
    sha256 = file_hashes([file], task.progress, task.workers)[file]
    return {"gguf": file.name, "sha256": sha256}


def _choose_writer(
    original: Checkpoint, request: Measuring, prompts: PromptSet, backend: Backend
) -> Writer:
    """Raises EngineError when the original has to answer, and does not fit in memory."""
    if request.answers_from is not None:
        return "server" if is_url(request.answers_from) else "gguf"
    if request.turns == "corpus":
        return "corpus"
    questions = [prompt for prompt in prompts.prompts if prompt.kind == "answers"]
    memory = backend.free_memory()
    if not questions or weight_bytes(original) <= memory:
        return "original"
    if request.turns == "auto" and any(prompt.turns is not None for prompt in questions):
        return "corpus"
    check_memory(original, memory)
    return "original"


def _take(original: Checkpoint, request: Measuring, asked: PromptSet | Path | None) -> PromptSet:
    assert asked is not None  # `find_questions` refuses where there is neither
    if isinstance(asked, Path):
        return _read_prompts(original, request, asked)
    taken = take_prompts(asked, request.per_domain, request.max_prompts)
    context = context_of(original)
    return taken if context is None else pass_long_turns(taken, context - request.answer_tokens)


def _check_source(source: str) -> None:
    """Raises RequestError for what is neither an address nor a GGUF that is there."""
    if is_url(source):
        public_address(source)
    elif not Path(source).is_file():
        raise RequestError(
            f"answers_from {source}: there is no such file; expected a GGUF of the original, or "
            "the address of a server, as in http://localhost:8000/v1"
        )


def _has_answers(folder: Path | None) -> bool:
    """Whether any answers are kept, of whatever model: its identity may take minutes to know."""
    return bool(kept_files(cache_folder() if folder is None else folder, "answers"))


def _read_answers(original: Checkpoint, request: Measuring, path: Path) -> AnswerSet:
    vocabulary = original.family.number(original.config, "vocab")
    tokenizer = load_tokenizer(original.path)
    return read_answers(path, tokenizer, vocabulary, per_domain=request.per_domain)


def _read_prompts(original: Checkpoint, request: Measuring, path: Path) -> PromptSet:
    found = read_prompts(path, load_tokenizer(original.path), per_domain=request.per_domain)
    return take_prompts(found, request.per_domain, request.max_prompts)


def _answers_path(original: Checkpoint, request: Measuring, asked: PromptSet, folder: Path) -> Path:
    """Its name holds the hash of all that decides the answers."""
    decides: list[Any] = [
        original.identity(),
        dict(asked.provenance),
        [list(prompt[:4]) for prompt in asked.prompts],
        request.answer_tokens,
        request.temperature,
        request.answer_seed,
        _source_facts(request),
    ]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return kept_file(folder, "answers", key)


def _source_facts(request: Measuring) -> Any:
    """What of the request decides who answers; of a server its address without a password."""
    source = request.answers_from
    if source is None:
        return None
    if is_url(source):
        return [public_address(source), request.answers_model]
    return file_hashes([Path(source)])[Path(source)]
