"""The component VAE: its sizes, and a decoder equal to the tiled one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from emorl.nn.component_vae import Activation, ComponentDecoder, ComponentEncoder, shifted_softplus_std

D, N = 5, 3
KINDS = pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU])


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_std_is_the_released_one() -> None:
    for raw in (-20.0, -0.5, 0.0, 3.0):
        expected = math.log1p(math.exp(raw + 0.5)) + 1e-8
        assert float(shifted_softplus_std(torch.tensor(raw, dtype=torch.float64))) == pytest.approx(expected, rel=1e-12)
    assert float(shifted_softplus_std(torch.tensor(-1e4))) == pytest.approx(1e-8)


@KINDS
def test_the_encoder_is_its_table(activation: Activation) -> None:
    torch.manual_seed(0)
    encoder = ComponentEncoder(4, D, (20, 35), activation, channels=6).double()
    convs = [layer for layer in encoder.convs if isinstance(layer, nn.Conv2d)]
    x = images = rand(N, 4, 20, 35)
    for conv in convs:
        x = activation()(nn.functional.conv2d(x, conv.weight, conv.bias, stride=2, padding=1))
    assert x.shape == (N, 12, 2, 3)  # sides are rounded up four times
    first, _, last = encoder.mlp
    out = last(activation()(first(x.flatten(1))))
    found = encoder(images)
    torch.testing.assert_close(found.mean, out[:, :D])
    torch.testing.assert_close(found.std, torch.log1p(torch.exp(out[:, D:] + 0.5)) + 1e-8)


@KINDS
@pytest.mark.parametrize("size", [(1, 1), (6, 9)])
def test_the_decoder_is_the_one_with_the_tile(activation: Activation, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    decoder = ComponentDecoder(D, 3, activation, channels=6).double()
    z = rand(N, D).requires_grad_()
    height, width = size[0] + 8, size[1] + 8
    rows = torch.linspace(-1, 1, height, dtype=torch.float64).view(1, 1, -1, 1).expand(N, 1, height, width)
    columns = torch.linspace(-1, 1, width, dtype=torch.float64).view(1, 1, 1, -1).expand(N, 1, height, width)
    x = torch.cat([z[:, :, None, None].expand(-1, -1, height, width), rows, columns], dim=1)
    for layer in decoder.layers:
        x = nn.functional.conv2d(x, layer.weight, layer.bias) if isinstance(layer, nn.Conv2d) else activation()(x)
    ours = decoder(z, *size)
    assert ours.shape == (N, 3, *size)
    torch.testing.assert_close(ours, x, rtol=1e-10, atol=1e-12)
    inputs = [z, *decoder.parameters()]
    weight = rand(*x.shape)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), inputs), torch.autograd.grad((x * weight).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def test_parameter_counts() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    convs = (4 + 32) * 32 * 9 + (32 + 64) * 64 * 9 + 32 + 32 + 64 + 64
    for size, cells in (((32, 32), 4), ((64, 64), 16), ((96, 64), 24), ((128, 128), 64)):
        encoder = ComponentEncoder(4, 16, size, nn.ReLU)
        assert count(encoder) == convs + (64 * cells + 1) * 256 + 257 * 32
    assert count(ComponentDecoder(16, 4, nn.ELU)) == (18 + 3 * 32) * 32 * 9 + 4 * 32 + 33 * 4
