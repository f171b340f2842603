"""What a GGUF says of where it comes from: the base model, its licence, who made the file of what.

Only what is known is written. A checkpoint from the Hub is itself the base model; of a folder the
base model is what its model card names. Licence, tags and languages are the card's, under the
keys that llama.cpp's converter gives them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from secateur import __version__
from secateur.checkpoint.model_card import read_front_matter, texts
from secateur.formats.gguf.container import STRING, Value

HUB = "https://huggingface.co"
PLAN_SHA256 = "secateur.plan_sha256"
"""The plan that the file was written by; its length is fixed, so that sizes do not depend on it."""

ROUNDING = "secateur.rounding"
"""How levels were chosen; absent: to nearest."""

_UNKNOWN_PLAN = "0" * 64
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def origin_metadata(folder: Path, hub_id: str | None) -> dict[str, Value]:
    """The keys, for a checkpoint in `folder` that is `hub_id` on the Hub (None: not from there).

    A card that cannot be read as such says nothing.
    """
    card = read_front_matter(folder)
    metadata = {"general.quantized_by": Value(STRING, "secateur")}
    for key in ("license", "license_name", "license_link"):
        if text := ",".join(texts(card.get(key))):
            metadata[f"general.{key.replace('_', '.')}"] = Value(STRING, text)
    for key, words in (("tags", ("tags", "pipeline_tag")), ("languages", ("language",))):
        if found := tuple(text for word in words for text in texts(card.get(word))):
            metadata[f"general.{key}"] = Value(STRING, found)
    bases = [hub_id] if hub_id else texts(card.get("base_model"))
    return metadata | _base_models([base for base in bases if _HUB_ID.fullmatch(base)])


def written_by(plan_sha256: str = _UNKNOWN_PLAN) -> dict[str, Value]:
    """Our version, and the plan; without one a value of the same length."""
    return {
        "secateur.version": Value(STRING, __version__),
        PLAN_SHA256: Value(STRING, plan_sha256),
    }


def rounded_by_feedback(gram: str) -> dict[str, Value]:
    """That levels are not the nearest ones: each makes up for the errors before it in its row.

    `gram` says of which Gram matrices (statistics.gram).
    """
    return {ROUNDING: Value(STRING, f"feedback ({gram})")}


def _base_models(ids: Sequence[str]) -> dict[str, Value]:
    metadata = {"general.base_model.count": Value("u32", len(ids))} if ids else {}
    for number, base in enumerate(ids):
        organization, _, name = base.partition("/")
        at = f"general.base_model.{number}."
        metadata[f"{at}name"] = Value(STRING, name)
        metadata[f"{at}organization"] = Value(STRING, organization)
        metadata[f"{at}repo_url"] = Value(STRING, f"{HUB}/{base}")
    return metadata
