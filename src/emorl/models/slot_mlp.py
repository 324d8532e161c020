"""Slot MLP, the baseline that Slot Attention is compared with (Locatello et al. 2020); layer sizes ours.

The slots come from one network that sees the whole picture at once, and their order is fixed:

    [s_1 ... s_K] = MLP(flatten(resize(features(x), 16 x 16)))

`features` are the convolutions and the position code of Slot Attention; decoder and loss are Slot Attention's too, see
`emorl.nn.autoencoder`. Neither the paper's text nor any released code gives the size of the resized features and the
widths of the MLP, so those are ours. The network on single tokens that Slot Attention has behind its features is left
out: the MLP follows them at once. Nothing is drawn, nothing is iterated, and K is a shape of the weights.

Axes: B images, K slots, D slot width, C feature channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl import checks
from emorl.errors import InputError
from emorl.models.base import BaseModel, InferOptions, TrainState, images_to_unit, refuse_refinement
from emorl.nn.autoencoder import (
    draw_in_unit,
    feature_encoder,
    pictures_of,
    squared_error,
)
from emorl.nn.choices import DecoderKind, EncoderKind, slot_decoder
from emorl.nn.init import keras_
from emorl.noise import Noise
from emorl.types import Inference, Loss


@dataclass(frozen=True)
class SlotMLPConfig:
    """Everything the model is built from."""

    image_size: ClassVar[tuple[int, int] | None] = None
    refinement_steps: ClassVar[int] = 0
    kl_weight: ClassVar[float] = 0.0
    ordered_slots: ClassVar[bool] = True
    num_slots: int = 7
    """K, which no caller can change."""
    slot_dim: int = 64
    """D; as Slot Attention on the same data."""
    encoder: EncoderKind = "conv"
    """Slot Attention's, or ours for laptops."""
    encoder_channels: int = 64
    """C."""
    grid_size: int = 16
    """Features are resized to so many rows and columns (ours)."""
    hidden_dim: int = 512
    """Width of the MLP's two hidden layers (ours)."""
    decoder: DecoderKind = "deconv"
    """As Slot Attention on the same data."""


class SlotMLP(BaseModel):
    """The model; see `emorl.models.base.Model` for the contract.

    Inference is deterministic: `noise` and `InferOptions.sample` change nothing.
    """

    def __init__(self, config: SlotMLPConfig) -> None:
        super().__init__()
        checks.at_least(1, config, "num_slots", "slot_dim", "encoder_channels", "grid_size", "hidden_dim")
        self.config = config
        channels, hidden = config.encoder_channels, config.hidden_dim
        self.encoder = feature_encoder(config.encoder, channels)
        self.mlp = nn.Sequential(
            nn.Linear(config.grid_size**2 * channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.num_slots * config.slot_dim),
        )
        self.decoder = slot_decoder(config.decoder, config.slot_dim)
        keras_(self)

    def slots(self, images: Tensor) -> Tensor:
        """Slots B K D; images B 3 H W in [0, 1]."""
        grid = (self.config.grid_size, self.config.grid_size)
        features = F.interpolate(self.encoder(images * 2 - 1), grid, mode="bilinear")  # B C 16 16
        out: Tensor = self.mlp(features.flatten(1))  # B KD
        return out.view(len(images), self.config.num_slots, self.config.slot_dim)

    # ---------------------------------------------------------------- the contract

    def infer(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Inference:
        """See `emorl.models.base.Model.infer`; masks, components and reconstruction as `pictures_of` gives them."""
        with torch.no_grad():
            slots = self.encode(images, options)
            return pictures_of(self.decoder, slots, (images.shape[2], images.shape[3]))

    def encode(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Tensor:
        """The slots B K D themselves; no decoder runs."""
        num_slots = self.config.num_slots
        if options.num_slots not in (None, num_slots):
            raise InputError(f"this Slot MLP has {num_slots} slots and no other number: train one with num_slots set")
        self.counts(options)
        refuse_refinement("Slot MLP", options)
        with torch.no_grad():
            return self.slots(images_to_unit(images, self.encoder.position.weight.dtype))

    def decode_slots(self, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `Model`; colours are clamped."""
        return draw_in_unit(self.decoder, slots, size)

    def sample(
        self, count: int, size: tuple[int, int], *, num_slots: int | None = None, noise: int | Noise | None = None
    ) -> Inference:
        """Raises InputError: its slots have no distribution."""
        raise InputError("Slot MLP has no prior to draw scenes from: take a model that has one")

    def loss(self, images: Tensor, state: TrainState, *, noise: int | Noise | None = None) -> Loss:
        """Slot Attention's: mean over pixels and channels of the squared error in [-1, 1], summed over images.

        Term: mse (B), the same error in [0, 1], a quarter of it.
        """
        images = images_to_unit(images, self.encoder.position.weight.dtype)
        error = squared_error(self.decoder, self.slots(images), images)
        return Loss(error.total, {"mse": error.per_image / 4})
