"""Decode once, differentiate once.

The decoder meets the rest of a model only through the codes z and a scalar NLL. So the gradient of the NLL with
respect to z and to the decoder's parameters is taken at once, while the decode runs; only those small tensors are
kept and the activations are freed. The refinement step and the training loss both use the stored gradient, which
makes memory independent of the number of refinement steps and saves a decoder backward per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Decode = Callable[[Tensor], tuple[Tensor, Any]]
"""z -> (NLL per image (B), whatever else the caller wants to keep)."""


class EagerNLL(NamedTuple):
    """The result of one decode."""

    total: Tensor
    """Scalar: the NLL summed over images. Differentiable once with respect to z and the parameters."""
    per_image: Tensor
    """B, detached."""
    grad_z: Tensor
    """d total / d z, shaped like z, detached."""
    extra: Any
    """What `decode` returned beside the NLL; detach it there."""


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, decode: Decode, keep: list[Any], z: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            per_image, extra = decode(leaf)
            trained = [p for p in parameters if p.requires_grad]
            grad_z, *grads = torch.autograd.grad(per_image.sum(), [leaf, *trained])
        keep.append(extra)
        remaining = iter(grads)
        ctx.grads = [grad_z, *(next(remaining) if p.requires_grad else None for p in parameters)]
        per_image = per_image.detach()
        ctx.mark_non_differentiable(per_image, grad_z)
        return per_image.sum(), per_image, grad_z

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the stored decoder gradients were already used: backward runs only once")
        grads, ctx.grads = ctx.grads, None
        scale = grad_outputs[0]
        return (None, None, *(None if g is None else g * scale for g in grads))


def decode_and_differentiate(decode: Decode, z: Tensor, parameters: Sequence[Tensor]) -> EagerNLL:
    """Run `decode` on z (B K D) and store the gradient of the summed NLL.

    The stored parameter gradients are sums over images: a weight per image belongs inside `decode`, never on
    the result. A second backward through `total` raises RuntimeError. Works under `torch.no_grad` callers.
    """
    keep: list[Any] = []
    total, per_image, grad_z = _Eager.apply(decode, keep, z, *parameters)  # type: ignore[no-untyped-call]
    return EagerNLL(total, per_image, grad_z, keep[0])
