"""Loops of an output: prompts for the model, rates of every artefact, evidence of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secateur.api.held_out import OWN_SET
from secateur.checkpoint.reader import Checkpoint
from secateur.evaluation.asking.ask import ask_all
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.server import AskedServer
from secateur.evaluation.robustness.prompts import LoopPrompts, loop_prompts
from secateur.evaluation.robustness.rates import loop_differences, loop_measurements
from secateur.evaluation.robustness.registry import all_detectors
from secateur.evaluation.robustness.replies import LoopItem, items_of, questions_of
from secateur.evaluation.robustness.request import GENERAL, TOKENS, Loops
from secateur.evaluation.tokens.prompts import context_of
from secateur.release.evidence import ORIGINAL, ArtefactEvidence, Evidence
from secateur.system.progress import Progress, no_progress

_ENOUGH = 300
"""Prompts from which on nothing found means less than about 1.3 %."""


@dataclass(frozen=True)
class LoopPlan:
    """What every model is asked: prompts, and how long a reply may be."""

    request: Loops
    prompts: LoopPrompts
    tokens: int


@dataclass(frozen=True)
class LoopRun:
    """All replies of one model, and the lock under which they were given."""

    name: str
    items: tuple[LoopItem, ...]
    lock: RunLock


def plan_loops(original: Checkpoint, request: Loops) -> LoopPlan:
    """The prompts for a model. Raises InputError for prompts that cannot be read."""
    own = original.path / OWN_SET
    source = request.prompts or (str(own) if own.is_file() else GENERAL)
    context = context_of(original)
    tokens = request.tokens or min(TOKENS, (context or 2 * TOKENS) // 2)
    return LoopPlan(request, loop_prompts(source, request.count, request.seed), tokens)


def ask_for_loops(
    name: str,
    server: AskedServer,
    lock: RunLock,
    ledger: Ledger,
    plan: LoopPlan,
    progress: Progress = no_progress,
) -> LoopRun:
    """Ask one model everything. What the ledger has is not asked again.

    Raises RequestError when a prompt and its reply do not fit into the server's context,
    EngineError when the server is gone.
    """
    prompts = plan.prompts.prompts
    questions = questions_of(prompts, plan.request, plan.tokens)
    replies = ask_all(questions, server, lock, ledger, progress=progress)
    return LoopRun(name, items_of(prompts, plan.request, replies), lock)


def loop_evidence(runs: Sequence[LoopRun], plan: LoopPlan) -> Evidence:
    """The rates of every model, and of every artefact the differences from the original, where
    that was asked too."""
    original = next((run for run in runs if run.name == ORIGINAL), None)
    artefacts = []
    for run in runs:
        replies = [item.judged() for item in run.items]
        numbers = loop_measurements(replies)
        if original is not None and run is not original:
            numbers += loop_differences([item.judged() for item in original.items], replies)
        artefacts.append(ArtefactEvidence(run.name, numbers, {"lock": run.lock.to_json()}))
    facts = {
        **asdict(plan.request),
        "tokens": plan.tokens,
        "prompts": dict(plan.prompts.provenance),
        "detectors": {one.name: {"threshold": one.threshold, "finds": one.title}
                      for one in all_detectors()},
    }  # fmt: skip
    return Evidence("loops", tuple(artefacts), facts, _notes(runs, plan))


def loop_items(runs: Sequence[LoopRun]) -> Mapping[str, list[dict[str, Any]]]:
    """Every reply with its verdict, by model."""
    return {run.name: [item.to_json() for item in run.items] for run in runs}


def _notes(runs: Sequence[LoopRun], plan: LoopPlan) -> tuple[str, ...]:
    prompts, seeds = len(plan.prompts.prompts), plan.request.seeds
    notes = [
        f"Loops are what detectors find in the text of {prompts} prompts x {seeds} replies, of at "
        f"most {plan.tokens} tokens; a reply that was cut is no loop for that.",
        "Rates have 95 % Wilson intervals, in which replies to one prompt count for as much as "
        "they differ; differences are paired by prompt.",
    ]
    if prompts < _ENOUGH:
        notes.append(
            f"{prompts} prompts are few: a rate of 0 of {_ENOUGH} is known to be below 1.3 %, one "
            f"of 0 of {prompts} below {384 / (prompts + 3.84):.1f} %."
        )
    for run in runs:
        lost = sum(bool(item.reply.swallowed) for item in run.items)
        if lost:
            notes.append(
                f"The server kept back a part of {lost} replies of {run.name}, which no detector "
                "has seen."
            )
    return tuple(notes)
