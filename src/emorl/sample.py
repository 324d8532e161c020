"""Scenes from a model's prior."""

from __future__ import annotations

import numpy as np

from emorl.errors import InputError
from emorl.models.base import Model
from emorl.noise import ImageNoise
from emorl.types import Batch

AT_ONCE = 16


def sample(model: Model, count: int, size: tuple[int, int], *, num_slots: int | None = None, seed: int = 0) -> Batch:
    """Draw `count` scenes at H W = size; each depends on the seed and its number alone.

    The label map of a scene is 1 + the slot that wins each pixel: no slot is known to be the background. Raises
    InputError where the model has no prior, or a number is below 1.
    """
    if min(count, *size) < 1:
        raise InputError("give a number of scenes, a height and a width of at least 1")
    images, labels = [], []
    for start in range(0, count, AT_ONCE):
        index = np.arange(start, min(count, start + AT_ONCE))
        drawn = model.sample(len(index), size, num_slots=num_slots, noise=ImageNoise(seed, index))
        picture = (drawn.reconstruction.clamp(0, 1) * 255).round().byte()  # B 3 H W
        images.append(picture.permute(0, 2, 3, 1).cpu().numpy())
        labels.append(1 + drawn.masks[:, :, 0].argmax(dim=1).byte().cpu().numpy())
    return Batch(np.concatenate(images), np.arange(count), np.concatenate(labels))
