"""How well the best slot covers each true object, when two objects may claim the same slot.

The scores differ in what each object's overlap weighs:

| function | an object weighs | known as |
|---|---|---|
| `mean_best_overlap` | the same | mBO; mSC, mean segmentation covering, in the GENESIS papers |
| `segmentation_covering` | its pixels | SC; segmentation covering (Arbelaez et al. 2011) |

Best overlap: Pont-Tuset et al., "Multiscale combinatorial grouping" (TPAMI 2017). Covering: Arbelaez et al., "Contour
detection and hierarchical image segmentation" (TPAMI 2011); without weights: Engelcke et al., "GENESIS" (ICLR 2020).
Where each slot may stand for one object only, see `iou.matched_iou`, which is never larger than `mean_best_overlap`.

Axes: B images, H W pixels, T true labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from emorl.metrics.contingency import contingency, overlaps


class BestOverlap(NamedTuple):
    """The true objects, each with the predicted label that fits it best."""

    iou: np.ndarray
    """B T, float64 in (0, 1]: the largest IoU of true label t with any predicted one; NaN where t does not occur."""
    area: np.ndarray
    """B T, int64: pixels of true label t."""


def best_overlap(
    true_labels: np.ndarray, predicted_labels: np.ndarray, include_background: bool = False
) -> BestOverlap:
    """The best overlap of each object: for means over the objects of a data set rather than of an image.

    Args:
        true_labels: B H W, any integer type, 0 = background.
        predicted_labels: B H W, any integer type: the argmax of the masks over slots.
        include_background: label 0 is one more object; otherwise it counts as not occurring. Either way a
            prediction's pixels on the background are part of the union.

    Returns:
        One entry per image and label, T being one more than the largest true label of the batch. No entry
        of an object is 0: a label with one of its pixels always overlaps.

    Raises:
        ValueError: if the shapes differ, a label is negative, or labels are not integers.
    """
    counts = contingency(true_labels, predicted_labels)  # B T P
    area = counts.sum(axis=2)  # B T
    if not include_background:
        area[:, 0] = 0
    return BestOverlap(np.where(area > 0, overlaps(counts).max(axis=2), np.nan), area)


def mean_best_overlap(
    true_labels: np.ndarray, predicted_labels: np.ndarray, include_background: bool = False
) -> np.ndarray:
    """Mean over the true objects of each image of the best IoU that any predicted label has with them.

    Arguments and errors are those of `best_overlap`.

    Returns:
        B, float64 in (0, 1]: 1 if each object has a label of exactly its pixels. NaN where the image has no
        object; `summarise` leaves it out.
    """
    iou, area = best_overlap(true_labels, predicted_labels, include_background)
    return _weighted_mean(iou, (area > 0).astype(np.int64))


def segmentation_covering(
    true_labels: np.ndarray, predicted_labels: np.ndarray, include_background: bool = False
) -> np.ndarray:
    """Mean over the true objects of each image, weighted by their pixels, of the best IoU with any predicted label.

    Arguments, result and errors are those of `mean_best_overlap`.
    """
    iou, area = best_overlap(true_labels, predicted_labels, include_background)
    return _weighted_mean(iou, area)


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Values B T, NaN where the integer weights B T are 0 -> B; NaN without any weight."""
    total = weights.sum(axis=1)  # B
    mean = np.nansum(values * weights, axis=1) / np.maximum(total, 1)
    return np.where(total == 0, np.nan, mean)
