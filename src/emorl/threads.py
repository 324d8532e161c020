"""Work on several items side by side, each on one thread.

For networks of a laptop's size this is faster than sharing out every operation among the threads, and gives the same
bits with any number of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def side_by_side(work: Callable[[A], B], items: Iterable[A], num_threads: int) -> Iterator[B]:
    """The results of `work` in the order of its items, of which only `num_threads` are taken at a time.

    Args:
        work: on the CPU; called in other threads, where operations of PyTorch use one thread.
        items: taken one by one in the caller's thread.
        num_threads: at least 1.
    """
    waiting: deque[Future[B]] = deque()
    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(work, item))
                    if len(waiting) == num_threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:  # an error, or the caller wants no more
                    future.cancel()
    finally:
        torch.set_num_threads(torch.get_num_threads())  # of the whole process, where the library has one
