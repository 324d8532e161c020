"""Intersection over union of the true objects with the slots that fit them best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from emorl.metrics.contingency import contingency, overlaps


class Matching(NamedTuple):
    """Which predicted label stands for which true one."""

    predicted: np.ndarray
    """B T, int64: the label matched to true label t of each image, -1 where there is none."""
    iou: np.ndarray
    """B T, float64: IoU of the pair; 0 for an unmatched object, NaN where label t does not occur."""


def match(true_labels: np.ndarray, predicted_labels: np.ndarray, include_background: bool = False) -> Matching:
    """Pair true and predicted labels one to one, so that the sum of their IoU is largest (Hungarian).

    Args:
        true_labels: B H W, any integer type, 0 = background.
        predicted_labels: B H W, any integer type.
        include_background: match label 0 as well; otherwise it counts as not occurring. Either way a
            prediction's pixels on the background are part of the union.

    Returns:
        The matching, T being one more than the largest true label of the batch. Labels without a
        common pixel are never matched.

    Raises:
        ValueError: if the shapes differ, a label is negative, or labels are not integers.
    """
    counts = contingency(true_labels, predicted_labels)  # B T P
    iou = overlaps(counts)  # B T P

    occurs = counts.sum(axis=2) > 0  # B T
    if not include_background:
        occurs[:, 0] = False
    predicted = np.full(occurs.shape, -1, dtype=np.int64)
    matched_iou = np.where(occurs, 0.0, np.nan)
    for image in range(len(counts)):
        objects = np.flatnonzero(occurs[image])
        rows, columns = linear_sum_assignment(iou[image, objects], maximize=True)
        overlap = iou[image, objects[rows], columns]
        matched_iou[image, objects[rows]] = overlap
        predicted[image, objects[rows]] = np.where(overlap > 0, columns, -1)
    return Matching(predicted, matched_iou)


def matched_iou(true_labels: np.ndarray, predicted_labels: np.ndarray, include_background: bool = False) -> np.ndarray:
    """Mean IoU over the true objects of each image under the best one-to-one matching.

    Args:
        true_labels: B H W, any integer type, 0 = background.
        predicted_labels: B H W, any integer type.
        include_background: count the background as one more object.

    Returns:
        B, float64 in [0, 1]. An object without a slot of its own counts 0; slots left over cost
        nothing. NaN where the image has no object; `summarise` leaves it out.

    Raises:
        ValueError: if the shapes differ, a label is negative, or labels are not integers.
    """
    iou = match(true_labels, predicted_labels, include_background).iou  # B T
    num_objects = np.isfinite(iou).sum(axis=1)
    return np.where(num_objects == 0, np.nan, np.nansum(iou, axis=1) / np.maximum(num_objects, 1))
