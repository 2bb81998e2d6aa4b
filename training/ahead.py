"""Work done in threads beside the one that trains: what comes next is made ready meanwhile, and no bit depends on when.

PyTorch, Arrow, NumPy and DuckDB let other threads run while they compute, so that a second core has something to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

MOST_THREADS = 4
"""Of one piece of work: each has a batch in memory."""


def start(work: Callable[[], T]) -> Future[T]:
    """Begin work in a thread of its own, which ends with it.

    Args:
        work: called without arguments, with the context variables of the caller.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    future = pool.submit(copy_context().run, work)
    pool.shutdown(wait=False)
    return future


def one_ahead(work: Callable[[S], T], parts: Iterable[S]) -> Generator[T, None, None]:
    """What ``work`` makes of each part, in order; that of the next part is made while the last one is used.

    Args:
        work: called in one other thread, unless there is a single part.
        parts: taken one ahead as well.
    """
    remaining = iter(parts)
    current = next(remaining, None)
    following = next(remaining, None)
    if current is None:
        return
    if following is None:
        yield work(current)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        pending = pool.submit(copy_context().run, work, current)
        while following is not None:
            ready, pending = pending.result(), pool.submit(copy_context().run, work, following)
            yield ready
            following = next(remaining, None)
        yield pending.result()


def side_by_side(work: Callable[[S], T], parts: Sequence[S], threads: int) -> list[T]:
    """What ``work`` makes of each part, in order, by so many threads at most."""
    if min(threads, len(parts)) < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(min(threads, MOST_THREADS), thread_name_prefix="ahead") as pool:
        return list(pool.map(work, parts))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
