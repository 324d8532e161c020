"""MONet: object-centric-library's values per data set, the paper's, and nano.

object-centric-library (Dittadi et al. 2022) is the only source with values for every data set. Its RMSProp, with
PyTorch's average of 0.99, is Adam with betas (0, 0.99); the paper's is TensorFlow's, with 0.9. No source clips
gradients.
"""

from __future__ import annotations

from dataclasses import replace

from emorl.config import TrainConfig
from emorl.models.monet import MONetConfig
from emorl.presets.base import Preset


def tetrominoes() -> TrainConfig:
    """MONet on Tetrominoes, cut to 32x32, with object-centric-library's values."""
    return TrainConfig(
        model=MONetConfig(image_size=(32, 32), num_slots=4, sigma_background=0.3, sigma_foreground=0.36),
        data="tetrominoes",
        image_size=(32, 32),
        fit="tetrominoes-32",
        batch_size=64,
        steps=500_000,
        learning_rate=1e-4,
        warmup_steps=0,
        decay="half-life-from-start",
        half_life_steps=500_000,
        clip_norm=None,
        curriculum=((0, 0),),
    )


def multi_dsprites() -> TrainConfig:
    """MONet on Multi-dSprites, colored_on_grayscale, with object-centric-library's values."""
    return replace(tetrominoes(), model=MONetConfig(), data="multi-dsprites", image_size=(64, 64), fit="crop")


def clevr6() -> TrainConfig:
    """MONet on CLEVR6 at 96x96, the size of EfficientMORL's Table 1, with object-centric-library's other values."""
    return replace(
        multi_dsprites(),
        model=MONetConfig(image_size=(96, 96), num_slots=7),
        data="clevr6",
        num_images=50_000,
        image_size=(96, 96),
        batch_size=32,
        learning_rate=3e-5,
        betas=(0.0, 0.99),
    )


def clevr6_128() -> TrainConfig:
    """MONet on CLEVR6 at 128x128, the size of object-centric-library."""
    return replace(clevr6(), model=MONetConfig(image_size=(128, 128), num_slots=7), image_size=(128, 128))


def multi_dsprites_paper() -> TrainConfig:
    """MONet on Multi-dSprites, colored_on_grayscale, with its own paper's values."""
    return _as_in_the_paper(multi_dsprites())


def clevr6_paper() -> TrainConfig:
    """MONet on CLEVR6 at 128x128 with its own paper's values."""
    return _as_in_the_paper(clevr6_128())


def _as_in_the_paper(config: TrainConfig) -> TrainConfig:
    assert isinstance(config.model, MONetConfig)
    return replace(
        config,
        model=replace(config.model, sigma_background=0.09, sigma_foreground=0.11),
        batch_size=64,
        steps=1_000_000,
        learning_rate=1e-4,
        betas=(0.0, 0.9),
        decay="none",
    )


def nano() -> TrainConfig:
    """A small MONet that learns Tetrominoes on two CPU cores."""
    config = tetrominoes()
    assert isinstance(config.model, MONetConfig)
    return replace(
        config,
        model=replace(
            config.model,
            attention_channels=8,
            component_channels=16,
            # 0.5 belongs to sigma 0.1. At 0.3 the likelihood is worth a tenth, and with 0.5 the masks stay together.
            kl_weight=0.05,
            mask_weight=0.05,
            initial_weights="keras",
        ),
        batch_size=8,
        steps=20_000,
        learning_rate=1e-3,
        warmup_steps=500,
        decay="cosine",
        kl_warmup_steps=4000,
        clip_norm=5.0,
    )


PRESETS: dict[str, Preset] = {
    "monet/tetrominoes": tetrominoes,
    "monet/multi-dsprites": multi_dsprites,
    "monet/multi-dsprites-paper": multi_dsprites_paper,
    "monet/clevr6": clevr6,
    "monet/clevr6-128": clevr6_128,
    "monet/clevr6-paper": clevr6_paper,
    "monet/nano": nano,
}
"""MODEL/DATA, with -VARIANT behind it."""
