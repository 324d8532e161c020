"""Position grids."""

from __future__ import annotations

import torch
from torch import Tensor


def position_grid(height: int, width: int, like: Tensor, num_waves: int = 0) -> Tensor:
    """Distances to the four borders in [0, 1], 4 H W, with the dtype and device of `like`; then 2 num_waves cosines.

    Channel 0 falls and channel 1 rises down the rows; channel 2 rises and channel 3 falls along the columns: the
    order of the released EfficientMORL weights. Slot Attention's official order differs.
    """
    rows = torch.linspace(0, 1, height, dtype=like.dtype, device=like.device)
    cols = torch.linspace(0, 1, width, dtype=like.dtype, device=like.device)
    down, right = torch.meshgrid(rows, cols, indexing="ij")
    grid = torch.stack([1 - down, down, right, 1 - right])
    return torch.cat([grid, wave_grid(height, width, num_waves, like)]) if num_waves else grid


def wave_grid(height: int, width: int, num_waves: int, like: Tensor) -> Tensor:
    """Cosines cos(pi n t) of the distances t from top and left, n = 1..num_waves: 2 num_waves H W in [-1, 1]."""
    rows = torch.linspace(0, 1, height, dtype=like.dtype, device=like.device)
    cols = torch.linspace(0, 1, width, dtype=like.dtype, device=like.device)
    n = torch.arange(1, num_waves + 1, dtype=like.dtype, device=like.device) * torch.pi
    down = torch.cos(n[:, None] * rows)[:, :, None].expand(-1, -1, width)
    right = torch.cos(n[:, None] * cols)[:, None, :].expand(-1, height, -1)
    return torch.cat([down, right])


def coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """Row and column of every position, linear from -1 to 1, 2 H W, with the dtype and device of `like`."""
    rows = torch.linspace(-1, 1, height, dtype=like.dtype, device=like.device)
    columns = torch.linspace(-1, 1, width, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
