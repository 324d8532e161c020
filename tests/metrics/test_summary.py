"""Means over images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emorl.metrics.summary import summarise


def test_mean_and_population_std() -> None:
    assert summarise(np.array([1.0, 3.0])) == {"mean": 2.0, "std": 1.0, "num_images": 2}


def test_images_without_a_value_are_left_out() -> None:
    assert summarise(np.array([np.nan, 1.0, np.nan, 3.0])) == summarise(np.array([1.0, 3.0]))


def test_a_diverged_image_is_not_hidden() -> None:
    assert summarise(np.array([1.0, np.inf]))["mean"] == np.inf


@pytest.mark.parametrize("values", [np.array([]), np.array([np.nan, np.nan])])
def test_no_value_at_all(values: np.ndarray) -> None:
    summary = summarise(values)
    assert np.isnan(summary["mean"])
    assert np.isnan(summary["std"])
    assert summary["num_images"] == 0


def test_goes_into_a_file_as_it_is() -> None:
    assert json.loads(json.dumps(summarise(np.float32([0.5])))) == {"mean": 0.5, "std": 0.0, "num_images": 1}


def test_values_must_be_one_per_image() -> None:
    with pytest.raises(ValueError, match="one value per image"):
        summarise(np.zeros((2, 3)))
