"""GPU kernels for what stands between two convolutions, in Triton. Reached through `emorl.nn.fused` alone.

Tensors are dense rows of C channels, C a power of two. Arithmetic is float32 whatever the tensors hold.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
"""Numbers to a program, where each is computed by itself."""
ROWS = 64
"""Rows at a time to a program that sums over rows."""
PROGRAMS = 4096
"""At most, there: each leaves a row of sums."""


@triton.jit
def _activation(x, ELU: tl.constexpr):
    # comparisons that leave NaN as it is; a GPU's max does not
    if ELU:
        # where exp(x) - 1 would be rounding alone
        near = x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720))))))
        return tl.where(x <= 0, tl.where(x > -0.25, near, tl.exp(tl.minimum(x, 0.0)) - 1), x)
    return tl.where(x < 0, 0.0, x)


@triton.jit
def _add_bias_and_activate(x, bias, total, C: tl.constexpr, ELU: tl.constexpr, SIZE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    there = at < total
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32) + tl.load(bias + at % C).to(tl.float32)
    tl.store(x + at, _activation(value, ELU).to(x.dtype.element_ty), mask=there)


@triton.jit
def _spread_and_activate(
    out, shared, cases, which, total, parts, num_cases, C: tl.constexpr, ELU: tl.constexpr, SIZE: tl.constexpr
):
    n = (tl.program_id(0) // parts).to(tl.int64)
    at = (tl.program_id(0) % parts) * SIZE + tl.arange(0, SIZE)
    there = at < total
    case = tl.load(which + at // C, mask=there, other=0)
    value = tl.load(shared + at, mask=there, other=0.0).to(tl.float32)
    value += tl.load(cases + (n * num_cases + case) * C + at % C, mask=there, other=0.0).to(tl.float32)
    tl.store(out + n * total + at, _activation(value, ELU).to(out.dtype.element_ty), mask=there)


@triton.jit
def _slope_and_sums(
    grad, y, sums, num_rows, BLOCKS: tl.constexpr, C: tl.constexpr, ELU: tl.constexpr, SIZE: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, C)
    total = tl.zeros((C,), tl.float32)
    for block in range(BLOCKS):
        row = (program * BLOCKS + block) * SIZE + tl.arange(0, SIZE)
        at = row[:, None] * C + channel[None, :]
        there = (row < num_rows)[:, None]
        value = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
        result = tl.load(y + at, mask=there, other=0.0).to(tl.float32)
        if ELU:
            value = tl.where(result <= 0, value * (result + 1), value)
        else:
            value = tl.where(result <= 0, 0.0, value)
        rounded = value.to(grad.dtype.element_ty)
        tl.store(grad + at, rounded, mask=there)
        total += tl.sum(rounded.to(tl.float32), axis=0)
    tl.store(sums + program * C + channel, total)


def add_bias_and_activate(x: Tensor, bias: Tensor, elu: bool) -> None:
    """ELU or ReLU of rows M C plus a bias C, in place."""
    _add_bias_and_activate[(triton.cdiv(x.numel(), BLOCK),)](x, bias, x.numel(), x.shape[1], elu, BLOCK, num_warps=4)


def spread_and_activate(shared: Tensor, cases: Tensor, which: Tensor, elu: bool) -> Tensor:
    """ELU or ReLU of shared P C plus, of cases n Q C, the one that `which` (P, int) names: n P C."""
    (positions, channels), (n, num_cases, _) = shared.shape, cases.shape
    total = positions * channels
    out = shared.new_empty(n, positions, channels)
    parts = triton.cdiv(total, BLOCK)  # of each n
    sizes = total, parts, num_cases, channels
    _spread_and_activate[(n * parts,)](out, shared, cases, which, *sizes, elu, BLOCK, num_warps=4)
    return out


def slope_and_sums(grad: Tensor, y: Tensor, elu: bool) -> Tensor:
    """Multiply gradients M C by the slopes of the activation that gave y M C, in place; their sums over M: C."""
    num_rows, channels = y.shape
    num_blocks = triton.next_power_of_2(triton.cdiv(num_rows, ROWS * PROGRAMS))  # to each program: few kernels to build
    programs = triton.cdiv(num_rows, ROWS * num_blocks)
    sums = torch.empty(programs, channels, device=y.device)
    _slope_and_sums[(programs,)](grad, y, sums, num_rows, num_blocks, channels, elu, ROWS, num_warps=4)
    return sums.sum(dim=0)
