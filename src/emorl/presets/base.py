"""What a preset is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from emorl.config import TrainConfig

Preset = Callable[[], TrainConfig]
"""A function that returns a full config; the first line of its docstring is what the user is told of it."""


def variant(base: Preset, **changes: object) -> Preset:
    """A preset whose model has other values."""

    def preset() -> TrainConfig:
        config = base()
        return replace(config, model=replace(config.model, **changes))  # type: ignore[arg-type]

    names = ", ".join(f"{name} = {value}" for name, value in changes.items())
    preset.__doc__ = f"The {base.__name__} run with {names}."
    return preset
