"""The recurrent cells against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from emorl.nn.gru import DualGRU, SingleGRU
from emorl.prob import Gaussian

D = 5


def inputs(*leading: int) -> tuple[Tensor, Gaussian]:
    generator = torch.Generator().manual_seed(0)
    x, mean, raw = torch.randn(3, *leading, D, generator=generator, dtype=torch.float64).unbind(0)
    return x, Gaussian(mean, raw)


@pytest.mark.parametrize("leading", [(4,), (2, 3), (2, 3, 4)])
def test_dual_gru_is_two_cells_side_by_side(leading: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dual = DualGRU(D).double()
    x, state = inputs(*leading)
    ours = dual(x, state)
    for i, (half, h) in enumerate(zip(ours, state, strict=True)):
        cell = nn.GRUCell(D, D).double()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).data.copy_(getattr(dual, name)[i])
        expected = cell(x.reshape(-1, D), h.reshape(-1, D)).reshape(h.shape)
        torch.testing.assert_close(half, expected, rtol=1e-12, atol=1e-14)
    assert isinstance(ours, Gaussian)
    assert not torch.allclose(ours.mean, ours.raw)


def test_the_halves_of_the_dual_gru_do_not_mix() -> None:
    torch.manual_seed(0)
    dual = DualGRU(D).double()
    x, state = inputs(4)
    state = state.leaf()
    mean, raw = dual(x, state)
    own, other = torch.autograd.grad(mean.sum(), state, retain_graph=True)
    assert float(own.abs().min()) > 0 == float(other.abs().max())
    other, own = torch.autograd.grad(raw.sum(), state)
    assert float(own.abs().min()) > 0 == float(other.abs().max())


def test_single_gru_is_a_projection_and_one_cell_over_both_halves() -> None:
    torch.manual_seed(0)
    single = SingleGRU(D).double()
    x, state = inputs(2, 3)
    ours = single(x, state)
    gru = nn.GRU(2 * D, 2 * D).double()
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(gru, f"{name}_l0").data.copy_(getattr(single.cell, name))
    h = torch.cat([state.mean, state.raw], dim=-1).reshape(1, 6, 2 * D)
    expected = gru(single.project(x).reshape(1, 6, 2 * D), h)[1].reshape(2, 3, 2 * D)
    torch.testing.assert_close(torch.cat(ours, dim=-1), expected, rtol=1e-12, atol=1e-14)
