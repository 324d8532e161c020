"""Laws of the adjusted Rand index, and agreement with an independent implementation."""

from __future__ import annotations

import timeit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import adjusted_rand_score

from emorl.metrics.ari import ari, foreground_ari
from emorl.metrics.contingency import contingency

LABELS = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 4))


def scenes(num: int = 6, num_labels: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, num_labels, (num, 7, 9), dtype=np.uint8)


def one(labels: list[list[int]]) -> np.ndarray:
    return np.array([labels], dtype=np.uint8)


@pytest.mark.parametrize("num_labels", [2, 3, 7, 11])
def test_agrees_with_scikit_learn_on_random_labels(num_labels: int) -> None:
    true, predicted = scenes(40, num_labels, 1), scenes(40, num_labels, 2)
    for image in range(0, 40, 2):  # half of them mostly right: scores across the whole range
        right = np.random.default_rng(image).random((7, 9)) < 0.9
        predicted[image][right] = true[image][right]
    overall, foreground = ari(true, predicted), foreground_ari(true, predicted)
    for image in range(40):
        seen = true[image] > 0
        assert overall[image] == pytest.approx(
            adjusted_rand_score(true[image].ravel(), predicted[image].ravel()), abs=1e-6
        )
        assert foreground[image] == pytest.approx(
            adjusted_rand_score(true[image][seen], predicted[image][seen]), abs=1e-6
        )


@settings(deadline=None)
@given(LABELS, LABELS)
def test_agrees_with_scikit_learn_on_any_labels(true: np.ndarray, predicted: np.ndarray) -> None:
    overall, foreground = ari(true, predicted), foreground_ari(true, predicted)
    for image in range(len(true)):
        expected = adjusted_rand_score(true[image].ravel(), predicted[image].ravel())
        assert overall[image] == pytest.approx(expected, abs=1e-6)
        seen = true[image] > 0
        if seen.any():
            expected = adjusted_rand_score(true[image][seen], predicted[image][seen])
            assert foreground[image] == pytest.approx(expected, abs=1e-6)
        else:
            assert np.isnan(foreground[image])


@settings(deadline=None)
@given(LABELS, LABELS, st.permutations(range(5)))
def test_names_of_slots_do_not_matter(true: np.ndarray, predicted: np.ndarray, order: list[int]) -> None:
    renamed = np.array(order)[predicted]
    np.testing.assert_array_equal(foreground_ari(true, renamed), foreground_ari(true, predicted))
    np.testing.assert_array_equal(ari(true, renamed), ari(true, predicted))


def test_perfect_prediction_scores_one() -> None:
    true = scenes()
    np.testing.assert_array_equal(foreground_ari(true, true), 1.0)
    np.testing.assert_array_equal(ari(true, true), 1.0)


def test_constant_prediction_scores_zero_where_there_are_several_objects() -> None:
    true = scenes()
    np.testing.assert_array_equal(foreground_ari(true, np.full_like(true, 3)), 0.0)
    np.testing.assert_array_equal(ari(true, np.full_like(true, 3)), 0.0)


def test_chance_scores_about_zero() -> None:
    assert abs(foreground_ari(scenes(500, seed=1), scenes(500, seed=2)).mean()) < 0.005


def test_what_happens_on_the_background_does_not_matter_to_the_foreground() -> None:
    true, predicted = scenes(seed=1), scenes(seed=2)
    changed = np.where(true == 0, scenes(seed=3), predicted)
    np.testing.assert_array_equal(foreground_ari(true, changed), foreground_ari(true, predicted))


def test_an_object_may_share_its_slot_with_the_background() -> None:
    true = one([[0, 0, 1, 2], [0, 0, 1, 2]])
    assert foreground_ari(true, one([[0, 0, 0, 1], [0, 0, 0, 1]])) == 1.0


def test_one_object_in_one_slot_scores_one() -> None:
    assert foreground_ari(one([[0, 4, 4]]), one([[1, 2, 2]])) == 1.0


@pytest.mark.parametrize("size", [2, 3, 50, 12_345])
def test_one_object_split_over_two_slots_scores_exactly_zero(size: int) -> None:
    predicted = np.zeros((1, 1, size), dtype=np.uint8)
    predicted[..., : max(1, size // 3)] = 1
    assert foreground_ari(np.ones_like(predicted), predicted) == 0.0


def test_an_image_without_foreground_has_no_score() -> None:
    true = scenes(3)
    true[1] = 0
    assert np.isnan(foreground_ari(true, scenes(3, seed=1))).tolist() == [False, True, False]
    assert np.isnan(foreground_ari(np.zeros_like(true), scenes(3))).all()


def test_a_single_foreground_pixel_scores_one() -> None:
    assert foreground_ari(one([[0, 1], [0, 0]]), one([[0, 1], [1, 2]])) == 1.0


def test_pixels_all_apart_in_both_partitions_score_one() -> None:
    assert ari(one([[0, 1], [2, 3]]), one([[3, 2], [1, 0]])) == 1.0


def test_an_object_that_vanished_costs_nothing() -> None:
    """Labels may have gaps: an object cropped or hidden away leaves its number unused."""
    true, predicted = scenes(seed=1), scenes(seed=2)
    np.testing.assert_array_equal(
        foreground_ari(np.where(true > 0, true + 3, 0), predicted), foreground_ari(true, predicted)
    )


def test_images_do_not_know_each_other() -> None:
    true, predicted = scenes(seed=1), scenes(seed=2)
    predicted[3] = 200  # enlarges the table of the batch
    alone = np.concatenate([foreground_ari(true[i : i + 1], predicted[i : i + 1]) for i in range(6)])
    np.testing.assert_array_equal(foreground_ari(true, predicted), alone)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_the_integer_type_does_not_matter(dtype: type) -> None:
    true, predicted = scenes(seed=1), scenes(seed=2)
    np.testing.assert_array_equal(
        foreground_ari(true.astype(dtype), predicted), foreground_ari(true, predicted.astype(dtype))
    )
    np.testing.assert_array_equal(foreground_ari(true.astype(dtype), predicted), foreground_ari(true, predicted))


def test_large_images_do_not_overflow() -> None:
    true = np.zeros((1, 1024, 1024), dtype=np.uint8)
    true[:, :, 512:] = 1
    predicted = true.copy()
    predicted[:, :, :4] = 1
    expected = adjusted_rand_score(true.ravel(), predicted.ravel())
    assert ari(true, predicted)[0] == pytest.approx(expected, abs=1e-6)


def test_an_empty_batch_has_no_scores() -> None:
    assert foreground_ari(scenes(0), scenes(0)).shape == (0,)


def test_contingency_counts_every_pixel_once() -> None:
    true, predicted = scenes(seed=1), scenes(num_labels=3, seed=2)
    counts = contingency(true, predicted)
    assert counts.shape == (6, 5, 3)
    for image, t, p in np.ndindex(counts.shape):
        assert counts[image, t, p] == ((true[image] == t) & (predicted[image] == p)).sum()


@pytest.mark.parametrize("largest", [(3, 2), (0, 65_535), (65_535, 0), (254, 256), (300, 250)])
def test_contingency_counts_labels_of_any_size(largest: tuple[int, int]) -> None:
    """Labels as large as two bytes number them, and larger; more images than are counted at once."""
    rng = np.random.default_rng(0)
    true, predicted = (rng.integers(0, high, (70, 3, 4), endpoint=True) for high in largest)
    true[0, 0, 0], predicted[0, 0, 0] = largest
    true, predicted = (labels if max(largest) < 1000 else labels[:3] for labels in (true, predicted))
    counts = contingency(true, predicted)
    assert counts.shape == (len(true), largest[0] + 1, largest[1] + 1)
    expected = np.zeros_like(counts)
    np.add.at(expected, (np.arange(len(true))[:, None, None], true, predicted), 1)
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.slow
def test_is_fifty_times_as_fast_as_scikit_learn() -> None:
    true, predicted = (np.random.default_rng(seed).integers(0, 7, (1000, 64, 64)) for seed in (1, 2))
    true = true.astype(np.uint8)

    def scikit_learn() -> None:
        for image in range(20):
            seen = true[image] > 0
            adjusted_rand_score(true[image][seen], predicted[image][seen])

    ours = min(timeit.repeat(lambda: foreground_ari(true, predicted), number=1, repeat=7)) / len(true)
    theirs = min(timeit.repeat(scikit_learn, number=1, repeat=7)) / 20
    assert theirs > 50 * ours


@pytest.mark.parametrize(
    ("true", "predicted", "complaint"),
    [
        (scenes(2), scenes(3), "one shape"),
        (scenes(2)[0], scenes(2)[0], "B H W"),
        (scenes(2), scenes(2).astype(np.float32), "argmax"),
        (scenes(2).astype(int) - 1, scenes(2), "negative"),
    ],
)
def test_wrong_labels_are_refused(true: np.ndarray, predicted: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        foreground_ari(true, predicted)
