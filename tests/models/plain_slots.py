"""What stands around the slots of Slot Attention and Slot MLP, the slow and obvious way: one image at a time.

Weights by name, ordinary autograd, codes tiled before the first convolution. Colours stay as the decoder gives them.

Axes: K slots, D slot width, C feature channels, H W pixels, h w features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from emorl.models.slot_attention import SlotAttentionConfig
from emorl.models.slot_mlp import SlotMLPConfig
from tests.models.plain import Weights, grid, linear


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """With Keras's epsilon."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return (
        centred / torch.sqrt((centred**2).mean(dim=-1, keepdim=True) + 1e-3) * w[f"{name}.weight"] + w[f"{name}.bias"]
    )


def features(w: Weights, config: SlotAttentionConfig | SlotMLPConfig, image: Tensor) -> Tensor:
    """An image 3 H W in [0, 1] -> h w C."""
    x = 2 * image - 1
    if config.encoder == "patch":
        for dim in (1, 2):  # the last row and column are repeated
            size = x.shape[dim]
            x = x.index_select(dim, torch.tensor([min(i, size - 1) for i in range(math.ceil(size / 2) * 2)]))
    for i in range(4 if config.encoder == "conv" else 3):
        kernel, bias = w[f"encoder.convs.{2 * i}.weight"], w[f"encoder.convs.{2 * i}.bias"]
        if config.encoder == "conv":
            x = torch.relu(F.conv2d(x, kernel, bias, padding=2))
        else:
            x = torch.relu(F.conv2d(x, kernel, bias, stride=2) if i == 0 else F.conv2d(x, kernel, bias, padding=1))
    return x.permute(1, 2, 0) + linear(w, "encoder.position", grid(x.shape[1], x.shape[2], 0))


def decode(w: Weights, decoder: str, z: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """K D -> masks K 1 H W, colours K 3 H W."""
    rows, columns, waves = {
        "deconv": (math.ceil(height / 16), math.ceil(width / 16), 0),
        "small": (height + 6, width + 6, 0),
        "subpixel": (math.ceil(height / 4), math.ceil(width / 4), 4),
    }[decoder]
    num_layers = {"deconv": 6, "small": 4, "subpixel": 4}[decoder]
    tile = z.reshape(*z.shape, 1, 1).repeat(1, 1, rows, columns)
    x = tile + linear(w, "decoder.position", grid(rows, columns, waves)).permute(2, 0, 1)
    for i in range(num_layers):
        kernel, bias = w[f"decoder.layers.{2 * i}.weight"], w[f"decoder.layers.{2 * i}.bias"]
        if decoder == "deconv":
            stride, pad, extra = (2, 2, 1) if i < 4 else (1, 2, 0) if i == 4 else (1, 1, 0)
            x = F.conv_transpose2d(x, kernel, bias, stride=stride, padding=pad, output_padding=extra)
        else:
            x = F.conv2d(x, kernel, bias, padding=1)
        if i < num_layers - 1:
            x = torch.relu(x)
    if decoder == "subpixel":  # channel (c, dy, dx) at (i, j) is pixel (4 i + dy, 4 j + dx) of channel c
        x = x.reshape(-1, 4, 4, 4, rows, columns).permute(0, 1, 4, 2, 5, 3).reshape(-1, 4, rows * 4, columns * 4)
    x = x[:, :, :height, :width]
    weights = torch.exp(x[:, 3:] - x[:, 3:].max())
    return weights / weights.sum(dim=0), x[:, :3]


def error(image: Tensor, masks: Tensor, colours: Tensor) -> Tensor:
    """The loss of one image 3 H W in [0, 1]."""
    total = torch.zeros((), dtype=image.dtype)
    for mask, colour in zip(masks, colours, strict=True):
        total = total + mask * colour
    return ((2 * image - 1 - total) ** 2).sum() / image.numel()
