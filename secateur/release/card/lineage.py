"""The steps that led to an output, first to last, and everything that was edited on the way."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.release.card.facts import Fact
from secateur.release.card.scope import Scope
from secateur.release.card.shown import Shown, show, show_if

_SAID = {"said_edited": "edited", "said_pruned": "pruned", "said_quantized": "quantized"}


@dataclass(frozen=True)
class Step:
    """A model on the way; what its manifest says of it, and what its tags and name say."""

    model: Shown
    revision: Shown | None
    experts: Shown | None
    of_experts: Shown | None
    by: Shown | None
    said: list[tuple[str, list[Shown]]]
    edited: list[Shown]
    told_by: Shown | None


def steps_of(scope: Scope) -> list[Step]:
    """The steps before this output, as its manifest keeps them; the last is its model."""
    steps = scope.results.manifest.get("origin", "steps")
    if steps is None:  # made by a version that did not ask
        return [_bare(scope.results.manifest["model"])]
    return [_step(step) for step in steps]


def edits_of_output(scope: Scope) -> list[Shown]:
    """What a person changed in this output's plan, and edits of its weights."""
    made = scope.results.manifest
    return [show(sentence) for key in ("edited", "edits") for sentence in made.get(key) or ()]


def edited_words(scope: Scope) -> list[Fact]:
    """The words by which the models on the way say that they were edited, once each."""
    steps = scope.results.manifest.get("origin", "steps") or ()
    found = [word for step in steps for word in step.get("said_edited") or ()]
    return list({word.value: word for word in found}.values())


def _step(step: Fact) -> Step:
    said = [
        (what, [show(word, "code") for word in words])
        for key, what in _SAID.items()
        if (words := step.get(key)) is not None
    ]
    edited = [show(text) for key in ("edited", "edits") for text in step.get(key) or ()]
    return Step(
        show(step["model"], "code"),
        show_if(step.get("revision"), "hash"),
        show_if(step.get("experts"), "count"),
        show_if(step.get("of_experts"), "count"),
        show_if(step.get("criterion") or step.get("drop_map"), "code"),
        said,
        edited,
        show_if(step.get("told_by"), "code"),
    )


def _bare(model: Fact) -> Step:
    revision = show_if(model.get("revision"), "hash")
    return Step(show(model["source"], "code"), revision, None, None, None, [], [], None)
