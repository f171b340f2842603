"""What a person changed in a plan, and the numbers that follow from it.

A plan remembers a digest of each of its decisions as they were made (`decided`): how experts were
selected, which are kept in each layer, the types of each output. Where a decision differs from its
digest, it was edited by hand, and the manifest and the report say so. Numbers that follow from
decisions (bytes, files) are computed again; everything else has to fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secateur.errors import PlanError
from secateur.planning.document import (
    IMATRIX,
    IMATRIX_FROM,
    Plan,
    PlannedTensor,
    published,
)
from secateur.planning.imatrix_policy import Importance
from secateur.system.sizes import show_count

STATISTICS = "statistics_sha256"
"""In a plan's `selection`: the hash of the statistics that it was made with."""

_AGAIN = "computed again after an edit"
"""The beginning of the notes that are added here."""

_CHOSEN_OF_IMATRIX = ("from", "sha256", "unseen_experts")
"""What is decided of an importance matrix; the rest follows from it and the experts kept."""


@dataclass(frozen=True)
class Edits:
    """What was edited: the selection, the experts kept in `layers`, the types of `formats`, or
    `words` that decide nothing (notes, reasons, where the model comes from)."""

    selection: bool
    layers: tuple[int, ...]
    formats: tuple[str, ...]
    words: bool = False

    def sentences(self) -> list[str]:
        """For people; empty where nothing was edited."""
        found = ["how experts were selected"] if self.selection else []
        if self.layers:
            noun = "layer" if len(self.layers) == 1 else "layers"
            found.append(f"experts kept in {noun} {', '.join(map(str, self.layers))}")
        found += [f"types of {format_id}" for format_id in self.formats]
        if self.words and not found:  # else they follow from it
            found.append("words that decide nothing (notes, reasons, where the model comes from)")
        return found


def decided_now(plan: Plan) -> dict[str, Any]:
    """Digests of a plan's decisions, {"selection": ..., "keep": {layer: ...}, "types": {...}}, and
    of its "words"."""
    selection = {k: v for k, v in plan.selection.items() if k not in (IMATRIX, IMATRIX_FROM)}
    origin = plan.selection.get(IMATRIX_FROM) or {}
    selection[IMATRIX_FROM] = {key: origin.get(key) for key in _CHOSEN_OF_IMATRIX}
    return {
        "selection": _digest(selection),
        "keep": {str(layer): _digest(kept) for layer, kept in sorted(plan.keep.items())},
        "types": {
            format_id: _digest({tensor.name: tensor.type for tensor in plan.of(format_id)})
            for format_id in plan.formats
        },
        "words": _digest(
            {
                "model": dict(published(plan).model),
                "notes": [note for note in plan.notes if not note.startswith(_AGAIN)],
                "recipes": {name: dict(facts) for name, facts in plan.recipes.items()},
                "tensors": [[t.name, t.reason, t.fallback_from] for t in plan.tensors],
            }
        ),
    }


def edits_of(plan: Plan) -> Edits:
    """What was edited in a plan since it was made."""
    then, now = plan.decided, decided_now(plan)
    kept, types = then.get("keep", {}), then.get("types", {})
    return Edits(
        selection=then.get("selection") != now["selection"],
        layers=tuple(int(layer) for layer, made in now["keep"].items() if kept.get(layer) != made),
        formats=tuple(name for name, made in now["types"].items() if types.get(name) != made),
        words=then.get("words") != now["words"],
    )


def settle_importance(plan: Plan, importance: Importance | None) -> Plan:
    """The plan with what its importance matrix is now, where the experts kept were edited.

    Raises PlanError where it differs, and they were not.
    """
    if importance is None:
        return plan
    planned = {**(plan.selection.get(IMATRIX) or {}), **(plan.selection.get(IMATRIX_FROM) or {})}
    found = {**importance.facts, **importance.origin}
    if planned == found:
        return plan
    if not edits_of(plan).layers:
        key = min(key for key in {*planned, *found} if planned.get(key) != found.get(key))
        raise PlanError(
            f"the plan says of its importance matrix {key} {_json(planned.get(key))}, but it has "
            f"{_json(found.get(key))}: name what the plan was made with, or plan again"
        )
    selection = {**plan.selection, IMATRIX: importance.facts, IMATRIX_FROM: importance.origin}
    note = f"{_AGAIN}: the experts without importance data"
    return replace(plan, selection=selection, notes=_with(plan.notes, note))


def settle(plan: Plan, right: Plan) -> Plan:
    """The plan with the numbers that its decisions lead to, and a note where they were others.

    `right` is the plan with what its decisions lead to. Raises PlanError where the plan differs in
    more than numbers.
    """
    if odd := sorted({tensor.format for tensor in plan.tensors} ^ set(plan.formats)):
        raise PlanError(
            f"the plan has tensors or files of format {odd[0]!r}, but not both: plan again"
        )
    edits = edits_of(plan)
    kept_edited = bool(edits.layers)
    changed: list[str] = []
    tensors: list[PlannedTensor] = []
    for format_id in plan.formats:
        mine = {tensor.name: tensor for tensor in plan.of(format_id)}
        theirs = {tensor.name: tensor for tensor in right.of(format_id)}
        if not kept_edited:
            _refuse_other_names(format_id, mine, theirs)
        was_edited = format_id in edits.formats
        follow = (
            ("shape", "sources", "action") if kept_edited else ("action",) if was_edited else ()
        )
        for name in mine.keys() & theirs.keys():
            _refuse_other_choices(mine[name], theirs[name], follow)
        odd = [n for n in theirs if n not in mine or mine[n].bytes != theirs[n].bytes]
        if odd:
            changed.append(
                f"bytes of {show_count(len(odd), 'tensor')} of {format_id} (first: {odd[0]})"
            )
        if dict(plan.files[format_id]) != dict(right.files[format_id]):
            changed.append(f"files of {format_id}")
        tensors += right.of(format_id) if was_edited else _explain(right.of(format_id), mine)
    if dict(plan.memory) != dict(right.memory):
        changed.append("memory")
    right = replace(right, tensors=tuple(tensors))
    if not changed:
        return right
    note = f"{_AGAIN}: {'; '.join(changed)}"
    return replace(right, notes=_with(plan.notes, note))


def _explain(
    tensors: Sequence[PlannedTensor], planned: Mapping[str, PlannedTensor]
) -> list[PlannedTensor]:
    """The tensors with the plan's reasons for their types: a recipe's rules are not in a plan."""
    return [
        replace(
            tensor,
            reason=planned[tensor.name].reason,
            fallback_from=planned[tensor.name].fallback_from,
        )
        if tensor.name in planned
        else tensor
        for tensor in tensors
    ]


def _refuse_other_names(
    format_id: str, mine: Mapping[str, PlannedTensor], right: Mapping[str, PlannedTensor]
) -> None:
    if odd := sorted(set(mine) ^ set(right)):
        what = "names" if odd[0] in mine else "lacks"
        raise PlanError(
            f"the plan {what} tensor {odd[0]!r} in format {format_id} against the checkpoint "
            f"({len(odd)} such tensors): plan again"
        )


def _refuse_other_choices(mine: PlannedTensor, right: PlannedTensor, follow: Sequence[str]) -> None:
    """Raise PlanError where they differ in more than what may `follow` from an edit."""
    for what in ("shape", "sources", "action", "type"):
        got, expected = getattr(mine, what), getattr(right, what)
        if got != expected and what not in follow:
            raise PlanError(
                f"the plan gives tensor {mine.name!r} of {mine.format} the {what} "
                f"{_json(got)}, expected {_json(expected)}: correct it, or plan again"
            )


def _with(notes: tuple[str, ...], note: str) -> tuple[str, ...]:
    return notes if note in notes else (*notes, note)


def _digest(value: object) -> str:
    """The first 16 digits of a sha256: against accidents of editing, not against forgery."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _json(value: Any) -> str:
    return json.dumps(value)
