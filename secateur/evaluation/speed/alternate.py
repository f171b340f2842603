"""Original and artefacts timed in turns, so that what the machine does meanwhile hits all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur.errors import RequestError
from secateur.evaluation.speed.request import Speed
from secateur.evaluation.speed.turn import TimedModel, Turn
from secateur.system.progress import Progress, no_progress


def time_in_turns(
    models: Sequence[TimedModel],
    tokens: Sequence[int],
    request: Speed,
    progress: Progress = no_progress,
) -> Mapping[tuple[str, str], tuple[Turn, ...]]:
    """{(name, engine): its turns}. In every turn all models read the same prompt, another one
    than in other turns, cut from `tokens`; who begins changes from turn to turn.

    Raises EngineError, and RequestError for too few tokens.
    """
    prompts = cut_prompts(tokens, request)
    found: dict[tuple[str, str], list[Turn]] = {(one.name, one.engine): [] for one in models}
    done, total = 0, request.turns * len(models)
    for turn, prompt in enumerate(prompts):
        first = turn % len(models)
        for model in (*models[first:], *models[:first]):
            taken = model.take(prompt, request.answer_tokens)
            found[model.name, model.engine].append(taken)
            done += 1
            progress("speed", done, total, "turns")
    return {key: tuple(turns) for key, turns in found.items()}


def cut_prompts(tokens: Sequence[int], request: Speed) -> list[Sequence[int]]:
    """A prompt for every turn, each begun at another place of a text's tokens."""
    spare = len(tokens) - request.prompt_tokens
    if spare < request.turns - 1:
        raise RequestError(
            f"{request.turns} different prompts of {request.prompt_tokens} tokens need a longer "
            f"text than {len(tokens)} tokens: ask for shorter prompts or fewer turns"
        )
    step = spare // max(1, request.turns - 1)
    starts = (turn * step for turn in range(request.turns))
    return [tokens[start : start + request.prompt_tokens] for start in starts]
