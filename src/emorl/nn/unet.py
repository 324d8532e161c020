"""The U-Net of MONet's attention (Burgess et al. 2019, appendix B.2) and of GENESIS-v2's encoder.

Every block is a 3x3 convolution, a normalisation and a ReLU; blocks of the way down halve, blocks of the way up double
(nearest neighbour), the last one of each way keeps its size. What a block of the way down gives before it halves is
joined to the input of the block of that size on the way up. Between the two ways stands a network on the whole
map, which fixes the size of the images. Axes: n images, C channels, H W pixels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl.nn.convs import Conv2d

NUM_GROUPS = 8
"""Of the group normalisation."""


def num_unet_blocks(image_size: tuple[int, int]) -> int:
    """Blocks of each way: floor(log2 of the shorter side) - 1, so that the smallest map is 4 to 7 pixels high or wide.

    That is 4 for 32, 5 (the paper's) for 64 and 96, 6 for 128.
    """
    return int(math.log2(min(image_size))) - 1


class UNet(nn.Module):
    """Images of one size to a map of that size.

    The widths are those of the released GENESIS code, multiples of `channels` = c: on the way down c, the last three
    blocks 2c; on the way up 2c for two blocks, then c.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int | None,
        image_size: tuple[int, int],
        *,
        channels: int,
        norm: Literal["instance", "group"],
        hidden: int = 128,
    ) -> None:
        """outputs: channels of a last 1x1 convolution; None for the map before it. Sides are at least 16."""
        super().__init__()
        count = num_unet_blocks(image_size)
        down = [channels] * (count - 3) + [2 * channels] * 3
        up = [2 * channels] * 2 + [channels] * (count - 2)
        self.down = nn.ModuleList(_block(a, b, norm) for a, b in zip([inputs, *down], down, strict=False))
        entering = [down[-1], *up]
        self.up = nn.ModuleList(
            _block(a + skip, b, norm) for a, skip, b in zip(entering, reversed(down), up, strict=False)
        )
        self.map_size = image_size[0] // 2 ** (count - 1), image_size[1] // 2 ** (count - 1)
        flat = down[-1] * self.map_size[0] * self.map_size[1]
        self.middle = nn.Sequential(
            *(nn.Linear(flat, hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.ReLU()),
            *(nn.Linear(hidden, flat), nn.ReLU()),
        )
        self.out = nn.Identity() if outputs is None else Conv2d(up[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """n C H W -> n `outputs` H W, or n c H W, not below 0, where there is no last convolution."""
        skips: list[Tensor] = []
        for block in self.down:
            x = block(_halved(skips[-1]) if skips else x)
            skips.append(x)
        x = self.middle(x.flatten(1)).view(x.shape)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            if x.shape[-2:] != skip.shape[-2:]:
                x = F.interpolate(x, skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        out: Tensor = self.out(x)
        return out


def _block(inputs: int, outputs: int, norm: Literal["instance", "group"]) -> nn.Sequential:
    groups = outputs if norm == "instance" else NUM_GROUPS
    return nn.Sequential(
        Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(groups, outputs), nn.ReLU(inplace=True)
    )


def _halved(x: Tensor) -> Tensor:
    """Every second pixel, the last odd row and column left out: nearest-neighbour resizing by one half."""
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    return x[..., : 2 * height : 2, : 2 * width : 2]
