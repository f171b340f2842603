"""Asking many questions at once, each of them only once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Reply
from secateur.evaluation.asking.server import AskedServer
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
    EngineError only when the server is gone or does not take the key, WriteError.
    """
    keys = [lock.key(question) for question in questions]
    found = {key: reply for key in keys if (reply := ledger.find(key)) is not None}
    pending = {key: one for key, one in zip(keys, questions, strict=True) if key not in found}
    count = Counter(progress, "questions", len(set(keys)), "answers")
    count(len(found))

    def ask(key: str, question: Question) -> tuple[str, Reply]:
        reply = server.ask(question, lock.sent)
        ledger.add(key, question, reply)
        return key, reply

    with ThreadPoolExecutor(parallel or server.slots, thread_name_prefix="ask") as pool:
        try:
            for done in as_completed([pool.submit(ask, *one) for one in pending.items()]):
                key, reply = done.result()
                found[key] = reply
                count(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(found[key] for key in keys)
