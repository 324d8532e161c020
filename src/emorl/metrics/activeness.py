"""Activeness of latent dimensions: how much the picture changes when one of them does.

Peebles et al., "The Hessian penalty" (ECCV 2020), as EfficientMORL (Sec. 4.3, Fig. 9) and its released code apply it to
slots. For each of 100 images, one slot drawn uniformly, and each dimension in turn:

1. `value_grid` gives 6 evenly spaced values over the range of the dimension in posterior samples;
2. the caller renders the scene with each value in place of the slot's own;
3. `activeness` is the variance over the 6 pictures, mean over pixels, channels and images.

A disentangled model has many dimensions that do nothing.

Axes: N images, K slots, D slot width, S values, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def value_grid(samples: np.ndarray, num_values: int = 6) -> np.ndarray:
    """Evenly spaced values of each latent dimension, from the least to the greatest that occurs.

    Args:
        samples: N K D, float: posterior samples (or codes, where a model has no posterior), of 100 images in the paper.
        num_values: S, at least 2.

    Returns:
        D S, float64: each row ascends from the dimension's minimum over images and slots to its maximum; a
        dimension that never changes has one value S times.

    Raises:
        ValueError: if samples are not N K D or there are none, or S is below 2.
    """
    samples = np.asarray(samples, dtype=np.float64)
    if samples.ndim != 3 or samples.size == 0:
        raise ValueError(f"expected samples N K D, got the shape {samples.shape}")
    if num_values < 2:
        raise ValueError(f"a range has at least two values, not {num_values}")
    return np.linspace(samples.min(axis=(0, 1)), samples.max(axis=(0, 1)), num_values, axis=1)


def variance_over_values(renderings: np.ndarray) -> np.ndarray:
    """Unbiased variance over the values of one dimension, mean over the pixels and channels of each image.

    Args:
        renderings: N S C H W, float, S at least 2; in [0, 1] in the paper.

    Returns:
        N, float64, at least 0, in squared units of the renderings.

    Raises:
        ValueError: if renderings have another shape, are not floats, or S is below 2.
    """
    renderings = np.asarray(renderings)
    if renderings.ndim != 5 or renderings.shape[1] < 2:
        raise ValueError(f"expected renderings N S C H W of at least two values, got the shape {renderings.shape}")
    if renderings.dtype.kind != "f":
        raise ValueError(f"renderings must be floats, got {renderings.dtype}: rounding hides small changes")
    variance = renderings.var(axis=1, ddof=1, dtype=np.float64)  # N C H W
    result: np.ndarray = variance.mean(axis=(1, 2, 3))
    return result


def activeness(dimensions: Iterable[np.ndarray]) -> np.ndarray:
    """Activeness of each latent dimension, mean over images.

    Args:
        dimensions: one array N S C H W (see `variance_over_values`) per latent dimension, in order. A generator
            that renders one dimension at a time keeps memory small: all of them together are D times as many pictures.

    Returns:
        D, float64, at least 0; 0 for a dimension that never shows.

    Raises:
        ValueError: as `variance_over_values`, and if there is no image.
    """
    variances = [variance_over_values(renderings) for renderings in dimensions]  # D of N
    if any(len(variance) == 0 for variance in variances):
        raise ValueError("activeness is a mean over images, and there are none")
    return np.array([variance.mean() for variance in variances])
