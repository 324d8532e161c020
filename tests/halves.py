"""Scenes of the size of CLEVR's that are drawn at once: two halves."""

from __future__ import annotations

import numpy as np

from emorl.types import Batch

NUM = 12


def halves() -> Batch:
    """Scenes 0 to 11 of 240 x 320 with the entities and factors of a file of CLEVR.

    Scene i has 3 + i % 8 objects by its visibility. The left half is background, red; the right one object 1, of the
    level i in green. The other objects have no pixel.
    """
    image = np.zeros((NUM, 240, 320, 3), np.uint8)
    image[:, :, :160, 0] = 255
    image[:, :, 160:, 1] = np.arange(NUM)[:, None, None]
    mask = (image[..., 0] == 0).astype(np.uint8)
    visibility = (np.arange(11) <= 3 + np.arange(NUM)[:, None] % 8).astype(np.float32)
    numbers = dict.fromkeys(("x", "y", "z", "rotation"), np.zeros(visibility.shape, np.float32))
    codes = dict.fromkeys(("size", "material", "shape", "color"), np.zeros(visibility.shape, np.uint8))
    coords = np.zeros((*visibility.shape, 3), np.float32)
    coords[:, 1] = 160, 120, 11
    return Batch(image, np.arange(NUM), mask, visibility, numbers | {"pixel_coords": coords} | codes)
