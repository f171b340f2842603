"""Batched expert dispatch: the micro-batches of a group go through a layer's experts as one batch.

A layer's forward belongs to the model; only its experts are ours (forward.experts). So every
micro-batch of a group runs the layer in a thread of its own, until it calls the experts. There it
waits for the other members; then all of their threads work on the experts of the whole group, and
each returns to its layer with its part of the output. Attention sees small micro-batches, which
fit the cache; experts see many tokens.

The four states of a group, and what leads from one to the next:

    collecting --- the last expected member has called `dispatch` (or left without doing so) --+
        |                                                                                      |
        |                                                      +----------- working <----------+
        |                                                      |               |
     a member fails, or `abort` is called           an expert or observer    the last helping
        |                                           fails, or `abort`        thread finds no
        v                                                      |             work left
     aborted <-------------------------------------------------+               |
     (every waiting member raises Aborted)                                     v
                                                finished (every member takes its output)

`_opened` is set when collecting ends, `_closed` when the group is finished or aborted. A member
that waits gives its compute slot to another thread; slots go to earlier groups first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.forward.compute_slots import ComputeSlots
from secateur.forward.expert_work import ExpertInput, ExpertObserver, ExpertWork
from secateur.forward.experts import CURRENT_MEMBER


class Aborted(Exception):
    """The group will not be finished, because one of its micro-batches failed (`__cause__`)."""


class ExpertBatch:
    """One group of `members` micro-batches in one layer; `rank` puts groups in order."""

    def __init__(
        self, rank: int, members: int, slots: ComputeSlots, observer: ExpertObserver | None
    ) -> None:
        self.observer = observer
        self._rank = rank
        self._slots = slots
        self._lock = threading.Lock()
        self._expected = members
        self._inputs: dict[int, ExpertInput] = {}
        self._arrived: set[int] = set()
        self._module: nn.Module | None = None
        self._work: ExpertWork | None = None
        self._results: dict[int, Tensor] = {}
        self._error: BaseException | None = None
        self._opened, self._closed = threading.Event(), threading.Event()
        self._helping = 0

    @contextmanager
    def join(self, number: int) -> Iterator[None]:
        """Run the block as member `number`, in a compute slot: experts called inside wait for the
        other members."""
        self._slots.acquire((self._rank, number))
        token = CURRENT_MEMBER.set(Member(self, number))
        try:
            yield
        finally:
            CURRENT_MEMBER.reset(token)
            self._slots.release()
            with self._lock:
                self._expected -= number not in self._arrived
                self._open_when_complete()

    def dispatch(self, number: int, module: nn.Module, given: ExpertInput) -> Tensor:
        """The experts' output for a member's input, [t, H]; call it inside `join`.

        Raises Aborted when another member failed.
        """
        with self._lock:
            self._inputs[number], self._module = given, module
            self._arrived.add(number)
            self._open_when_complete()
        self._wait(number, self._opened)
        # A local: the last helper sets `_work` to None while late threads pass here.
        work = self._work
        if self._error is None and work is not None:
            self._help(work)
        self._wait(number, self._closed)
        if self._error is not None:
            raise Aborted from self._error
        return self._results.pop(number)

    def abort(self, error: BaseException) -> None:
        """End the group: no member goes on waiting for others that will not come."""
        with self._lock:
            self._error = self._error or error
        self._opened.set()
        self._closed.set()

    def _wait(self, number: int, event: threading.Event) -> None:
        if event.is_set():
            return
        self._slots.release()
        event.wait()
        self._slots.acquire((self._rank, number))

    def _open_when_complete(self) -> None:
        """Begin the experts' work when all members that can still come are there. Needs the
        lock."""
        if self._opened.is_set() or not self._inputs or len(self._inputs) < self._expected:
            return
        try:
            assert self._module is not None
            inputs = [self._inputs[number] for number in sorted(self._inputs)]
            with torch.inference_mode():
                self._work = ExpertWork(self._module, inputs, self.observer)
        except BaseException as error:
            self._error = error
            self._closed.set()
        self._opened.set()

    def _help(self, work: ExpertWork) -> None:
        with self._lock:
            self._helping += 1
        try:
            work.help()
        except BaseException as error:
            self.abort(error)
        with self._lock:
            self._helping -= 1
            # A late helper finds the queue empty; the last helper to stop publishes the results.
            if self._helping == 0 and not self._closed.is_set():
                self._results = dict(zip(sorted(self._inputs), work.results(), strict=True))
                self._inputs, self._work = {}, None
                self._closed.set()


class Member:
    """One micro-batch of an ExpertBatch, as the experts' function and observers' hooks find it."""

    def __init__(self, batch: ExpertBatch, number: int) -> None:
        self.batch = batch
        self.number = number
        self.observer = batch.observer

    def dispatch(self, module: nn.Module, given: ExpertInput) -> Tensor:
        """See ExpertBatch.dispatch."""
        return self.batch.dispatch(self.number, module, given)
