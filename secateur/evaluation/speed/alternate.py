"""Original and artefacts timed in turns, so that what the machine does meanwhile hits all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur.errors import RequestError
from secateur.evaluation.speed.turn import SpeedSettings, Subject, Turn
from secateur.system.progress import Progress, no_progress


def time_in_turns(
    subjects: Sequence[Subject],
    tokens: Sequence[int],
    settings: SpeedSettings,
    progress: Progress = no_progress,
) -> Mapping[tuple[str, str], tuple[Turn, ...]]:
    """{(name, engine): its turns}. In every turn all subjects read the same prompt, another one
    than in other turns, cut from `tokens`; who begins changes from turn to turn.

    Raises EngineError, and RequestError for too few tokens.
    """
    prompts = cut_prompts(tokens, settings)
    found: dict[tuple[str, str], list[Turn]] = {(one.name, one.engine): [] for one in subjects}
    done, total = 0, settings.turns * len(subjects)
    for turn, prompt in enumerate(prompts):
        first = turn % len(subjects)
        for subject in (*subjects[first:], *subjects[:first]):
            taken = subject.take(subject.path, prompt, settings)
            found[subject.name, subject.engine].append(taken)
            done += 1
            progress("speed", done, total, "turns")
    return {key: tuple(turns) for key, turns in found.items()}


def cut_prompts(tokens: Sequence[int], settings: SpeedSettings) -> list[Sequence[int]]:
    """A prompt for every turn, each begun at another place of a text's tokens."""
    spare = len(tokens) - settings.prompt_tokens
    if spare < settings.turns - 1:
        raise RequestError(
            f"{settings.turns} different prompts of {settings.prompt_tokens} tokens need a longer "
            f"text than {len(tokens)} tokens: ask for shorter prompts or fewer turns"
        )
    step = spare // max(1, settings.turns - 1)
    starts = (turn * step for turn in range(settings.turns))
    return [tokens[start : start + settings.prompt_tokens] for start in starts]
