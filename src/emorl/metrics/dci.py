"""Disentanglement, completeness and informativeness of codes whose objects' factors are known.

Eastwood & Williams, "A framework for the quantitative evaluation of disentangled representations" (ICLR 2018). Each
factor is predicted from the whole code by gradient boosted trees; R (D F) says how much each dimension served each
factor: the impurity that its splits took away, every column summing to one. A dimension is disentangled if its row of R
has one factor, a factor is completely captured if its column has one dimension. With H_n the entropy to base n:

    D = sum_d weight_d (1 - H_F(row d, normalised)),    weight_d = sum of row d / sum of R
    C = mean over factors of 1 - H_D(column f)

`dci` is this definition, `dci_released` what the released code of EfficientMORL computes. In both, the trees are those
of scikit-learn's exact gradient boosting with its own settings, as in disentanglement_lib; its histogram boosting
is faster but does not say what its splits were worth. EfficientMORL's codes are slots matched to objects
(`properties.match_slots`).

Axes: M objects (rows), D code width, F factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import entr

from emorl.metrics.factors import FactorScores, split


@dataclass(frozen=True)
class DCI:
    """Scores of codes against factors, with what they were made of."""

    disentanglement: float
    """In [0, 1]: mean over code dimensions, weighted by their importance. 0 if no dimension served any factor; NaN with
    fewer than two factors that vary."""
    completeness: float
    """In [0, 1]: mean over factors that vary. NaN if there is none, or if the code has one dimension."""
    informativeness: FactorScores
    """Accuracy and R^2 by factor, on the test half."""
    importance: np.ndarray
    """D F, float64: R. Columns sum to one; a column is zero if its factor is constant, or no dimension served it."""
    factors: tuple[str, ...]
    """F names: the columns."""
    disentanglement_per_code: np.ndarray
    """D, in [0, 1]; NaN for a dimension that served no factor."""
    completeness_per_factor: np.ndarray
    """F, in [0, 1]; 0 for a factor that no dimension served, NaN for a constant one."""


def dci(
    codes: np.ndarray,
    factors: dict[str, np.ndarray],
    *,
    num_train: int | None = None,
    num_trees: int = 100,
    seed: int = 0,
) -> DCI:
    """Disentanglement, completeness and informativeness as defined.

    A factor with one value in the training half says nothing: it is left out of D and C.

    Args:
        codes: M D, float. For EfficientMORL the means of the final posterior.
        factors: by name, M each: integers for a discrete factor (a classifier predicts it), floats for a
            continuous one (a regressor). An angle is taken as the number it is.
        num_train: the first rows, to learn from; the others are for the test. None: half of them. The paper's halves
            are random: `MatchedSlots.shuffled` mixes rows.
        num_trees: boosting rounds per factor; a round is one tree, or one per class if there are more than two.
            Time is about 20 us per tree, row and 64 dimensions.
        seed: breaks ties between equally good splits.

    Raises:
        ValueError: if shapes or types are others, a value is not finite, there is no factor, or a half is empty.
    """
    table = split(codes, factors, num_train)
    importance = np.zeros((table.train_codes.shape[1], len(table.factors)))
    predictions = {}
    for column, (name, factor) in enumerate(table.factors.items()):
        if factor.is_constant:
            continue
        trees = _boosted_trees(factor.is_discrete, num_trees, seed).fit(table.train_codes, factor.train)
        importance[:, column] = trees.feature_importances_
        predictions[name] = trees.predict(table.test_codes)

    varies = np.array([not factor.is_constant for factor in table.factors.values()])  # F
    per_code = _concentration(importance[:, varies])  # D
    per_factor = _concentration(importance.T)  # F
    if len(importance) > 1:
        per_factor[varies & ~importance.any(axis=0)] = 0.0
    weight = importance.sum(axis=1)  # D
    disentanglement = np.nansum(per_code * weight) / weight.sum() if weight.any() else 0.0
    return DCI(
        disentanglement=float(disentanglement) if varies.sum() > 1 else float("nan"),
        completeness=float(per_factor[varies].mean()) if varies.any() else float("nan"),
        informativeness=table.score(predictions),
        importance=importance,
        factors=tuple(table.factors),
        disentanglement_per_code=per_code,
        completeness_per_factor=per_factor,
    )


@dataclass(frozen=True)
class ReleasedDCI:
    """What the released code of EfficientMORL reports."""

    disentanglement: float
    """In [0, 1]."""
    completeness: float
    """In [0, 1]: weighted by the sums of the columns."""
    informativeness_train: float
    """In [0, 1]: the share of predictions that equal the truth in every bit, mean over factors; training half."""
    informativeness_test: float
    """The same on the test half."""
    importance: np.ndarray
    """D F, float64."""
    factors: tuple[str, ...]
    """F names: the columns."""


def dci_released(
    codes: np.ndarray,
    factors: dict[str, np.ndarray],
    *,
    num_train: int | None = None,
    num_trees: int = 100,
    seed: int = 0,
) -> ReleasedDCI:
    """DCI as the released code of EfficientMORL computes it (lib/dci.py), with its faults; for comparison only.

    Two things differ from `dci`. The kind of predictor is chosen for the first factor and kept: on CLEVR that is x, so
    classes are regressed too. And informativeness is exact equality of prediction and truth, which a
    regressor practically never reaches. A constant factor has its part in the entropies.

    Arguments are those of `dci`, with at least two factors and two code dimensions; the order of the factors counts.

    Raises:
        ValueError: as `dci`; and if a discrete factor comes first and a continuous or constant one after it,
            which no classifier takes.
    """
    table = split(codes, factors, num_train)
    importance = np.zeros((table.train_codes.shape[1], len(table.factors)))
    if min(importance.shape) < 2:
        raise ValueError(f"entropy needs at least two code dimensions and two factors, got {importance.shape}")
    first = next(iter(table.factors.values()))
    equal_train, equal_test = [], []
    for column, factor in enumerate(table.factors.values()):
        trees = _boosted_trees(first.is_discrete, num_trees, seed).fit(table.train_codes, factor.train)
        importance[:, column] = trees.feature_importances_
        equal_train.append((trees.predict(table.train_codes) == factor.train).mean())
        equal_test.append((trees.predict(table.test_codes) == factor.test).mean())

    weight = importance if importance.any() else np.ones_like(importance)
    weight = weight / weight.sum()  # D F
    positive = importance + 1e-11  # as released: a row or column of zeros becomes a uniform one
    return ReleasedDCI(
        disentanglement=float((_concentration(positive) * weight.sum(axis=1)).sum()),
        completeness=float((_concentration(positive.T) * weight.sum(axis=0)).sum()),
        informativeness_train=float(np.mean(equal_train)),
        informativeness_test=float(np.mean(equal_test)),
        importance=importance,
        factors=tuple(table.factors),
    )


def _boosted_trees(classify: bool, num_trees: int, seed: int) -> Any:
    """Scikit-learn's exact gradient boosting, whose importances are the impurity that splits took away."""
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    kind = GradientBoostingClassifier if classify else GradientBoostingRegressor
    return kind(n_estimators=num_trees, random_state=seed)


def _concentration(rows: np.ndarray) -> np.ndarray:
    """One minus the entropy of each row, A n -> A: 1 for a single entry, 0 for equal ones.

    The base is n, and rows need not sum to one. NaN for a row of zeros, and everywhere if n is below 2.
    """
    result = np.full(len(rows), np.nan)
    used = rows.any(axis=1)
    if rows.shape[1] > 1 and used.any():
        shares = rows[used] / rows[used].sum(axis=1, keepdims=True)
        result[used] = np.clip(1 - entr(shares).sum(axis=1) / np.log(rows.shape[1]), 0, 1)
    return result
