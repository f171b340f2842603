"""Families as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.families.schema import Family


def family_lines(families: Sequence[Family]) -> list[str]:
    """A line for each family: name, title, formats, and the file of a user's own."""
    width = max((len(family.name) for family in families), default=0)
    return [
        f"{family.name:{width}}  {family.title}; {', '.join(formats_of(family))}"
        + (f"; {family.file}" if family.sha256 else "")
        for family in families
    ]


def family_to_json(family: Family) -> dict[str, object]:
    """What a family's line says, with its `model_type`s."""
    return {
        "name": family.name,
        "title": family.title,
        "model_types": list(family.model_types),
        "formats": formats_of(family),
        "file": family.file,
    }


def formats_of(family: Family) -> list[str]:
    """The formats that a model of the family can be written in."""
    from secateur.outputs.registry import FORMATS

    return [n for n, known in FORMATS.items() if known.supports(family) and known.goes_with is None]
