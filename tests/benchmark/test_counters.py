"""Counted bytes, arithmetic and traffic are those of hand-made cases."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emorl.benchmark.counters import LiveBytes, Work, largest_batch, peak_bytes

N = 1000
BYTES = 4 * N  # of N floats


def test_what_is_made_counts_until_it_is_gone() -> None:
    with LiveBytes() as counter:
        assert (counter.live, counter.peak) == (0, 0)
        x = torch.zeros(N)
        assert counter.live == BYTES
        y = torch.ones(N)
        assert counter.live == 2 * BYTES
        del x
        assert counter.live == BYTES
        z = y + 1
        assert (counter.live, counter.peak) == (2 * BYTES, 2 * BYTES)
        del y, z
        assert (counter.live, counter.peak) == (0, 2 * BYTES)


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float64, 8), (torch.float16, 2), (torch.uint8, 1), (torch.bool, 1), (torch.int64, 8)]
)
def test_bytes_are_those_of_the_type(dtype: torch.dtype, size: int) -> None:
    with LiveBytes() as counter:
        x = torch.zeros(7, 11, dtype=dtype)
        assert counter.live == 77 * size
        y = x.to(torch.float32)
        assert counter.live == 77 * (size + 4)
        del x, y


def test_views_cost_nothing_and_hold_the_whole() -> None:
    with LiveBytes() as counter:
        x = torch.zeros(N)
        views = [x.view(10, -1), x[::2], x.view(10, -1).t(), x.expand(3, N), *x.split(100), x.detach()]
        assert counter.live == BYTES
        last = x[:1]
        del x, views
        assert counter.live == BYTES  # one element keeps the storage
        del last
        assert (counter.live, counter.peak) == (0, BYTES)


def test_in_place_operations_cost_nothing() -> None:
    with LiveBytes() as counter:
        x = torch.zeros(N)
        x.add_(1).mul_(2)
        x[3:5] = 7
        x.view(10, -1).relu_()
        torch.add(x, 1, out=x)
        torch._foreach_add_([x], 1.0)
        assert (counter.live, counter.peak) == (BYTES, BYTES)


def test_temporaries_are_in_the_peak() -> None:
    with LiveBytes() as counter:
        x = torch.zeros(N)
        total = ((x + 1) * 2).sum()
        assert counter.live == BYTES + 4
        assert counter.peak == 3 * BYTES  # x, x + 1 and its double
        del x, total


def test_several_results_and_arguments_in_lists_count() -> None:
    with LiveBytes() as counter:
        x = torch.zeros(10, 100)
        values, indices = x.max(dim=0)
        assert counter.live == BYTES + 100 * (4 + 8)
        del values, indices
        joined = torch.cat([x, x])
        assert counter.live == 3 * BYTES
        del joined
        sums = torch._foreach_add([x, x], 1.0)
        assert counter.live == 3 * BYTES
        del sums
        assert counter.live == BYTES


def test_what_was_there_before_does_not_count() -> None:
    weight = torch.zeros(N)
    with LiveBytes() as counter:
        weight.add_(1)
        view = weight.view(10, -1)
        assert counter.live == 0
        double = view * 2
        assert counter.live == BYTES
        del double
        del weight, view  # nor does it when it goes
        assert (counter.live, counter.peak) == (0, BYTES)


def test_what_autograd_saves_counts_until_it_is_used() -> None:
    weight = torch.zeros(N, requires_grad=True)
    with LiveBytes() as counter:
        total = (weight * 2).sin().sum()  # sin saves its argument, sum nothing
        assert counter.live == BYTES + 4
        assert counter.peak == 2 * BYTES + 4
        total.backward()
        del total
        assert weight.grad is not None
        assert counter.live == BYTES  # the gradient
        weight.grad = None
        assert counter.live == 0


def test_graphs_that_are_dropped_free_what_they_saved() -> None:
    weight = torch.zeros(N, requires_grad=True)
    with LiveBytes() as counter:
        x: Tensor = weight
        for _ in range(5):
            x = x.exp()  # saves its result
        assert (counter.live, counter.peak) == (5 * BYTES, 5 * BYTES)
        del x
        gc.collect()
        assert counter.live == 0
        with torch.no_grad():
            x = weight
            for _ in range(5):
                x = x.exp()
        assert counter.live == BYTES


def test_a_block_starts_from_nothing() -> None:
    assert peak_bytes(lambda: torch.zeros(N)) == BYTES
    assert peak_bytes(lambda: [torch.zeros(N) for _ in range(3)]) == 3 * BYTES
    assert peak_bytes(lambda: None) == 0


def test_addresses_that_are_used_again_count_again() -> None:
    with LiveBytes() as counter:
        for _ in range(100):
            x = torch.zeros(N)
            assert counter.live == BYTES
            del x
        assert (counter.live, counter.peak) == (0, BYTES)


# ----------------------------------------------------------------------- arithmetic and traffic


def work_of(run: Callable[[], object]) -> Work:
    work = Work()
    with work:
        run()
    return work


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_convolutions_and_products_forward_and_backward(dtype: torch.dtype, device: str) -> None:
    x = torch.ones(2, 3, 9, 7, dtype=dtype, device=device, requires_grad=True)
    ordinary = torch.ones(5, 3, 3, 3, dtype=dtype, device=device, requires_grad=True)
    transposed = torch.ones(3, 5, 3, 3, dtype=dtype, device=device, requires_grad=True)
    matrix = torch.ones(7, 4, dtype=dtype, device=device, requires_grad=True)
    counts = {  # a product of every entry of x or of the output with every entry of the weights, two flops each
        (lambda: F.conv2d(x, ordinary)): 2 * (2 * 7 * 5) * (5 * 3 * 3 * 3),
        (lambda: F.conv_transpose2d(x, transposed, stride=2)): 2 * (2 * 9 * 7) * (5 * 3 * 3 * 3),
        (lambda: x @ matrix): 2 * x.numel() * 4,
    }
    for run, count in counts.items():
        assert work_of(run).flops == {dtype: count}
        assert work_of(lambda run=run: run().sum().backward()).flops == {
            dtype: 3 * count
        }  # and both factors' gradients
        assert work_of(lambda run=run: torch.autograd.grad(run().sum(), x)).flops == {dtype: 2 * count}


def test_types_are_counted_apart() -> None:
    x = torch.ones(4, 4)
    assert work_of(lambda: (x @ x, x.bfloat16() @ x.bfloat16())).flops == {torch.float32: 128, torch.bfloat16: 128}


def test_operations_read_and_write() -> None:
    x, y = torch.zeros(10, N // 10), torch.zeros(10, N // 10)
    moved: dict[Callable[[], object], float] = {
        (lambda: x + y): 3,
        (lambda: x.sum(dim=1)): 1 + 10 / N,
        (lambda: x.add_(y)): 3,
        (lambda: torch.add(x, 1, out=y)): 2,
        (lambda: x.copy_(y)): 2,
        (lambda: x.fill_(1)): 1,
        (lambda: x.zero_()): 1,
        (lambda: torch.zeros(N)): 1,
        (lambda: torch.empty(N)): 0,
        (lambda: torch.empty_like(x)): 0,
        (lambda: (x.view(-1), x[::2], x.t(), x.detach(), x.expand(3, -1, -1))): 0,
        (lambda: x[:1].expand(10, -1) + y): 2.1,
        (lambda: x.t().contiguous()): 2,
        (lambda: x.contiguous()): 0,
        (lambda: x.to(torch.bfloat16)): 1.5,
        (lambda: torch.cat([x, y])): 4,
        (lambda: torch._foreach_add_([x, y], 1.0)): 4,
    }
    found = {run: work_of(run).moved for run in moved}
    assert list(found.values()) == [pytest.approx(BYTES * count) for count in moved.values()]


# ----------------------------------------------------------------------- the largest batch


@pytest.mark.parametrize(
    "peak",
    [
        lambda n: 5.0 * n,
        lambda n: 100 + 7.25 * n,
        lambda n: 50 + max(10 * n, 25 * n - 400),  # another part holds most from 27 on
        lambda n: 300 + max(0, n - 8),  # nothing more until chunks are full
        lambda n: 3 * n if n < 50 else math.inf,  # fails without saying by how much
        lambda n: 20 * math.ceil(n / 7) + n,
    ],
)
@pytest.mark.parametrize("budget", [0, 5, 20, 300, 307, 1000, 12345])
def test_the_largest_batch_fits_and_the_next_does_not(peak: Callable[[int], float], budget: float) -> None:
    tried = []

    def noting(count: int) -> float:
        tried.append(count)
        return peak(count)

    most = largest_batch(noting, budget)
    assert (most == 0 or peak(most) <= budget) and peak(most + 1) > budget
    assert len(tried) == len(set(tried)) and min(tried) >= 1


def test_straight_lines_need_few_tries() -> None:
    tried: list[int] = []
    assert largest_batch(lambda n: tried.append(n) or 90e6 + 33e6 * n, 11 * 2**30) == 355  # type: ignore[func-returns-value]
    assert len(tried) <= 5 and max(tried) < 500
