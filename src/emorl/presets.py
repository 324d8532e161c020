"""Named runs. A preset is a function that returns a full config; a variant calls another and replaces fields."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from emorl.config import TrainConfig
from emorl.errors import InputError
from emorl.geco import GecoConfig
from emorl.models.efficientmorl import EfficientMORLConfig


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


def multi_dsprites() -> TrainConfig:
    """EfficientMORL on Multi-dSprites, colored_on_grayscale, with the paper's values."""
    return TrainConfig(
        model=EfficientMORLConfig(num_slots=6, refinement_steps=1, likelihood="gaussian", sigma=0.1),
        data="multi-dsprites",
        curriculum=((0, 3), (100_000, 1)),
    )


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
            initial_weights="pytorch",
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


def _model(base: Callable[[], TrainConfig], **changes: object) -> Callable[[], TrainConfig]:
    def preset() -> TrainConfig:
        config = base()
        return replace(config, model=replace(config.model, **changes))  # type: ignore[arg-type]

    names = ", ".join(f"{name} = {value}" for name, value in changes.items())
    preset.__doc__ = f"The {base.__name__} run with {names}."
    return preset


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "efficientmorl/tetrominoes": tetrominoes,
    "efficientmorl/tetrominoes-no-geco": _model(tetrominoes, geco=None),
    "efficientmorl/tetrominoes-single-gru": _model(tetrominoes, gru="single"),
    "efficientmorl/tetrominoes-reversed": _model(tetrominoes, prior="reversed"),
    "efficientmorl/tetrominoes-bottom-up": _model(tetrominoes, prior="bottom-up"),
    "efficientmorl/multi-dsprites": multi_dsprites,
    "efficientmorl/clevr6": clevr6,
    "efficientmorl/clevr6-no-geco": _model(clevr6, geco=None),
    "efficientmorl/clevr6-single-gru": _model(clevr6, gru="single"),
    "efficientmorl/nano": nano,
}
"""MODEL/DATA, with -VARIANT behind it for ablations (Table 2)."""


def full_name(name: str) -> str:
    """EfficientMORL's names may be given without the model."""
    return name if "/" in name else f"efficientmorl/{name}"


def preset(name: str) -> TrainConfig:
    """The config of a preset; raises InputError that lists what there is."""
    found = PRESETS.get(full_name(name))
    if found is None:
        close = difflib.get_close_matches(full_name(name), PRESETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(PRESETS)}"
        raise InputError(f"unknown preset {name}; {hint}")
    return found()
