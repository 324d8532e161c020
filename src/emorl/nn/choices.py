"""The encoders and decoders that configs name, and the sizes of those by patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emorl.nn.convs import ConvStack
from emorl.nn.decoders import (
    DeconvDecoder,
    PixelDecoder,
    broadcast_decoder,
    modulated_decoder,
    small_decoder,
    subpixel_decoder,
)
from emorl.nn.encoders import conv_layers, patch_layers

EncoderKind = Literal["conv", "patch"]
"""Four 5x5 convolutions at every pixel, the papers'; or ours for laptops, at patches of pixels."""
DecoderKind = Literal["broadcast", "small", "deconv", "subpixel", "modulated"]
"""EfficientMORL's for CLEVR6 and Multi-dSprites; convolutions at every pixel, for Tetrominoes; Slot Attention's for
CLEVR; or two of ours for laptops, at patches of pixels."""


@dataclass(frozen=True)
class PatchConfig:
    """Sizes of the patch encoder and of the decoders by patches, ours; the papers' networks have no free sizes."""

    encoder_patch: int = 2
    """Pixels per token and side."""
    encoder_channels: int = 32
    encoder_layers: int = 3
    """Convolutions, the strided one included."""
    decoder_patch: int = 4
    """Pixels per position and side of the decoder's grid."""
    decoder_channels: int = 64
    decoder_layers: int = 4
    """Convolutions, the sub-pixel one included."""
    decoder_waves: int = 4
    """Cosines of position per axis beside the four border distances."""


def encoder_layers(kind: EncoderKind, channels: int, patch: PatchConfig = PatchConfig()) -> tuple[ConvStack, int]:
    """Convolutions from images to C feature maps, and their stride."""
    if kind == "conv":
        return conv_layers(channels), 1
    return patch_layers(channels, patch.encoder_patch, patch.encoder_layers), patch.encoder_patch


def slot_decoder(kind: DecoderKind, dim: int, patch: PatchConfig = PatchConfig()) -> PixelDecoder:
    """Slots of width D -> mask logits and colours."""
    if kind == "broadcast":
        return broadcast_decoder(dim)
    if kind == "small":
        return small_decoder(dim)
    if kind == "deconv":
        return DeconvDecoder(dim)
    by_patches = {"subpixel": subpixel_decoder, "modulated": modulated_decoder}[kind]
    return by_patches(dim, patch.decoder_channels, patch.decoder_patch, patch.decoder_layers, patch.decoder_waves)
