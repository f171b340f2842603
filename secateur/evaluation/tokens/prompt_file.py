"""Prompts as a file of ours: what a corpus held out, kept for the next variant to be measured on.

JSONL: a header line, then one prompt a line, as rendered and tokenized.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.corpus.json_lines import read_json_lines
from secateur.errors import CorpusError
from secateur.evaluation.tokens.answers import answer_from_json, answer_to_json
from secateur.evaluation.tokens.prompts import Prompt, PromptSet
from secateur.system.atomic import write_text

FORMAT = "secateur held-out prompts 1"


def save_prompts(prompts: PromptSet, path: Path) -> None:
    """Write the file: complete or absent. Raises WriteError."""
    head = {"format": FORMAT, "prompts": len(prompts.prompts), "provenance": prompts.provenance}
    lines = [head, *map(_to_json, prompts.prompts)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text(path, text)


def load_prompts(path: Path) -> PromptSet:
    """Read a file that `save_prompts` wrote. Raises CorpusError when it is something else."""
    found = read_json_lines(path)
    head = found.records[0] if found.records else {}
    if head.get("format") != FORMAT or head.get("prompts") != len(found.records) - 1:
        raise CorpusError(
            f"{path} is not the file of held-out prompts that secateur wrote, or was cut short: "
            "delete it, and name the corpus again"
        )
    try:
        prompts = [
            _from_json(record, f"{path}:{line}")
            for record, line in zip(found.records[1:], found.lines[1:], strict=True)
        ]
    except (KeyError, TypeError):
        raise CorpusError(f"{path} was changed: delete it, and name the corpus again") from None
    return PromptSet(tuple(prompts), dict(head["provenance"]))


def _to_json(prompt: Prompt) -> dict[str, Any]:
    turns = None if prompt.turns is None else answer_to_json(prompt.turns)
    return {**prompt._asdict(), "template": dict(prompt.template), "turns": turns}


def _from_json(record: Mapping[str, Any], where: str) -> Prompt:
    turns = None if record["turns"] is None else answer_from_json(record["turns"], where)
    return Prompt(
        record["id"],
        record["domain"],
        record["kind"],
        tuple(record["input_ids"]),
        tuple(record["messages"]),
        tuple(record["tools"]),
        record["template"],
        turns,
    )
