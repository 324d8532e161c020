"""Around the slots: values out of range, and the squared error whose decoder gradients are taken at once."""

from __future__ import annotations

import weakref
from typing import get_args

import pytest
import torch
from torch import Tensor

from emorl.nn.autoencoder import (
    decode_linear,
    draw_in_unit,
    feature_encoder,
    pictures_of,
    squared_error,
    to_unit,
    token_encoder,
)
from emorl.nn.choices import DecoderKind, EncoderKind, slot_decoder
from emorl.nn.decoders import PixelDecoder
from tests.models.plain import random_weights

B, K, D, SIZE = 3, 2, 5, (9, 13)


def slots(seed: int = 0) -> Tensor:
    return 3 * torch.randn(B, K, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images() -> Tensor:
    return torch.rand(B, 3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def decoder(kind: DecoderKind) -> PixelDecoder:
    """With colours far out of range."""
    found = slot_decoder(kind, D).double()
    random_weights(found, 0)
    colours = decode_linear(found, slots(), SIZE)[1].detach()
    for parameter in found.layers[-1].parameters():
        parameter.data.mul_(4 / colours.abs().max())
    return found


def test_values_are_mapped_and_clamped() -> None:
    assert to_unit(torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0])).tolist() == [0, 0, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize("kind", get_args(DecoderKind))
def test_pictures_are_clamped_behind_the_mixture(kind: DecoderKind) -> None:
    net, z = decoder(kind), slots()
    masks, colours, mixture = decode_linear(net, z, SIZE)
    assert_close(mixture, (masks * colours).sum(dim=1))
    assert float(colours.detach().abs().max()) > 3
    found = pictures_of(net, z, SIZE)
    assert_close(found.masks, masks)
    assert_close(found.components, to_unit(colours))
    assert_close(found.reconstruction, to_unit(mixture))
    assert not torch.allclose(found.reconstruction, (found.masks * found.components).sum(dim=1))
    logits, alone = draw_in_unit(net, z.flatten(0, 1), SIZE)
    assert_close(logits.view(B, K, 1, *SIZE).softmax(dim=1), masks)
    assert_close(alone.view(found.components.shape), found.components)


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), expected.detach(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("kind", get_args(DecoderKind))
def test_the_error_and_its_gradients_are_those_of_ordinary_differentiation(
    kind: DecoderKind, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, z, x = decoder(kind), slots().requires_grad_(), images()
    parameters = list(net.parameters())
    per_image = (2 * x - 1 - decode_linear(net, z, SIZE)[2]).square().flatten(1).mean(dim=1)
    weight = torch.tensor(0.3)
    expected = torch.autograd.grad(weight * per_image.sum(), [z, *parameters])

    if chunk is not None:
        monkeypatch.setattr(net, "images_per_chunk", lambda *_: chunk)
    outputs: list[weakref.ref[Tensor]] = []
    net.register_forward_hook(lambda *given: outputs.append(weakref.ref(given[2])))
    error = squared_error(net, z, x)
    assert len(outputs) == {None: 1, 1: 3, 2: 2}[chunk]
    assert not any(ref() is not None for ref in outputs)  # nothing waits for the backward
    assert_close(error.per_image, per_image)
    assert_close(error.total, per_image.sum())
    for ours, gradient in zip(torch.autograd.grad(weight * error.total, [z, *parameters]), expected, strict=True):
        assert_close(ours, gradient)


@pytest.mark.parametrize("kind", ["conv", "patch"])
def test_features_are_tokens_before_their_network(kind: EncoderKind) -> None:
    tokens, features = token_encoder(kind, 6).double(), feature_encoder(kind, 6).double()
    features.load_state_dict({n: p for n, p in tokens.state_dict().items() if not n.startswith(("norm", "mlp"))})
    x = images() * 2 - 1
    found, (h, w) = tokens(x)
    maps = features(x)
    assert maps.shape == (B, 6, h, w)
    assert_close(found, tokens.mlp(tokens.norm(maps.flatten(2).mT)))
    assert tokens.norm.eps == 1e-3
