"""How many slots a model uses, whether that fits the scene, and whether it does the same twice.

A slot is the label that wins a pixel: the argmax of the masks. Axes: B images, K slots, H W pixels, R repetitions.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from emorl.metrics.ari import ari, foreground_ari
from emorl.metrics.contingency import contingency


def slots_in_use(predicted_labels: np.ndarray, min_pixels: int = 1) -> np.ndarray:
    """Number of slots that win at least `min_pixels` pixels of an image.

    Args:
        predicted_labels: B H W, any integer type.
        min_pixels: at least 1; fewer pixels are taken for noise.

    Returns:
        B, int64, from 0 (only if `min_pixels` is large) to K.

    Raises:
        ValueError: if labels are no integer maps, or `min_pixels` is below 1.
    """
    return _num_large(_areas(predicted_labels), min_pixels)


def slot_count_error(
    true_labels: np.ndarray, predicted_labels: np.ndarray, min_pixels: int = 1, include_background: bool = False
) -> np.ndarray:
    """Slots in use minus true objects, image by image.

    The mean of the result says whether a model uses too many slots or too few, the mean of its absolute
    value how far it is off.

    Args:
        true_labels: B H W, any integer type, 0 = background.
        predicted_labels: B H W, any integer type.
        min_pixels: at least 1: pixels that a slot must win, and an object must show, to be counted.
        include_background: count over all pixels, the background being one more object. Otherwise only
            the pixels of objects are looked at, and a slot that wins none of them is not counted.

    Returns:
        B, int64: 0 where the numbers agree, above 0 where objects are split, below 0 where they are merged.

    Raises:
        ValueError: if the shapes differ, a label is negative, labels are not integers, or `min_pixels` is below 1.
    """
    counts = contingency(true_labels, predicted_labels)[:, 0 if include_background else 1 :]  # B T P
    error: np.ndarray = _num_large(counts.sum(axis=1), min_pixels) - _num_large(counts.sum(axis=2), min_pixels)
    return error


class SlotUsage(NamedTuple):
    """What each slot does over a set of images; uneven where slots are not exchangeable, or some are dead."""

    share: np.ndarray
    """K, float64, sums to 1: the share of all pixels that the slot wins."""
    frequency: np.ndarray
    """K, float64 in [0, 1]: the share of images in which the slot is in use."""


def slot_usage(predicted_labels: np.ndarray, num_slots: int, min_pixels: int = 1) -> SlotUsage:
    """How much of a set of images each slot wins, and how often it is used.

    Args:
        predicted_labels: B H W, any integer type, below `num_slots`.
        num_slots: K.
        min_pixels: at least 1: pixels of an image that a slot must win to be in use.

    Returns:
        One value per slot; NaN if there is no image.

    Raises:
        ValueError: if labels are no integer maps or name a slot that does not exist, or `min_pixels` is below 1.
    """
    areas = _areas(predicted_labels)  # B P
    if areas.shape[1] > num_slots:
        raise ValueError(f"label {areas.shape[1] - 1} names no slot: there are {num_slots}")
    areas = np.pad(areas, ((0, 0), (0, num_slots - areas.shape[1])))  # B K
    if areas.sum() == 0:
        return SlotUsage(np.full(num_slots, np.nan), np.full(num_slots, np.nan))
    return SlotUsage(areas.sum(axis=0) / areas.sum(), _large(areas, min_pixels).mean(axis=0))


def stability(labelings: np.ndarray, true_labels: np.ndarray | None = None) -> np.ndarray:
    """Mean adjusted Rand index between the repeated labelings of each image.

    A multi-stable model (Greff et al., "Multi-object representation learning with iterative variational
    inference", ICML 2019) explains one image in several ways, by the noise it was given: then this is low although
    each labeling may be good. It knows no right or wrong: a model that never divides an image scores 1.

    Args:
        labelings: R B H W, any integer type, R at least 2: the same images, inferred with different noise.
            Slots need not keep their names.
        true_labels: B H W, 0 = background: look only at the pixels of objects. None: at all pixels.

    Returns:
        B, float64: 1 where all labelings divide the pixels alike, about 0 where they have nothing in common.
        NaN where `true_labels` has no foreground.

    Raises:
        ValueError: if R is below 2, the shapes differ, a label is negative, or labels are not integers.
    """
    labelings = np.asarray(labelings)
    if labelings.ndim != 4 or len(labelings) < 2:
        raise ValueError(f"expected at least two labelings R B H W, got the shape {labelings.shape}")
    pairs = combinations(labelings, 2)
    if true_labels is None:
        scores = [ari(one, other) for one, other in pairs]
    else:
        objects = np.asarray(true_labels) > 0
        # One labeling takes the place of the truth, its names moved up to leave 0 to the background.
        scores = [foreground_ari(np.where(objects, one.astype(np.int64) + 1, 0), other) for one, other in pairs]
    result: np.ndarray = np.mean(scores, axis=0)
    return result


def _areas(labels: np.ndarray) -> np.ndarray:
    """Pixels of each label, B H W -> B P."""
    return contingency(np.zeros_like(labels), labels)[:, 0]


def _large(areas: np.ndarray, min_pixels: int) -> np.ndarray:
    if min_pixels < 1:
        raise ValueError(f"a slot in use wins at least one pixel, so min_pixels cannot be {min_pixels}")
    large: np.ndarray = areas >= min_pixels
    return large


def _num_large(areas: np.ndarray, min_pixels: int) -> np.ndarray:
    """How many of B P areas are large enough -> B."""
    number: np.ndarray = _large(areas, min_pixels).sum(axis=1)
    return number
