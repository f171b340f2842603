"""Loops: the same prompts to the original and the artefacts, replies judged, rates compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from secateur.api.held_out import OWN_SET
from secateur.api.subjects import AskedOutput, Subject
from secateur.checkpoint.reader import Checkpoint
from secateur.evaluation.asking.ask import ask_all
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock, compare_locks
from secateur.evaluation.asking.server import AskedServer
from secateur.evaluation.robustness.prompts import LoopPrompts, loop_prompts
from secateur.evaluation.robustness.rates import loop_differences, loop_measurements
from secateur.evaluation.robustness.registry import all_detectors
from secateur.evaluation.robustness.replies import (
    LoopItem,
    items_of,
    loop_sampler,
    questions_of,
)
from secateur.evaluation.robustness.request import GENERAL, Loops, longest_reply
from secateur.evaluation.tokens.prompts import context_of
from secateur.release.evidence import ORIGINAL, ArtefactEvidence, Evidence, Items
from secateur.serving.model_defaults import folder_defaults
from secateur.serving.settings import Sampler
from secateur.system.progress import Progress, no_progress, within
from secateur.system.sizes import show_count

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
    tokens = longest_reply(request, context_of(original))
    return LoopPlan(request, loop_prompts(source, request.count, request.seed), tokens)


def measure_loops(asked: AskedOutput, request: Loops) -> tuple[Evidence, Items]:
    """Ask every model the same prompts, one model after the other, and judge what they reply.

    What was answered is in `asked.folder` at once: interrupted, the same call asks only the rest.
    Raises RequestError for prompts that cannot be, EngineError when a server ends.
    """
    plan = plan_loops(asked.original, request)
    sampler = loop_sampler(request, folder_defaults(asked.original.path).sampler)
    runs = [_serve_and_ask(asked, one, plan, sampler) for one in asked.subjects]
    evidence = loop_evidence(runs, plan, asked.notes, asked.serving.compare_anyway)
    return evidence, loop_items(runs)


def _serve_and_ask(
    asked: AskedOutput, subject: Subject, plan: LoopPlan, sampler: Sampler
) -> LoopRun:
    # Its own defaults as well, so that servers whose files say otherwise are served alike.
    settings = replace(asked.settings(None), sampler=sampler)
    with (
        asked.serve(subject, settings) as server,
        asked.open_ledger(subject) as ledger,
    ):
        lock = RunLock(
            subject.identity,
            server.identity,
            sampler.request(),
            {"tokens": plan.tokens, "seeds": plan.request.seeds},
            {"loops": str(plan.prompts.provenance["sha256"])},
        )
        progress = within(f"{subject.name}: loops", asked.progress)
        return ask_for_loops(subject.name, server, lock, ledger, plan, progress)


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
    server.check_context(questions)
    replies = ask_all(questions, server, lock, ledger, progress=progress)
    return LoopRun(name, items_of(prompts, plan.request, replies), lock)


def loop_evidence(
    runs: Sequence[LoopRun], plan: LoopPlan, notes: Sequence[str] = (), anyway: bool = False
) -> Evidence:
    """The rates of every model, and of every artefact the differences from the original, where
    their locks allow it (asking.lock.compare_locks), or `anyway`."""
    original = next((run for run in runs if run.name == ORIGINAL), None)
    artefacts, more = [], list(notes)
    for run in runs:
        replies = [item.judged() for item in run.items]
        numbers = loop_measurements(replies)
        if original is not None and run is not original:
            found = compare_locks(run.name, original.lock, run.lock, anyway)
            if found.note is not None:
                more.append(found.note)
            if found.compared:
                numbers += loop_differences([item.judged() for item in original.items], replies)
        artefacts.append(ArtefactEvidence(run.name, numbers, {"lock": run.lock.to_json()}))
    facts = {
        **asdict(plan.request),
        "tokens": plan.tokens,
        "prompts": dict(plan.prompts.provenance),
        "detectors": {one.name: {"threshold": one.threshold, "finds": one.title}
                      for one in all_detectors()},
    }  # fmt: skip
    return Evidence("loops", tuple(artefacts), facts, (*_notes(runs, plan), *more))


def loop_items(runs: Sequence[LoopRun]) -> Items:
    """Every reply with its verdict, by model."""
    return {run.name: [item.to_json() for item in run.items] for run in runs}


def _notes(runs: Sequence[LoopRun], plan: LoopPlan) -> tuple[str, ...]:
    prompts, seeds = len(plan.prompts.prompts), plan.request.seeds
    notes = [
        f"Loops are what detectors find in the text of {show_count(prompts, 'prompt')} x "
        f"{_replies(seeds)}, of at most {plan.tokens} tokens; a reply that was cut is no loop for "
        "that.",
        "Rates have 95 % Wilson intervals, in which replies to one prompt count for as much as "
        "they differ; differences are paired by prompt.",
    ]
    if prompts < _ENOUGH:
        notes.append(
            f"{show_count(prompts, 'prompt')} {'is' if prompts == 1 else 'are'} few: a rate of 0 "
            f"of {_ENOUGH} is known to be below 1.3 %, one of 0 of {prompts} below "
            f"{384 / (prompts + 3.84):.1f} %."
        )
    for run in runs:
        errors = [item.error for item in run.items if item.error]
        if errors:
            notes.append(
                f"In the place of {_replies(len(errors))} of {run.name} the server gave an error, "
                f"which is in no rate: {errors[0]:.120}"
            )
        lost = sum(bool(item.reply.swallowed) for item in run.items)
        if lost:
            notes.append(
                f"The server kept back a part of {_replies(lost)} of {run.name}: that may loop, "
                "but is no answer."
            )
    return tuple(notes)


def _replies(count: int) -> str:
    return show_count(count, "reply", "replies")
