"""Counted bytes are those of hand-made cases, and a training step's memory does not grow with refinement."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from emorl.benchmark import LiveBytes, peak_bytes, training_step_memory
from emorl.presets import preset

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


# ----------------------------------------------------------------------- the memory of a training step


def test_refinement_costs_next_to_no_memory() -> None:
    rows = training_step_memory(preset("clevr6").model, (96, 96), 1, [0, 3])
    assert [row.refinement_steps for row in rows] == [0, 3]
    none, three = (row.peak_bytes for row in rows)
    assert three <= 1.10 * none
    assert none < 2**28


def test_memory_grows_with_images_and_slots_as_a_decode_does() -> None:
    def peak(batch: int, slots: int) -> int:
        config = replace(preset("clevr6").model, num_slots=slots)
        return training_step_memory(config, (24, 20), batch, [0])[0].peak_bytes

    assert peak(2, 3) / peak(1, 3) == pytest.approx(2, rel=0.15)
    assert 1.5 < peak(1, 6) / peak(1, 3) <= 2.05  # the encoder does not grow with the slots
