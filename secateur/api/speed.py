"""Speed and memory of the original and the artefacts, in turns, in their real engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import metadata

from secateur.api.subjects import AskedOutput, Subject, is_mlx
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import RequestError
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.robustness.prompts import loop_prompts
from secateur.evaluation.robustness.request import GENERAL
from secateur.evaluation.speed import gguf_turn, mlx_turn
from secateur.evaluation.speed.alternate import time_in_turns
from secateur.evaluation.speed.request import Speed
from secateur.evaluation.speed.summary import speed_measurements, speed_ratios
from secateur.evaluation.speed.turn import TimedModel, Turn
from secateur.evaluation.tokens.prompts import context_of
from secateur.release.evidence import ORIGINAL, ArtefactEvidence, Evidence, Items
from secateur.serving.settings import ServerSettings
from secateur.system.machine import describe_machine
from secateur.system.resources import cores

_DOMAIN = "long_context"
"""Of the plan of prompts: the texts that are read."""
_PACKAGES = {gguf_turn.ENGINE: ("xllamacpp",), mlx_turn.ENGINE: ("mlx-lm", "mlx")}

Timed = Mapping[tuple[str, str], tuple[Turn, ...]]


def measure_speed(asked: AskedOutput, request: Speed) -> tuple[Evidence, Items]:
    """Time all models in turns. Raises RequestError for prompts longer than the model's context,
    EngineError when an engine fails."""
    original = asked.original
    context, needed = context_of(original), request.prompt_tokens + request.answer_tokens
    if context is not None and needed > context:
        raise RequestError(
            f"a prompt of {request.prompt_tokens} tokens and an answer of {request.answer_tokens} "
            f"are more than the model's context of {context}: give speed fewer tokens"
        )
    serving = ServerSettings(workers=asked.workers, gpu_layers=asked.serving.gpu_layers)
    models, notes = timed_models(asked.subjects, original, serving)
    tokens = text_tokens(original, request.prompt_tokens + request.turns)
    timed = time_in_turns(models, tokens, request, asked.progress)
    facts = {
        **asdict(request),
        "machine": describe_machine(),
        "threads": asked.workers or cores(),
        "gpu_layers": asked.serving.gpu_layers,
        "engines": {
            engine: {package: metadata.version(package) for package in _PACKAGES[engine]}
            for engine in dict.fromkeys(model.engine for model in models)
        },
    }
    return speed_evidence(timed, facts, (*asked.notes, *notes)), speed_items(timed)


def timed_models(
    subjects: Sequence[Subject], original: Checkpoint, serving: ServerSettings
) -> tuple[list[TimedModel], list[str]]:
    """The models as they are timed, and a note for each that is not: GGUF files in llama.cpp, MLX
    folders in mlx-lm, with the original's own folder beside them."""
    found: list[TimedModel] = []
    notes: list[str] = []
    for one in subjects:
        if isinstance(one.source, str):
            notes.append(f"{one.name} was not timed: it is served elsewhere")
        elif is_mlx(one.source):
            take = partial(mlx_turn.take_turn, one.source)
            found.append(TimedModel(one.name, mlx_turn.ENGINE, take))
        else:
            take = partial(gguf_turn.take_turn, one.source, serving)
            found.append(TimedModel(one.name, gguf_turn.ENGINE, take))
    has_original = any(one.name == ORIGINAL for one in subjects)
    if has_original and any(one.engine == mlx_turn.ENGINE for one in found):
        take = partial(mlx_turn.take_turn, original.path)
        found.insert(0, TimedModel(ORIGINAL, mlx_turn.ENGINE, take))
    return found, notes


def speed_evidence(timed: Timed, facts: Mapping[str, object], notes: Sequence[str]) -> Evidence:
    """The numbers of all models, those of artefacts with their ratios to the original in the same
    engine."""
    artefacts = []
    for name in dict.fromkeys(name for name, _ in timed):
        numbers: list[Measurement] = []
        for (own, engine), turns in timed.items():
            if own == name:
                numbers += speed_measurements(turns, engine)
                if name != ORIGINAL and (before := timed.get((ORIGINAL, engine))):
                    numbers += speed_ratios(before, turns, engine)
        artefacts.append(ArtefactEvidence(name, tuple(numbers)))
    told = [
        "Speed is of one request at a time, with the prompt in no cache, on the machine named in "
        "the facts, whatever else it did; original and artefacts took turns, so that ratios are "
        "surer than speeds.",
        "Memory is the most that the engine's process had resident, mapped weights included, and "
        "nothing of a GPU's own.",
    ]
    if any(engine == mlx_turn.ENGINE for _, engine in timed):
        told.append(
            "On a CPU, mlx-lm computes in float32, and weights in 16 bits are widened to it."
        )
    return Evidence("speed", tuple(artefacts), dict(facts), (*told, *notes))


def speed_items(timed: Timed) -> Items:
    """Every turn, by model."""
    return {
        name: [
            {"engine": engine, "turn": number, **turn.to_json()}
            for (own, engine), turns in timed.items()
            if own == name
            for number, turn in enumerate(turns)
        ]
        for name in dict.fromkeys(name for name, _ in timed)
    }


def text_tokens(original: Checkpoint, least: int) -> tuple[int, ...]:
    """At least so many tokens of running text, always the same."""
    tokenizer = load_tokenizer(original.path)
    count = 5
    while True:
        prompts = loop_prompts(GENERAL, count, seed=0).prompts
        long = (one.messages[0]["content"] for one in prompts if one.domain == _DOMAIN)
        text = "\n\n".join(map(str, long))
        ids = tokenizer(text, verbose=False)["input_ids"]
        if len(ids) >= least:
            return tuple(ids)
        count *= 4
