"""Initial weights reach every layer they are meant for and no other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from emorl.nn.gru import DualGRU
from emorl.nn.init import keras_, xavier_small_


def test_linear_and_convolution_layers_get_small_weights_and_no_bias() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(
        [
            nn.Linear(200, 300),
            nn.Conv2d(40, 60, 3),
            nn.ConvTranspose2d(60, 40, 5),
            nn.Linear(100, 300, bias=False),
        ]
    )
    xavier_small_(layers)
    for layer, fans in zip(layers, (500, 9 * 100, 25 * 100, 400), strict=True):
        weight = layer.weight.detach()
        assert float(weight.std()) == pytest.approx(0.02 * math.sqrt(2 / fans), rel=0.03)
        assert float(weight.mean()) == pytest.approx(0, abs=1e-3)
        if layer.bias is not None:
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_nested_layers_are_found_and_other_modules_left_alone() -> None:
    torch.manual_seed(0)
    norm, cell = nn.LayerNorm(4), nn.GRUCell(4, 4)
    before = {n: p.clone() for n, p in (*norm.named_parameters(), *cell.named_parameters())}
    inner = nn.Linear(4, 4)
    xavier_small_(nn.Sequential(nn.Sequential(inner), norm), cell)
    assert float(inner.weight.detach().abs().max()) < 0.05
    for n, p in (*norm.named_parameters(), *cell.named_parameters()):
        assert torch.equal(p, before[n])


def test_keras_weights_are_glorot_uniform_and_recurrent_ones_orthogonal() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(200, 300), nn.Conv2d(40, 60, 3), nn.ConvTranspose2d(60, 40, 5)])
    cell, norm = nn.GRUCell(30, 20), nn.LayerNorm(4)
    keras_(layers, nn.Sequential(nn.Sequential(cell), norm))
    found = [(layer.weight, fans) for layer, fans in zip(layers, (500, 9 * 100, 25 * 100), strict=True)]
    for weight, fans in [*found, (cell.weight_ih, 30 + 3 * 20)]:
        assert isinstance(weight, torch.Tensor)
        bound = math.sqrt(6 / fans)
        assert 0.98 * bound < float(weight.detach().abs().max()) <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)
    torch.testing.assert_close(cell.weight_hh.T @ cell.weight_hh, torch.eye(20), atol=1e-5, rtol=0)
    for bias in (cell.bias_ih, cell.bias_hh, *(layer.bias for layer in layers)):
        assert isinstance(bias, torch.Tensor)
        assert torch.equal(bias, torch.zeros_like(bias))
    assert torch.equal(norm.weight, torch.ones(4))


def test_an_lstm_begins_with_an_open_forget_gate() -> None:
    torch.manual_seed(0)
    cell = nn.LSTMCell(30, 20)
    keras_(nn.ModuleList([cell]))
    bound = math.sqrt(6 / (30 + 4 * 20))
    assert 0.98 * bound < float(cell.weight_ih.detach().abs().max()) <= bound
    torch.testing.assert_close(cell.weight_hh.T @ cell.weight_hh, torch.eye(20), atol=1e-5, rtol=0)
    gates = (cell.bias_ih + cell.bias_hh).detach().unflatten(0, (4, 20))  # input, forget, cell, output
    assert torch.equal(gates, torch.tensor([0.0, 1, 0, 0])[:, None].expand(4, 20))


def test_a_dual_gru_is_two_grus_of_keras() -> None:
    torch.manual_seed(0)
    dual = DualGRU(20)
    keras_(nn.ModuleList([dual]))
    bound = math.sqrt(6 / (20 + 3 * 20))
    for weight_ih, weight_hh in zip(dual.weight_ih.detach(), dual.weight_hh.detach(), strict=True):
        assert 0.98 * bound < float(weight_ih.abs().max()) <= bound
        torch.testing.assert_close(weight_hh.T @ weight_hh, torch.eye(20), atol=1e-5, rtol=0)
    assert not torch.equal(dual.weight_ih[0], dual.weight_ih[1])
    assert not dual.bias_ih.any() and not dual.bias_hh.any()
