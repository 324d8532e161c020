"""How far a change of one slot's code stays within that slot's object.

The EfficientMORL paper (App. B) looks at this in pictures: where slots are ordered and decoded one from what the one
before left over, changing one slot may change the others. Here it is a number. Axes: N images, S values, H W pixels.
"""

from __future__ import annotations

import numpy as np


def leak(before: np.ndarray, after: np.ndarray, own_before: np.ndarray, own_after: np.ndarray) -> np.ndarray:
    """Share of a change that falls outside the slot that was changed.

    Args:
        before: N H W 3, float: pictures of the codes as they were inferred.
        after: N S H W 3, float: pictures with one dimension of one slot set to S values in turn.
        own_before: N H W, bool: pixels that the slot wins before.
        own_after: N S H W, bool: pixels that it wins after. Where a slot moves, both places are its own.

    Returns:
        N, float64 in [0, 1]: squared change outside the slot's pixels over all squared change, both summed over values,
        pixels and channels; NaN where nothing changes.

    Raises:
        ValueError: shapes do not fit.
    """
    if after.shape[:1] + after.shape[2:] != before.shape or own_before.shape != before.shape[:3]:
        raise ValueError(f"shapes do not fit: {before.shape}, {after.shape}, {own_before.shape}")
    if own_after.shape != after.shape[:4]:
        raise ValueError(f"shapes do not fit: {after.shape}, {own_after.shape}")
    change = np.square(after.astype(np.float64) - before[:, None]).sum(axis=-1)  # N S H W
    outside = ~(own_after | own_before[:, None])
    whole = change.sum(axis=(1, 2, 3))
    found: np.ndarray = np.full(len(before), np.nan)
    np.divide((change * outside).sum(axis=(1, 2, 3)), whole, out=found, where=whole > 0)
    return found
