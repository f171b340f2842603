"""Asking many questions at once, each of them only once."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Reply
from secateur.evaluation.asking.server import AskedServer
from secateur.system.as_they_come import as_they_come
from secateur.system.progress import Counter, Progress, no_progress


def ask_all(
    questions: Sequence[Question],
    server: AskedServer,
    lock: RunLock,
    ledger: Ledger,
    *,
    parallel: int | None = None,
    progress: Progress = no_progress,
) -> tuple[Reply, ...]:
    """The reply to every question, in their order; those in the ledger are not asked again.

    `parallel` requests are in flight at a time (default: as many as the server has slots). Every
    reply is in the ledger as soon as it is there. An error is a reply like others; raises
    EngineError only when the server is gone or does not take the key, WriteError. Interrupted, it
    does not wait for the replies that are still to come.
    """
    keys = [lock.key(question) for question in questions]
    found = {key: reply for key in keys if (reply := ledger.find(key)) is not None}
    pending = {key: one for key, one in zip(keys, questions, strict=True) if key not in found}
    count = Counter(progress, "questions", len(set(keys)), "answers")
    count(len(found))

    def ask(one: tuple[str, Question]) -> tuple[str, Reply]:
        key, question = one
        reply = server.ask(question, lock.sent)
        ledger.add(key, question, reply)
        return key, reply

    for key, reply in as_they_come(ask, pending.items(), parallel or server.slots):
        found[key] = reply
        count(1)
    return tuple(found[key] for key in keys)
