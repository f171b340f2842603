"""Tasks put to the original and the artefacts, accounted for and compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from secateur.api.subjects import Asked, Subject
from secateur.corpus.text_hashes import TextHashes
from secateur.evaluation.asking.lock import RunLock, compare_locks, hash_json
from secateur.evaluation.asking.probed import probe_once, rules_of
from secateur.evaluation.asking.protocol import Protocol, find_protocol
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.tasks.accounting import Account
from secateur.evaluation.tasks.asker import Asker
from secateur.evaluation.tasks.contamination import (
    NOT_CHECKED,
    Overlap,
    find_overlap,
    text_of_messages,
)
from secateur.evaluation.tasks.find import FoundTasks, find_tasks
from secateur.evaluation.tasks.group import GroupResult
from secateur.evaluation.tasks.harness import ask_harness, check_harness
from secateur.evaluation.tasks.paired import compare_paired, same_questions
from secateur.evaluation.tasks.request import LIMIT, Tasks
from secateur.evaluation.tasks.result import TaskResult
from secateur.evaluation.tasks.second_pass import ask_again
from secateur.evaluation.tasks.suite_task import ask_suite
from secateur.release.evidence import ORIGINAL, ArtefactEvidence, Evidence, Items
from secateur.serving.probe import Probe
from secateur.system.progress import within


@dataclass(frozen=True)
class Answered:
    """What one model made of all tasks, under which conditions."""

    name: str
    results: tuple[TaskResult, ...]
    lock: RunLock
    groups: tuple[GroupResult, ...] = ()
    probe: Probe | None = None


def check_tasks(request: Tasks) -> tuple[FoundTasks, Protocol]:
    """What a request means. Raises RequestError for what cannot be, before anything is served."""
    found = find_tasks(request.names)
    check_harness(found.files, found.harness)
    return found, find_protocol(request.protocol)


def measure_tasks(
    asked: Asked, request: Tasks, calibrated: TextHashes | None = None
) -> tuple[Evidence, Items]:
    """Ask every model the same questions, one model after the other.

    `calibrated` is the text that the artefacts were calibrated on, in which the questions are
    looked for; None where it is not known, which is said.
    What was answered is in `asked.folder` at once: interrupted, the same call asks only the rest.
    Raises RequestError for tasks that cannot be, EngineError when a server ends.
    """
    found, protocol = check_tasks(request)
    answered = [_ask(asked, one, found, request, protocol) for one in asked.subjects]
    overlaps = () if calibrated is None else _find_overlaps(answered[0].results, calibrated)
    looked = tuple(overlap.describe() for overlap in overlaps) or (NOT_CHECKED,)
    found_in_text = {overlap.task: overlap for overlap in overlaps}
    return (
        evidence_of(
            answered,
            request,
            found_in_text,
            (*asked.notes, *looked),
            asked.serving.compare_anyway,
        ),
        items_of(answered),
    )


def evidence_of(
    answered: Sequence[Answered],
    request: Tasks,
    overlaps: Mapping[str, Overlap] = MappingProxyType({}),
    notes: Sequence[str] = (),
    anyway: bool = False,
) -> Evidence:
    """The numbers of all models; with those of the artefacts their differences from the original's
    in pairs (`anyway`: whatever the locks), and what of the questions their calibration saw
    (`overlaps`, by task)."""
    original = next((one for one in answered if one.name == ORIGINAL), None)
    seen = tuple(overlap.measurement() for overlap in overlaps.values())
    said = list(notes)
    artefacts = []
    for one in answered:
        numbers = _alone(one)
        if original is not None and one is not original:
            found = compare_locks(one.name, original.lock, one.lock, anyway)
            if found.compared:
                numbers += _paired(original, one)
            if found.note is not None:
                said.append(found.note)
        if one is not original:
            numbers += seen
        how: dict[str, Any] = {"lock": one.lock.to_json()}
        if one.probe is not None:
            how["thinking"] = one.probe.to_json()
            said += [f"{one.name}: {sentence}" for sentence in one.probe.sentences()]
        artefacts.append(ArtefactEvidence(one.name, numbers, how))
    facts: dict[str, Any] = {
        "tasks": list(request.names),
        "protocol": request.protocol,
        "seed": request.seed,
        "calibration_overlap": [overlap.to_json() for overlap in overlaps.values()],
    }
    if groups := {one.group: asdict(one.rule) for model in answered for one in model.groups}:
        facts["groups"] = groups
    return Evidence("tasks", tuple(artefacts), facts, tuple(said))


def items_of(answered: Sequence[Answered]) -> Items:
    """{"ARTEFACT/TASK": its items} as they are written."""
    return {
        f"{one.name}/{result.task}": [item.to_json() for item in result.items]
        for one in answered
        for result in one.results
    }


def _ask(
    asked: Asked, subject: Subject, found: FoundTasks, request: Tasks, protocol: Protocol
) -> Answered:
    settings = asked.settings(protocol.context)
    with (
        asked.serve(subject, settings) as server,
        asked.open_ledger(subject) as ledger,
    ):
        probe = probe_once(server, subject.identity, protocol.thinking, asked.folder / "probes")
        rules = {"protocol": protocol.to_json(), "seed": request.seed, **rules_of(probe)}
        lock = RunLock(subject.identity, server.identity, protocol.sent(), rules)
        progress = within(subject.name, asked.progress)
        asker = Asker(server, lock, ledger, protocol, progress)
        limit = request.limit or protocol.limit
        results = tuple(
            ask_suite(suite, asker, request.seed, limit or LIMIT) for suite in found.suites
        )
        groups: tuple[GroupResult, ...] = ()
        if found.files or found.harness:
            more, groups = ask_harness(found.files, found.harness, asker, limit)
            results += more
        results = tuple(ask_again(result, asker) for result in results)
    data = {result.task: hash_json([result.sha256, result.version]) for result in results}
    return Answered(subject.name, results, replace(lock, data=data), groups, probe)


def _find_overlaps(results: Sequence[TaskResult], calibrated: TextHashes) -> tuple[Overlap, ...]:
    """How much of the questions of every task is in the text of the calibration."""
    return tuple(
        find_overlap(
            result.task,
            {
                item.item: text_of_messages(item.question.messages)
                for item in result.items
                if item.question is not None
            },
            calibrated,
        )
        for result in results
    )


def _alone(answered: Answered) -> tuple[Measurement, ...]:
    found = [entry for one in _all_of(answered) for entry in Account(*one).measurements()]
    return (*found, *(group.aggregate() for group in answered.groups))


def _paired(original: Answered, artefact: Answered) -> tuple[Measurement, ...]:
    """The differences of all tasks and groups from the original's, where both have the same
    questions."""
    before = {one.task: one for one, _ in _all_of(original)}
    return tuple(
        entry
        for after, weights in _all_of(artefact)
        if after.task in before and same_questions(before[after.task].scores, after.scores)
        for entry in compare_paired(
            after.task, before[after.task].scores, after.scores, weights=weights
        ).measurements()
    )


def _all_of(answered: Answered) -> list[tuple[TaskResult, Mapping[str, float] | None]]:
    """Every task, then every group as one task, with what its questions count."""
    results = answered.results
    groups = [(one.joined(results), one.weights(results)) for one in answered.groups]
    return [*((result, None) for result in results), *groups]
