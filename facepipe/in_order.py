"""Calls side by side in threads, their results one by one in the order of what was asked.

numpy, BLAS, faiss, Arrow and the clients of object stores let other threads run meanwhile.
Whoever adds results up does so in the order in which they come from here: any number of threads
gives the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 1  # of each thread: results that wait while those before them are taken in


def in_order(call: Callable[[T], R], items: Iterable[T], threads: int = 1) -> Iterator[R]:
    """Yield the result of the call for each item; raises what the first call raises that does.

    Items are taken as they are needed, in the caller's thread; of results no more are held than
    the threads and AHEAD of each. One thread: the caller's own.
    """
    if threads <= 1:
        yield from map(call, items)
        return
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="in-order")
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) > threads * (1 + AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
