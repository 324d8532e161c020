"""Encoders: the order of tokens, sizes that divide nothing, and what a token sees."""

from __future__ import annotations

import pytest
import torch

from emorl.nn.choices import EncoderKind, PatchConfig, encoder_layers
from emorl.nn.encoders import ImageEncoder, pad_to_multiple


def images(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def encoder_of(kind: EncoderKind, patch: int = 2, num_layers: int = 2) -> ImageEncoder:
    torch.manual_seed(0)
    convs, stride = encoder_layers(kind, 6, PatchConfig(patch, 6, num_layers))
    return ImageEncoder(convs, 6, stride)


def test_a_token_per_pixel_in_row_order() -> None:
    encoder = encoder_of("conv").double()
    x = images(18, 21)
    tokens, grid = encoder(x)
    assert grid == (18, 21)
    assert tokens.shape == (2, 18 * 21, 6)
    changed = x.clone()
    changed[0, :, 9, 12] += 1
    moved = (encoder(changed)[0] - tokens).abs().amax(dim=-1).unflatten(1, grid)
    assert not moved[1].any()
    rows, columns = moved[0].nonzero().unbind(1)
    # Four 5x5 convolutions see 8 pixels to each side.
    assert (int(rows.min()), int(rows.max())) == (1, 17)
    assert (int(columns.min()), int(columns.max())) == (4, 20)


@pytest.mark.parametrize("patch", [2, 3, 4])
def test_a_token_per_patch_in_row_order(patch: int) -> None:
    encoder = encoder_of("patch", patch, num_layers=1).double()
    x = images(7, 10)
    tokens, grid = encoder(x)
    assert grid == (-(-7 // patch), -(-10 // patch))
    changed = x.clone()
    changed[0, :, 4, 8] += 1
    moved = (encoder(changed)[0] - tokens).abs().amax(dim=-1)[0].nonzero().flatten().tolist()
    assert moved == [4 // patch * grid[1] + 8 // patch]


@pytest.mark.parametrize("kind", ["conv", "patch"])
def test_position_reaches_the_tokens(kind: EncoderKind) -> None:
    """On a picture of one colour, tokens far from the border differ by the position code alone."""
    encoder = encoder_of(kind)

    def middle() -> torch.Tensor:
        tokens, (h, w) = encoder(torch.zeros(1, 3, 40, 44))
        rows, columns = slice(h // 2 - 1, h // 2 + 1), slice(w // 2 - 1, w // 2 + 1)
        return tokens.detach().unflatten(1, (h, w))[0, rows, columns]

    before = middle()
    assert float((before[0, 0] - before[1, 0]).abs().max()) > 1e-6
    assert float((before[0, 0] - before[0, 1]).abs().max()) > 1e-6
    with torch.no_grad():
        encoder.position.weight.zero_()
    after = middle()
    torch.testing.assert_close(after, after[:1, :1].expand_as(after))


@pytest.mark.parametrize(("height", "width", "multiple"), [(7, 10, 4), (8, 12, 4), (1, 1, 5), (5, 4, 1)])
def test_padding_repeats_the_last_row_and_column(height: int, width: int, multiple: int) -> None:
    x = images(height, width)
    padded = pad_to_multiple(x, multiple)
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple and padded.shape[-1] - width < multiple
    for i in range(padded.shape[-2]):
        for j in range(padded.shape[-1]):
            assert torch.equal(padded[..., i, j], x[..., min(i, height - 1), min(j, width - 1)])
