"""Slot Attention: its own settings on the data sets of EfficientMORL's Table 1, and nano.

Optimizer, schedule, batch and steps are those of the released code (google-research/slot_attention,
object_discovery/train.py); networks and K by data set those of EfficientMORL's repository, from which the paper's
re-run at 96x96 came.
"""

from __future__ import annotations

from dataclasses import replace

from emorl.config import TrainConfig
from emorl.models.slot_attention import SlotAttentionConfig
from emorl.presets.base import Preset


def tetrominoes() -> TrainConfig:
    """Slot Attention on Tetrominoes."""
    return TrainConfig(
        model=SlotAttentionConfig(num_slots=4, slot_dim=32, decoder="small"),
        data="tetrominoes",
        batch_size=64,
        steps=500_000,
        decay="half-life-from-start",
        clip_norm=None,
    )


def multi_dsprites() -> TrainConfig:
    """Slot Attention on Multi-dSprites, colored_on_grayscale."""
    config = tetrominoes()
    return replace(config, model=SlotAttentionConfig(num_slots=6, decoder="small"), data="multi-dsprites")


def clevr6() -> TrainConfig:
    """Slot Attention on CLEVR6 at 96x96, as in Table 1 of EfficientMORL."""
    return replace(
        tetrominoes(),
        model=SlotAttentionConfig(num_slots=7),
        data="clevr6",
        num_images=50_000,
        image_size=(96, 96),
    )


def clevr6_128() -> TrainConfig:
    """Slot Attention on CLEVR6 at 128x128, the size of its own paper."""
    return replace(clevr6(), image_size=(128, 128))


def nano() -> TrainConfig:
    """A small Slot Attention that learns Tetrominoes on two CPU cores."""
    return TrainConfig(
        model=SlotAttentionConfig(num_slots=4, slot_dim=32, encoder="patch", encoder_channels=32, decoder="subpixel"),
        data="tetrominoes",
        batch_size=16,
        steps=20_000,
        learning_rate=1e-3,
        warmup_steps=500,
        decay="cosine",
        clip_norm=None,
    )


PRESETS: dict[str, Preset] = {
    "slot-attention/tetrominoes": tetrominoes,
    "slot-attention/multi-dsprites": multi_dsprites,
    "slot-attention/clevr6": clevr6,
    "slot-attention/clevr6-128": clevr6_128,
    "slot-attention/nano": nano,
}
"""MODEL/DATA, with -VARIANT behind it."""
