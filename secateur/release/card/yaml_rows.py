"""YAML whose scalars are shown values: a line for each, words and value apart.

A library would write the text, but not keep which of its parts came from where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from secateur.release.card.shown import Shown

Scalar = Shown | str
Row = tuple[str, Scalar]


def yaml_rows(value: Mapping[str, object], indent: str = "") -> Iterator[Row]:
    """(words, value) of every line of a mapping; empty lists are left out."""
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield f"{indent}{key}:", ""
            yield from yaml_rows(entry, indent + "  ")
        elif isinstance(entry, Sequence) and not isinstance(entry, str):
            if entry:
                yield f"{indent}{key}:", ""
                yield from _items(entry, indent)
        elif entry is not None:
            yield f"{indent}{key}: ", _scalar(entry)


def _items(entries: Sequence[object], indent: str) -> Iterator[Row]:
    for entry in entries:
        if isinstance(entry, Mapping):
            dash = "- "
            for words, value in yaml_rows(entry):
                yield f"{indent}{dash}{words}", value
                dash = "  "
        else:
            yield f"{indent}- ", _scalar(entry)


def _scalar(entry: object) -> Scalar:
    return entry if isinstance(entry, Shown) else str(entry)


def plain(value: object) -> object:
    """The same without where it comes from, as a reader of the YAML gets it."""
    if isinstance(value, Shown):
        return value.fact.value
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items() if entry not in (None, [], ())}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(entry) for entry in value]
    return value
