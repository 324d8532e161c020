"""Which object is seen at each pixel: hard labels, decided at the pixel's centre in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from emorl.data.clevr.scene import HEIGHT, WIDTH, Scenes, project
from emorl.data.clevr.world import World

MIN_PIXELS = 200
"""Of the 320 x 240 picture that every object of a scene has to show (data set specification, 3.3.1)."""

_REACH = 3**0.5  # a ball of so many half-heights holds any of the solids


def label_maps(scenes: Scenes, device: torch.device) -> Tensor:
    """Labels of the 320 x 240 pictures of scenes.

    Args:
        scenes: N of them.
        device: where to compute.

    Returns:
        N 240 320, uint8: 0 is the background, 1 + o the object at place o.
    """
    world = World(scenes, device, torch.float64)
    # Rays are cast only where an object can be: in the box around the picture of its ball.
    center = scenes.half_height[..., None].repeat(3, axis=-1)
    center[..., :2] = scenes.position
    col, row, depth = project(scenes.camera, center).transpose(2, 0, 1)
    reach = _REACH * scenes.half_height
    margin = 2 + 1.1 * 350 * reach / (depth - reach)
    grid_rows = torch.arange(HEIGHT, device=device, dtype=torch.float64) + 0.5
    grid_cols = torch.arange(WIDTH, device=device, dtype=torch.float64) + 0.5
    row, col, margin = (torch.as_tensor(values, device=device)[..., None] for values in (row, col, margin))
    in_rows = (grid_rows - row).abs() < margin  # N O 240
    in_cols = (grid_cols - col).abs() < margin  # N O 320
    in_rows &= world.present.view(len(scenes), -1, 1)
    looked = (in_rows[..., :, None] & in_cols[..., None, :]).any(dim=1)  # N 240 320
    scene, r, c = looked.nonzero(as_tuple=True)
    origin, direction = world.primary(scene, grid_cols[c], grid_rows[r])
    _, hit = world.nearest(scene, origin, direction)
    labels = torch.zeros(len(scenes), HEIGHT, WIDTH, dtype=torch.uint8, device=device)
    labels[scene, r, c] = torch.where(hit < world.num_places, hit + 1, 0).to(torch.uint8)
    return labels


def num_pixels(labels: Tensor, num_places: int) -> Tensor:
    """Pixels of each object: N O from labels N H W."""
    values = labels.flatten(1).long() + (num_places + 1) * torch.arange(len(labels), device=labels.device)[:, None]
    counts = torch.bincount(values.flatten(), minlength=len(labels) * (num_places + 1))
    return counts.view(len(labels), -1)[:, 1:]
