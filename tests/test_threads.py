"""Items side by side: in order, a few at a time, and nothing is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from emorl.threads import side_by_side


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_one() -> int:
    """What PyTorch says in a thread that has not asked before; one that has keeps its answer."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(num_threads: int) -> None:
    def work(i: int) -> tuple[int, int]:
        time.sleep(0.002 * (i % 3))
        return i * i, torch.get_num_threads()

    assert list(side_by_side(work, range(10), num_threads)) == [(i * i, 1) for i in range(10)]
    assert threads_of_a_new_one() == 3


def test_work_is_done_side_by_side() -> None:
    both = threading.Barrier(2, timeout=20)
    assert len(list(side_by_side(lambda _: both.wait(), range(4), 2))) == 4


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_no_more_items_are_taken_than_there_are_threads(num_threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(9):
            taken.append(i)
            yield i

    for done, _ in enumerate(side_by_side(lambda i: i, items(), num_threads)):
        assert len(taken) <= done + 2 * num_threads


def test_an_error_ends_it_and_whoever_wants_no_more_is_let_go() -> None:
    def work(i: int) -> int:
        if i == 1:
            raise ValueError("number one")
        return i

    results = side_by_side(work, range(5), 2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="number one"):
        list(results)
    assert threads_of_a_new_one() == 3
    some = side_by_side(lambda i: i, range(1000), 2)
    assert next(some) == 0
    some.close()
    assert threads_of_a_new_one() == 3
