"""Decoders: codes to mask logits and RGB, each slot by itself.

All start from a code tiled over a grid plus a projected position grid. The first convolution then acts on a constant
field plus a fixed grid, conv(tile(z) + grid) = (sums of kernel taps) z + conv(grid): the second term is shared by
all images and slots, and the first takes few values (one inside, others along borders with zero padding), so it
is computed on a tile just large enough to show them all and then repeated. Exact, and a layer cheaper.

Axes: n = B K codes, D code width, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from emorl.nn.convs import ConvStack
from emorl.nn.grids import position_grid


def conv_of_tiled(stack: ConvStack, z: Tensor, grid: Tensor) -> Tensor:
    """The stack's first convolution, of stride 1, of tile(z) + grid for z n D and grid D H W, without tiling z."""
    conv = stack[0]
    assert isinstance(conv, nn.Conv2d)
    kernel, pad = conv.kernel_size[0], int(conv.padding[0])
    if min(grid.shape[-2:]) < kernel:  # no inside: every position is a border case of its own
        return stack.conv(conv, z[:, :, None, None] + grid)
    tile = z[:, :, None, None].expand(-1, -1, kernel, kernel)
    taps = stack.conv(conv, tile)  # n C 2p+1 2p+1: p borders, the inside, p borders
    shared = stack.conv(conv, grid.unsqueeze(0), bias=False).contiguous(memory_format=torch.channels_last)  # 1 C h w
    if pad == 0:
        return _AddConstant.apply(taps, shared)  # type: ignore[no-any-return, no-untyped-call]
    height, width = shared.shape[-2:]
    field = _stretch(_stretch(taps, pad, height, dim=2), pad, width, dim=3)
    return (field + shared).contiguous(memory_format=torch.channels_last)


class _AddConstant(torch.autograd.Function):
    """Fields n C 1 1, constant over the picture, plus a picture 1 C h w: the two sums of its backward as products.

    Reductions over the outer axes of channels-last tensors are several times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, fields: Tensor, picture: Tensor) -> Tensor:
        return picture + fields

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        n, channels, height, width = grad.shape
        rows = grad.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        fields = torch.bmm(rows.new_ones(1, 1, 1).expand(n, 1, height * width), rows)  # n 1 C
        picture = rows.new_ones(1, n) @ rows.reshape(n, -1)  # 1 hwC
        return fields.reshape(n, channels, 1, 1), picture.reshape(1, height, width, channels).permute(0, 3, 1, 2)


def _stretch(x: Tensor, border: int, size: int, dim: int) -> Tensor:
    """Repeat the middle one of 2 border + 1 entries along `dim` until there are `size`."""
    shape = list(x.shape)
    shape[dim] = size - 2 * border
    middle = x.narrow(dim, border, 1).expand(shape)
    return torch.cat([x.narrow(dim, 0, border), middle, x.narrow(dim, border + 1, border)], dim=dim)


def images_per_chunk(stack: ConvStack, codes_per_image: int, height: int, width: int) -> int:
    """How many images a decoder takes at once, so that a layer at H W stays below the stack's `chunk_bytes`."""
    if stack.chunk_bytes is None:
        return 2**31
    channels = max(p.shape[0] for p in stack.parameters() if p.ndim == 4)
    layer = codes_per_image * channels * height * width * (stack.compute_dtype or stack.dtype).itemsize
    return max(1, stack.chunk_bytes // layer)


class ConvDecoder(nn.Module):
    """Stride-1 convolutions over the tiled code, at a multiple of `patch` pixels.

    `margin` rows and columns are added to the tile so that the unpadded convolutions end at the size wanted. With
    patch > 1 every position yields patch x patch pixels (sub-pixel convolution).
    """

    def __init__(self, dim: int, layers: ConvStack, margin: int, patch: int = 1, num_waves: int = 0) -> None:
        super().__init__()
        self.layers = layers
        self.margin = margin
        self.patch = patch
        self.num_waves = num_waves
        self.position = nn.Linear(4 + 2 * num_waves, dim)

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """Codes n D -> n 4 H W: mask logit last, RGB before its sigmoid first."""
        h, w = self._grid_size(height, width)
        grid = self.position(position_grid(h, w, z, self.num_waves).permute(1, 2, 0)).permute(2, 0, 1)  # D h w
        x = self.layers.run_from(1, conv_of_tiled(self.layers, z, grid))
        return F.pixel_shuffle(x, self.patch)[..., :height, :width]  # n 4 H W

    def images_per_chunk(self, num_slots: int, height: int, width: int) -> int:
        """See the function of this name."""
        return images_per_chunk(self.layers, num_slots, *self._grid_size(height, width))

    def _grid_size(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.patch) + self.margin, -(-width // self.patch) + self.margin


class DeconvDecoder(nn.Module):
    """Slot Attention's: a tile of H/16 x W/16, enlarged by four strided transposed convolutions.

    Sizes that are no multiple of 16 are decoded at the next one and cut at the right and bottom.
    """

    def __init__(self, dim: int, channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(4):
            inputs = dim if i == 0 else channels
            layers += [
                nn.ConvTranspose2d(inputs, channels, 5, stride=2, padding=2, output_padding=1),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(channels, channels, 5, padding=2), nn.ReLU()]
        layers += [nn.ConvTranspose2d(channels, 4, 3, padding=1)]
        self.layers = ConvStack(*layers)
        self.position = nn.Linear(4, dim)

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """As `ConvDecoder.forward`."""
        grid = position_grid(-(-height // 16), -(-width // 16), z)  # 4 h w
        grid = self.position(grid.permute(1, 2, 0)).permute(2, 0, 1)  # D h w
        x = (z[:, :, None, None] + grid).contiguous(memory_format=torch.channels_last)  # n D h w
        out: Tensor = self.layers(x)
        return out[..., :height, :width]  # n 4 H W

    def images_per_chunk(self, num_slots: int, height: int, width: int) -> int:
        """See the function of this name."""
        return images_per_chunk(self.layers, num_slots, height, width)


def broadcast_decoder(dim: int) -> ConvDecoder:
    """The paper's for CLEVR6 and Multi-dSprites: five 3x3 convolutions without padding."""
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Conv2d(dim if i == 0 else 64, 64, 3), nn.ELU()]
    return ConvDecoder(dim, ConvStack(*layers, nn.Conv2d(64, 4, 3)), margin=10)


def small_decoder(dim: int) -> ConvDecoder:
    """The paper's for Tetrominoes: three 5x5 convolutions, padding 1, 32 channels, then a 3x3 one."""
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Conv2d(dim if i == 0 else 32, 32, 5, padding=1), nn.ReLU()]
    return ConvDecoder(dim, ConvStack(*layers, nn.Conv2d(32, 4, 3, padding=1)), margin=6)


def subpixel_decoder(dim: int, channels: int, patch: int, num_layers: int, num_waves: int) -> ConvDecoder:
    """Ours, for laptops: 3x3 convolutions on a grid of patches, then a sub-pixel convolution."""
    layers: list[nn.Module] = []
    for i in range(num_layers - 1):
        layers += [nn.Conv2d(dim if i == 0 else channels, channels, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(channels if layers else dim, 4 * patch**2, 3, padding=1)]
    return ConvDecoder(dim, ConvStack(*layers), margin=0, patch=patch, num_waves=num_waves)
