"""The VAE of one component: what MONet (Burgess et al. 2019, appendix B.1) and the GENESIS family share.

The encoder sees the image and a slot's log mask; the decoder is the spatial broadcast decoder (Watters et al. 2019).
Sizes are those of the released GENESIS code. Axes: n = B K slots, D code width, H W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from emorl.nn.convs import ConvStack
from emorl.nn.decoders import run_on_tiled
from emorl.nn.grids import coordinates
from emorl.types import Posterior

Activation = type[nn.ReLU] | type[nn.ELU]
"""ReLU in MONet, ELU in GENESIS."""


def shifted_softplus_std(raw: Tensor) -> Tensor:
    """Standard deviation of an unconstrained output: softplus(raw + 0.5) + 1e-8, as in the released GENESIS code."""
    return F.softplus(raw + 0.5) + 1e-8


class ComponentEncoder(nn.Module):
    """Four 3x3 convolutions of stride 2 and widths c, c, 2c, 2c for `channels` = c, then a hidden layer of 8c units.

    The linear layers fix the size of the images.
    """

    def __init__(
        self,
        inputs: int,
        dim: int,
        image_size: tuple[int, int],
        activation: Activation,
        channels: int = 32,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        height, width = image_size
        before = inputs
        for after in (channels, channels, 2 * channels, 2 * channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), activation()]
            before, height, width = after, -(-height // 2), -(-width // 2)
        self.convs = ConvStack(*layers)
        flat = before * height * width
        self.mlp = nn.Sequential(nn.Linear(flat, 8 * channels), activation(), nn.Linear(8 * channels, 2 * dim))

    def forward(self, x: Tensor) -> Posterior:
        """n C H W -> mean and standard deviation, n D each; merge and part the axes B K outside."""
        mean, raw = self.mlp(self.convs(x).flatten(1)).chunk(2, dim=-1)
        return Posterior(mean, shifted_softplus_std(raw))


class ComponentDecoder(nn.Module):
    """The code tiled over (H + 8) x (W + 8), two coordinates in [-1, 1], four unpadded 3x3 convolutions, a 1x1 one.

    The first convolution is folded, see `nn.decoders`: exact, the tile is never made.
    """

    def __init__(self, dim: int, outputs: int, activation: Activation, channels: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [nn.Conv2d(channels if i else dim + 2, channels, 3), activation()]
        self.layers = ConvStack(*layers, nn.Conv2d(channels, outputs, 1))

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """Codes n D -> n C H W for the `outputs` C, not squashed."""
        grid = F.pad(coordinates(height + 8, width + 8, z), (0, 0, 0, 0, z.shape[1], 0))  # D+2 H+8 W+8
        return run_on_tiled(self.layers, F.pad(z, (0, 2)), grid)  # n C H W
