"""GENESIS and GENESIS-S: the released code's values on EfficientMORL's data sets, and nano.

The released code (applied-ai-lab/genesis) runs on none of these data sets with these K; networks, likelihood, GECO,
optimizer and steps are its, K, sizes and crops those of the other models here.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace

from emorl.config import TrainConfig
from emorl.geco import KLGecoConfig
from emorl.models.genesis import GenesisConfig, GenesisSConfig
from emorl.presets.base import Preset, on_small_sprites

MSE = 0.0032
"""Of a colour value in [0, 1]: what the released target of 0.5655 asks for at its sigma of 0.7."""


def target(sigma: float, mse: float = MSE) -> float:
    """Target of the NLL per element at which a Gaussian of standard deviation sigma has this mean squared error."""
    return math.log(sigma * math.sqrt(2 * math.pi)) + mse / (2 * sigma**2)


def tetrominoes() -> TrainConfig:
    """GENESIS on Tetrominoes, cut to 32x32, with the released code's values."""
    return TrainConfig(
        model=GenesisConfig(image_size=(32, 32), num_slots=4),
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
    """GENESIS on Multi-dSprites, colored_on_grayscale, with the released code's values."""
    model = GenesisConfig(image_size=(64, 64), num_slots=6)
    return replace(tetrominoes(), model=model, data="multi-dsprites", image_size=(64, 64), fit="crop")


def multi_dsprites_textured() -> TrainConfig:
    """GENESIS on textured Multi-dSprites as in EfficientMORL's App. B.1: Gaussian, sigma 0.1, slower GECO."""
    model = GenesisConfig(
        image_size=(64, 64),
        num_slots=6,
        likelihood="gaussian",
        sigma=0.1,
        geco=KLGecoConfig(target_per_element=target(0.1), rate=1e-6),  # the paper gives neither number
    )
    return replace(multi_dsprites(), model=model, data="multi-dsprites-textured")


def clevr6() -> TrainConfig:
    """GENESIS on CLEVR6 at 96x96 with the released code's values."""
    model = GenesisConfig(image_size=(96, 96), num_slots=7)
    return replace(multi_dsprites(), model=model, data="clevr6", num_images=50_000, image_size=(96, 96))


def nano() -> TrainConfig:
    """A small GENESIS that learns Tetrominoes on two CPU cores."""
    return replace(
        tetrominoes(),
        model=GenesisConfig(
            image_size=(32, 32),
            num_slots=4,
            mask_channels=8,
            component_channels=16,
            sigma=0.3,
            geco=None,  # the run ends before the multiplier has come back from its lower limit
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


def one_stage(base: Preset) -> Preset:
    """The run of a GENESIS preset with GENESIS-S."""

    def preset() -> TrainConfig:
        config = base()
        values = {field.name: getattr(config.model, field.name) for field in fields(GenesisSConfig)}
        return replace(config, model=GenesisSConfig(**values))

    preset.__doc__ = (base.__doc__ or "").replace("GENESIS", "GENESIS-S", 1)
    return preset


_RUNS = {
    "tetrominoes": tetrominoes,
    "multi-dsprites": multi_dsprites,
    "multi-dsprites-textured": multi_dsprites_textured,
    "clevr6": clevr6,
    "nano": nano,
    # The colours of sprites gain less likelihood than Tetrominoes' and cost the same KL: with 1 all are grey.
    "multi-dsprites-32": on_small_sprites(nano, "multi-dsprites", kl_weight=0.1),
    # As in App. B.1: the mixture makes it segment these pictures by colour.
    "multi-dsprites-textured-32": on_small_sprites(nano, "multi-dsprites-textured", likelihood="gaussian", sigma=0.1),
}

PRESETS: dict[str, Preset] = {
    **{f"genesis/{name}": base for name, base in _RUNS.items()},
    **{f"genesis-s/{name}": one_stage(base) for name, base in _RUNS.items()},
}
"""MODEL/DATA."""
