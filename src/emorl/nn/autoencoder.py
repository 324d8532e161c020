"""What stands around the slots of Slot Attention and of Slot MLP: encoders, decoders and the squared error.

A slot is decoded to a colour y_k and a mask logit a_k at each pixel, neither of them squashed:

    m = softmax over slots of a;   x^ = sum_k m_k y_k;   error = mean over pixels and channels of (x - x^)^2

Inside, pictures x and colours y are in [-1, 1], as in the released code of Slot Attention (model.py, train.py). What
is handed out is mapped to [0, 1] and clamped, since nothing keeps the colours of a slot in range, least of all where
its mask is small.

Axes: B images, K slots, D slot width, C feature channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emorl.eager_vjp import EagerNLL, chunks, decode_and_differentiate
from emorl.nn.choices import EncoderKind, encoder_layers
from emorl.nn.decoders import PixelDecoder
from emorl.nn.encoders import FeatureEncoder, ImageEncoder
from emorl.prob import sum_inside
from emorl.types import Inference

NORM_EPSILON = 1e-3
"""Of every LayerNorm: Keras's default; PyTorch's is 1e-5."""


def token_encoder(kind: EncoderKind, channels: int) -> ImageEncoder:
    """Images -> tokens B N C."""
    convs, stride = encoder_layers(kind, channels)
    return ImageEncoder(convs, channels, stride, NORM_EPSILON)


def feature_encoder(kind: EncoderKind, channels: int) -> FeatureEncoder:
    """Images -> feature maps B C h w: the same without its network on tokens."""
    convs, stride = encoder_layers(kind, channels)
    return FeatureEncoder(convs, channels, stride)


def decode_linear(decoder: PixelDecoder, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Slots B K D -> masks B K 1 H W, colours B K 3 H W and their mixture B 3 H W, around [-1, 1]."""
    return _mixed(decoder.draw(slots.flatten(0, 1), *size), slots)


def _mixed(out: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A decoder's output BK 4 ... -> masks B K 1 ..., colours B K 3 ... and their mixture B 3 ..."""
    out = out.view(*slots.shape[:2], *out.shape[1:])
    masks, colours = out[:, :, 3:].softmax(dim=1), out[:, :, :3]
    return masks, colours, (masks * colours).sum(dim=1)


def to_unit(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return ((x + 1) / 2).clamp(0, 1)


def draw_in_unit(decoder: PixelDecoder, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Slots N D, each by itself -> mask logits N 1 H W and clamped colours N 3 H W in [0, 1]."""
    out = decoder.draw(slots, *size)
    return out[:, 3:], to_unit(out[:, :3])


def pictures_of(decoder: PixelDecoder, slots: Tensor, size: tuple[int, int]) -> Inference:
    """The scene of slots B K D at H W = size, decoded a few images at a time.

    `reconstruction` is the mixture that the loss sees, clamped; the components are clamped each by itself, so their
    mixture departs from it where one of them is out of range.
    """
    parts = []
    for rows in chunks(len(slots), decoder.images_per_chunk(slots.shape[1], *size)):
        masks, colours, mixture = decode_linear(decoder, slots[rows], size)
        parts.append((masks, to_unit(colours), to_unit(mixture)))
    masks, components, reconstruction = map(torch.cat, zip(*parts, strict=True))
    return Inference(masks, components, reconstruction, slots)


def squared_error(decoder: PixelDecoder, slots: Tensor, images: Tensor) -> EagerNLL:
    """Mean over pixels and channels of (x - x^)^2, both in [-1, 1], per image; images B 3 H W in [0, 1].

    The loss meets the decoder only through the slots, so a few images at a time are decoded and differentiated at
    once: the same gradients, in less memory and, on a CPU, in less time (see docs/models/slot-attention.md).
    """
    size = (images.shape[2], images.shape[3])

    def decode(slots: Tensor, rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        mixture = _mixed(decoder(slots.flatten(0, 1), *size), slots)[2]
        target, inside = decoder.arrange(images[rows] * 2 - 1)
        return sum_inside((target - mixture).square(), inside) / images[0].numel(), ()

    chunk = decoder.images_per_chunk(slots.shape[1], *size)
    return decode_and_differentiate(decode, slots, list(decoder.parameters()), chunk)
