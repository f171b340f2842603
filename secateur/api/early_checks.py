"""What `shrink` can refuse before anything long begins, and before torch is loaded."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

from secateur.api.answers import check_can_measure
from secateur.api.held_out import Text
from secateur.api.models import load_header, load_imatrix
from secateur.api.plan import plan
from secateur.api.requests import PlanningAssumptions, ShrinkRequest, resolve_outputs
from secateur.api.text import check_text
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError, WriteError
from secateur.formats.ggml.codec import UNWEIGHED
from secateur.outputs.registry import planned_format
from secateur.planning.document import Plan
from secateur.pruning.choose import check_request
from secateur.pruning.criteria.registry import find_criterion
from secateur.pruning.criteria.rerouted import REROUTED
from secateur.recipes.layer_importance import DEFAULT, MEASURES
from secateur.recipes.recipe import Recipe
from secateur.system.sizes import show_bytes
from secateur.system.workdir import SUFFIX, refuse_existing


def check_shrink(checkpoint: Checkpoint, request: ShrinkRequest, out: Path) -> Plan:
    """Raise for everything about a request that can be known without running the model.

    Returns the plan as far as it is known (`plan_ahead`). Raises OutputError for an output that
    exists, RequestError, PlanError or CorpusError for what cannot be made, WriteError for a disk
    that is too small, EngineError for a model that does not fit in memory to answer prompts.
    """
    refuse_existing(out)
    if request.measuring is not None:
        request.measuring.check_served()
        request.measuring.check_limits()
    if request.statistics is None:
        check_request(checkpoint, request.pruning)
    planned = plan_ahead(checkpoint, request)
    if needs_calibration(checkpoint, request, planned):
        check_text(checkpoint, request.calibration)
        _check_criterion(request)
    elif request.calibration.text is not None:
        check_text(checkpoint, request.calibration)
    check_space(planned, out)
    if request.measuring is not None:
        text = Text(request.calibration, load_header(request.statistics))
        check_can_measure(checkpoint, request.measuring, text)
    return planned


def needs_calibration(checkpoint: Checkpoint, request: ShrinkRequest, planned: Plan) -> bool:
    """Whether a plan takes statistics that have to be made: to choose experts, to rank layers, to
    weigh the errors of a type, or to round with Gram matrices.

    Types that can do without an importance matrix get one where there is a text to make it from.
    """
    if request.statistics is not None:
        return False
    prunes = request.pruning.drop_map is None and planned.experts < checkpoint.experts
    rounds = request.calibration.gram != "none"
    return prunes or rounds or _ranks_layers(checkpoint, request) or _weighs(request, planned)


def _ranks_layers(checkpoint: Checkpoint, request: ShrinkRequest) -> bool:
    """Whether a recipe takes layers by an importance that is measured."""
    importance = request.formats.layer_importance
    if importance is not None and str(importance) not in MEASURES:
        return False
    recipes = resolve_outputs(request.formats, checkpoint)
    return any(
        isinstance(share, float)
        for recipe in recipes
        if isinstance(recipe, Recipe)
        for share in recipe.tiers.values()
    )


def _weighs(request: ShrinkRequest, planned: Plan) -> bool:
    """Whether an importance matrix is to be made: one is needed, or there is a text for one."""
    if request.imatrix is not None:
        return False
    if any(planned.output(form).needs_imatrix for form in planned.formats):
        return True
    weighed = [form for form in planned.formats if planned_format(planned, form).llama_quantize]
    types = {tensor.type for form in weighed for tensor in planned.of(form)}
    return request.calibration.text is not None and not types <= UNWEIGHED


def plan_ahead(checkpoint: Checkpoint, request: ShrinkRequest) -> Plan:
    """The plan of a request, before it has statistics: the first experts stand for those kept.

    Its sizes are those of the real plan. Raises PlanError and others as `plan` does.
    """
    if request.statistics is not None:
        return plan(
            checkpoint,
            request.pruning,
            request.formats,
            statistics=request.statistics,
            imatrix=request.imatrix,
            unseen_experts=request.unseen_experts,
        )
    return plan(
        replace(checkpoint, shape_only=True),
        replace(request.pruning, protect_super_experts=False),
        replace(
            request.formats,
            layer_importance=_stand_in_importance(checkpoint, request),
            rounding=None,  # there are no Gram matrices yet
        ),
        imatrix=load_imatrix(request.imatrix, checkpoint),
        unseen_experts=request.unseen_experts,
        assumptions=PlanningAssumptions(imatrix=True),
    )


def check_space(planned: Plan, out: Path) -> None:
    """Raise WriteError when an output cannot be written, or the disk has no room for a plan.

    What an interrupted run has left in the work folder counts as room.
    """
    needed = sum(size or 0 for form in planned.formats for size in planned.files[form].values())
    out = Path(os.path.abspath(out))
    work = out.with_name(out.name + SUFFIX)
    begun = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    existing = next(folder for folder in out.parents if os.path.lexists(folder))
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise WriteError(f"cannot write {out}: {existing} is no folder that you may write to")
    free = shutil.disk_usage(existing).free
    if free + begun < needed:
        raise WriteError(
            f"the disk of {out} has {show_bytes(free)} free, but the output takes "
            f"{show_bytes(needed)}: make room or choose another disk"
        )


def _check_criterion(request: ShrinkRequest) -> None:
    """Raises PlanError for a criterion whose tokens are not sampled."""
    pruning = request.pruning
    sampled = find_criterion(pruning.criterion) is REROUTED
    if (
        sampled
        and pruning.drop_map is None
        and pruning.drop != 0
        and not request.calibration.reroute_tokens
    ):
        raise PlanError(
            f"criterion {REROUTED.name!r} needs a sample of tokens, but reroute_tokens is 0: name "
            "another criterion, or leave reroute_tokens out"
        )


def _stand_in_importance(
    checkpoint: Checkpoint, request: ShrinkRequest
) -> str | Path | tuple[float, ...] | None:
    """An order of the layers for recipes with tiers, where the real one is measured later."""
    given = request.formats.layer_importance
    measured = given is None or str(given) in MEASURES
    unknown = (given is None or str(given) == DEFAULT) and not request.calibration.reroute_tokens
    if not measured or unknown:
        return given
    routed = set(checkpoint.moe_layers)
    return tuple(
        float(checkpoint.layers - layer) if layer in routed else math.inf
        for layer in range(checkpoint.layers)
    )
