"""Gated convolutions: picture to vector and vector to picture (GENESIS; van den Berg et al. 2018, Sylvester flows).

A gated convolution has 2C outputs (h, g), each half normalised by itself, and yields h * sigmoid(g); there is no other
activation. Five of kernel 5 change the size by their strides; one whose kernel covers all that is left, without
normalisation, makes a vector of the map or a map of the vector.

Batch normalisation takes its statistics from the batch in training and from running averages else. Which of the two
is said by the caller of every pass, so that no inference depends on a mode somebody forgot to set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl.nn.convs import Conv2d, ConvTranspose2d

NormKind = Literal["batch", "instance"]


class BatchNorm(nn.Module):
    """Batch normalisation as nn.BatchNorm2d's, told by the caller whose statistics to use."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, batch_statistics: bool) -> Tensor:
        """n C H W -> the same; with the batch's statistics the running ones move."""
        mean, var = self.running_mean.clone(), self.running_var.clone()
        y = F.batch_norm(x, mean, var, self.weight, self.bias, batch_statistics, momentum=0.1)
        if batch_statistics:
            self.running_mean.copy_(mean)
            self.running_var.copy_(var)
        return y


class InstanceNorm(nn.Module):
    """Normalisation of every image by itself, for batches too small for the other one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, batch_statistics: bool) -> Tensor:
        """n C H W -> the same, in training and after."""
        return F.instance_norm(x, weight=self.weight, bias=self.bias)


class GatedConv(nn.Module):
    """Convolution to twice the channels, a norm per channel, gate."""

    def __init__(self, conv: Conv2d | ConvTranspose2d, norm: NormKind) -> None:
        super().__init__()
        self.conv = conv
        channels = conv.out_channels
        self.norm = BatchNorm(channels) if norm == "batch" else InstanceNorm(channels)

    def forward(self, x: Tensor, batch_statistics: bool) -> Tensor:
        """n C H W -> n C' H' W'."""
        return gate(self.norm(self.conv(x), batch_statistics))


def gate(x: Tensor) -> Tensor:
    """n 2C ... -> n C ...: h * sigmoid(g) of the two halves."""
    h, g = x.chunk(2, dim=1)
    return h * g.sigmoid()


class GatedEncoder(nn.Module):
    """Pictures of one size to vectors; `channels` and `strides` are those of the convolutions of kernel 5."""

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: Sequence[int],
        strides: Sequence[int],
        features: int,
        norm: NormKind,
    ) -> None:
        super().__init__()
        layers = []
        height, width = image_size
        before = 3
        for after, stride in zip(channels, strides, strict=True):
            layers.append(GatedConv(Conv2d(before, 2 * after, 5, stride=stride, padding=2), norm))
            before, height, width = after, height // stride, width // stride
        self.layers = nn.ModuleList(layers)
        self.last = Conv2d(before, 2 * features, (height, width))

    def forward(self, images: Tensor, batch_statistics: bool) -> Tensor:
        """Images n 3 H W in [0, 1] -> n F."""
        x = images.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = layer(x, batch_statistics)
        return gate(self._cover(x))

    def _cover(self, x: Tensor) -> Tensor:
        """The last convolution as the product of matrices it is: n C h w -> n 2F. Libraries are slow at it."""
        last, kind = self.last, self.last.compute_dtype or self.last.weight.dtype
        assert last.bias is not None
        rows = x.permute(0, 2, 3, 1).flatten(1)  # n hwC, as channels-last memory has it
        weight = last.weight.permute(0, 2, 3, 1).flatten(1)  # 2F hwC
        return F.linear(rows.to(kind), weight.to(kind), last.bias.to(kind)).to(last.weight.dtype)


class GatedDecoder(nn.Module):
    """Vectors to maps of one size; `channels` and `strides` are those of the convolutions of kernel 5."""

    def __init__(
        self,
        dim: int,
        image_size: tuple[int, int],
        channels: Sequence[int],
        strides: Sequence[int],
        norm: NormKind,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        height, width = image_size
        for stride in strides:
            height, width = height // stride, width // stride
        self.first = ConvTranspose2d(dim, 2 * channels[0], (height, width))
        layers = []
        before = channels[0]
        for after, stride in zip(channels, strides, strict=True):
            conv = ConvTranspose2d(before, 2 * after, 5, stride=stride, padding=2, output_padding=stride - 1)
            layers.append(GatedConv(conv, norm))
            before = after
        self.layers = nn.ModuleList(layers)
        self.last = Conv2d(before, outputs, 1)

    def forward(self, z: Tensor, batch_statistics: bool) -> Tensor:
        """Vectors n D -> n `outputs` H W."""
        x = gate(self._cover(z))
        for layer in self.layers:
            x = layer(x, batch_statistics)
        out: Tensor = self.last(x)
        return out

    def _cover(self, z: Tensor) -> Tensor:
        """The first convolution, see `GatedEncoder._cover`: n D -> n 2C h w."""
        first, kind = self.first, self.first.compute_dtype or self.first.weight.dtype
        assert first.bias is not None
        weight = first.weight.permute(0, 2, 3, 1)  # D h w 2C
        out = (z.to(kind) @ weight.flatten(1).to(kind)).to(z.dtype)  # n hw2C
        return (out.view(-1, *weight.shape[1:]) + first.bias).permute(0, 3, 1, 2)
