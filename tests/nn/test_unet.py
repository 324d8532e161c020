"""The U-Net: equal to a plain one, at all sizes."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from emorl.nn.convs import Conv2d
from emorl.nn.unet import UNet, num_unet_blocks

Norm = Literal["instance", "group"]
SIZES = [(16, 16), (32, 32), (35, 47), (64, 40), (96, 96), (128, 128)]


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def build(size: tuple[int, int], norm: Norm, outputs: int | None = 1, channels: int = 8) -> UNet:
    torch.manual_seed(0)
    unet = UNet(4, outputs, size, channels=channels, norm=norm, hidden=10).double()
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm):  # weights that matter
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return unet


def plain(unet: UNet, x: Tensor, norm: Norm) -> Tensor:
    """The definition, for sides divisible by every halving."""

    def block(layers: nn.Module, x: Tensor) -> Tensor:
        conv, affine, _ = layers.children()
        assert isinstance(conv, Conv2d) and isinstance(affine, nn.GroupNorm)
        x = nn.functional.conv2d(x, conv.weight, padding=1)
        if norm == "instance":
            x = nn.functional.instance_norm(x, weight=affine.weight, bias=affine.bias)
        else:
            x = nn.functional.group_norm(x, 8, affine.weight, affine.bias)
        return nn.functional.relu(x)

    skips = []
    for i, layers in enumerate(unet.down):
        x = block(layers, nn.functional.interpolate(x, scale_factor=0.5) if i else x)
        skips.append(x)
    shape = x.shape
    x = x.flatten(1)
    for layer in list(unet.middle)[::2]:
        x = nn.functional.relu(layer(x))
    x = x.view(shape)
    for i, layers in enumerate(unet.up):
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) if i else x
        x = block(layers, torch.cat([x, skips.pop()], dim=1))
    return nn.functional.conv2d(x, unet.out.weight, unet.out.bias) if isinstance(unet.out, Conv2d) else x


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("outputs", [2, None])
def test_it_is_the_plain_one(norm: Norm, outputs: int | None) -> None:
    unet = build((32, 64), norm, outputs)
    x = rand(2, 4, 32, 64)
    torch.testing.assert_close(unet(x), plain(unet, x, norm), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_keeps_itself(size: tuple[int, int]) -> None:
    unet = build(size, "instance")
    assert unet(rand(2, 4, *size)).shape == (2, 1, *size)
    features = build(size, "group", None)(rand(2, 4, *size))
    assert features.shape == (2, 8, *size) and float(features.detach().min()) == 0


def test_the_smallest_map() -> None:
    found = {size: (num_unet_blocks(size), UNet(3, 1, size, channels=8, norm="group").map_size) for size in SIZES}
    assert found == {
        (16, 16): (3, (4, 4)),
        (32, 32): (4, (4, 4)),
        (35, 47): (4, (4, 5)),
        (64, 40): (4, (8, 5)),
        (96, 96): (5, (6, 6)),
        (128, 128): (6, (4, 4)),
    }


def test_no_image_depends_on_its_batch() -> None:
    unet, x = build((16, 20), "instance"), rand(3, 4, 16, 20)
    torch.testing.assert_close(unet(x)[1:2], unet(x[1:2]), rtol=1e-12, atol=1e-14)


def test_widths_of_the_table() -> None:
    """Outputs of every block, in multiples of c."""

    def widths(blocks: nn.ModuleList) -> list[int]:
        return [p.shape[0] // 8 for block in blocks for p in block.parameters() if p.ndim == 4]

    def inputs(blocks: nn.ModuleList) -> list[int]:
        return [p.shape[1] // 8 for block in blocks for p in block.parameters() if p.ndim == 4]

    expected = {
        32: ([1, 2, 2, 2], [4, 4, 4, 2], [2, 2, 1, 1]),
        64: ([1, 1, 2, 2, 2], [4, 4, 4, 2, 2], [2, 2, 1, 1, 1]),
        128: ([1, 1, 1, 2, 2, 2], [4, 4, 4, 2, 2, 2], [2, 2, 1, 1, 1, 1]),
    }
    for side, table in expected.items():
        unet = build((side, side), "group")
        assert (widths(unet.down), inputs(unet.up), widths(unet.up)) == table
