"""Decoders: the folded first convolution is exact, and each code is drawn by itself at any size."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from emorl.nn.convs import ConvStack
from emorl.nn.decoders import (
    ConvDecoder,
    DeconvDecoder,
    ModulatedDecoder,
    PixelDecoder,
    broadcast_decoder,
    masks_and_colours,
    modulated_decoder,
    run_on_tiled,
    small_decoder,
    subpixel_decoder,
)

D = 5
DECODERS: dict[str, Callable[[], PixelDecoder]] = {
    "broadcast": lambda: broadcast_decoder(D),
    "small": lambda: small_decoder(D),
    "deconv": lambda: DeconvDecoder(D, channels=6),
    "subpixel": lambda: subpixel_decoder(D, channels=6, patch=3, num_layers=3, num_waves=2),
    "modulated": lambda: modulated_decoder(D, channels=6, patch=3, num_layers=2, num_waves=2),
}


def codes(n: int = 3) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


SIZES = [(5, 5), (7, 9), (12, 6), (3, 8), (8, 4), (2, 3), (1, 6), (1, 1)]
FOLDS = [
    (kernel, pad, size)
    for kernel, pad, size in itertools.product((3, 5), (0, 1, 2), SIZES)
    if min(size) + 2 * pad >= kernel  # else the convolution has no output
]


@pytest.mark.parametrize(("kernel", "pad", "size"), FOLDS)
def test_convolution_of_a_tiled_code_is_that_of_the_tiled_field(kernel: int, pad: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(D, 4, kernel, padding=pad).double()
    z = codes().requires_grad_()
    grid = torch.randn(D, *size, dtype=torch.float64, requires_grad=True)
    inputs = [z, grid, conv.weight, conv.bias]
    expected = conv(z.reshape(3, D, 1, 1).repeat(1, 1, *size) + grid)
    ours = run_on_tiled(ConvStack(conv), z, grid)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((ours * weight).sum(), inputs)
    for mine, theirs in zip(gradients, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_codes_are_never_convolved_where_it_can_be_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convolution sees the grid alone, once; codes go through a product of matrices."""
    seen: list[tuple[int, ...]] = []
    plain = torch.nn.functional.conv2d

    def watch(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        seen.append(tuple(x.shape))
        return plain(x, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "conv2d", watch)
    run_on_tiled(ConvStack(nn.Conv2d(D, 4, 3)).double(), codes(), torch.zeros(D, 20, 30).double())
    assert seen == [(1, D, 20, 30)]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("size", [(16, 32), (7, 10), (1, 3), (17, 5)])
def test_any_size_comes_out(kind: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    out = DECODERS[kind]().double().draw(codes(), *size)
    assert out.shape == (3, 4, *size)


@pytest.mark.parametrize("kind", DECODERS)
def test_each_code_is_drawn_by_itself(kind: str) -> None:
    torch.manual_seed(0)
    decoder, z = DECODERS[kind]().double(), codes()
    together = decoder.draw(z, 7, 10)
    for i in range(3):
        torch.testing.assert_close(decoder.draw(z[i : i + 1], 7, 10), together[i : i + 1], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("kind", DECODERS)
def test_rows_and_columns_are_not_exchanged(kind: str) -> None:
    """Kernels turned over their diagonal, and rows for columns in the grid, give the turned picture."""
    torch.manual_seed(0)
    decoder, z = DECODERS[kind]().double(), codes()
    expected = decoder.draw(z, 7, 10).mT
    with torch.no_grad():
        for layer in decoder.layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.weight.copy_(layer.weight.mT.clone())
        if isinstance(decoder, ModulatedDecoder):  # every channel has weights and a bias for each feature of the grid
            weights = [decoder.projection.weight.view(6, -1, D), decoder.projection.bias.view(6, -1)]
        else:
            assert isinstance(decoder, ConvDecoder | DeconvDecoder)
            weights = [decoder.position.weight]
        for w in weights:
            waves = list(range(4, w.shape[1]))
            half = len(waves) // 2
            # Falling rows, rising rows, rising columns, falling columns.
            w.copy_(w[:, [3, 2, 1, 0, *waves[half:], *waves[:half]]].clone())
        if kind in ("subpixel", "modulated"):  # the last layer's channels hold a 3 x 3 patch each
            last = decoder.layers[-1]
            turn = torch.arange(36).view(4, 3, 3).mT.flatten()
            last.weight.copy_(last.weight[turn].clone())
            last.bias.copy_(last.bias[turn].clone())
    torch.testing.assert_close(decoder.draw(z, 10, 7), expected, rtol=1e-12, atol=1e-14)


def test_sizes_cut_at_the_right_and_bottom_continue_the_same_picture() -> None:
    torch.manual_seed(0)
    for kind, whole, part in (
        ("deconv", (32, 48), (30, 41)),
        ("subpixel", (9, 12), (7, 11)),
        ("modulated", (9, 12), (7, 11)),
    ):
        decoder, z = DECODERS[kind]().double(), codes()
        expected = decoder.draw(z, *whole)[..., : part[0], : part[1]]
        torch.testing.assert_close(decoder.draw(z, *part), expected, rtol=1e-12, atol=1e-14)


def test_parameter_counts_of_the_paper() -> None:
    def count(decoder: nn.Module) -> int:
        return sum(p.numel() for p in decoder.parameters())

    assert count(broadcast_decoder(64)) == 4 * (64 * 64 * 9 + 64) + (64 * 4 * 9 + 4) + 5 * 64
    assert count(small_decoder(32)) == 3 * (32 * 32 * 25 + 32) + (32 * 4 * 9 + 4) + 5 * 32
    assert count(DeconvDecoder(64)) == 5 * (64 * 64 * 25 + 64) + (64 * 4 * 9 + 4) + 5 * 64


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("size", [(16, 32), (7, 10), (6, 9)])
def test_an_image_in_the_order_of_the_pixels_is_the_same_image(kind: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    decoder, images = DECODERS[kind]().double(), torch.rand(2, 3, *size, dtype=torch.float64)
    target, inside = decoder.arrange(images)
    pixels = decoder(codes(), *size)
    assert target.shape[2:] == pixels.shape[2:]
    assert torch.equal(decoder.picture(target, *size), images)
    counted = torch.ones(target.shape[2:], dtype=torch.float64) if inside is None else inside
    assert counted.sum() == size[0] * size[1]
    assert torch.equal(decoder.picture(counted.expand(1, 1, -1, -1), *size), torch.ones(1, 1, *size).double())
    error = ((target[:1] - pixels[:, :3]).square() * counted).sum(dim=(1, 2, 3))
    expected = (images[:1] - decoder.draw(codes(), *size)[:, :3]).square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(error, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "part of another"])
def test_masks_and_colours_have_the_gradients_of_softmax_and_sigmoid(layout: str) -> None:
    torch.manual_seed(0)
    flat = torch.randn(6, 4 * 5, 2, 3, dtype=torch.float64)
    if layout == "channels last":
        flat = flat.contiguous(memory_format=torch.channels_last)
    out = flat.reshape(2, 3, 4, 5, 6)
    out = (out[..., 1:4] if layout == "part of another" else out).detach().requires_grad_()
    log_masks, components = masks_and_colours(out)
    expected = out[:, :, 3:].log_softmax(dim=1), out[:, :, :3].sigmoid()
    weights = [torch.randn_like(part) for part in expected]
    for ours, theirs in zip((log_masks, components), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (ours,), (theirs,) = (
        torch.autograd.grad(sum((w * part).sum() for w, part in zip(weights, parts, strict=True)), out)
        for parts in ((log_masks, components), expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_of_masks_have_no_denormal_numbers() -> None:
    """With which convolutions take ten times as long: of a slot that has next to no share in a pixel."""
    torch.manual_seed(0)
    out = torch.randn(2, 3, 4, 5, 6)
    out[:, 1, 3, :3] -= 90  # masks about e^-90
    out[:, 1, 3, 3:] -= 40  # about 1e-17, still a gradient
    out.requires_grad_()
    target = torch.rand(2, 1, 3, 5, 6)

    def gradient(log_masks: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
        (grad,) = torch.autograd.grad((log_masks.exp() * (components - target).square()).sum(), out)
        return grad

    theirs = gradient(out[:, :, 3:].log_softmax(dim=1), out[:, :, :3].sigmoid())
    ours = gradient(*masks_and_colours(out))
    tiny = torch.finfo(torch.float32).tiny
    assert ((theirs != 0) & (theirs.abs() < tiny)).any()
    assert not ((ours != 0) & (ours.abs() < tiny)).any()
    assert (ours[:, 1, :, 3:] != 0).float().mean() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours[:, 1], theirs[:, 1], rtol=1e-4, atol=1e-19)
