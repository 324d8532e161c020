"""How often each true label meets each predicted label: what ARI and IoU are both made of."""

from __future__ import annotations

from typing import Any

import numpy as np


def contingency(true_labels: np.ndarray, predicted_labels: np.ndarray) -> np.ndarray:
    """Count the pixels of every pair of labels, image by image.

    Args:
        true_labels: B H W label maps, any integer type, small labels from 0 upwards.
        predicted_labels: B H W, likewise (the argmax of the masks over slots).

    Returns:
        B T P, int64: entry (b, t, p) counts the pixels of image b that are t in truth and p in the
        prediction. T and P are one more than the largest label of the batch.

    Raises:
        ValueError: if the shapes differ, a label is negative, or labels are not integers.
    """
    true_labels, predicted_labels = np.asarray(true_labels), np.asarray(predicted_labels)
    if true_labels.shape != predicted_labels.shape or true_labels.ndim != 3:
        raise ValueError(
            f"label maps must be B H W, both of one shape, got {true_labels.shape} and {predicted_labels.shape}"
        )
    num_true, num_predicted = _num_labels(true_labels), _num_labels(predicted_labels)
    num_images = len(true_labels)

    # The cells of a few images' tables at a time, in two bytes a pixel where these can number them: what is written
    # then stays in the processor's cache.
    num_cells, num_pixels = num_true * num_predicted, max(true_labels[:1].size, 1)
    dtype: type[np.integer[Any]] = np.intp
    at_once = 1
    if num_cells < 65_536:
        dtype, at_once = np.uint16, max(1, min(65_536 // num_cells, 262_144 // num_pixels))
    first = (np.arange(at_once) * num_true).astype(dtype)[:, None, None]
    counts = np.empty((num_images, num_cells), np.int64)
    for start in range(0, num_images, at_once):
        part = slice(start, start + at_once)
        cell = true_labels[part].astype(dtype)  # b H W
        cell += first[: len(cell)]
        cell *= dtype(num_predicted)
        cell += predicted_labels[part].astype(dtype, copy=False)
        counts[part] = np.bincount(cell.ravel(), minlength=len(cell) * num_cells).reshape(-1, num_cells)
    return counts.reshape(num_images, num_true, num_predicted)  # B T P


def overlaps(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of labels, from contingency tables.

    Args:
        counts: B T P, from `contingency`.

    Returns:
        B T P, float64 in [0, 1]; 0 where the two share no pixel, also if neither occurs.
    """
    union = counts.sum(axis=2)[:, :, None] + counts.sum(axis=1)[:, None, :] - counts
    result: np.ndarray = counts / np.maximum(union, 1)
    return result


def _num_labels(labels: np.ndarray) -> int:
    if labels.dtype.kind not in "iub":
        raise ValueError(f"labels must be integers, got {labels.dtype}; take the argmax of soft masks first")
    if labels.size == 0:
        return 1
    if labels.min() < 0:
        raise ValueError(f"labels must not be negative, got {labels.min()}")
    return int(labels.max()) + 1
