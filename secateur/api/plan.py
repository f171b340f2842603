"""`plan` and `fit`: decide every output tensor, or what would fit; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.api.grams import load_gram
from secateur.api.models import (
    File,
    Model,
    check_file,
    is_local,
    load_imatrix,
    load_statistics,
    open_headers,
    open_weights,
)
from secateur.api.requests import (
    DEFAULT_ASSUMPTIONS,
    Formats,
    PlanningAssumptions,
    Policy,
    Pruning,
    Words,
    read_types,
    resolve_outputs,
    resolve_split,
)
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import RequestError
from secateur.formats.imatrix.file import ImatrixFile
from secateur.outputs.build import PlanInputs, make_plan
from secateur.planning.checks import check_statistics
from secateur.planning.document import PATH, STATISTICS_PATH, Plan, read_plan, to_json
from secateur.planning.rounding import decide_rounding
from secateur.pruning.choose import choose
from secateur.recipes.layer_importance import layer_importance
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import write_text
from secateur.system.sizes import read_size, show_count

if TYPE_CHECKING:
    from secateur.outputs.fit import Fit
    from secateur.planning.diff import PlanDifference


def plan(
    model: Model,
    pruning: Pruning,
    formats: Formats,
    *,
    statistics: Statistics | File | None = None,
    imatrix: ImatrixFile | File | None = None,
    unseen_experts: Policy = "uniform",
    assumptions: PlanningAssumptions = DEFAULT_ASSUMPTIONS,
    revision: str | None = None,
) -> Plan:
    """Decide every output tensor. Reads headers, tokenizer and statistics; no weights.

    `model` may be a config alone (its file, or a folder without shards): then the first experts
    of each layer stand for those kept, and the plan says all sizes but cannot be applied.
    `assumptions` says what such a plan, and the memory counted, rest on.

    Gram matrices to round with are found next to the file `statistics`, or in the cache
    (api.grams).
    `imatrix` is an importance matrix of llama.cpp to use instead of the statistics' own, of this
    model or of the pruned one; `unseen_experts` says what becomes of experts without data in it:
    "uniform", "stop" or "mean" (planning.unseen_experts).
    """
    if statistics is not None or (assumptions.fetch and not is_local(model)):
        checkpoint = open_weights(model, revision, "planning with statistics")
    else:
        checkpoint = open_headers(model, revision)
    loaded = load_statistics(statistics)
    if loaded is not None:
        check_statistics(loaded, checkpoint)
    choice = choose(checkpoint, loaded, pruning)
    decided = make_plan(
        checkpoint,
        choice,
        resolve_outputs(formats, checkpoint),
        PlanInputs(
            loaded,
            load_imatrix(imatrix, checkpoint),
            unseen_experts,
            _rank_layers(formats, loaded, checkpoint),
            resolve_split(formats),
            assumptions,
            decide_rounding(formats.rounding, load_gram(statistics)),
        ),
    )
    local = {PATH: checkpoint.source}
    if statistics is not None and not isinstance(statistics, Statistics):
        local[STATISTICS_PATH] = str(Path(statistics).absolute())
    return replace(decided, model={**decided.model, **local})


def _rank_layers(
    formats: Formats, statistics: Statistics | None, checkpoint: Checkpoint
) -> tuple[float, ...] | None:
    """[layers]: the importance that recipes with tiers rank layers by; None if it is not known."""
    given = formats.layer_importance
    if not isinstance(given, tuple):
        return layer_importance(given, statistics, checkpoint.layers)
    if len(given) != checkpoint.layers:
        raise RequestError(
            f"layer_importance has {show_count(len(given), 'number')}, but the model has "
            f"{show_count(checkpoint.layers, 'layer')}"
        )
    return given


def fit(
    model: Model,
    memory: int | str,
    *,
    context: int | None = None,
    experts: Sequence[int] = (),
    types: Words = (),
    tokenizer: File | None = None,
    revision: str | None = None,
) -> Fit:
    """What fits in `memory` (bytes, or a size such as 12GiB) with so many tokens of context.

    A config is enough. `experts` and `types` (file types or recipes) are what to try; without
    them, useful shares of the experts and all file types of llama.cpp.
    """
    from secateur.outputs.fit import fit as run

    keys = Path(tokenizer) if tokenizer is not None else None
    return run(
        open_headers(model, revision),
        read_size(memory, RequestError) if isinstance(memory, str) else memory,
        counts=experts,
        recipes=read_types(types),
        assumptions=PlanningAssumptions(keys, context),
    )


def diff_plans(first: Plan | File, second: Plan | File) -> PlanDifference:
    """What differs between two plans, or their files. Raises PlanError for a file that is none."""
    from secateur.planning.diff import compare_plans

    plans = (one if isinstance(one, Plan) else read_plan(Path(one)) for one in (first, second))
    return compare_plans(*plans)


def save_plan(plan: Plan, path: File, *, force: bool = False) -> None:
    """Write a plan as JSON, complete or absent; `force` overwrites what is there.

    Raises OutputError or WriteError.
    """
    check_file(Path(path), force)
    write_text(Path(path), to_json(plan))
