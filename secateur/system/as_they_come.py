"""Work by several threads that nobody has to wait for: what asks a server far away may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def as_they_come(
    work: Callable[[Item], Made], items: Iterable[Item], workers: int
) -> Iterator[Made]:
    """The results of `work`, made by `workers` threads, in the order in which they are there.

    What `work` raises is raised here. Where the iteration ends before the last result (by an error
    or Ctrl-C), no further item is begun, and those in work are left alone: neither this nor the
    end of the process waits for them. What `work` does must be whole in itself.
    """
    waiting: SimpleQueue[Item] = SimpleQueue()
    count = 0
    for item in items:
        waiting.put(item)
        count += 1
    made: SimpleQueue[Future[Made]] = SimpleQueue()
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            try:
                item = waiting.get_nowait()
            except Empty:
                return
            done: Future[Made] = Future()
            try:
                done.set_result(work(item))
            except BaseException as error:
                done.set_exception(error)
            made.put(done)

    for number in range(min(workers, count)):
        threading.Thread(target=run, name=f"as-they-come-{number}", daemon=True).start()
    try:
        for _ in range(count):
            yield made.get().result()
    finally:
        ended.set()
