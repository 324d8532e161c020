"""Slots matched to objects, and what simple predictors read from them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emorl.metrics.factors import FactorScores
from emorl.metrics.iou import match
from emorl.metrics.properties import linear_probe, match_slots, mlp_probe

LABELS = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))
EVERYTHING = np.ones((3, 4))
Probe = Callable[[np.ndarray, dict[str, np.ndarray]], FactorScores]


def quick_mlp(codes: np.ndarray, factors: dict[str, np.ndarray]) -> FactorScores:
    return mlp_probe(codes, factors, num_hidden=32, num_epochs=150)


PROBES = pytest.mark.parametrize("probe", [linear_probe, quick_mlp])


def test_matching_by_hand() -> None:
    true = np.array([[[0, 0, 1, 1, 3, 3, 4]], [[0, 0, 0, 0, 0, 2, 2]]])
    predicted = np.array([[[3, 3, 2, 2, 0, 3, 3]], [[0, 0, 0, 0, 0, 1, 1]]])
    codes = np.arange(2 * 4 * 3).reshape(2, 4, 3)
    visibility = np.array([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0]], np.float32)  # object 3 of the second is hidden
    matched = match_slots(codes, predicted, true, visibility)
    assert matched.image.tolist() == [0, 0, 0, 1]
    assert matched.entity.tolist() == [1, 3, 4, 2]
    assert matched.slot.tolist() == [2, 0, 3, 1]
    np.testing.assert_array_equal(matched.codes, codes[[0, 0, 0, 1], [2, 0, 3, 1]])
    assert matched.num_dropped == 1

    x, color = np.arange(10.0).reshape(2, 5), np.arange(30).reshape(2, 5, 3)
    rows = matched.factors({"x": x, "color": color})
    assert rows.keys() == {"x", "color_0", "color_1", "color_2"}
    assert rows["x"].tolist() == [1, 3, 4, 7]
    assert rows["color_2"].tolist() == [5, 11, 14, 23]


def test_small_objects_and_poor_matches_have_no_row() -> None:
    true = np.array([[[1, 1, 1, 1, 2, 3, 3, 3]]])
    predicted = np.array([[[0, 0, 0, 0, 1, 2, 0, 0]]])  # IoU 4/6, 1, 1/3
    codes, visibility = np.zeros((1, 3, 2)), np.ones((1, 4))
    for limits, kept in (({}, [1, 2, 3]), ({"min_pixels": 2}, [1, 3]), ({"min_iou": 0.5}, [1, 2])):
        matched = match_slots(codes, predicted, true, visibility, **limits)
        assert matched.entity.tolist() == kept and matched.num_dropped == 3 - len(kept)


def test_shuffled_rows_stay_together() -> None:
    true = np.array([[[1, 2, 3]]] * 20)
    codes = np.arange(20.0 * 3).reshape(20, 3, 1)  # slot t - 1 of image n has 3 n + t - 1
    ordered = match_slots(codes, true - 1, true, np.ones((20, 4)))
    mixed = ordered.shuffled(1)
    assert sorted(mixed.codes[:, 0]) == list(range(60)) and mixed.codes.tolist() != ordered.codes.tolist()
    np.testing.assert_array_equal(mixed.codes[:, 0], 3 * mixed.image + mixed.slot)
    np.testing.assert_array_equal(mixed.slot, mixed.entity - 1)
    np.testing.assert_array_equal(mixed.codes, ordered.shuffled(1).codes)


def test_two_objects_in_one_slot_leave_one_without() -> None:
    true = np.array([[[1, 1, 2]]])
    matched = match_slots(np.zeros((1, 2, 4)), np.zeros_like(true), true, np.ones((1, 3)))
    assert matched.entity.tolist() == [1]
    assert matched.num_dropped == 1


@settings(max_examples=40, deadline=None)
@given(LABELS, LABELS)
def test_rows_and_dropped_objects_make_up_all_objects(true: np.ndarray, predicted: np.ndarray) -> None:
    codes = np.random.default_rng(0).normal(size=(3, 4, 2))
    matched = match_slots(codes, predicted, true, EVERYTHING)
    assert len(matched.codes) + matched.num_dropped == 9
    for image, entity, slot, code in zip(matched.image, matched.entity, matched.slot, matched.codes, strict=True):
        assert slot == match(true, predicted).predicted[image, entity]
        np.testing.assert_array_equal(code, codes[image, slot])


@settings(max_examples=40, deadline=None)
@given(LABELS, st.permutations(range(4)))
def test_a_perfect_prediction_gives_each_object_its_code_whatever_slots_are_called(
    true: np.ndarray, order: list[int]
) -> None:
    codes = np.empty((3, 4, 2))
    codes[:, order] = np.random.default_rng(0).normal(size=(3, 4, 2))  # slot order[t] is entity t
    matched = match_slots(codes, np.array(order)[true], true, EVERYTHING)
    assert matched.slot.tolist() == np.array(order)[matched.entity].tolist()
    seen = sum(len(set(np.unique(image)) - {0}) for image in true)
    assert len(matched.codes) == seen and matched.num_dropped == 9 - seen


def test_images_without_objects_give_no_row() -> None:
    empty = np.zeros((2, 3, 4), int)
    matched = match_slots(np.zeros((2, 5, 6)), empty, empty, np.eye(4)[[0, 0]])
    assert matched.codes.shape == (0, 6)
    assert matched.num_dropped == 0
    assert matched.factors({"x": np.zeros((2, 4)), "color": np.zeros((2, 4, 3))})["color_1"].shape == (0,)


@pytest.mark.parametrize(
    ("codes", "predicted", "visibility", "complaint"),
    [
        (np.zeros((1, 3)), [0, 1, 2], np.ones((1, 3)), "N K D"),
        (np.zeros((2, 3, 4)), [0, 1, 2], np.ones((2, 3)), "same images"),
        (np.zeros((1, 3, 4)), [0, 1, 3], np.ones((1, 3)), "names no slot"),
        (np.zeros((1, 3, 4)), [0, 1, 2], np.ones((1, 2)), "names no entity"),
        (np.zeros((1, 3, 4)), [0, 1, 2], np.array([[1, 0, 1]]), "visibility is 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    codes: np.ndarray, predicted: list[int], visibility: np.ndarray, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        match_slots(codes, np.array([[predicted]]), np.array([[[0, 1, 2]]]), visibility)


def table(num: int = 600) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Codes of six dimensions: linear in x, the class plain, |radius| only through a product; `noise` is not there."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, num))
    shape = rng.integers(0, 3, num)
    codes = np.stack([x + y, x - y, *np.eye(3)[shape].T, rng.normal(size=num)], axis=1)
    codes += 0.01 * rng.normal(size=codes.shape)
    quadrant = (x * y > 0).astype(np.uint8)
    return 100 * codes + 7, {"x": 50 * x - 3, "shape": shape, "quadrant": quadrant, "noise": rng.normal(size=num)}


@PROBES
def test_what_is_in_the_codes_is_read(probe: Probe) -> None:
    scores = probe(*table())
    assert scores.r2["x"] > 0.98
    assert scores.accuracy["shape"] > 0.98
    assert scores.r2["noise"] < 0.05
    assert scores.r2.keys() == {"x", "noise"} and scores.accuracy.keys() == {"shape", "quadrant"}


def test_only_the_network_reads_what_is_not_linear() -> None:
    codes, factors = table()
    assert linear_probe(codes, factors).accuracy["quadrant"] < 0.6
    assert quick_mlp(codes, factors).accuracy["quadrant"] > 0.85


@PROBES
def test_noise_is_predicted_at_chance(probe: Probe) -> None:
    scores = probe(np.random.default_rng(1).normal(size=(600, 4)), table()[1])
    assert scores.accuracy["shape"] == pytest.approx(1 / 3, abs=0.1)
    assert max(scores.r2.values()) < 0.05


@PROBES
def test_a_constant_factor_has_no_score(probe: Probe) -> None:
    codes, factors = table(60)
    scores = probe(codes, {"x": factors["x"], "z": np.zeros(60), "color": np.zeros(60, int)})
    assert np.isnan(scores.r2["z"]) and np.isnan(scores.accuracy["color"])
    assert scores.r2["x"] > 0.5


def test_the_network_repeats_itself_and_does_not_complain() -> None:
    codes, factors = table(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = (mlp_probe(codes, factors, num_hidden=8, num_epochs=5, seed=2) for _ in range(2))
    assert one == other
    assert one != mlp_probe(codes, factors, num_hidden=8, num_epochs=5, seed=3)


def test_the_network_trains_as_long_as_it_is_told() -> None:
    """On noise the loss soon falls no further: a rule that stops early would give the same scores twice."""
    codes, factors = np.ones((100, 2)), {"noise": np.random.default_rng(0).normal(size=100)}
    few, more = (mlp_probe(codes, factors, num_hidden=64, num_epochs=num) for num in (200, 250))
    assert few != more


def test_rows_for_training_come_first() -> None:
    codes, factors = table(200)
    factors["x"][150:] = -factors["x"][150:]  # what is learned does not hold for the rest
    assert linear_probe(codes, {"x": factors["x"]}, num_train=150).r2["x"] < -1
