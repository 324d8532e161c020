"""Decode once, differentiate once.

The decoder meets the rest of a model only through the codes z and a scalar NLL. So the gradient of the NLL with
respect to z and to the decoder's parameters is taken at once, while the decode runs; only those small tensors are
kept and the activations are freed. The refinement step and the training loss both use the stored gradient, which
makes memory independent of the number of refinement steps and saves a decoder backward per step.

For the same reason a batch can be decoded a few images at a time: memory does not grow with the batch either, and
on a CPU the activations stay in the cache.

A network whose output is used later, so that its gradient is not known yet, is run again in the backward instead
(`recomputed`): memory is that of a few images too, at the price of one more forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Decode = Callable[[Tensor, slice], tuple[Tensor, tuple[Tensor, ...]]]
"""(z of some images, which images of the batch) -> (NLL per image, what else to keep: tensors with that axis first)."""


class EagerNLL(NamedTuple):
    """The result of one decode."""

    total: Tensor
    """Scalar: the NLL summed over images. Differentiable once with respect to z and the parameters."""
    per_image: Tensor
    """B, detached."""
    grad_z: Tensor
    """d total / d z, shaped like z, detached."""
    extra: tuple[Tensor, ...]
    """What `decode` returned beside the NLL, of all images; detach it there."""


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, decode: Decode, chunk: int, keep: list[Any], z: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        trained = [p for p in parameters if p.requires_grad]
        parts: list[tuple[Tensor, Tensor, tuple[Tensor, ...]]] = []
        sums: list[Tensor] = []
        for rows in chunks(len(z), chunk):
            with torch.enable_grad():
                leaf = z[rows].detach().requires_grad_()
                per_image, extra = decode(leaf, rows)
                grad_z, *grads = torch.autograd.grad(per_image.sum(), [leaf, *trained])
            parts.append((per_image.detach(), grad_z, extra))
            sums = [total.add_(grad) for total, grad in zip(sums, grads, strict=True)] if sums else grads
        per_image, grad_z, extra = _joined(parts)
        keep.append(extra)
        remaining = iter(sums)
        ctx.grads = [grad_z, *(next(remaining) if p.requires_grad else None for p in parameters)]
        ctx.mark_non_differentiable(per_image, grad_z)
        return per_image.sum(), per_image, grad_z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the stored decoder gradients were already used: backward runs only once")
        grads, ctx.grads = ctx.grads, None
        scale = grad_outputs[0]
        return (None, None, None, *(None if g is None else g * scale for g in grads))


def chunks(count: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover 0..count - 1."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _joined(parts: Sequence[tuple[Tensor, Tensor, tuple[Tensor, ...]]]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    if len(parts) == 1:
        return parts[0]
    per_image, grad_z, extra = zip(*parts, strict=True)
    return torch.cat(per_image), torch.cat(grad_z), tuple(map(torch.cat, zip(*extra, strict=True)))


def decode_and_differentiate(
    decode: Decode, z: Tensor, parameters: Sequence[Tensor], chunk: int | None = None
) -> EagerNLL:
    """Run `decode` on z (B K D), `chunk` images at a time, and store the gradient of the summed NLL.

    The stored parameter gradients are sums over images: a weight per image belongs inside `decode`, never on
    the result. A second backward through `total` raises RuntimeError. Works under `torch.no_grad` callers.
    """
    keep: list[Any] = []
    size = max(1, min(len(z), chunk or len(z)))
    total, per_image, grad_z = _Eager.apply(decode, size, keep, z, *parameters)  # type: ignore[no-untyped-call]
    return EagerNLL(total, per_image, grad_z, keep[0])


def decode_only(decode: Decode, z: Tensor, chunk: int | None = None) -> EagerNLL:
    """The same without gradients: `grad_z` is zero."""
    size = max(1, min(len(z), chunk or len(z)))
    with torch.no_grad():
        parts = []
        for rows in chunks(len(z), size):
            per_image, extra = decode(z[rows], rows)
            parts.append((per_image, torch.zeros_like(z[rows]), extra))
        per_image, grad_z, extra = _joined(parts)
    return EagerNLL(per_image.sum(), per_image, grad_z, extra)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[[slice], Tensor], count: int, chunk: int, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        ctx.function, ctx.rows = function, chunks(count, chunk)
        return torch.cat([function(rows) for rows in ctx.rows])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.function is None:
            raise RuntimeError("the inputs of a recomputed network are gone: backward runs only once")
        function, ctx.function = ctx.function, None
        parameters = ctx.saved_tensors
        trained = [p for p in parameters if p.requires_grad]
        sums: list[Tensor] = []
        for rows in ctx.rows:
            with torch.enable_grad():
                grads = torch.autograd.grad(function(rows), trained, grad_outputs[0][rows])
            sums = [total.add_(grad) for total, grad in zip(sums, grads, strict=True)] if sums else list(grads)
        remaining = iter(sums)
        return (None, None, None, *(next(remaining) if p.requires_grad else None for p in parameters))


def recomputed(
    function: Callable[[slice], Tensor], parameters: Sequence[Tensor], count: int, chunk: int | None = None
) -> Tensor:
    """`function` of `count` images, `chunk` at a time, its results joined along their first axis.

    Differentiable once with respect to `parameters` and to nothing else: whatever `function` holds must be cut off
    from its past. Its activations are not kept; the backward runs it again.
    """
    size = max(1, min(count, chunk or count))
    joined: Tensor = _Recomputed.apply(function, count, size, *parameters)  # type: ignore[no-untyped-call]
    return joined
