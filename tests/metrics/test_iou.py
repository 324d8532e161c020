"""Matched IoU against every possible matching."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emorl.metrics.iou import match, matched_iou

LABELS = arrays(np.uint8, (2, 4, 5), elements=st.integers(0, 3))


def best_mean_iou(true: np.ndarray, predicted: np.ndarray, include_background: bool) -> float:
    """By trying all assignments of one image; slots that do not exist stand in where slots are too few."""
    objects = [t for t in np.unique(true) if t > 0 or include_background]
    if not objects:
        return float("nan")
    slots = [*np.unique(predicted), *[-1] * len(objects)]

    def iou(t: int, p: int) -> float:
        return float(((true == t) & (predicted == p)).sum() / ((true == t) | (predicted == p)).sum())

    return max(
        sum(iou(t, p) for t, p in zip(objects, chosen, strict=True)) / len(objects)
        for chosen in set(permutations(slots, len(objects)))
    )


@pytest.mark.parametrize("include_background", [False, True])
@settings(max_examples=50, deadline=None)
@given(true=LABELS, predicted=LABELS)
def test_equals_the_best_of_all_matchings(include_background: bool, true: np.ndarray, predicted: np.ndarray) -> None:
    expected = [best_mean_iou(t, p, include_background) for t, p in zip(true, predicted, strict=True)]
    np.testing.assert_allclose(matched_iou(true, predicted, include_background), expected, atol=1e-12)


def test_perfect_prediction_scores_one_whatever_the_slots_are_called() -> None:
    true = np.random.default_rng(0).integers(0, 4, (5, 6, 7))
    for include_background in (False, True):
        np.testing.assert_array_equal(matched_iou(true, np.array([7, 0, 3, 1])[true], include_background), 1.0)


def test_an_object_without_a_slot_of_its_own_counts_zero() -> None:
    true = np.array([[[1, 1, 2, 2]]])
    np.testing.assert_allclose(matched_iou(true, np.zeros_like(true)), [0.25])


def test_slots_left_over_cost_nothing() -> None:
    true, predicted = np.array([[[0, 0, 1, 1]]]), np.array([[[2, 3, 1, 1]]])
    assert matched_iou(true, predicted) == 1.0
    assert matched_iou(true, predicted, include_background=True) == 0.75


def test_pixels_on_the_background_count_against_a_slot() -> None:
    np.testing.assert_allclose(matched_iou(np.array([[[0, 0, 1, 1]]]), np.array([[[2, 1, 1, 1]]])), [2 / 3])


def test_an_image_without_objects_has_no_score() -> None:
    true = np.zeros((2, 3, 4), dtype=np.uint8)
    true[1, 0, 0] = 1
    scores = matched_iou(true, true)
    assert np.isnan(scores[0])
    assert scores[1] == 1.0


def test_match_names_the_slot_of_each_object() -> None:
    true = np.array([[[0, 0, 1, 1, 3, 3, 4]]])
    predicted = np.array([[[5, 5, 2, 2, 0, 5, 5]]])
    matching = match(true, predicted)
    assert matching.predicted.tolist() == [[-1, 2, -1, 0, 5]]  # label 2 does not occur
    np.testing.assert_allclose(matching.iou, [[np.nan, 1, np.nan, 0.5, 0.25]])
    assert match(true, predicted, include_background=True).predicted.tolist() == [[5, 2, -1, 0, -1]]
