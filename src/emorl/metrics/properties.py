"""What the slots say of their objects: properties predicted from codes by simple predictors.

As in Dittadi et al., "Generalization and robustness implications in object-centric learning" (ICML 2022): slots are
matched to objects by their masks, and simple predictors try to read each property from the code of its object. What
a linear model reads is there for anyone; what only a small network reads is there, but entangled.

Axes: N images, K slots, E entities (background first), M matched objects (rows), D slot width, H W pixels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from emorl.metrics.contingency import contingency
from emorl.metrics.factors import FactorScores, split
from emorl.metrics.iou import match


@dataclass(frozen=True)
class MatchedSlots:
    """One row per object that has a slot."""

    codes: np.ndarray
    """M D: the code of the object's slot."""
    image: np.ndarray
    """M, int64: the position of its image in the batch."""
    entity: np.ndarray
    """M, int64, 1 to E - 1: which object of the image."""
    slot: np.ndarray
    """M, int64: which slot."""
    num_dropped: int
    """Real objects that have no row: too little of them is seen, or other objects took their slots."""

    def shuffled(self, seed: int) -> MatchedSlots:
        """The same rows in a random order, which the seed fixes."""
        order = np.random.default_rng(seed).permutation(len(self.codes))
        return MatchedSlots(
            self.codes[order], self.image[order], self.entity[order], self.slot[order], self.num_dropped
        )

    def factors(self, factors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The true factors of the rows, one number each.

        Args:
            factors: by name, N E or N E C, as data sources give them.

        Returns:
            By name, M each; a factor of C numbers becomes `name_0` to `name_{C-1}`.
        """
        rows: dict[str, np.ndarray] = {}
        for name, values in factors.items():
            chosen = np.asarray(values)[self.image, self.entity]  # M or M C
            rows |= {name: chosen} if chosen.ndim == 1 else {f"{name}_{i}": part for i, part in enumerate(chosen.T)}
        return rows


def match_slots(
    codes: np.ndarray,
    predicted_labels: np.ndarray,
    true_labels: np.ndarray,
    visibility: np.ndarray,
    *,
    min_pixels: float = 0,
    min_iou: float = 0,
) -> MatchedSlots:
    """Say which slot stands for which object: the matching one to one of the largest sum of IoU (`iou.match`).

    The background is not matched, so its slot may go to an object that has none better.

    Args:
        codes: N K D.
        predicted_labels: N H W, integers below K: the argmax of the masks over slots.
        true_labels: N H W, integers below E, 0 = background.
        visibility: N E, above 0 for the background and each real object.
        min_pixels: an object with fewer in the true labels has no row,
        min_iou: nor has one that overlaps less with its slot.

    Returns:
        A row for every other real object that has a slot, in order of image and object, and the number of real objects
        without a row.

    Raises:
        ValueError: if shapes do not fit together, a label names no slot or no entity, or a mask shows an object
            that visibility denies.
    """
    codes, visibility = np.asarray(codes), np.asarray(visibility)
    if codes.ndim != 3 or visibility.ndim != 2 or not len(codes) == len(visibility) == len(true_labels):
        raise ValueError(
            f"expected codes N K D, labels N H W and visibility N E of the same images, got {codes.shape}, "
            f"{np.shape(true_labels)} and {visibility.shape}"
        )
    predicted, iou = match(true_labels, predicted_labels)  # N T, both
    if predicted.shape[1] > visibility.shape[1]:
        raise ValueError(f"label {predicted.shape[1] - 1} names no entity: visibility knows {visibility.shape[1]}")
    if np.size(predicted_labels) and np.max(predicted_labels) >= codes.shape[1]:
        raise ValueError(f"label {np.max(predicted_labels)} names no slot: there are {codes.shape[1]}")
    real = visibility[:, : predicted.shape[1]] > 0  # N T
    if (np.isfinite(iou) & ~real).any():
        raise ValueError("a mask shows an object whose visibility is 0")

    sizes = contingency(true_labels, predicted_labels).sum(axis=2)  # N T
    image, entity = np.nonzero((predicted >= 0) & (iou >= min_iou) & (sizes >= min_pixels))
    slot = predicted[image, entity]
    num_objects = int((visibility[:, 1:] > 0).sum())
    return MatchedSlots(codes[image, slot], image, entity, slot, num_objects - len(image))


def linear_probe(codes: np.ndarray, factors: dict[str, np.ndarray], num_train: int | None = None) -> FactorScores:
    """Predict each factor from standardised codes by a linear model: logistic regression or ridge.

    Args:
        codes: M D, float.
        factors: by name, M each: integers for a discrete factor, floats for a continuous one.
        num_train: the first rows, to learn from; the others are scored. None: half of them.

    Returns:
        Accuracy of the discrete factors and R^2 of the continuous ones on the rows not learned from.

    Raises:
        ValueError: if shapes or types are others, a value is not finite, there is no factor, or a half is empty.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    return _probe(codes, factors, num_train, LogisticRegression(max_iter=1000), Ridge())


def mlp_probe(
    codes: np.ndarray,
    factors: dict[str, np.ndarray],
    num_train: int | None = None,
    *,
    num_hidden: int = 256,
    num_epochs: int = 100,
    seed: int = 0,
) -> FactorScores:
    """Predict each factor from standardised codes by a network of one hidden layer of ReLUs, trained by Adam.

    Args:
        codes: M D, float.
        factors: by name, M each: integers for a discrete factor, floats for a continuous one.
        num_train: the first rows, to learn from; the others are scored. None: half of them.
        num_hidden: units of the hidden layer.
        num_epochs: passes over the training rows, in batches of at most 200; always so many.
        seed: of the weights and of the order of rows.

    Returns:
        As `linear_probe`.

    Raises:
        ValueError: as `linear_probe`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    chosen = {
        "hidden_layer_sizes": (num_hidden,),
        "max_iter": num_epochs,
        "n_iter_no_change": num_epochs,
        "random_state": seed,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is a choice, not a failure
        return _probe(codes, factors, num_train, MLPClassifier(**chosen), MLPRegressor(**chosen))


def _probe(
    codes: np.ndarray, factors: dict[str, np.ndarray], num_train: int | None, classifier: Any, regressor: Any
) -> FactorScores:
    """Fit a fresh copy of one of the two to each factor that varies."""
    from sklearn.base import clone
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regressor = TransformedTargetRegressor(regressor, transformer=StandardScaler())
    table = split(codes, factors, num_train)
    predictions = {}
    for name, factor in table.factors.items():
        if not factor.is_constant:
            predictor = make_pipeline(StandardScaler(), clone(classifier if factor.is_discrete else regressor))
            predictions[name] = predictor.fit(table.train_codes, factor.train).predict(table.test_codes)
    return table.score(predictions)
