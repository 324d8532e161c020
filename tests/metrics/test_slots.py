"""Slots counted by hand, and laws of stability."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import adjusted_rand_score

from emorl.metrics.slots import slot_count_error, slot_usage, slots_in_use, stability

LABELS = arrays(np.uint8, (2, 4, 5), elements=st.integers(0, 3))
LABELINGS = arrays(np.uint8, (3, 2, 4, 5), elements=st.integers(0, 3))


def one(labels: list[int]) -> np.ndarray:
    return np.array([[labels]], dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(LABELS, st.integers(1, 6), st.permutations(range(4)))
def test_counts_as_a_loop_over_images_does(labels: np.ndarray, min_pixels: int, order: list[int]) -> None:
    expected = [(np.unique(image, return_counts=True)[1] >= min_pixels).sum() for image in labels]
    assert slots_in_use(labels, min_pixels).tolist() == expected
    assert slots_in_use(np.array(order)[labels], min_pixels).tolist() == expected


def test_a_constant_prediction_uses_one_slot() -> None:
    assert slots_in_use(np.full((2, 3, 4), 5)).tolist() == [1, 1]
    assert slots_in_use(np.full((2, 3, 4), 5), min_pixels=13).tolist() == [0, 0]


@settings(max_examples=40, deadline=None)
@given(LABELS, st.integers(1, 4), st.booleans(), st.permutations(range(4)))
def test_a_perfect_prediction_has_no_count_error(
    true: np.ndarray, min_pixels: int, background: bool, order: list[int]
) -> None:
    assert slot_count_error(true, np.array(order)[true], min_pixels, background).tolist() == [0, 0]


def test_count_error_by_hand() -> None:
    true = one([0, 0, 0, 1, 1, 2, 2, 2])
    assert slot_count_error(true, one([0, 0, 0, 1, 2, 3, 3, 3])) == 1  # one object split in two
    assert slot_count_error(true, one([0, 0, 0, 1, 1, 1, 1, 1])) == -1  # two objects in one slot
    assert slot_count_error(true, np.zeros_like(true)) == -1  # a slot holds both, and the background
    assert slot_count_error(true, np.zeros_like(true), include_background=True) == -2
    halves = one([4, 5, 5, 1, 1, 2, 2, 2])  # the background split in two
    assert slot_count_error(true, halves) == 0
    assert slot_count_error(true, halves, include_background=True) == 1
    assert slot_count_error(true, one([0, 0, 0, 1, 1, 2, 2, 1]), min_pixels=2) == 0
    assert slot_count_error(true, one([0, 0, 0, 1, 1, 2, 2, 3]), min_pixels=2) == 0  # one pixel is noise


def test_an_image_without_objects_asks_for_no_slot() -> None:
    assert slot_count_error(np.zeros((1, 2, 3), int), one([0, 1, 2, 0, 1, 2]).reshape(1, 2, 3)) == 0
    assert slot_count_error(np.zeros((0, 2, 3), int), np.zeros((0, 2, 3), int)).shape == (0,)


def test_usage_by_hand() -> None:
    labels = np.array([[[0, 0, 0, 2]], [[2, 2, 2, 2]]])
    share, frequency = slot_usage(labels, 4)
    assert share.tolist() == [3 / 8, 0, 5 / 8, 0]
    assert frequency.tolist() == [0.5, 0, 1, 0]
    assert slot_usage(labels, 4, min_pixels=2).frequency.tolist() == [0.5, 0, 0.5, 0]


@settings(max_examples=40, deadline=None)
@given(LABELS, st.permutations(range(4)))
def test_usage_follows_the_names_of_slots(labels: np.ndarray, order: list[int]) -> None:
    share, frequency = slot_usage(labels, 4)
    assert share.sum() == pytest.approx(1)
    assert frequency.sum() == pytest.approx(slots_in_use(labels).mean())
    renamed = slot_usage(np.array(order)[labels], 4)
    np.testing.assert_array_equal(renamed.share[order], share)
    np.testing.assert_array_equal(renamed.frequency[order], frequency)


def test_usage_of_nothing_is_unknown() -> None:
    share, frequency = slot_usage(np.zeros((0, 3, 4), int), 2)
    assert np.isnan(share).all() and np.isnan(frequency).all() and len(share) == len(frequency) == 2


def test_wrong_arguments_are_refused() -> None:
    labels = np.full((1, 2, 3), 4)
    with pytest.raises(ValueError, match="names no slot"):
        slot_usage(labels, 4)
    with pytest.raises(ValueError, match="at least one pixel"):
        slots_in_use(labels, 0)
    with pytest.raises(ValueError, match="argmax"):
        slots_in_use(labels / 2)
    with pytest.raises(ValueError, match="at least two"):
        stability(labels[None])
    with pytest.raises(ValueError, match="at least two"):
        stability(labels)


@pytest.mark.parametrize("foreground", [False, True])
@settings(max_examples=20, deadline=None)
@given(labelings=LABELINGS, true=LABELS)
def test_stability_agrees_with_scikit_learn(foreground: bool, labelings: np.ndarray, true: np.ndarray) -> None:
    scores = stability(labelings, true if foreground else None)
    for image in range(2):
        seen = (true[image] > 0) if foreground else np.ones((4, 5), bool)
        if not seen.any():
            assert np.isnan(scores[image])
            continue
        pairs = combinations(labelings[:, image], 2)
        assert scores[image] == pytest.approx(np.mean([adjusted_rand_score(a[seen], b[seen]) for a, b in pairs]))


@settings(max_examples=40, deadline=None)
@given(LABELINGS, LABELS, st.permutations(range(4)), st.permutations(range(3)))
def test_neither_names_of_slots_nor_order_of_labelings_matter(
    labelings: np.ndarray, true: np.ndarray, names: list[int], order: list[int]
) -> None:
    renamed = labelings.copy()
    renamed[1] = np.array(names)[labelings[1]]
    np.testing.assert_allclose(stability(renamed[order], true), stability(labelings, true), atol=1e-12)


def test_the_same_labeling_again_and_again_is_stable() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (3, 5, 6), dtype=np.uint8)
    again = np.stack([labels, np.array([3, 1, 0, 2])[labels], labels])
    np.testing.assert_array_equal(stability(again), 1.0)
    np.testing.assert_array_equal(stability(again, labels), 1.0)


def test_two_readings_of_one_picture_are_not() -> None:
    """Four quarters divided by columns in one labeling, by rows in the other."""
    columns = np.zeros((1, 20, 20), np.uint8)
    columns[:, :, 10:] = 1
    score = stability(np.stack([columns, columns.transpose(0, 2, 1)]))
    assert score == pytest.approx([0], abs=0.01)
