"""Image encoders: pictures to tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl.nn.convs import ConvStack
from emorl.nn.grids import position_grid


class ImageEncoder(nn.Module):
    """Convolutions, a position code, and a small network on every token (App. F.1).

    `stride` is that of `convs` as a whole: above 1, tokens are patches of the picture.
    """

    def __init__(self, convs: ConvStack, channels: int, stride: int = 1, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.convs = convs
        self.stride = stride
        self.position = nn.Linear(4, channels)
        self.norm = nn.LayerNorm(channels, norm_eps)
        self.mlp = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images B 3 H W in [-1, 1] -> tokens B N C in row order, and the token grid (h, w)."""
        x = positioned(self.convs, self.position, self.stride, images)  # B h w C
        return self.mlp(self.norm(x.flatten(1, 2))), (x.shape[1], x.shape[2])  # B N C


class FeatureEncoder(nn.Module):
    """Convolutions and a position code: an `ImageEncoder` without its network on tokens."""

    def __init__(self, convs: ConvStack, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.convs = convs
        self.stride = stride
        self.position = nn.Linear(4, channels)

    def forward(self, images: Tensor) -> Tensor:
        """Images B 3 H W in [-1, 1] -> features B C h w."""
        return positioned(self.convs, self.position, self.stride, images).permute(0, 3, 1, 2)


def positioned(convs: ConvStack, position: nn.Linear, stride: int, images: Tensor) -> Tensor:
    """Features of images B 3 H W with their positions, projected by `position`, added: B h w C."""
    images = pad_to_multiple(images, stride).contiguous(memory_format=torch.channels_last)
    x = convs(images)  # B C h w
    grid = position_grid(x.shape[2], x.shape[3], x)  # 4 h w
    added: Tensor = x.permute(0, 2, 3, 1) + position(grid.permute(1, 2, 0))  # B h w C
    return added


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are divisible by `multiple`."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


def conv_layers(channels: int) -> ConvStack:
    """The paper's: four 5x5 convolutions of stride 1, a feature per pixel."""
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Conv2d(3 if i == 0 else channels, channels, 5, padding=2), nn.ReLU()]
    return ConvStack(*layers)


def patch_layers(channels: int, patch: int, num_layers: int) -> ConvStack:
    """A feature per patch: one strided convolution, then 3x3 ones, `num_layers` in all."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels, patch, stride=patch), nn.ReLU()]
    for _ in range(num_layers - 1):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return ConvStack(*layers)
