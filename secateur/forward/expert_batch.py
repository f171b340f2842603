"""Micro-batches that go through a layer side by side and through its experts together.

A layer's forward belongs to the model; only its experts are ours (forward.experts). So every
micro-batch of a group runs in a thread of its own and waits in the experts' function until the
others are there; then all of them work on the experts of the whole group, and each goes on with
its share. Attention sees small micro-batches, which fit the cache; experts see many tokens.

Threads are many, but only as many compute as there are desks, earlier groups first.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.forward.experts import SEAT, ExpertWork, Part, Watcher


class Abandoned(Exception):
    """The group will not be finished, because another of its micro-batches failed."""


class Desks:
    """Permits to compute, given to the waiting thread of the lowest rank."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[int, int]] = []
        self._changed = threading.Condition()

    def take(self, rank: tuple[int, int]) -> None:
        """Wait for a desk. `rank` is no other waiting thread's."""
        with self._changed:
            heapq.heappush(self._waiting, rank)
            self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] == rank)
            heapq.heappop(self._waiting)
            self._free -= 1
            # There may be desks for the next ones too.
            self._changed.notify_all()

    def leave(self) -> None:
        """Give the desk back."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()


class Meeting:
    """One group of `members` micro-batches in one layer; `rank` puts groups in order."""

    def __init__(self, rank: int, members: int, desks: Desks, watcher: Watcher | None) -> None:
        self.watcher = watcher
        self._rank = rank
        self._desks = desks
        self._lock = threading.Lock()
        self._expected = members
        self._parts: dict[int, Part] = {}
        self._came: set[int] = set()
        self._module: nn.Module | None = None
        self._work: ExpertWork | None = None
        self._results: dict[int, Tensor] = {}
        self._error: BaseException | None = None
        self._opened, self._closed = threading.Event(), threading.Event()
        self._working = 0

    @contextmanager
    def seated(self, number: int) -> Iterator[None]:
        """At a desk, as member `number`; the experts called inside wait for the other members."""
        self._desks.take((self._rank, number))
        token = SEAT.set(MeetingSeat(self, number))
        try:
            yield
        finally:
            SEAT.reset(token)
            self._desks.leave()
            with self._lock:
                self._expected -= number not in self._came
                self._open_when_complete()

    def share(self, number: int, module: nn.Module, part: Part) -> Tensor:
        """The experts' output for a member's part, [t, H]. Call it seated."""
        with self._lock:
            self._parts[number], self._module = part, module
            self._came.add(number)
            self._open_when_complete()
        self._wait(number, self._opened)
        if self._error is None and self._work is not None:
            self._help(self._work)
        self._wait(number, self._closed)
        if self._error is not None:
            raise Abandoned from self._error
        return self._results.pop(number)

    def break_up(self, error: BaseException) -> None:
        """Let nobody wait for members that will not come."""
        with self._lock:
            self._error = self._error or error
        self._opened.set()
        self._closed.set()

    def _wait(self, number: int, event: threading.Event) -> None:
        if event.is_set():
            return
        self._desks.leave()
        event.wait()
        self._desks.take((self._rank, number))

    def _open_when_complete(self) -> None:
        """Start the experts' work when all members that still come are there; holds the lock."""
        if self._opened.is_set() or not self._parts or len(self._parts) < self._expected:
            return
        try:
            assert self._module is not None
            parts = [self._parts[number] for number in sorted(self._parts)]
            with torch.inference_mode():
                self._work = ExpertWork(self._module, parts, self.watcher)
        except BaseException as error:
            self._error = error
            self._closed.set()
        self._opened.set()

    def _help(self, work: ExpertWork) -> None:
        with self._lock:
            self._working += 1
        try:
            work.help()
        except BaseException as error:
            self.break_up(error)
        with self._lock:
            self._working -= 1
            # Who comes late finds nothing to do; the last one to stop sees all experts done.
            if self._working == 0 and not self._closed.is_set():
                self._results = dict(zip(sorted(self._parts), work.results(), strict=True))
                self._parts, self._work = {}, None
                self._closed.set()


class MeetingSeat:
    """A member's seat, as the experts' function and the watchers' hooks find it."""

    def __init__(self, meeting: Meeting, number: int) -> None:
        self.meeting = meeting
        self.number = number

    def share(self, module: nn.Module, part: Part) -> Tensor:
        """See Meeting.share."""
        return self.meeting.share(self.number, module, part)
