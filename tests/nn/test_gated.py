"""Gated convolutions: equal to PyTorch's layers one by one."""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl.nn.convs import Conv2d, ConvTranspose2d
from emorl.nn.gated import BatchNorm, GatedConv, GatedDecoder, GatedEncoder, InstanceNorm, NormKind, gate

N, SIZE, CHANNELS, STRIDES = 3, (16, 24), (3, 4, 5), (2, 1, 2)
KINDS = pytest.mark.parametrize("kind", ["batch", "instance"])


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def encoder(kind: NormKind) -> GatedEncoder:
    torch.manual_seed(0)
    return scramble(GatedEncoder(SIZE, CHANNELS, STRIDES, features=7, norm=kind).double())


def decoder(kind: NormKind) -> GatedDecoder:
    torch.manual_seed(0)
    return scramble(GatedDecoder(6, SIZE, CHANNELS, STRIDES, norm=kind).double())


Net = TypeVar("Net", bound=nn.Module)


def scramble(net: Net) -> Net:
    """Norms that are not the identity."""
    for module in net.modules():
        if isinstance(module, BatchNorm | InstanceNorm):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias)
    return net


def two_norms(norm: BatchNorm | InstanceNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """PyTorch's norm of each half of the channels, in training."""
    halves = []
    for part, weight, bias in zip(x.chunk(2, dim=1), norm.weight.chunk(2), norm.bias.chunk(2), strict=True):
        kind = nn.BatchNorm2d if isinstance(norm, BatchNorm) else nn.InstanceNorm2d
        layer = kind(part.shape[1], affine=True).double()
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)
        halves.append(layer(part))
    return halves[0], halves[1]


@KINDS
def test_the_encoder_is_its_layers(kind: NormKind) -> None:
    net, x = encoder(kind), rand(N, 3, *SIZE)
    expected = x
    for layer, stride in zip(net.layers, STRIDES, strict=True):
        assert isinstance(layer, GatedConv)
        expected = F.conv2d(expected, layer.conv.weight, layer.conv.bias, stride=stride, padding=2)
        h, g = two_norms(layer.norm, expected)
        expected = h * torch.sigmoid(g)
    assert expected.shape == (N, 5, 4, 6)
    h, g = F.conv2d(expected, net.last.weight, net.last.bias).chunk(2, dim=1)
    torch.testing.assert_close(net(x, True), (h * torch.sigmoid(g))[:, :, 0, 0], rtol=1e-10, atol=1e-12)


@KINDS
def test_the_decoder_is_its_layers(kind: NormKind) -> None:
    net, z = decoder(kind), rand(N, 6)
    h, g = F.conv_transpose2d(z[:, :, None, None], net.first.weight, net.first.bias).chunk(2, dim=1)
    expected = h * torch.sigmoid(g)
    assert expected.shape == (N, 3, 4, 6)
    for layer, stride in zip(net.layers, STRIDES, strict=True):
        assert isinstance(layer, GatedConv)
        weight, bias = layer.conv.weight, layer.conv.bias
        expected = F.conv_transpose2d(expected, weight, bias, stride=stride, padding=2, output_padding=stride - 1)
        h, g = two_norms(layer.norm, expected)
        expected = h * torch.sigmoid(g)
    expected = F.conv2d(expected, net.last.weight, net.last.bias)
    assert expected.shape == (N, 1, *SIZE)
    torch.testing.assert_close(net(z, True), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_the_weights_changes_nothing(layout: torch.memory_format) -> None:
    there, back, x, z = encoder("batch"), decoder("batch"), rand(N, 3, *SIZE), rand(N, 6)
    expected = there(x, True), back(z, True)
    for net in (there, back):
        net.to(memory_format=layout)  # type: ignore[call-overload]
    torch.testing.assert_close((there(x, True), back(z, True)), expected, rtol=1e-12, atol=1e-12)


def test_bfloat16_reaches_every_convolution() -> None:
    for net, x in ((encoder("batch").float(), rand(N, 3, *SIZE)), (decoder("batch").float(), rand(N, 6))):
        full = net(x.float(), True)
        for module in net.modules():
            if isinstance(module, Conv2d | ConvTranspose2d):
                module.compute_dtype = torch.bfloat16
                half = net(x.float(), True)
                module.compute_dtype = None
                assert half.dtype == torch.float32
                assert 0 < (half - full).abs().max().item() < 0.1 * full.abs().max().item()


def test_batch_norm_is_pytorchs() -> None:
    ours, theirs = scramble(BatchNorm(4).double()), nn.BatchNorm2d(4).double()
    theirs.weight.data.copy_(ours.weight)
    theirs.bias.data.copy_(ours.bias)
    for x in rand(3, N, 4, 5, 6).unbind(0):
        torch.testing.assert_close(ours(x + 1, True), theirs(x + 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    before = ours.running_mean.clone(), ours.running_var.clone()
    x = rand(N, 4, 5, 6)
    torch.testing.assert_close(ours(x, False), theirs.eval()(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(ours.running_mean, before[0]) and torch.equal(ours.running_var, before[1])


def test_an_instance_is_normalised_by_itself() -> None:
    norm, x = scramble(InstanceNorm(4).double()), rand(N, 4, 5, 6)
    torch.testing.assert_close(norm(x, True)[1:2], norm(x[1:2], False), rtol=1e-12, atol=1e-12)


def test_the_gate_leaves_its_signal_linear() -> None:
    h, g = rand(N, 2, 1, 1), rand(N, 2, 1, 1).flip(0)
    assert gate(torch.cat([h, g], dim=1)).equal(h * torch.sigmoid(g))
    assert torch.equal(gate(torch.cat([-h, g], dim=1)), -gate(torch.cat([h, g], dim=1)))  # no ReLU on h
