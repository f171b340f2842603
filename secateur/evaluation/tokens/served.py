"""The original's answers from elsewhere: a server that runs it, or a GGUF of it in llama.cpp.

A GGUF is given our tokens and gives tokens back. A server is given messages and gives text back,
which is rendered and tokenized as a conversation whose last turn it is. What either wrote is the
text alone: the probabilities that are measured against are always the original's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.corpus.chat_template import render_chat
from secateur.corpus.thoughts import THOUGHT_KEYS
from secateur.corpus.tools import parse_messages
from secateur.errors import CorpusError, EngineError, FormatError
from secateur.evaluation.tokens.answering import collect_answers
from secateur.evaluation.tokens.answers import Answer, AnswerSet
from secateur.evaluation.tokens.prompts import (
    Prompt,
    PromptSet,
    answer_span,
    text_ids,
    turn_end_ids,
)
from secateur.formats.gguf.reader import read_gguf
from secateur.serving.chat_server import ChatAnswer, ChatServer, Drawing
from secateur.serving.llama_server import llama_server
from secateur.system.as_they_come import as_they_come
from secateur.system.progress import Counter, Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 8
"""Requests that a server is sent at a time."""
_SPARE = 8
"""Tokens of context beyond prompt and answer; llama.cpp needs at least one."""
_SAME = 0.99
"""Share of the vocabulary that a GGUF must have in common; a few special tokens get renamed."""


@dataclass(frozen=True)
class Asking:
    """What is asked, where the answers go, and how they are drawn.

    `drawing.seed` and a prompt's id decide the seed of its answer. `provenance` says what else
    decides the answers: who writes them.
    """

    prompts: PromptSet
    path: Path
    drawing: Drawing
    provenance: Mapping[str, Any]
    progress: Progress = no_progress

    @property
    def asked(self) -> list[Prompt]:
        return [prompt for prompt in self.prompts.prompts if prompt.kind == "answers"]

    def draw(self, prompt: Prompt) -> Drawing:
        """How the answer to one prompt is drawn."""
        digest = hashlib.sha256(f"{self.drawing.seed} {prompt.id}".encode()).digest()
        return self.drawing._replace(seed=int.from_bytes(digest[:4], "little") >> 1)

    def counter(self, found: int) -> Counter:
        """Counts tokens: of every answer as many as it may have."""
        longest = self.drawing.tokens
        count = Counter(self.progress, "answers", len(self.asked) * longest, "tokens")
        count(found * longest)
        return count


def answer_with_gguf(
    file: Path, asking: Asking, tokenizer: PreTrainedTokenizerBase, *, workers: int = 1
) -> AnswerSet:
    """Answers of a GGUF of the original, one after the other, so that they can be made again.

    Memory: llama.cpp's. Raises EngineError when it cannot run the file, FormatError for a file
    of another vocabulary.
    """
    check_vocabulary(file, tokenizer)

    def answer(found: Mapping[str, Answer]) -> Iterator[Sequence[Answer]]:
        pending = [prompt for prompt in asking.asked if prompt.id not in found]
        count = asking.counter(len(found))
        longest = max(len(prompt.input_ids) for prompt in pending) + asking.drawing.tokens
        with llama_server(file, context=longest + _SPARE, workers=workers) as server:
            for prompt in pending:
                how = asking.draw(prompt)
                drawn = server.draw(
                    prompt.input_ids, how.tokens, temperature=how.temperature, seed=how.seed
                )
                yield [_answer(prompt, drawn.tokens, "stop" if drawn.ended else "length")]
                count(how.tokens)

    return _collect(asking, answer)


def answer_with_server(
    server: ChatServer, asking: Asking, tokenizer: PreTrainedTokenizerBase
) -> AnswerSet:
    """Answers of a server, `AT_ONCE` at a time.

    Raises EngineError when it stops answering, CorpusError when the chat template cannot write an
    answer; those that came until then are kept. Interrupted, it does not wait for the others.
    """

    def ask(prompt: Prompt) -> Answer:
        said = server.answer(prompt.messages, prompt.tools, prompt.template, asking.draw(prompt))
        return _tokenize(prompt, said, tokenizer)

    def answer(found: Mapping[str, Answer]) -> Iterator[Sequence[Answer]]:
        pending = [prompt for prompt in asking.asked if prompt.id not in found]
        count = asking.counter(len(found))
        for said in as_they_come(ask, pending, AT_ONCE):
            yield [said]
            count(asking.drawing.tokens)

    return _collect(asking, answer)


def check_vocabulary(file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise FormatError unless a GGUF has the tokens of a tokenizer under the same numbers."""
    found = read_gguf(file).metadata.get("tokenizer.ggml.tokens")
    theirs = [] if found is None else list(found.value)  # type: ignore[arg-type]
    numbers = tokenizer.get_vocab()
    same = sum(
        number < len(theirs) and theirs[number] == token for token, number in numbers.items()
    )
    if same < _SAME * len(numbers):
        raise FormatError(
            f"{file} has {len(theirs)} tokens, of which {same} are those of the original's "
            f"{len(numbers)}: it is no GGUF of this model, name one that is"
        )


def _collect(asking: Asking, answer: Any) -> AnswerSet:
    provenance = {
        **asking.prompts.provenance,
        **asking.provenance,
        "generation": asking.drawing._asdict(),
    }
    return collect_answers(asking.prompts, asking.path, provenance, answer, asking.progress)


def _tokenize(prompt: Prompt, said: ChatAnswer, tokenizer: PreTrainedTokenizerBase) -> Answer:
    """The answer as tokens: as the chat template writes it at the end of the conversation."""
    where = f"the answer to prompt {prompt.id!r}"
    (message,) = parse_messages([_with_thought(said.message)], where)
    messages, tools, options = prompt.messages, prompt.tools, prompt.template
    before = render_chat(tokenizer, messages, tools, options, where)
    asking = {**options, "add_generation_prompt": True}
    asked = render_chat(tokenizer, messages, tools, asking, where)
    whole = render_chat(tokenizer, [*messages, message], tools, options, where)
    span = answer_span(before, asked, whole)
    if span is None:
        raise CorpusError(
            f"{where}: the chat template rewrites earlier turns when an answer follows, so the "
            "answer cannot be cut out: let a GGUF of the original answer, or leave the prompt out"
        )
    ids = text_ids(whole[span[0] :], tokenizer)
    ends = turn_end_ids(tokenizer)
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    cut = said.finish == "length"
    # A turn that was cut has no end; the template writes one all the same.
    return _answer(prompt, ids[: end if cut else end + 1], "length" if cut else "stop")


def _with_thought(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its thought under every name that chat templates look for."""
    thought = next((message[key] for key in THOUGHT_KEYS if message.get(key)), None)
    kept = {key: message[key] for key in ("role", "content", "tool_calls") if message.get(key)}
    whole = {"role": "assistant", "content": "", **kept}
    return whole if thought is None else whole | dict.fromkeys(THOUGHT_KEYS, thought)


def _answer(prompt: Prompt, tokens: Sequence[int], finish: Any) -> Answer:
    if not tokens:
        raise EngineError(
            f"the answer to prompt {prompt.id!r} is empty (finish: {finish}): allow more tokens "
            "(answer_tokens), or leave the prompt out"
        )
    ids = (*prompt.input_ids, *tokens)
    return Answer(prompt.id, prompt.domain, "answers", ids, len(prompt.input_ids), finish)
