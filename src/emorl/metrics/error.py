"""How far a reconstruction is from its picture."""

from __future__ import annotations

import numpy as np


def mse(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Squared error on the scale [0, 1], mean over all pixels and channels of each image.

    Args:
        images: B ..., uint8 (divided by 255) or float in [0, 1].
        reconstructions: the same shape and axis order, uint8 or float.

    Returns:
        B, float64.

    Raises:
        ValueError: if the shapes differ, or integers other than uint8 are given.
    """
    target, prediction = _unit_range(images), _unit_range(reconstructions)
    if target.shape != prediction.shape:
        raise ValueError(
            f"images {target.shape} and reconstructions {prediction.shape} must have one shape and axis order"
        )
    error: np.ndarray = np.square(target - prediction).mean(axis=tuple(range(1, target.ndim)))
    return error


def _unit_range(pixels: np.ndarray) -> np.ndarray:
    pixels = np.asarray(pixels)
    if pixels.dtype == np.uint8:
        return pixels / 255.0
    if pixels.dtype.kind != "f":
        raise ValueError(f"pixels must be uint8 or float in [0, 1], got {pixels.dtype}")
    return pixels.astype(np.float64)
