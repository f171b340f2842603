"""One model under one protocol, to which the questions of tasks are put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.evaluation.asking.ask import ask_all
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.protocol import Protocol
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Outcome, Reply, outcome_of
from secateur.evaluation.asking.server import AskedServer
from secateur.system.progress import Progress, no_progress, within


@dataclass(frozen=True)
class Asker:
    """`lock` has no data yet: every task adds its own hash to what it gives."""

    server: AskedServer
    lock: RunLock
    ledger: Ledger
    protocol: Protocol
    progress: Progress = no_progress

    def ask(self, questions: Sequence[Question], task: str) -> tuple[Reply, ...]:
        """The replies, in order (asking.ask.ask_all)."""
        self.server.check_context(questions)
        progress = within(task, self.progress)
        return ask_all(questions, self.server, self.lock, self.ledger, progress=progress)

    def rate(self, questions: Sequence[Question], task: str) -> tuple[Reply, ...]:
        """The log-probabilities of given answers (`continuation`), in order.

        Raises RequestError where the server cannot say.
        """
        self.server.check_rates(task)
        progress = within(task, self.progress)
        return ask_all(questions, self.server, self.lock, self.ledger, progress=progress)

    def tokens(self, answer: int) -> int:
        """`max_tokens` of a question whose answer may have so many."""
        return self.protocol.tokens(answer, self.server.context)

    def outcome(self, reply: Reply) -> Outcome:
        return outcome_of(reply)
