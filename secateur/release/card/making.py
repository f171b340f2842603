"""How an output was made: experts, calibration, types, and the files that came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.planning.rounding import ROUNDING
from secateur.release.card.facts import Fact
from secateur.release.card.measured import Measured
from secateur.release.card.scope import Output, Scope
from secateur.release.card.shown import Shown, show, show_if
from secateur.release.card.uses import Use, uses_of


@dataclass(frozen=True)
class File:
    """A weight file of the card's table. What an output of several files lost, and its use, stand
    with the first of them."""

    name: Shown
    recipe: Shown
    size: Shown
    bits: Shown | None
    memory: Shown | None
    measured: Measured | None
    use: Use | None


def files_of(scope: Scope, measured: Mapping[str, Measured]) -> list[File]:
    """All weight files, in the order of the plan; `measured` is what artefacts lost, by name."""
    uses = uses_of(scope)
    found = []
    for output in scope.outputs:
        lost = next((one for name, one in measured.items() if output.owns(name)), None)
        weights = [file for file in output.files if not file.key.endswith(".json")]
        for number, file in enumerate(weights):
            found.append(
                File(
                    show(file, scope.how_to_name),
                    recipe_of(output),
                    show(file["bytes"], "size"),
                    show(output.facts["bits_per_weight"], "bits"),
                    show_if(output.facts.get("memory_bytes"), "size"),
                    None if number else lost,
                    None if number else uses[output.format_id],
                )
            )
    return found


def recipe_of(output: Output) -> Shown:
    """The name of an output's recipe, as text; of a format without recipes the format's."""
    return show(output.facts, "key") if output.recipe is None else show(output.recipe["recipe"])


def making_of(scope: Scope) -> Mapping[str, Any]:
    """The values of the card's recipe."""
    made = scope.results.manifest
    selection = made["selection"]
    imatrix = selection.get("imatrix")
    gram = selection.get(ROUNDING, "gram")
    return {
        "kept": show(made["experts"], "count"),
        "of_experts": show(made["model"]["experts"], "count"),
        "top_k": show(made["model"]["top_k"], "count"),
        "layers": show(made["model"]["layers"], "count"),
        "pruned": scope.is_pruned,
        "chosen_by": show_if(selection.get("criterion") or selection.get("drop_map"), "code"),
        "by_map": selection.get("criterion") is None,
        "settings": [
            (show(fact, "words of key"), show(fact, "code"))
            for key in ("aggregation", "routing_weight", "protect_per_sample", "random_seed")
            if (fact := selection.get(key)) is not None
        ],
        "plan_sha256": show(made["plan_sha256"], "code"),
        "version": show(made["secateur"], "code"),
        "calibration": _calibration(made.get("calibration")),
        "imatrix": show_if(imatrix.get("quantize.imatrix.dataset"), "code") if imatrix else None,
        "imatrix_chunks": show_if(imatrix.get("quantize.imatrix.chunks_count"), "count")
        if imatrix
        else None,
        "feedback": show_if(gram, "code"),
        "quantized": any(output.recipe is not None for output in scope.outputs),
        "recipes": [_recipe(scope, output) for output in scope.outputs if output.recipe],
    }


def _calibration(facts: Fact | None) -> Mapping[str, Any] | None:
    if facts is None:
        return None
    corpora = facts.get("corpora") or ()
    return {
        "samples": show(facts["samples"], "count"),
        "tokens": [(show(entry, "key"), show(entry, "count")) for entry in facts["tokens"]],
        "corpora": [
            (show_if(one.get("mix") or one.get("rows_file"), "code"),
             show_if(one.get("sha256"), "code"))
            for one in corpora
        ],
        "coverage": [show(sentence) for sentence in facts.get("coverage") or ()],
    }  # fmt: skip


def _recipe(scope: Scope, output: Output) -> Mapping[str, Any]:
    """A recipe, and the types that each kind of matrix has by it."""
    assert output.recipe is not None
    kinds: dict[str, tuple[Shown, dict[str, Shown]]] = {}
    for tensor in scope.results.plan["tensors"]:
        if tensor.value["format"] != output.format_id or len(tensor.value["shape"]) < 2:
            continue
        name = show(tensor["name"], "kind of tensor")
        types = kinds.setdefault(name.text, (name, {}))[1]
        types.setdefault(tensor.value["type"], show(tensor["type"], "code"))
    return {
        "files": [show(file, "key") for file in output.files if not file.key.endswith(".json")],
        "name": show(output.recipe["recipe"], "code"),
        "base": show(output.recipe["base"], "code"),
        "fallbacks": show(output.facts["fallback_tensors"], "count")
        if output.facts["fallback_tensors"].value
        else None,
        "types": [(name, list(types.values())) for name, types in kinds.values()],
    }
