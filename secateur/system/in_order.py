"""Work by several threads whose results come in the order of what was worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

IN_FLIGHT = 4
"""Items for every thread that are worked on or wait for their turn, where nothing else is said."""

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(
    work: Callable[[Item], Made], items: Iterable[Item], workers: int, in_flight: int = IN_FLIGHT
) -> Iterator[tuple[Item, Made]]:
    """(item, work(item)), in the order of the items, worked on by `workers` threads.

    At most `in_flight` results for every thread wait. What `work` raises is raised here.
    """
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="in-order") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= in_flight * workers:
                    first, made = waiting.popleft()
                    yield first, made.result()
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
