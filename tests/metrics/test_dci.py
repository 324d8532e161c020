"""DCI of codes whose disentanglement is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor

from emorl.metrics.dci import dci, dci_released

HADAMARD = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def factors(num: int = 800, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.uniform(-1, 1, num).astype(np.float32),
        "y": rng.uniform(-1, 1, num),
        "shape": rng.integers(0, 3, num, dtype=np.uint8),
        "size": rng.integers(0, 2, num),
    }


def as_code(true: dict[str, np.ndarray]) -> np.ndarray:
    """M F, each column of mean about 0 and variance about 1."""
    columns = np.stack([values.astype(np.float64) for values in true.values()], axis=1)
    code: np.ndarray = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    return code


def test_a_code_that_is_the_factors_scores_one() -> None:
    true = factors()
    order = [2, 0, 3, 1]
    scores = dci(as_code(true)[:, order], true, num_trees=30)
    assert scores.disentanglement > 0.99
    assert scores.completeness > 0.99
    assert scores.factors == ("x", "y", "shape", "size")
    assert scores.importance.argmax(axis=0).tolist() == [1, 3, 0, 2]
    np.testing.assert_allclose(scores.importance.sum(axis=0), 1)
    assert scores.informativeness.accuracy == {"shape": 1.0, "size": 1.0}
    assert scores.informativeness.r2.keys() == {"x", "y"}
    assert min(scores.informativeness.r2.values()) > 0.97


def test_a_code_that_mixes_all_factors_scores_about_zero() -> None:
    rng = np.random.default_rng(0)
    true = {name: rng.uniform(-1, 1, 1000) for name in "abcd"}
    scores = dci(as_code(true) @ HADAMARD, true, num_trees=30)
    assert scores.disentanglement < 0.05
    assert scores.completeness < 0.05
    assert min(scores.informativeness.r2.values()) > 0.5  # what the mixture hides is still there


def test_a_factor_spread_over_two_dimensions_is_disentangled_but_not_complete() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.uniform(-1, 1, (2, 1000))
    codes = np.stack([first, second], axis=1)
    codes = np.concatenate([codes, rng.uniform(-1, 1, (1000, 1))], axis=1)
    scores = dci(codes, {"sum": first + second, "third": codes[:, 2]}, num_trees=30)
    assert scores.disentanglement > 0.98
    assert scores.completeness_per_factor == pytest.approx([1 - np.log(2) / np.log(3), 1], abs=0.02)
    assert scores.completeness == pytest.approx(scores.completeness_per_factor.mean())


def test_noise_tells_nothing() -> None:
    true = factors()
    scores = dci(np.random.default_rng(1).normal(size=(800, 3)), true, num_trees=15)
    assert scores.informativeness.accuracy["shape"] == pytest.approx(1 / 3, abs=0.08)
    assert scores.informativeness.accuracy["size"] == pytest.approx(1 / 2, abs=0.08)
    assert max(scores.informativeness.r2.values()) < 0.05


def test_a_constant_factor_is_left_out() -> None:
    true = factors(400)
    codes = as_code(true)
    more = dci(codes, {**true, "z": np.zeros(400), "color": np.full(400, 5)}, num_trees=10)
    less = dci(codes, true, num_trees=10)
    assert more.disentanglement == less.disentanglement
    assert more.completeness == less.completeness
    np.testing.assert_array_equal(more.importance[:, 4:], 0)
    assert np.isnan(more.completeness_per_factor).tolist() == [False] * 4 + [True] * 2
    assert np.isnan(more.informativeness.r2["z"]) and np.isnan(more.informativeness.accuracy["color"])


def test_a_code_that_never_changes_serves_nothing() -> None:
    true = factors(100)
    scores = dci(np.ones((100, 3)), true, num_trees=5)
    assert scores.disentanglement == scores.completeness == 0
    assert np.isnan(scores.disentanglement_per_code).all()
    np.testing.assert_array_equal(scores.importance, 0)
    assert max(scores.informativeness.r2.values()) <= 0


def test_a_dead_dimension_has_no_weight() -> None:
    true = factors(400)
    codes = np.concatenate([as_code(true), np.zeros((400, 1))], axis=1)
    alive, dead = dci(codes[:, :4], true, num_trees=10), dci(codes, true, num_trees=10)
    assert dead.disentanglement == pytest.approx(alive.disentanglement)
    assert np.isnan(dead.disentanglement_per_code).tolist() == [False] * 4 + [True]


def test_what_has_nothing_to_be_told_from_has_no_score() -> None:
    true = factors(60)
    one_factor = dci(as_code(true), {"x": true["x"]}, num_trees=5)
    assert np.isnan(one_factor.disentanglement) and one_factor.completeness > 0.9
    one_dimension = dci(as_code(true)[:, :1], true, num_trees=5)
    assert np.isnan(one_dimension.completeness) and one_dimension.disentanglement < 0.1
    nothing = dci(as_code(true), {"z": np.zeros(60)}, num_trees=5)
    assert np.isnan(nothing.disentanglement) and np.isnan(nothing.completeness)


def test_same_seed_same_scores() -> None:
    true, codes = factors(200), np.random.default_rng(0).normal(size=(200, 5))
    one, other = (dci(codes, true, num_trees=5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.importance, other.importance)
    assert one.disentanglement == other.disentanglement


def test_released_regresses_classes_once_a_continuous_factor_came_first() -> None:
    true, codes = factors(300), np.random.default_rng(0).normal(size=(300, 5))
    codes[:, :4] += as_code(true)
    released = dci_released(codes, true, num_train=200, num_trees=10, seed=1)
    for column, values in enumerate(true.values()):
        trees = GradientBoostingRegressor(n_estimators=10, random_state=1).fit(codes[:200], values[:200])
        np.testing.assert_allclose(released.importance[:, column], trees.feature_importances_, atol=1e-12)
    defined = dci(codes, true, num_train=200, num_trees=10, seed=1)
    np.testing.assert_allclose(released.importance[:, :2], defined.importance[:, :2], atol=1e-12)
    assert not np.allclose(released.importance[:, 2], defined.importance[:, 2], atol=1e-3)
    assert released.informativeness_test == released.informativeness_train == 0  # no regression is exact


def test_released_keeps_a_classifier_that_came_first() -> None:
    true = factors(300)
    classes = {name: true[name] for name in ("size", "shape")}
    released = dci_released(as_code(true), classes, num_trees=10)
    defined = dci(as_code(true), classes, num_trees=10)
    np.testing.assert_array_equal(released.importance, defined.importance)
    assert released.disentanglement == pytest.approx(defined.disentanglement, abs=1e-6)
    assert released.completeness == pytest.approx(defined.completeness, abs=1e-6)
    assert released.informativeness_train == released.informativeness_test == 1
    with pytest.raises(ValueError, match="[Cc]ontinuous"):
        dci_released(as_code(true), {**classes, "x": true["x"]}, num_trees=2)


def test_released_gives_a_constant_factor_its_part_in_the_entropies() -> None:
    true = {name: values for name, values in factors(300).items() if name in "xy"}
    codes = np.random.default_rng(0).normal(size=(300, 3))
    codes[:, :2] += 2 * as_code(true)
    plain, more = (dci_released(codes, f, num_trees=10) for f in (true, {**true, "z": np.zeros(300)}))
    assert more.disentanglement == pytest.approx(1 - (1 - plain.disentanglement) * np.log(2) / np.log(3), abs=1e-6)
    assert more.informativeness_test == pytest.approx(1 / 3)
    assert more.completeness == pytest.approx(plain.completeness, abs=1e-6)  # its column has no weight


def test_released_gives_a_dead_dimension_no_weight() -> None:
    true = factors(200)
    codes = as_code(true)[:, :2]
    alive, dead = (dci_released(c, true, num_trees=5) for c in (codes, np.pad(codes, ((0, 0), (0, 1)))))
    assert dead.disentanglement == pytest.approx(alive.disentanglement, abs=1e-6)
    assert dead.completeness > alive.completeness  # the entropy is to a larger base


def test_released_needs_two_of_each() -> None:
    true = factors(60)
    with pytest.raises(ValueError, match="two"):
        dci_released(as_code(true), {"x": true["x"]})
    with pytest.raises(ValueError, match="two"):
        dci_released(as_code(true)[:, :1], true)
