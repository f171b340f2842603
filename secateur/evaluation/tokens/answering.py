"""Getting the original's answers, whoever writes them down: resumed, locked, complete or absent.

What answers (the whole model in memory, a server) yields finished answers; they are kept next to
the output as they come, so that an interrupted run goes on with the next one. Of two processes
that want the same answers one waits for the other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.errors import CorpusError
from secateur.evaluation.tokens.answers import (
    Answer,
    AnswerSet,
    answer_from_json,
    answer_set,
    answer_to_json,
    load_answers,
    save_answers,
)
from secateur.evaluation.tokens.prompts import Prompt, PromptSet
from secateur.system.atomic import writing
from secateur.system.locks import locked
from secateur.system.progress import Progress, no_progress

Answering = Callable[[Mapping[str, Answer]], Iterator[Sequence[Answer]]]
"""Given the answers that there are, {id of the prompt: answer}, yields the others."""


def collect_answers(
    prompts: PromptSet,
    path: Path,
    provenance: Mapping[str, Any],
    answering: Answering,
    progress: Progress = no_progress,
) -> AnswerSet:
    """Have all prompts answered, write the answers to `path` and return them.

    What needs no answer passes as it is. `provenance` is all that decides the answers; those that
    are in `path` already are taken if they were decided by the same. How far `answering` is, it
    reports itself; `progress` says that another process is waited for.
    Raises what `answering` raises; what was answered until then is kept.
    """
    asked = [prompt for prompt in prompts.prompts if prompt.kind == "answers"]
    decides = [dict(provenance), [list(prompt[:4]) for prompt in asked]]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    kept = path.with_name(f".{path.name}.{key[:16]}.partial")
    with locked(path, lambda: progress("wait for another process's answers", 0, 1, "")):
        if path.exists() and (there := load_answers(path)).provenance == as_json(provenance):
            return there
        found = _read_finished(kept)
        if any(prompt.id not in found for prompt in asked):
            for answers in answering(dict(found)):
                _append(kept, answers)
                found.update({answer.id: answer for answer in answers})
        made = answer_set(
            (
                found[prompt.id] if prompt.kind == "answers" else _pass(prompt)
                for prompt in prompts.prompts
            ),
            provenance,
        )
        save_answers(made, path)
        kept.unlink(missing_ok=True)
    return made


def as_json(value: Mapping[str, Any]) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def unanswered(prompts: PromptSet, provenance: Mapping[str, Any]) -> AnswerSet:
    """What is measured where the original does not answer: turns and documents as they are.

    A question that nobody has answered is left out. Raises CorpusError when nothing is left.
    """
    usable = [prompt for prompt in prompts.prompts if prompt.kind == "documents" or prompt.turns]
    if not usable:
        raise CorpusError(
            "nobody has answered any of the prompts: let the original answer, or give its answers"
        )
    return answer_set(map(_pass, usable), provenance)


def _pass(prompt: Prompt) -> Answer:
    """What a corpus holds, to be measured as it is."""
    if prompt.turns is not None:
        return prompt.turns
    return Answer(prompt.id, prompt.domain, "documents", prompt.input_ids, 1, "given")


def _read_finished(kept: Path) -> dict[str, Answer]:
    """Answers that an interrupted run finished; a half-written line is cut off."""
    found: dict[str, Answer] = {}
    if not kept.exists():
        return found
    content = kept.read_bytes()
    whole = content.rfind(b"\n") + 1
    os.truncate(kept, whole)
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        for entry in json.loads(line):
            answer = answer_from_json(entry, f"{kept}:{number}")
            found[answer.id] = answer
    return found


def _append(kept: Path, answers: Sequence[Answer]) -> None:
    """Append finished answers as one line."""
    line = json.dumps([answer_to_json(answer) for answer in answers], ensure_ascii=False)
    with writing(kept), kept.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
