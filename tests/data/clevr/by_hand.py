"""Scenes that are set by hand, and rays to them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from emorl.data.clevr.scene import CAMERA, COLORS, LAMPS, MATERIALS, MAX_OBJECTS, SHAPES, Scenes

CPU = torch.device("cpu")
WHOLE = (0, 240), (0, 320)


class Thing(NamedTuple):
    """An object by the names of its factors."""

    shape: str
    x: float
    y: float
    size: str = "large"
    color: str = "gray"
    material: str = "rubber"
    yaw: float = 0.0


def scene(*things: Thing, camera: np.ndarray = CAMERA) -> Scenes:
    """One scene whose lamps are where they are without jitter."""
    codes: dict[str, np.ndarray] = {
        name: np.zeros((1, MAX_OBJECTS), np.int64) for name in ("size", "material", "shape", "color")
    }
    position, rotation = np.zeros((1, MAX_OBJECTS, 2)), np.zeros((1, MAX_OBJECTS))
    for place, thing in enumerate(things):
        position[0, place] = thing.x, thing.y
        rotation[0, place] = thing.yaw
        codes["size"][0, place] = 1 + ("large", "small").index(thing.size)
        codes["material"][0, place] = 1 + MATERIALS.index(thing.material)
        codes["shape"][0, place] = 1 + SHAPES.index(thing.shape)
        codes["color"][0, place] = 1 + COLORS.index(thing.color)
    lamps = np.array([[lamp.position for lamp in LAMPS]])
    return Scenes(camera[None], lamps, np.array([len(things)]), position, rotation, **codes)


def together(*scenes: Scenes) -> Scenes:
    """Scenes as one batch."""
    return Scenes(**{name: np.concatenate([getattr(one, name) for one in scenes]) for name in vars(scenes[0])})


def first(num: int) -> Tensor:
    """`num` rays of the first scene."""
    return torch.zeros(num, dtype=torch.int64)
