"""EfficientMORL: the paper's runs, the ablations of Table 2, and nano."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from emorl.config import TrainConfig
from emorl.geco import GecoConfig
from emorl.models.efficientmorl import EfficientMORLConfig
from emorl.nn.choices import PatchConfig
from emorl.presets.base import Preset, on_small_sprites, variant


def tetrominoes() -> TrainConfig:
    """EfficientMORL on Tetrominoes with the paper's values (section 4, App. F)."""
    return TrainConfig(
        model=EfficientMORLConfig(
            num_slots=4,
            slot_dim=32,
            likelihood="gaussian",
            sigma=0.3,
            geco=GecoConfig(target_per_element=-4500 / (3 * 35 * 35)),
            decoder="small",
        ),
        data="tetrominoes",
        steps=200_000,
    )


def _in_24k_steps(config: TrainConfig, **model: Any) -> TrainConfig:
    """With what was learnt on nano: a higher rate and its cosine, other weights to begin with, the bottom-up prior."""
    assert isinstance(config.model, EfficientMORLConfig)
    return replace(
        config,
        model=replace(config.model, prior="bottom-up", initial_weights="keras", **model),
        steps=24_000,
        learning_rate=1e-3,
        warmup_steps=1000,
        decay="cosine",
        kl_warmup_steps=5000,
    )


def tetrominoes_24k() -> TrainConfig:
    """The full-size model in 24,000 steps: minutes on a GPU."""
    config = _in_24k_steps(tetrominoes(), geco=None, sigma=0.1)
    return replace(config, validate_every=5000, checkpoint_every=2500)


def multi_dsprites() -> TrainConfig:
    """EfficientMORL on Multi-dSprites, colored_on_grayscale, with the paper's values."""
    return TrainConfig(
        model=EfficientMORLConfig(num_slots=6, refinement_steps=1, likelihood="gaussian", sigma=0.1),
        data="multi-dsprites",
        curriculum=((0, 3), (100_000, 1)),
    )


def multi_dsprites_24k() -> TrainConfig:
    """The full-size model in 24,000 steps, three refinement steps throughout: ten minutes on a GPU."""
    return replace(_in_24k_steps(multi_dsprites(), refinement_steps=3), curriculum=((0, 3),))


def clevr6() -> TrainConfig:
    """EfficientMORL on CLEVR6 at 96x96 with the paper's values."""
    return TrainConfig(
        model=EfficientMORLConfig(
            num_slots=7,
            refinement_steps=1,
            likelihood="mixture",
            sigma=0.1,
            geco=GecoConfig(target_per_element=-61000 / (3 * 96 * 96)),
        ),
        data="clevr6",
        num_images=50_000,
        image_size=(96, 96),
        curriculum=((0, 3), (100_000, 1)),
    )


def clevr6_24k() -> TrainConfig:
    """The full-size model in 24,000 steps, begun with the weights for Multi-dSprites: ten minutes on a GPU."""
    config = clevr6()
    assert isinstance(config.model, EfficientMORLConfig)
    return replace(
        config,
        model=replace(config.model, prior="bottom-up", geco=None),
        start_from="multi-dsprites-48k",
        num_images=24_000,
        steps=24_000,
        learning_rate=6e-4,
        warmup_steps=500,
        decay="cosine",
        curriculum=((0, 1),),
    )


def clevr_128() -> TrainConfig:
    """EfficientMORL on CLEVR with up to ten objects at 128x128, with the released code's values."""
    config = clevr6()
    assert isinstance(config.model, EfficientMORLConfig)
    constraint = GecoConfig(target_per_element=-2.1, acceleration=5.0)
    return replace(
        config,
        model=replace(config.model, num_slots=11, refinement_steps=2, geco=constraint),
        data="clevr",
        num_images=60_000,
        image_size=(128, 128),
        curriculum=((0, 3), (100_000, 2)),
    )


def nano() -> TrainConfig:
    """A small EfficientMORL that learns Tetrominoes on two CPU cores in ten minutes."""
    return TrainConfig(
        model=EfficientMORLConfig(
            num_slots=4,
            slot_dim=32,
            refinement_steps=1,
            likelihood="gaussian",
            sigma=0.17,
            encoder="patch",
            decoder="subpixel",
            initial_weights="keras",
        ),
        data="tetrominoes",
        batch_size=8,
        steps=20_000,
        learning_rate=1e-3,
        warmup_steps=500,
        decay="cosine",
        kl_warmup_steps=4000,
        curriculum=((0, 1),),
    )


def tetrominoes_fast() -> TrainConfig:
    """nano with tokens that see 18 pixels, a decoder of finer patches, three refinement steps, bottom-up prior."""
    config = nano()
    assert isinstance(config.model, EfficientMORLConfig)
    patch = PatchConfig(encoder_channels=64, encoder_layers=5, decoder_patch=2, decoder_waves=8)
    model = replace(config.model, refinement_steps=3, prior="bottom-up", patch=patch)
    return replace(config, model=model, curriculum=((0, 3),), validate_every=1250)


def _at_48(data: str, num_slots: int) -> TrainConfig:
    """The small model at 48x48: tokens that see whole objects, a finer decoder, I = 3, the paper's sigma."""
    config = nano()
    assert isinstance(config.model, EfficientMORLConfig)
    patch = PatchConfig(encoder_patch=3, encoder_channels=64, encoder_layers=5, decoder_patch=3, decoder_waves=6)
    model = replace(config.model, num_slots=num_slots, refinement_steps=3, prior="bottom-up", sigma=0.1, patch=patch)
    return replace(config, model=model, data=data, image_size=(48, 48), curriculum=((0, 3),), validate_every=1250)


def multi_dsprites_nano() -> TrainConfig:
    """A small EfficientMORL for Multi-dSprites at 48x48, for two CPU cores."""
    return replace(_at_48("multi-dsprites", 6), fit="centre")


def clevr6_nano() -> TrainConfig:
    """A small EfficientMORL for CLEVR6 at 48x48, for two CPU cores; the KL's weight grows slowly."""
    return replace(_at_48("clevr6", 7), num_images=5_000, kl_warmup_steps=12_000)


PRESETS: dict[str, Preset] = {
    "efficientmorl/tetrominoes": tetrominoes,
    "efficientmorl/tetrominoes-no-geco": variant(tetrominoes, geco=None),
    "efficientmorl/tetrominoes-single-gru": variant(tetrominoes, gru="single"),
    "efficientmorl/tetrominoes-reversed": variant(tetrominoes, prior="reversed"),
    "efficientmorl/tetrominoes-bottom-up": variant(tetrominoes, prior="bottom-up"),
    "efficientmorl/tetrominoes-24k": tetrominoes_24k,
    "efficientmorl/multi-dsprites": multi_dsprites,
    "efficientmorl/multi-dsprites-24k": multi_dsprites_24k,
    "efficientmorl/clevr6": clevr6,
    "efficientmorl/clevr6-no-geco": variant(clevr6, geco=None),
    "efficientmorl/clevr6-single-gru": variant(clevr6, gru="single"),
    "efficientmorl/clevr6-24k": clevr6_24k,
    "efficientmorl/clevr-128": clevr_128,
    "efficientmorl/nano": nano,
    "efficientmorl/tetrominoes-fast": tetrominoes_fast,
    "efficientmorl/multi-dsprites-nano": multi_dsprites_nano,
    "efficientmorl/clevr6-nano": clevr6_nano,
    # The paper's sigma for sprites: they stand out less from their background than Tetrominoes.
    "efficientmorl/multi-dsprites-32": on_small_sprites(nano, "multi-dsprites", sigma=0.1),
    "efficientmorl/multi-dsprites-textured-32": on_small_sprites(nano, "multi-dsprites-textured", sigma=0.1),
}
"""MODEL/DATA, with -VARIANT behind it for ablations (Table 2)."""
