"""The verbs about recipes, as functions: what there is, what is odd, what llama-quantize reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from secateur.api.models import File, Model, check_file, load_statistics, open_headers
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.formats.ggml.tensor_type_file import read_tensor_types, tensor_types_text
from secateur.outputs.gguf.layout import GgufBase, gguf_base, lint_context, typed_layout
from secateur.outputs.gguf.tokenizer_keys import TokenizerKeys
from secateur.outputs.registry import format_of, planned_format
from secateur.planning.document import Plan, read_plan
from secateur.recipes.export import asked_types
from secateur.recipes.layer_importance import layer_importance
from secateur.recipes.lint import LintReport, lint
from secateur.recipes.llama_mixes import file_type
from secateur.recipes.recipe import Recipe, find_recipe, recipe_of_types, shipped_recipes
from secateur.recipes.suites import SUITES
from secateur.system.atomic import write_text


@dataclass(frozen=True)
class TensorTypes:
    """A tensor-type file for llama-quantize, and the file type to name with it."""

    base: str
    types: Mapping[str, str]

    @property
    def text(self) -> str:
        """The file's content: patterns that whole names match."""
        return tensor_types_text(self.types)


@dataclass(frozen=True)
class Layers:
    """What ranks layers for recipes with tiers: a file or a measure's name, and statistics."""

    importance: File | None = None
    statistics: File | None = None

    def of(self, checkpoint: Checkpoint) -> tuple[float, ...] | None:
        """[layers], None when neither is named."""
        loaded = load_statistics(self.statistics)
        wanted = None if self.importance is None else os.fspath(self.importance)
        return layer_importance(wanted, loaded, checkpoint.layers)


def recipes() -> dict[str, dict[str, str]]:
    """{name: {about, to, base}} of the recipes that come with secateur."""
    found = {name: find_recipe(name) for name in shipped_recipes()}
    return {name: {"about": r.about, "to": r.to, "base": r.base} for name, r in found.items()}


def suites() -> dict[str, tuple[str, ...]]:
    """{name: words} of the suites, to be asked for as `suite:NAME`."""
    return dict(SUITES)


def recipe(word: File, base: str | None = None) -> Recipe:
    """A recipe by name or YAML path, or a tensor-type file over the file type `base`.

    `base` takes the place of a recipe's own. Raises PlanError for an unknown word, FormatError
    for a file that llama-quantize rejects.
    """
    path = Path(word)
    if path.suffix.lower() not in (".yaml", ".yml") and path.is_file():
        if base is None:
            raise PlanError(f"{path} is a tensor-type file: name its file type with --base Q4_K_M")
        return recipe_of_types(path, base)
    found = find_recipe(str(word))
    return found if base is None else replace(found, base=file_type(base))


def lint_recipe(
    word: Recipe | File,
    model: Model,
    *,
    base: str | None = None,
    experts: int | None = None,
    imatrix: bool = False,
    layers: Layers = Layers(),  # noqa: B008 - frozen
    revision: str | None = None,
) -> LintReport:
    """What is odd about a recipe or tensor-type file for a model; its config is enough.

    `experts` is how many are kept in each layer (default: all), `imatrix` says that there will be
    an importance matrix. Raises PlanError for an MLX recipe, or one that cannot be applied.
    """
    found = word if isinstance(word, Recipe) else recipe(word, base)
    _need_gguf(found)
    lines: tuple[int, ...] = ()
    if found.patterns and not isinstance(word, Recipe):
        lines = tuple(rule.line for rule in read_tensor_types(Path(word)))
    checkpoint = open_headers(model, revision)
    importance = layers.of(checkpoint)
    base_form = _base(checkpoint, experts)
    if found.pad:
        padded = typed_layout(
            base_form, found, assume_imatrix=imatrix, layer_importance=importance
        ).tensors
        infos = tuple(tensor.info for tensor in padded)
        base_form = replace(base_form, tensors=padded, infos=infos)
    return lint(
        found, lint_context(base_form), has_imatrix=imatrix, importance=importance, lines=lines
    )


def export_recipe(
    word: Recipe | File,
    model: Model,
    *,
    base: str | None = None,
    imatrix: bool = False,
    layers: Layers = Layers(),  # noqa: B008 - frozen
    revision: str | None = None,
) -> TensorTypes:
    """The types that a recipe gives a model's tensors, for llama-quantize.

    With `imatrix` they are those of a file made with an importance matrix. Raises PlanError for a
    recipe that does not fit the model, or that pads.
    """
    found = word if isinstance(word, Recipe) else recipe(word, base)
    _need_gguf(found)
    _refuse_padding(found.name, found.pad)
    checkpoint = open_headers(model, revision)
    form = typed_layout(
        _base(checkpoint, None),
        found,
        assume_imatrix=imatrix,
        layer_importance=layers.of(checkpoint),
    )
    return TensorTypes(found.base, asked_types(form.choices, found.base))


def export_plan(plan: Plan | File, form: str | None = None) -> TensorTypes:
    """The types of a plan's GGUF, for llama-quantize. `form` is the format, if it has several.

    Raises PlanError when the plan has no such GGUF.
    """
    decided = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    ggufs = [n for n in decided.recipes if planned_format(decided, n).llama_quantize]
    if form is None and len(ggufs) != 1:
        raise PlanError(
            f"the plan has {len(ggufs)} GGUF formats ({', '.join(ggufs) or 'none'}): "
            f"{'name one with --format' if ggufs else 'plan one with --types or --recipe'}"
        )
    chosen = form or ggufs[0]
    if chosen not in ggufs:
        raise PlanError(f"the plan has no GGUF format {chosen!r}: it has {', '.join(ggufs)}")
    facts = decided.recipes[chosen]
    _refuse_padding(chosen, bool(facts.get("pad")))
    base = str(facts["base"])
    return TensorTypes(base, asked_types(decided.of(chosen), base))


def save_tensor_types(types: TensorTypes, path: File, *, force: bool = False) -> None:
    """Write a tensor-type file, complete or absent. Raises OutputError or WriteError."""
    check_file(Path(path), force)
    write_text(Path(path), types.text)


def recipe_facts(found: Recipe) -> dict[str, Any]:
    """A recipe as plain data."""
    return {**asdict(found), "tiers": dict(found.tiers)}


def _base(checkpoint: Checkpoint, experts: int | None) -> GgufBase:
    """The model's GGUF without types; which experts are kept changes no type, only how many do."""
    kept = checkpoint.experts if experts is None else experts
    if not checkpoint.top_k <= kept <= checkpoint.experts:
        raise PlanError(
            f"{kept} experts: expected {checkpoint.top_k} (chosen per token) to "
            f"{checkpoint.experts} (in the model)"
        )
    keep = {layer: tuple(range(kept)) for layer in checkpoint.moe_layers}
    return gguf_base(checkpoint, keep, TokenizerKeys({}, None))


def _refuse_padding(name: str, pad: bool) -> None:
    if pad:
        raise PlanError(f"{name} pads rows with zeros, which llama-quantize cannot: export nothing")


def _need_gguf(found: Recipe) -> None:
    if not format_of(found).llama_quantize:
        raise PlanError(f"recipe {found.name} makes {found.to}: llama-quantize has no part in it")
