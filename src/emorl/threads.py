"""Work on several items side by side, each on one thread.

For networks of a laptop's size this is faster than sharing out every operation among the threads, and gives the same
bits with any number of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def side_by_side(work: Callable[[A], B], items: Iterable[A], num_threads: int) -> Generator[B, None, None]:
    """The results of `work` in the order of its items, of which no more than 2 `num_threads` wait for their results.

    Args:
        work: called in other threads, where operations of PyTorch on the CPU use one thread.
        items: taken one by one in the caller's thread.
        num_threads: at least 1.
    """
    before = torch.get_num_threads()
    waiting: deque[Future[B]] = deque()
    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(work, item))
                    if len(waiting) == 2 * num_threads:  # so that none is idle while the oldest is worked on
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:  # an error, or the caller wants no more
                    future.cancel()
    finally:
        torch.set_num_threads(before)  # of the whole process, where the library has one
