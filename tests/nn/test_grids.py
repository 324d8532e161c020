"""Position grids: order and direction of their channels, on pictures that are not square."""

from __future__ import annotations

import math

import pytest
import torch

from emorl.nn.grids import coordinates, position_grid, wave_grid

LIKE = torch.zeros((), dtype=torch.float64)


def test_channels_are_distances_to_top_and_bottom_then_left_and_right() -> None:
    height, width = 4, 6
    grid = position_grid(height, width, LIKE)
    assert grid.shape == (4, height, width)
    for i in range(height):
        for j in range(width):
            down, right = i / (height - 1), j / (width - 1)
            expected = [1 - down, down, right, 1 - right]
            assert grid[:, i, j].tolist() == pytest.approx(expected, abs=1e-15)


def test_rows_fall_then_rise_and_columns_rise_then_fall() -> None:
    falling_rows, rising_rows, rising_columns, falling_columns = position_grid(5, 3, LIKE)
    assert bool((falling_rows.diff(dim=0) < 0).all()) and bool((falling_rows.diff(dim=1) == 0).all())
    assert bool((rising_rows.diff(dim=0) > 0).all()) and bool((rising_rows.diff(dim=1) == 0).all())
    assert bool((rising_columns.diff(dim=1) > 0).all()) and bool((rising_columns.diff(dim=0) == 0).all())
    assert bool((falling_columns.diff(dim=1) < 0).all()) and bool((falling_columns.diff(dim=0) == 0).all())


def test_opposite_channels_sum_to_one_between_zero_and_one() -> None:
    grid = position_grid(5, 3, LIKE)
    torch.testing.assert_close(grid[0] + grid[1], torch.ones(5, 3).double())
    torch.testing.assert_close(grid[2] + grid[3], torch.ones(5, 3).double())
    assert (float(grid.min()), float(grid.max())) == (0, 1)


def test_one_row_or_column_is_its_own_start() -> None:
    grid = position_grid(1, 3, LIKE)
    assert bool(grid.isfinite().all())
    assert grid[:2, 0].tolist() == [[1, 1, 1], [0, 0, 0]]


def test_waves_are_cosines_of_the_distances() -> None:
    height, width, num_waves = 4, 6, 3
    waves = wave_grid(height, width, num_waves, LIKE)
    assert waves.shape == (2 * num_waves, height, width)
    for n in range(1, num_waves + 1):
        for i in range(height):
            for j in range(width):
                down = math.cos(math.pi * n * i / (height - 1))
                right = math.cos(math.pi * n * j / (width - 1))
                assert float(waves[n - 1, i, j]) == pytest.approx(down, abs=1e-14)
                assert float(waves[num_waves + n - 1, i, j]) == pytest.approx(right, abs=1e-14)


def test_dtype_follows_the_request() -> None:
    for dtype in (torch.float32, torch.float64):
        assert position_grid(2, 3, torch.zeros((), dtype=dtype)).dtype == dtype
        assert wave_grid(2, 3, 2, torch.zeros((), dtype=dtype)).dtype == dtype


def test_waves_follow_the_distances() -> None:
    like = torch.zeros((), dtype=torch.float64)
    assert torch.equal(position_grid(3, 5, like, 0), position_grid(3, 5, like))
    both = position_grid(3, 5, like, 2)
    assert torch.equal(both[:4], position_grid(3, 5, like))
    assert torch.equal(both[4:], wave_grid(3, 5, 2, like))


def test_coordinates_are_row_then_column() -> None:
    grid = coordinates(2, 3, torch.zeros((), dtype=torch.float64))
    assert grid.dtype == torch.float64
    assert grid.tolist() == [[[-1, -1, -1], [1, 1, 1]], [[-1, 0, 1], [-1, 0, 1]]]
