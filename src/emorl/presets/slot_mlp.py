"""Slot MLP: everything but the way to the slots as Slot Attention on the same data; layer sizes ours."""

from __future__ import annotations

from dataclasses import replace

from emorl.config import TrainConfig
from emorl.models.slot_mlp import SlotMLPConfig
from emorl.presets.base import Preset


def tetrominoes() -> TrainConfig:
    """Slot MLP (layer sizes ours) on Tetrominoes."""
    return TrainConfig(
        model=SlotMLPConfig(num_slots=4, slot_dim=32, decoder="small"),
        data="tetrominoes",
        batch_size=64,
        steps=500_000,
        decay="half-life-from-start",
        clip_norm=None,
        curriculum=((0, 0),),
    )


def multi_dsprites() -> TrainConfig:
    """Slot MLP (layer sizes ours) on Multi-dSprites, colored_on_grayscale."""
    return replace(tetrominoes(), model=SlotMLPConfig(num_slots=6, decoder="small"), data="multi-dsprites")


def clevr6() -> TrainConfig:
    """Slot MLP (layer sizes ours) on CLEVR6 at 96x96."""
    return replace(
        tetrominoes(), model=SlotMLPConfig(num_slots=7), data="clevr6", num_images=50_000, image_size=(96, 96)
    )


def nano() -> TrainConfig:
    """A small Slot MLP for Tetrominoes on two CPU cores, beside slot-attention/nano."""
    return TrainConfig(
        model=SlotMLPConfig(
            num_slots=4,
            slot_dim=32,
            encoder="patch",
            encoder_channels=32,
            grid_size=8,
            hidden_dim=256,
            decoder="subpixel",
        ),
        data="tetrominoes",
        batch_size=16,
        steps=20_000,
        learning_rate=1e-3,
        warmup_steps=500,
        decay="cosine",
        clip_norm=None,
        curriculum=((0, 0),),
    )


PRESETS: dict[str, Preset] = {
    "slot-mlp/tetrominoes": tetrominoes,
    "slot-mlp/multi-dsprites": multi_dsprites,
    "slot-mlp/clevr6": clevr6,
    "slot-mlp/nano": nano,
}
"""MODEL/DATA."""
