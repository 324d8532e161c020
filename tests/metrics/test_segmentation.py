"""Laws of best overlap and covering, and agreement with scikit-learn's Jaccard score."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import jaccard_score

from emorl.metrics.iou import matched_iou
from emorl.metrics.segmentation import best_overlap, mean_best_overlap, segmentation_covering

LABELS = arrays(np.uint8, (2, 4, 5), elements=st.integers(0, 3))


class Measure(Protocol):
    def __call__(
        self, true_labels: np.ndarray, predicted_labels: np.ndarray, include_background: bool = False
    ) -> np.ndarray: ...


BOTH = pytest.mark.parametrize("measure", [mean_best_overlap, segmentation_covering])


def scenes(num: int = 6, num_labels: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, num_labels, (num, 7, 9), dtype=np.uint8)


@pytest.mark.parametrize("include_background", [False, True])
@settings(max_examples=20, deadline=None)
@given(true=LABELS, predicted=LABELS)
def test_agrees_with_scikit_learn_object_by_object(
    include_background: bool, true: np.ndarray, predicted: np.ndarray
) -> None:
    mean, covering = (f(true, predicted, include_background) for f in (mean_best_overlap, segmentation_covering))
    for image in range(len(true)):
        objects = [t for t in np.unique(true[image]) if t > 0 or include_background]
        seen = [true[image].ravel() == t for t in objects]
        won = [predicted[image].ravel() == p for p in np.unique(predicted[image])]
        best = [max(jaccard_score(t, p) for p in won) for t in seen]
        assert mean[image] == pytest.approx(np.mean(best) if objects else np.nan, abs=1e-6, nan_ok=True)
        weighted = np.average(best, weights=[t.sum() for t in seen]) if objects else np.nan
        assert covering[image] == pytest.approx(weighted, abs=1e-6, nan_ok=True)


@BOTH
@settings(max_examples=40, deadline=None)
@given(true=LABELS, predicted=LABELS, order=st.permutations(range(4)), background=st.booleans())
def test_names_do_not_matter(
    measure: Measure, true: np.ndarray, predicted: np.ndarray, order: list[int], background: bool
) -> None:
    scores = measure(true, predicted, background)
    np.testing.assert_array_equal(measure(true, np.array(order)[predicted], background), scores)
    renamed = np.array([0, 3, 1, 2])[true]  # objects may change names among themselves
    np.testing.assert_allclose(measure(renamed, predicted, background), scores, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(true=LABELS, predicted=LABELS, background=st.booleans())
def test_is_at_least_the_score_of_a_matching_one_to_one(
    true: np.ndarray, predicted: np.ndarray, background: bool
) -> None:
    gain = mean_best_overlap(true, predicted, background) - matched_iou(true, predicted, background)
    assert (gain[~np.isnan(gain)] >= -1e-12).all()


@BOTH
def test_perfect_prediction_scores_one(measure: Measure) -> None:
    for background in (False, True):
        np.testing.assert_allclose(measure(scenes(), np.array([7, 0, 3, 1, 5])[scenes()], background), 1.0)


def test_constant_prediction_scores_the_share_of_each_object() -> None:
    true = np.array([[[1, 1, 1, 2, 0, 0, 0, 0]]])
    constant = np.full_like(true, 3)
    assert mean_best_overlap(true, constant) == pytest.approx([(3 / 8 + 1 / 8) / 2])
    assert segmentation_covering(true, constant) == pytest.approx([(9 / 8 + 1 / 8) / 4])
    assert mean_best_overlap(true, constant, True) == pytest.approx([1 / 3])
    assert segmentation_covering(true, constant, True) == pytest.approx([(9 + 1 + 16) / 64])


@BOTH
def test_an_image_without_objects_has_no_score_unless_the_background_is_one(measure: Measure) -> None:
    true = scenes(3)
    true[1] = 0
    assert np.isnan(measure(true, scenes(3, seed=1))).tolist() == [False, True, False]
    assert measure(true, true, True)[1] == 1.0
    assert measure(scenes(0), scenes(0)).shape == (0,)


@BOTH
def test_an_object_that_vanished_costs_nothing(measure: Measure) -> None:
    true, predicted = scenes(seed=1), scenes(seed=2)
    moved = np.where(true > 0, true + 3, 0)
    np.testing.assert_allclose(measure(moved, predicted), measure(true, predicted), rtol=1e-12)


@BOTH
@pytest.mark.parametrize(("split", "score"), [(1, 0.9), (5, 0.5), (7, 0.7)])
def test_an_object_split_in_two_counts_by_its_larger_part(measure: Measure, split: int, score: float) -> None:
    true = np.ones((1, 1, 10), dtype=np.uint8)
    predicted = np.where(np.arange(10) < split, 1, 2)[None, None]
    assert measure(true, predicted) == pytest.approx([score])


def test_two_objects_may_claim_one_slot() -> None:
    true, predicted = np.array([[[1, 1, 2, 2]]]), np.zeros((1, 1, 4), int)
    assert mean_best_overlap(true, predicted) == 0.5
    assert matched_iou(true, predicted) == 0.25


def test_pixels_on_the_background_count_against_a_slot() -> None:
    assert mean_best_overlap(np.array([[[0, 0, 1, 1]]]), np.array([[[2, 1, 1, 1]]])) == pytest.approx([2 / 3])


def test_best_overlap_by_hand() -> None:
    iou, area = best_overlap(np.array([[[0, 0, 1, 1, 3]]]), np.array([[[5, 2, 2, 2, 2]]]))
    np.testing.assert_allclose(iou, [[np.nan, 0.5, np.nan, 0.25]])
    assert area.tolist() == [[0, 2, 0, 1]]
