"""Stacks of convolutions, where nearly all of a model's time goes.

The parameters keep their own type; the convolutions run in the stack's `compute_dtype`. Activations between two
convolutions overwrite their input in both directions: the convolution before needs its output no more, and the
gradient that the one behind hands back is read by nobody else. On a CPU fresh memory costs as much as the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Conv2d(nn.Conv2d):
    """A convolution that computes in `compute_dtype`, for networks with a normalisation behind each."""

    compute_dtype: torch.dtype | None = None
    """None for that of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d; the result is of the weights' type."""
        return in_type(self, x, self.compute_dtype or self.weight.dtype).to(self.weight.dtype)


class ConvTranspose2d(nn.ConvTranspose2d):
    """As `Conv2d`."""

    compute_dtype: torch.dtype | None = None

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As nn.ConvTranspose2d with its own output padding; the result is of the weights' type."""
        return in_type(self, x, self.compute_dtype or self.weight.dtype).to(self.weight.dtype)


def in_type(
    layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, kind: torch.dtype, bias: bool = True, padding: int | None = None
) -> Tensor:
    """A convolution of a layer's weights computed in a type, perhaps without bias or with another padding."""
    weight = layer.weight.to(kind)
    offset = layer.bias.to(kind) if bias and layer.bias is not None else None
    pad = int(layer.padding[0]) if padding is None else padding
    stride = int(layer.stride[0])
    if isinstance(layer, nn.ConvTranspose2d):
        extra = int(layer.output_padding[0])
        return F.conv_transpose2d(x.to(kind), weight, offset, stride, pad, extra)
    return F.conv2d(x.to(kind), weight, offset, stride, pad)


class ConvStack(nn.Sequential):
    """(Transposed) convolutions with an ELU or ReLU behind each, the last one perhaps without.

    Equal to nn.Sequential of the same layers; it cannot be differentiated twice.
    """

    compute_dtype: torch.dtype | None = None
    """Of the convolutions; None for that of the weights."""
    chunk_bytes: int | None = None
    """A decoder works on as many images at once as keep a layer's output below this; None for all."""

    def forward(self, x: Tensor) -> Tensor:
        """n C H W of any floating type -> n C' H' W' of the weights' type."""
        return self.run_from(0, x)

    def run_from(self, start: int, x: Tensor) -> Tensor:
        """The layers from number `start` on."""
        layers = list(self)
        for i, layer in enumerate(layers[start:], start):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                x = self.conv(layer, x)
            else:
                inner = 0 < i < len(layers) - 1
                x = _overwrite(layer, x) if inner else layer(x)
        return x.to(self.dtype)

    def conv(self, layer: nn.Module, x: Tensor, bias: bool = True, padding: int | None = None) -> Tensor:
        """One of the stack's convolutions in its compute type, perhaps without bias or with another padding."""
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        return in_type(layer, x, self.compute_dtype or self.dtype, bias, padding)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype


def _overwrite(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, nn.ReLU) or (isinstance(layer, nn.ELU) and layer.alpha == 1):
        return _Overwritten.apply(x, isinstance(layer, nn.ELU))  # type: ignore[no-any-return, no-untyped-call]
    raise TypeError(f"a stack of convolutions has ELU of alpha 1 or ReLU between them, not {layer}")


class _Overwritten(torch.autograd.Function):
    """An ELU or ReLU in the memory of its input, whose gradient goes into the memory of the one it gets."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, elu: bool) -> Tensor:
        ctx.mark_dirty(x)
        y = F.elu_(x) if elu else F.relu_(x)
        ctx.save_for_backward(y)
        ctx.elu = elu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        if ctx.elu:
            torch.ops.aten.elu_backward.grad_input(grad, 1.0, 1.0, 1.0, True, y, grad_input=grad)
        else:
            torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)
        return grad, None
