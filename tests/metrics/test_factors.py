"""The split of a table, and scores against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, r2_score

from emorl.metrics.factors import split

CODES = np.arange(40.0).reshape(10, 4)
FLOATS = arrays(np.float64, 5, elements=st.floats(-3, 3, width=16), unique=True)
CLASSES = arrays(np.int64, 5, elements=st.integers(0, 2))


@settings(max_examples=30, deadline=None)
@given(FLOATS, FLOATS, CLASSES, CLASSES)
def test_scores_agree_with_scikit_learn(
    true: np.ndarray, predicted: np.ndarray, classes: np.ndarray, guesses: np.ndarray
) -> None:
    half = np.arange(5)
    table = split(CODES, {"x": np.concatenate([half / 2, true]), "shape": np.concatenate([half, classes])})
    scores = table.score({"x": predicted, "shape": guesses})
    assert scores.r2 == {"x": pytest.approx(r2_score(true, predicted), rel=1e-6, abs=1e-6)}
    assert scores.accuracy == {"shape": pytest.approx(accuracy_score(classes, guesses))}


def test_split_is_by_position() -> None:
    table = split(CODES, {"x": np.arange(10), "flag": np.arange(10) > 3}, num_train=7)
    np.testing.assert_array_equal(table.train_codes, CODES[:7])
    np.testing.assert_array_equal(table.test_codes, CODES[7:])
    assert table.factors["x"].train.tolist() == list(range(7))
    assert table.factors["x"].test.tolist() == [7, 8, 9]
    assert table.factors["flag"].is_discrete
    assert len(split(CODES[:9], {"x": np.arange(9)}).train_codes) == 4


def test_a_factor_constant_in_training_has_no_score() -> None:
    factors = {"shape": np.r_[np.zeros(5, int), np.arange(5)], "x": np.r_[np.ones(5), np.arange(5.0)]}
    scores = split(CODES, factors).score({})
    assert np.isnan(scores.accuracy["shape"]) and np.isnan(scores.r2["x"])


def test_a_factor_constant_in_test_has_an_accuracy_and_no_r2() -> None:
    factors = {"shape": np.r_[np.arange(5), np.zeros(5, int)], "x": np.r_[np.arange(5.0), np.ones(5)]}
    scores = split(CODES, factors).score({"shape": np.array([0, 0, 0, 0, 1]), "x": np.ones(5)})
    assert scores.accuracy["shape"] == 0.8
    assert np.isnan(scores.r2["x"])


@pytest.mark.parametrize(
    ("codes", "factors", "num_train", "complaint"),
    [
        (CODES[0], {"x": np.zeros(10)}, None, "M D"),
        (CODES[:, :0], {"x": np.zeros(10)}, None, "M D"),
        (CODES, {"x": np.zeros(10)}, 10, "empty"),
        (CODES, {"x": np.zeros(10)}, 0, "empty"),
        (CODES[:1], {"x": np.zeros(1)}, None, "empty"),
        (CODES, {}, None, "no factor"),
        (CODES * np.nan, {"x": np.zeros(10)}, None, "codes are not all finite"),
        (CODES, {"x": np.zeros((10, 3))}, None, "factor x must have one value"),
        (CODES, {"x": np.zeros(9)}, None, "factor x must have one value"),
        (CODES, {"x": np.full(10, np.inf)}, None, "factor x is not finite"),
        (CODES, {"x": np.array(["red"] * 10)}, None, "integers"),
    ],
)
def test_wrong_tables_are_refused(
    codes: np.ndarray, factors: dict[str, np.ndarray], num_train: int | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        split(codes, factors, num_train)
