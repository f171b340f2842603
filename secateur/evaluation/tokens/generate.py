"""The original's own answers to prompts, with the whole model in memory.

Greedy unless a temperature is given; the same prompts, model and settings give the same answers,
also when the run was interrupted: finished batches are kept (answering.py), and batches depend on
the prompts and settings alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from secateur.checkpoint.reader import Checkpoint, read_config
from secateur.errors import CheckpointError
from secateur.evaluation.memory import check_memory
from secateur.evaluation.tokens.answering import collect_answers
from secateur.evaluation.tokens.answers import Answer, AnswerSet, Finish
from secateur.evaluation.tokens.prompts import Prompt, PromptSet, check_lengths, turn_end_ids
from secateur.evaluation.whole_model import whole_model
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.memory import FittingPieces
from secateur.system.progress import Counter, Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Generation:
    """How answers are generated. Temperature 0 is greedy; `top_k` 0 means all tokens."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    batch_size: int = 16


def stop_tokens(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a turn: those the checkpoint names, and the chat template's own.

    The checkpoint names them as `eos_token_id` in generation_config.json, or in config.json.
    Raises CheckpointError when that is no token id or list of them.
    """
    path = checkpoint.path / "generation_config.json"
    named: Any = None
    if path.is_file():
        named = read_config(path).get("eos_token_id")
    if named is None:
        named = checkpoint.family.section(checkpoint.config)[1].get("eos_token_id")
    ids = named if isinstance(named, list) else [] if named is None else [named]
    if not all(type(token) is int for token in ids):
        raise CheckpointError(
            f"{checkpoint.path}: eos_token_id is {named!r}, expected a token id or a list of them"
        )
    ends = turn_end_ids(tokenizer) if tokenizer.chat_template is not None else frozenset()
    return frozenset(ids) | ends


def generate_answers(
    checkpoint: Checkpoint,
    prompts: PromptSet,
    path: Path,
    *,
    stop_ids: frozenset[int],
    settings: Generation = Generation(),
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    memory: int | None = None,
    progress: Progress = no_progress,
) -> AnswerSet:
    """Answer all prompts, write them to `path` and return them; what is no question passes.

    `stop_ids`: tokens that end a turn (see `stop_tokens`). `memory`: bytes that may be used,
    by default what is free on the backend's device. Peak memory: all weights, experts in their own
    type and all else in the backend's, and the cache of one batch per worker; the number of workers
    does not change the answers. A batch that a device has no memory for is answered in pieces,
    which changes no more than rounding does. Raises EngineError when the weights do not fit,
    InputError for a prompt that leaves no room to answer; `progress` counts tokens as they come,
    and those that an answer could have had when it ends earlier.
    """
    from transformers import GenerationConfig

    check_lengths(checkpoint, prompts, settings.max_new_tokens)
    asked = [prompt for prompt in prompts.prompts if prompt.kind == "answers"]
    longest = settings.max_new_tokens
    count = Counter(progress, "answers", len(asked) * longest, "tokens")

    def generate(found: Mapping[str, Answer]) -> Iterator[Sequence[Answer]]:
        check_memory(checkpoint, backend.free_memory() if memory is None else memory)
        batches = _make_batches(asked, settings.batch_size)
        pending = [batch for batch in batches if batch[0].id not in found]
        count(len(found) * longest)
        with whole_model(checkpoint, backend) as model, mapping(backend) as each:
            # The model's own defaults would be merged into ours.
            model.generation_config = cast(Any, GenerationConfig)()
            pieces = FittingPieces("answers", backend.name, lambda said: progress(said, 1, 1, ""))
            answer = partial(answer_batch, model, stop_ids=stop_ids, settings=settings)
            yield from each(partial(_answer_pieces, pieces, answer, count), pending)

    provenance = _provenance(checkpoint, prompts, stop_ids, settings, backend)
    return collect_answers(prompts, path, provenance, generate, progress)


@contextmanager
def mapping(backend: Backend) -> Iterator[Callable[..., Iterable[Any]]]:
    """What runs a function on every batch: this thread, which keeps a device busy, or workers that
    compute with one torch thread each, so that their number changes no bits."""
    if backend.queued:
        yield map
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            max(1, backend.workers), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            try:
                yield pool.map
            except BaseException:
                # Else the pool would finish everything before it lets the error out.
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)


def _make_batches(asked: Sequence[Prompt], size: int) -> list[list[Prompt]]:
    """Prompts of similar length together, long ones first: decided by the prompts alone."""
    ordered = sorted(asked, key=lambda prompt: -len(prompt.input_ids))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _answer_pieces(
    pieces: FittingPieces,
    answer: Callable[..., list[Answer]],
    count: Callable[[int], None],
    batch: Sequence[Prompt],
) -> list[Answer]:
    """Answer a batch, in pieces where there is too little memory; its steps are counted once,
    though a piece may have been begun before."""
    finished = reported = 0

    def work(piece: Sequence[Prompt]) -> list[Answer]:
        nonlocal finished
        now = finished

        def count_new(step: int) -> None:
            nonlocal now, reported
            now += step
            count(max(0, now - reported))
            reported = max(now, reported)

        answers = answer(piece, count=count_new)
        finished = now
        return answers

    return pieces.run(work, batch)


def answer_batch(
    model: Any,
    batch: Sequence[Prompt],
    *,
    stop_ids: frozenset[int],
    settings: Generation,
    count: Callable[[int], None],
) -> list[Answer]:
    """Answer prompts in one batch, padded on the left."""
    from transformers import GenerationConfig

    longest = max(len(prompt.input_ids) for prompt in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(batch):
        ids[row, longest - len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
        mask[row, longest - len(prompt.input_ids) :] = 1
    config = cast(Any, GenerationConfig)(
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=0,
    )
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=_make_sampler([prompt.id for prompt in batch], settings, count),
        )
    count(len(batch) * (settings.max_new_tokens - (output.shape[1] - longest)))
    return [
        _cut_answer(prompt, row[longest:], stop_ids)
        for prompt, row in zip(batch, output, strict=True)
    ]


def _make_sampler(ids: Sequence[str], settings: Generation, count: Callable[[int], None]) -> Any:
    """What turns the greedy choice into a draw: the largest of logits plus Gumbel noise.

    That is a draw from the softmax of the logits (Gumbel 1954; Maddison et al. 2014). The noise
    of a prompt comes from the seed and its id alone, not from torch's global state, so threads,
    batches and interruptions do not change it. `count` is called with the tokens of every step.
    """
    from transformers import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    def count_step(_: Tensor, logits: Tensor) -> Tensor:
        count(len(logits))
        return logits

    steps: list[Any] = [count_step]
    if settings.temperature > 0:
        steps.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            steps.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            steps.append(TopPLogitsWarper(settings.top_p))
        draws = [_make_generator(settings.seed, prompt) for prompt in ids]

        def add_noise(_: Tensor, logits: Tensor) -> Tensor:
            uniform = [torch.rand(logits.shape[-1], generator=draw).double() for draw in draws]
            # rand may give 0, whose logarithm is no number.
            noise = torch.stack(uniform).clamp_min(1e-20).log().neg().log().float()
            return logits - noise.to(logits.device)

        steps.append(add_noise)
    return LogitsProcessorList(steps)


def _make_generator(seed: int, prompt: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {prompt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _cut_answer(prompt: Prompt, generated: Tensor, stop_ids: frozenset[int]) -> Answer:
    """The answer up to its first stop token, which belongs to it."""
    tokens = generated.tolist()
    end = next((i + 1 for i, token in enumerate(tokens) if token in stop_ids), None)
    ids = prompt.input_ids + tuple(tokens[:end])
    finish: Finish = "length" if end is None else "stop"
    return Answer(prompt.id, prompt.domain, "answers", ids, len(prompt.input_ids), finish)


def _provenance(
    checkpoint: Checkpoint,
    prompts: PromptSet,
    stop_ids: frozenset[int],
    settings: Generation,
    backend: Backend,
) -> dict[str, Any]:
    import transformers

    return {
        **prompts.provenance,
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "original": checkpoint.identity(),
        "generation": asdict(settings),
        "stop_ids": sorted(stop_ids),
        "device": backend.name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
