"""Bias and activation behind a convolution in one pass over memory, on a GPU.

There PyTorch adds the bias in a pass of its own, at a third of the memory's speed, and sums its gradient in another.
With the activation that was a third of a training step on an H200. The kernels are in Triton, which comes with
PyTorch's builds for CUDA on Linux. Where it is missing, or cannot build them, callers take PyTorch's.

Axes: n codes or images, C channels, h w pixels, in the order of channels last.
"""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from emorl.errors import first_line


def on(x: Tensor) -> bool:
    """Is x where the kernels are?"""
    return x.is_cuda and built(x.device)


def usable(x: Tensor) -> bool:
    """Can the kernels take x, n C h w?"""
    channels = x.shape[1]
    return (
        on(x)
        and x.numel() > 0
        and x.dtype in (torch.float32, torch.bfloat16)
        and 8 <= channels <= 256
        and channels & (channels - 1) == 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


@cache
def built(device: torch.device) -> bool:
    """Whether the kernels work on a GPU; tried once."""
    try:
        with torch.cuda.device(device):
            x = torch.zeros(2, 8, device=device)
            _kernels().add_bias_and_activate(x, torch.ones(8, device=device), elu=False)
            works, reason = bool((x == 1).all()), "they compute something else"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no Triton, no C compiler, an old driver: each of a kind of its own
        works, reason = False, first_line(error)
    if not works:
        warnings.warn(f"training is slower than it could be: GPU kernels cannot be built ({reason})", stacklevel=2)
    return works


def _kernels() -> ModuleType:
    from emorl.nn import kernels  # imports Triton, which most machines without a GPU lack

    return kernels


def _rows(x: Tensor) -> Tensor:
    """n C h w -> n h w, C: the same memory."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def add_bias_and_activate(x: Tensor, bias: Tensor, elu: bool) -> Tensor:
    """ELU or ReLU of x, which is `usable`, plus a bias C; in place."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _kernels().add_bias_and_activate(_rows(x), bias, elu)
    return x


def spread_and_activate(shared: Tensor, cases: Tensor, which: Tensor, elu: bool) -> Tensor:
    """ELU or ReLU of a `usable` picture 1 C h w plus, of cases n Q C, the one of every position (`which`, hw, int)."""
    with torch.cuda.device_of(shared):  # type: ignore[no-untyped-call]
        out: Tensor = _kernels().spread_and_activate(_rows(shared), cases, which, elu)  # n hw C
    return out.view(len(cases), *shared.shape[2:], shared.shape[1]).permute(0, 3, 1, 2)


def slope_and_sums(grad: Tensor, y: Tensor, elu: bool) -> tuple[Tensor, Tensor]:
    """The gradient before an activation that gave y, in the memory of that behind it, and its sums C, float32."""
    grad = grad.contiguous(memory_format=torch.channels_last)  # as convolutions leave it
    with torch.cuda.device_of(y):  # type: ignore[no-untyped-call]
        return grad, _kernels().slope_and_sums(_rows(grad), _rows(y), elu)
