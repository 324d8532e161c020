"""The one place where values per image become a mean."""

from __future__ import annotations

from typing import TypedDict

import numpy as np


class Summary(TypedDict):
    """A measure over a set of images, as it stands in result files."""

    mean: float
    std: float
    """Population standard deviation over images (divided by their number), not over training runs."""
    num_images: int
    """Images that have a value."""


def summarise(values: np.ndarray) -> Summary:
    """Mean and population standard deviation over images.

    Args:
        values: B, float. NaN marks an image the measure does not apply to (foreground ARI without
            foreground) and is left out.

    Returns:
        `mean` and `std` are NaN if no image has a value.

    Raises:
        ValueError: if values are not one per image.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected one value per image, got the shape {values.shape}")
    present = values[~np.isnan(values)]
    if len(present) == 0:
        return {"mean": float("nan"), "std": float("nan"), "num_images": 0}
    with np.errstate(invalid="ignore"):  # an infinite value has an undefined spread, and may show it
        return {"mean": float(present.mean()), "std": float(present.std()), "num_images": len(present)}
