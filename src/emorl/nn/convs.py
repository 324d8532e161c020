"""Stacks of convolutions, where nearly all of a model's time goes.

The parameters keep their own type; the convolutions run in the stack's `compute_dtype`. Activations between two
convolutions overwrite their input in both directions: the convolution before needs its output no more, and the
gradient that the one behind hands back is read by nobody else. On a CPU fresh memory costs as much as the arithmetic.
On a GPU the bias goes with the activation (`emorl.nn.fused`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from emorl.nn import fused


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
        bias: Tensor | None = None  # of the convolution before, where it is still to be added
        for i, layer in enumerate(list(self)[start:], start):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                apart = self.overwrites(i + 1) and fused.on(x)
                x, bias = self.conv(layer, x, bias=not apart), layer.bias if apart else None
                if bias is not None and not fused.usable(x):
                    x, bias = x.add_(bias.to(x.dtype).view(-1, 1, 1)), None
            elif self.overwrites(i):
                x, bias = _Overwritten.apply(x, bias, is_elu(layer)), None  # type: ignore[no-untyped-call]
            else:
                x = layer(x)
        return x.to(self.dtype)

    def overwrites(self, i: int) -> bool:
        """Whether layer number i is an activation between two convolutions."""
        return 0 < i < len(self) - 1 and not isinstance(self[i], nn.Conv2d | nn.ConvTranspose2d)

    def conv(self, layer: nn.Module, x: Tensor, bias: bool = True, padding: int | None = None) -> Tensor:
        """One of the stack's convolutions in its compute type, perhaps without bias or with another padding."""
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        return in_type(layer, x, self.compute_dtype or self.dtype, bias, padding)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype


def is_elu(layer: nn.Module) -> bool:
    """Whether an activation of a stack is an ELU, not a ReLU; raises TypeError for others."""
    if isinstance(layer, nn.ReLU) or (isinstance(layer, nn.ELU) and layer.alpha == 1):
        return isinstance(layer, nn.ELU)
    raise TypeError(f"a stack of convolutions has ELU of alpha 1 or ReLU between them, not {layer}")


def slope_(grad: Tensor, y: Tensor, elu: bool) -> Tensor:
    """The gradient before an activation that gave y, in the memory of that behind it."""
    if elu:
        torch.ops.aten.elu_backward.grad_input(grad, 1.0, 1.0, 1.0, True, y, grad_input=grad)
    else:
        torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)
    return grad


class _Overwritten(torch.autograd.Function):
    """An ELU or ReLU in the memory of its input, whose gradient goes into the memory of the one it gets.

    With a bias C for an input n C h w the activation is of their sum; the input must be `fused.usable`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, elu: bool) -> Tensor:
        ctx.mark_dirty(x)
        if bias is not None:
            y = fused.add_bias_and_activate(x, bias, elu)
        else:
            y = F.elu_(x) if elu else F.relu_(x)
        ctx.save_for_backward(y)
        ctx.elu, ctx.biased = elu, bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (y,) = ctx.saved_tensors
        if ctx.biased:
            return *fused.slope_and_sums(grad, y, ctx.elu), None
        return slope_(grad, y, ctx.elu), None, None
