"""Loops that a model really fell into, labelled by what it wrote next: for benchmarks/loops.py.

gemmule pruned to 12 and 6 of 32 experts, by frequency, answers greedily in llama.cpp, and the whole
gemmule draws at temperature 1. A reply that did not end within 900 tokens and whose last 300 token
ids repeat with one period is a loop, if the repetition began within the first 160 tokens; one that
ended by itself is none; others are left out, and counted. Detectors see the text of the first 320
tokens alone, as if a limit had been there: the label is from what came later, and from tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import secateur
from secateur import Calibration, Formats, Pruning
from secateur.checkpoint.hub import gemmule_folder
from secateur.evaluation.robustness.detectors.base import Exchange
from secateur.serving.engine_server import EngineServer, serve_model
from secateur.serving.settings import ServerSettings

EXPERTS = {12: 0.0, 6: 0.0, 32: 1.0}
"""Experts kept -> temperature."""
TOKENS, SEEN, BEGUN, PERIODIC = 900, 320, 160, 300


@dataclass(frozen=True)
class Generated:
    """A prompt, and the tokens and texts of what followed it."""

    experts: int
    prompt: str
    label: str
    exchange: Exchange


def prompts(count: int) -> list[list[Mapping[str, Any]]]:
    """Conversations of gemmule's calibration and selection sets, which the test set has not."""
    found = []
    for name in ("selection", "calibration"):
        path = gemmule_folder() / "sets" / f"{name}.jsonl"
        for record in map(json.loads, path.read_text("utf-8").splitlines()):
            messages = record.get("messages", [])[:-1]
            if messages and messages[-1]["role"] == "user":
                found.append(messages)
    step = max(1, len(found) // count)
    return found[::step][:count]


def repetition_start(ids: Sequence[int]) -> int | None:
    """Where the repetition begins that the last `PERIODIC` tokens are of; None where they are not
    of one period of at most a third of them."""
    for period in range(1, PERIODIC // 3 + 1):
        same = (ids[at] == ids[at - period] for at in range(len(ids) - 1, period - 1, -1))
        count = 0
        for equal in same:
            if not equal:
                break
            count += 1
        if count >= PERIODIC - period:
            return len(ids) - count - period
    return None


def label_of(ids: Sequence[int], ended: bool) -> str:
    """ "loop", "" for a reply that ended, or why the reply says neither."""
    if ended:
        return ""
    start = repetition_start(ids)
    if start is None:
        return "neither ended nor repeats"
    return "loop" if start <= BEGUN else "begins later"


def answer(server: EngineServer, messages: Any, temperature: float, seed: int) -> Generated:
    prompt = server.ask("/apply-template", {"messages": messages})["prompt"]
    request = {
        "prompt": prompt,
        "n_predict": TOKENS,
        "temperature": temperature,
        "seed": seed,
        "return_tokens": True,
        "cache_prompt": False,
    }
    found = server.ask("/completion", request)
    ids, ended = found["tokens"], found["stop_type"] == "eos"
    seen = server.ask("/detokenize", {"tokens": ids[:SEEN]})["content"]
    whole = ended and len(ids) <= SEEN
    asked = str(messages[-1]["content"])
    exchange = Exchange(asked, seen, finish="stop" if whole else "length")
    return Generated(0, asked, label_of(ids, ended), exchange)


def generate(count: int, folder: Path) -> Iterator[Generated]:
    """`count` replies of each of the three models. Statistics in `folder` are not made again."""
    stats = folder / "stats.safetensors"
    if not stats.is_file():
        secateur.calibrate("gemmule", stats, Calibration(corpus="gemmule"), workers=1)
    for experts, temperature in EXPERTS.items():
        pruning = Pruning(experts=experts, criterion="frequency")
        plan = secateur.plan("gemmule", pruning, Formats("gguf", "Q8_0"), statistics=stats)
        out = folder / f"{experts}"
        secateur.apply(plan, out, statistics=stats, workers=1)
        with serve_model(
            out / next(iter(plan.files["gguf-Q8_0"])), ServerSettings(context=2048, workers=1)
        ) as server:
            for number, messages in enumerate(prompts(count)):
                found = answer(server, messages, temperature, number)
                yield Generated(experts, found.prompt, found.label, found.exchange)


def main() -> None:
    """Count the labels of 40 replies of each model."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        print(Counter((one.experts, one.label) for one in generate(40, Path(name))))


if __name__ == "__main__":
    main()
