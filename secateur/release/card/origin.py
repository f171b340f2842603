"""Where a model comes from, as far as it says itself: licence, and what was done to it before.

Read when an output is written, while its model is at hand, and kept in the output's manifest. A
model that is an output of ours has a manifest, which tells all of its own steps; of any other the
front matter of its card tells its base model, and its tags and name what was done to its weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from secateur.checkpoint.model_card import MODEL_CARD, read_front_matter, texts
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import OutputError
from secateur.release.card.hub_terms import hub_terms
from secateur.release.manifest import MANIFEST, read_manifest

_KEPT = ("license", "license_name", "license_link", "pipeline_tag", "language")
"""Keys of a card's front matter that hold for what is made of the model."""


def origin_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The facts for a manifest: kept keys of the card, and `steps` that led to the model.

    A step has `model` and what is known of it (release.keys, `origin.steps`): of an output of ours
    its experts, by what they were chosen, what was edited; of any other what its card's tags and
    its name say. The last one is the model itself.
    """
    card = read_front_matter(checkpoint.path)
    made = _manifest_of(checkpoint)
    before = made.get("origin", {}) if made else {}
    kept = {key: texts(card.get(key, before.get(key))) for key in _KEPT}
    steps = _own_steps(checkpoint, made) if made else _card_steps(checkpoint, card)
    facts = {key: words if key == "language" else words[0] for key, words in kept.items() if words}
    return {**facts, "steps": steps}


def _manifest_of(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    """The manifest of a model that is an output of ours; None for any other."""
    if not (checkpoint.path / MANIFEST).is_file():
        return None
    try:
        made = read_manifest(checkpoint.path)
    except OutputError:
        return None  # another tool's file of that name
    return made if "plan_sha256" in made and isinstance(made.get("model"), dict) else None


def _own_steps(checkpoint: Checkpoint, made: Mapping[str, Any]) -> list[dict[str, Any]]:
    model = made["model"]
    first = {"model": model.get("source"), "revision": model.get("revision")}
    steps = made.get("origin", {}).get("steps") or [_filled(first)]
    step = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "experts": made.get("experts"),
        "of_experts": model.get("experts"),
        "criterion": made.get("selection", {}).get("criterion"),
        "drop_map": made.get("selection", {}).get("drop_map"),
        "edited": made.get("edited"),
        "edits": made.get("edits"),
        "secateur": made.get("secateur"),
        "told_by": MANIFEST,
    }
    return [*steps, _filled(step)]


def _card_steps(checkpoint: Checkpoint, card: Mapping[str, Any]) -> list[dict[str, Any]]:
    bases = [
        _filled({"model": base, "told_by": MODEL_CARD}) for base in texts(card.get("base_model"))
    ]
    step = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "relation": next(iter(texts(card.get("base_model_relation"))), None),
        **_said(checkpoint.name, texts(card.get("tags"))),
    }
    return [*bases, _filled(step)]


def _said(name: str, tags: list[str]) -> dict[str, list[str]]:
    """Words of a model's tags and name that say what was done to its weights, by what they say."""
    words = {tag.lower() for tag in tags} | set(re.split(r"[^a-z0-9]+", name.lower()))
    return {
        f"said_{what}": [word for word in known if word in words]
        for what, known in hub_terms().said_of_weights.items()
    }


def _filled(step: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in step.items() if value not in (None, [], "")}
