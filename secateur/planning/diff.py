"""What differs between two plans: where they come from, experts, types, sizes. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from secateur.planning.document import LOCAL, Plan, PlannedTensor
from secateur.planning.edits import edits_of

_LAYER = re.compile(r"(?<=\.)\d+(?=\.|$)")


class Values(NamedTuple):
    """A value of the first plan and of the second; None where it has none."""

    first: Any
    second: Any


class LayerDifference(NamedTuple):
    """The experts of a layer that only one of the plans keeps."""

    only_first: tuple[int, ...]
    only_second: tuple[int, ...]


@dataclass(frozen=True)
class TypeDifference:
    """Tensors of one name but for the number of their layer (or expert), which differ.

    `types` are {type: how many}, `bytes` of their data.
    """

    format: str
    name: str
    types: Values
    bytes: Values


@dataclass(frozen=True)
class FileDifference:
    """A format whose files differ. `files` are {name: bytes}, `bytes` those of all of them (of
    their tensors where the files' are not known); None where a plan has not the format.

    `bits_per_weight` and `memory` (bytes in llama.cpp) are of the whole format.
    """

    format: str
    files: Values
    bytes: Values
    bits_per_weight: Values
    memory: Values


@dataclass(frozen=True)
class PlanDifference:
    """All that differs; empty parts do not.

    `sources` are values of the model, the selection and the recipes by dotted key, `layers` the
    experts kept, `notes` and `edits` (by hand) what only one of the plans says. Of a format that
    only one of them has, `files` says so, and nothing else.
    """

    experts: Values
    sources: Mapping[str, Values]
    layers: Mapping[int, LayerDifference]
    types: tuple[TypeDifference, ...]
    files: tuple[FileDifference, ...]
    notes: Values
    edits: Values

    @property
    def same(self) -> bool:
        """Whether the plans give the same output for the same reasons."""
        one_sided = (*self.notes, *self.edits)
        return not (self.sources or self.layers or self.types or self.files or any(one_sided))

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write; values are [first, second]."""
        return {"same": self.same, **json.loads(json.dumps(asdict(self)))}


def compare_plans(first: Plan, second: Plan) -> PlanDifference:
    """What differs. Where a model lies on this machine is no difference."""
    edits = Values(*(tuple(edits_of(plan).sentences()) for plan in (first, second)))
    return PlanDifference(
        experts=Values(first.experts, second.experts),
        sources=_differing(dict(_sources(first, second)), dict(_sources(second, first))),
        layers=dict(_layers(first, second)),
        types=tuple(_types(first, second)),
        files=tuple(_files(first, second)),
        notes=_one_sided(Values(first.notes, second.notes)),
        edits=_one_sided(edits),
    )


def _sources(plan: Plan, other: Plan) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of what a plan was made from; recipes of formats that both have."""
    recipes = {name: facts for name, facts in plan.recipes.items() if name in other.files}
    model = {key: value for key, value in plan.model.items() if key not in LOCAL}
    for name, part in (("model", model), ("selection", plan.selection), ("recipe", recipes)):
        yield from _flat(name, part)


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _flat(f"{key}.{name}", entry)
    else:
        yield key, list(value) if isinstance(value, tuple) else value


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Values]:
    """The keys whose values differ."""
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return {key: Values(first.get(key), second.get(key)) for key in keys}


def _layers(first: Plan, second: Plan) -> Iterator[tuple[int, LayerDifference]]:
    for layer in sorted({*first.keep, *second.keep}):
        one, other = (set(plan.keep.get(layer, ())) for plan in (first, second))
        if one != other:
            yield layer, LayerDifference(tuple(sorted(one - other)), tuple(sorted(other - one)))


def _types(first: Plan, second: Plan) -> Iterator[TypeDifference]:
    """By format that both have and name, in the order of the first plan."""
    common = first.files.keys() & second.files.keys()
    grouped = [_grouped(plan, common) for plan in (first, second)]
    for format_id, name in {**grouped[0], **grouped[1]}:
        tensors = [groups.get((format_id, name), []) for groups in grouped]
        types = [dict(Counter(tensor.type for tensor in group)) for group in tensors]
        sizes = [sum(tensor.bytes for tensor in group) for group in tensors]
        by_name = [{tensor.name: tensor.type for tensor in group} for group in tensors]
        if types[0] != types[1] or sizes[0] != sizes[1] or by_name[0] != by_name[1]:
            yield TypeDifference(format_id, name, Values(*types), Values(*sizes))


def _grouped(plan: Plan, formats: Set[str]) -> dict[tuple[str, str], list[PlannedTensor]]:
    """{(format, name with * for numbers): tensors}."""
    groups: dict[tuple[str, str], list[PlannedTensor]] = {}
    for tensor in plan.tensors:
        if tensor.format in formats:
            groups.setdefault((tensor.format, _LAYER.sub("*", tensor.name)), []).append(tensor)
    return groups


def _files(first: Plan, second: Plan) -> Iterator[FileDifference]:
    for format_id in {**first.files, **second.files}:
        plans = [plan if format_id in plan.files else None for plan in (first, second)]
        files = Values(*(dict(plan.files[format_id]) if plan else None for plan in plans))
        if files.first == files.second and _nbytes(first, format_id) == _nbytes(second, format_id):
            continue
        facts = [plan.output(format_id) if plan else None for plan in plans]
        yield FileDifference(
            format_id,
            files,
            Values(*(_nbytes(plan, format_id) if plan else None for plan in plans)),
            Values(*(found.bits_per_weight if found else None for found in facts)),
            Values(*(found.memory_bytes if found else None for found in facts)),
        )


def _nbytes(plan: Plan, format_id: str) -> int:
    known = plan.file_bytes(format_id)
    return plan.tensor_bytes(format_id) if known is None else known


def _one_sided(texts: Values) -> Values:
    """The texts that only one plan has."""
    first, second = texts
    return Values(
        tuple(text for text in first if text not in second),
        tuple(text for text in second if text not in first),
    )
