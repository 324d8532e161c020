"""Adjusted Rand index (Hubert & Arabie 1985): do two partitions of the pixels agree, beyond chance?"""

from __future__ import annotations

import numpy as np

from emorl.metrics.contingency import contingency


def foreground_ari(true_labels: np.ndarray, predicted_labels: np.ndarray) -> np.ndarray:
    """Adjusted Rand index over the pixels whose true label is not background.

    Background slots stay in the prediction: nothing says which slot that is (the convention of the
    Multi-Object Datasets).

    Args:
        true_labels: B H W, any integer type, 0 = background.
        predicted_labels: B H W, any integer type: the argmax of the masks over slots.

    Returns:
        B, float64: 1 for a perfect partition, about 0 for chance, below 0 for worse than chance. One
        object in two slots is 0; one object in one slot is 1. NaN where an image has no foreground
        pixel: nothing was asked of it, and `summarise` leaves it out.

    Raises:
        ValueError: if the shapes differ, a label is negative, or labels are not integers.
    """
    return _adjusted_rand(contingency(true_labels, predicted_labels)[:, 1:])


def ari(true_labels: np.ndarray, predicted_labels: np.ndarray) -> np.ndarray:
    """Adjusted Rand index over all pixels, the background being one more object.

    Arguments, result and errors are those of `foreground_ari`; the result is never NaN.
    """
    return _adjusted_rand(contingency(true_labels, predicted_labels))


def _adjusted_rand(counts: np.ndarray) -> np.ndarray:
    """ARI of contingency tables B T P -> B."""
    num_pixels = counts.sum(axis=(1, 2))  # B
    pairs = _pairs(num_pixels)  # B
    joint = _pairs(counts).sum(axis=(1, 2))  # B       pairs together in both partitions
    by_true = _pairs(counts.sum(axis=2)).sum(axis=1)  # B       pairs together in the truth
    by_predicted = _pairs(counts.sum(axis=1)).sum(axis=1)  # B       pairs together in the prediction

    # 0/0 happens only where both partitions are one cluster, or both are all single pixels: they agree.
    # It is told apart in integers, where it is exact.
    same = (by_true == by_predicted) & ((by_true == pairs) | (by_true == 0))

    # Fractions of all pairs rather than counts: a partition in one cluster is then exactly 1, and the
    # score of a split object exactly 0.
    all_pairs = np.maximum(pairs, 1)
    joint, by_true, by_predicted = joint / all_pairs, by_true / all_pairs, by_predicted / all_pairs
    expected = by_true * by_predicted
    largest = (by_true + by_predicted) / 2
    score = np.where(same, 1.0, (joint - expected) / np.where(same, 1.0, largest - expected))
    return np.where(num_pixels == 0, np.nan, score)


def _pairs(count: np.ndarray) -> np.ndarray:
    ordered: np.ndarray = count * (count - 1)
    return ordered
