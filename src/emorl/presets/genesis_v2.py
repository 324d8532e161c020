"""GENESIS-v2: the released code's values on the data sets of EfficientMORL's Table 1, and nano.

The released code (applied-ai-lab/genesis) runs on none of these data sets with these K; networks, likelihood, GECO,
optimizer, batch and steps are its, K, sizes and crops those of the other models here.
"""

from __future__ import annotations

from dataclasses import replace

from emorl.config import TrainConfig
from emorl.models.genesis_v2 import GenesisV2Config
from emorl.presets.base import Preset


def tetrominoes() -> TrainConfig:
    """GENESIS-v2 on Tetrominoes, cut to 32x32, with the released code's values."""
    return TrainConfig(
        model=GenesisV2Config(image_size=(32, 32), num_slots=4),
        data="tetrominoes",
        image_size=(32, 32),
        fit="tetrominoes-32",
        steps=500_000,
        learning_rate=1e-4,
        warmup_steps=0,
        decay="none",
        clip_norm=None,
        curriculum=((0, 0),),
    )


def multi_dsprites() -> TrainConfig:
    """GENESIS-v2 on Multi-dSprites, colored_on_grayscale, with the released code's values."""
    return replace(tetrominoes(), model=GenesisV2Config(), data="multi-dsprites", image_size=(64, 64), fit="crop")


def clevr6() -> TrainConfig:
    """GENESIS-v2 on CLEVR6 at 96x96 with the released code's values."""
    model = GenesisV2Config(image_size=(96, 96), num_slots=7)
    return replace(multi_dsprites(), model=model, data="clevr6", num_images=50_000, image_size=(96, 96))


def nano() -> TrainConfig:
    """A small GENESIS-v2 for Tetrominoes on two CPU cores."""
    return replace(
        tetrominoes(),
        model=GenesisV2Config(image_size=(32, 32), num_slots=4, slot_dim=32, channels=16, initial_weights="keras"),
        batch_size=8,
        steps=20_000,
        learning_rate=1e-3,
        warmup_steps=500,
        decay="cosine",
        clip_norm=5.0,
    )


PRESETS: dict[str, Preset] = {
    "genesis-v2/tetrominoes": tetrominoes,
    "genesis-v2/multi-dsprites": multi_dsprites,
    "genesis-v2/clevr6": clevr6,
    "genesis-v2/nano": nano,
}
"""MODEL/DATA, with -VARIANT behind it."""
