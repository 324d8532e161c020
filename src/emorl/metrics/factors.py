"""True factors beside codes that should tell them: the two halves of a table, and how predictions are scored.

Axes: M objects (rows), D code width, F factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Factor:
    """A factor in the two halves of the table."""

    train: np.ndarray
    """Integers: one class each; or floats."""
    test: np.ndarray
    """Likewise."""

    @property
    def is_discrete(self) -> bool:
        """Whether values are classes, as integers and booleans are."""
        return self.train.dtype.kind in "iub"

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to learn: the training half has one value."""
        return bool((self.train == self.train[0]).all())


@dataclass(frozen=True)
class FactorScores:
    """How well each factor was predicted where nothing was learned from; two scales, so no mean over both."""

    accuracy: dict[str, float]
    """By discrete factor: the share of rows predicted right, in [0, 1]. NaN for a factor constant in training."""
    r2: dict[str, float]
    """By continuous factor: 1 - squared error / squared distance from the test rows' mean; at most 1, 0 for that mean
    itself, below 0 for worse. NaN for a factor constant in training or in test."""


@dataclass(frozen=True)
class Table:
    """Codes and factors, split in two."""

    train_codes: np.ndarray
    """M_train D, float64."""
    test_codes: np.ndarray
    """M_test D, float64."""
    factors: dict[str, Factor]
    """By name, in the order given."""

    def score(self, predictions: dict[str, np.ndarray]) -> FactorScores:
        """Scores of predictions (M_test each) by factor; what is constant in training needs none."""
        accuracy: dict[str, float] = {}
        r2: dict[str, float] = {}
        for name, factor in self.factors.items():
            found = np.nan if factor.is_constant else _score(factor, predictions[name])
            (accuracy if factor.is_discrete else r2)[name] = found
        return FactorScores(accuracy, r2)


def split(codes: np.ndarray, factors: dict[str, np.ndarray], num_train: int | None = None) -> Table:
    """Split codes and their factors in two by position.

    Rows that belong together (the objects of an image) should stand together, so that nearly all of them fall
    in one half; rows in an order that means something should be shuffled first.

    Args:
        codes: M D, float.
        factors: by name, M each: integers or booleans for a discrete factor, floats for a continuous one.
        num_train: rows for training, the first ones; the others are for the test. None: half of them.

    Returns:
        The table. At least one row in each half.

    Raises:
        ValueError: if shapes or types are others, a value is not finite, there is no factor, or a half would be empty.
    """
    codes = np.asarray(codes, dtype=np.float64)
    if codes.ndim != 2 or codes.shape[1] == 0:
        raise ValueError(f"expected codes M D, got the shape {codes.shape}")
    num_train = len(codes) // 2 if num_train is None else num_train
    if not 0 < num_train < len(codes):
        raise ValueError(f"{num_train} of {len(codes)} rows for training leaves one half of the table empty")
    if not factors:
        raise ValueError("there is no factor to predict")
    if not np.isfinite(codes).all():
        raise ValueError("the codes are not all finite")
    halves = {}
    for name, values in factors.items():
        values = np.asarray(values)
        if values.shape != (len(codes),):
            raise ValueError(f"factor {name} must have one value for each of {len(codes)} rows, not {values.shape}")
        if values.dtype.kind not in "iubf":
            raise ValueError(f"factor {name} must be integers (discrete) or floats (continuous), not {values.dtype}")
        if not np.isfinite(values).all():
            raise ValueError(f"factor {name} is not finite everywhere")
        values = values.astype(np.float64) if values.dtype.kind == "f" else values
        halves[name] = Factor(values[:num_train], values[num_train:])
    return Table(codes[:num_train], codes[num_train:], halves)


def _score(factor: Factor, predicted: np.ndarray) -> float:
    if factor.is_discrete:
        return float((predicted == factor.test).mean())
    spread = np.square(factor.test - factor.test.mean()).sum()
    return float(1 - np.square(factor.test - predicted).sum() / spread) if spread > 0 else float("nan")
