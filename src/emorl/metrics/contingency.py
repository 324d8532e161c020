"""How often each true label meets each predicted label: what ARI and IoU are both made of."""

from __future__ import annotations

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
        raise ValueError(f"label maps must share one shape B H W, got {true_labels.shape} and {predicted_labels.shape}")
    num_true, num_predicted = _num_labels(true_labels), _num_labels(predicted_labels)
    num_images = len(true_labels)

    # The cell of a pixel in the flattened table, built in place: the whole batch in one array of indices.
    cell = true_labels.astype(np.intp)  # B H W
    cell += num_true * np.arange(num_images)[:, None, None]
    cell *= num_predicted
    cell += predicted_labels.astype(np.intp, copy=False)
    counts = np.bincount(cell.ravel(), minlength=num_images * num_true * num_predicted)
    return counts.reshape(num_images, num_true, num_predicted)  # B T P


def _num_labels(labels: np.ndarray) -> int:
    if labels.dtype.kind not in "iub":
        raise ValueError(f"labels must be integers, got {labels.dtype}; take the argmax of soft masks first")
    if labels.size == 0:
        return 1
    if labels.min() < 0:
        raise ValueError(f"labels must not be negative, got {labels.min()}")
    return int(labels.max()) + 1
