"""What a preset is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from emorl.config import TrainConfig

Preset = Callable[[], TrainConfig]
"""A function that returns a full config; the first line of its docstring is what the user is told of it."""


def on_small_sprites(nano: Preset, data: str, **others: object) -> Preset:
    """A nano preset on a generator of Multi-dSprites, brought to 32x32; `others` are other values of its model."""

    def preset() -> TrainConfig:
        config = nano()
        changes = {"num_slots": 6, **others}
        if config.model.image_size is not None:
            changes["image_size"] = (32, 32)
        model = replace(config.model, **changes)  # type: ignore[arg-type]
        return replace(config, model=model, data=data, image_size=(32, 32), fit="centre")

    preset.__doc__ = f"The nano model on {data} at 32x32."
    return preset


def variant(base: Preset, **changes: object) -> Preset:
    """A preset whose model has other values."""

    def preset() -> TrainConfig:
        config = base()
        return replace(config, model=replace(config.model, **changes))  # type: ignore[arg-type]

    names = ", ".join(f"{name} = {value}" for name, value in changes.items())
    preset.__doc__ = f"The {base.__name__} run with {names}."
    return preset
