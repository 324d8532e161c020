"""Slot Attention (Locatello et al. 2020), the autoencoder of its object discovery experiments.

Tokens x of an image, N of them, are explained by K slots that compete for them:

    x   <- LN(x);   k = W_k x;   v = W_v x                                       once for all iterations
    s_k  = mu + exp(log sigma) eps_k,   eps ~ N(0, I)                            mu, sigma shared by all slots
    T times:
        A = softmax over slots of k . W_q LN(s) / sqrt(D);   A <- A + 1e-8;   u = (A / sum over tokens of A) v
        s <- GRU(input u, state s);   s <- s + MLP(LN(s))

Gradients flow through all iterations. Every slot is decoded by itself to colours and mask logits, see
`emorl.nn.autoencoder`; training minimises the mean squared error of their mixture. There is no posterior and no prior.

Where the released code (google-research/slot_attention) and others differ is listed in docs/models/slot-attention.md.

Axes: B images, K slots, D slot width, N = h w tokens, C token channels, H W pixels, T iterations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from emorl import checks
from emorl.errors import InputError
from emorl.models.base import BaseModel, InferOptions, TrainState, images_to_unit
from emorl.nn.attention import SetAttention
from emorl.nn.autoencoder import (
    NORM_EPSILON,
    draw_in_unit,
    pictures_of,
    squared_error,
    token_encoder,
)
from emorl.nn.choices import DecoderKind, EncoderKind, slot_decoder
from emorl.nn.init import keras_
from emorl.noise import Noise, as_noise
from emorl.types import Inference, Loss

HIDDEN_DIM = 128
"""Of the MLP behind the GRU, whatever D is."""


@dataclass(frozen=True)
class SlotAttentionConfig:
    """Everything the model is built from."""

    image_size: ClassVar[tuple[int, int] | None] = None
    kl_weight: ClassVar[float] = 0.0
    ordered_slots: ClassVar[bool] = False
    num_slots: int = 7
    """K where the caller names none."""
    slot_dim: int = 64
    """D; 64 in the released code, 32 for Tetrominoes in EfficientMORL's."""
    refinement_steps: int = 3
    """T at test time where the caller names none."""
    encoder: EncoderKind = "conv"
    """The paper's, or ours for laptops."""
    encoder_channels: int = 64
    """C."""
    decoder: DecoderKind = "deconv"
    """The paper's for CLEVR; EfficientMORL's for sprites and Tetrominoes is `small`; see `emorl.nn.choices`."""


class SlotAttention(BaseModel):
    """The model; see `emorl.models.base.Model` for the contract.

    `InferOptions.sample` changes nothing: there is no posterior, and slots begin as draws always, since equal slots
    would stay equal. `Inference` has neither layers nor steps.
    """

    def __init__(self, config: SlotAttentionConfig) -> None:
        super().__init__()
        checks.at_least(1, config, "num_slots", "slot_dim", "encoder_channels")
        checks.at_least(0, config, "refinement_steps")
        self.config = config
        dim, channels = config.slot_dim, config.encoder_channels
        self.encoder = token_encoder(config.encoder, channels)
        self.decoder = slot_decoder(config.decoder, dim)
        self.norm_tokens = nn.LayerNorm(channels, NORM_EPSILON)
        self.attention = SetAttention(channels, dim)
        self.norm_slots = nn.LayerNorm(dim, NORM_EPSILON)
        self.gru = nn.GRUCell(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim, NORM_EPSILON)
        self.mlp = nn.Sequential(nn.Linear(dim, HIDDEN_DIM), nn.ReLU(), nn.Linear(HIDDEN_DIM, dim))
        # Keras's Glorot bound for a variable of shape 1 1 D; PyTorch counts other fans there.
        bound = math.sqrt(6 / (1 + dim))
        self.initial_mean = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))
        self.initial_log_std = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))
        keras_(self)

    def slots(self, images: Tensor, num_slots: int, num_steps: int, noise: Noise) -> Tensor:
        """Slots B K D after T = num_steps iterations; images B 3 H W in [0, 1]."""
        tokens, _ = self.encoder(images * 2 - 1)  # B N C
        keys, values = self.attention.keys_values(self.norm_tokens(tokens))  # B N D
        mean = self.initial_mean.expand(len(images), num_slots, -1)  # B K D
        slots = mean + self.initial_log_std.exp() * noise.normal("slots", 0, mean)  # B K D
        for _ in range(num_steps):
            update, _ = self.attention(self.norm_slots(slots), keys, values)  # B K D
            slots = self.gru(update.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(self.norm_mlp(slots))
        return slots

    # ---------------------------------------------------------------- the contract

    def infer(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Inference:
        """See `emorl.models.base.Model.infer`; masks, components and reconstruction as `pictures_of` gives them."""
        with torch.no_grad():
            slots = self.encode(images, options, noise=noise)
            return pictures_of(self.decoder, slots, (images.shape[2], images.shape[3]))

    def encode(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Tensor:
        """The slots B K D themselves; no decoder runs."""
        num_slots, num_steps = self.counts(options)
        with torch.no_grad():
            x = images_to_unit(images, self.initial_mean.dtype)
            return self.slots(x, num_slots, num_steps, as_noise(noise, len(x)))

    def decode_slots(self, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `Model`; colours are clamped."""
        return draw_in_unit(self.decoder, slots, size)

    def sample(
        self, count: int, size: tuple[int, int], *, num_slots: int | None = None, noise: int | Noise | None = None
    ) -> Inference:
        """Raises InputError: slots before attention are no scene, and what they become has no distribution."""
        raise InputError("Slot Attention has no prior to draw scenes from: take a model that has one")

    def loss(self, images: Tensor, state: TrainState, *, noise: int | Noise | None = None) -> Loss:
        """Mean over pixels and channels of the squared error in [-1, 1], per image, summed over images.

        So the caller's mean over images is the mean over everything, as the released code trains (train.py); others
        sum over pixels, which for Adam is the same. T is that of `state`. Term: mse (B), the same error in [0, 1], a
        quarter of it.
        """
        images = images_to_unit(images, self.initial_mean.dtype)
        slots = self.slots(images, self.config.num_slots, state.refinement_steps, as_noise(noise, len(images)))
        error = squared_error(self.decoder, slots, images)
        return Loss(error.total, {"mse": error.per_image / 4})
