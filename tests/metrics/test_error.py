"""Squared error on the scale [0, 1]."""

from __future__ import annotations

import numpy as np
import pytest

from emorl.metrics.error import mse


def test_nothing_wrong_is_zero_and_everything_wrong_is_one() -> None:
    black, white = np.zeros((2, 3, 4, 5), dtype=np.uint8), np.full((2, 3, 4, 5), 255, dtype=np.uint8)
    np.testing.assert_array_equal(mse(black, black), 0.0)
    np.testing.assert_array_equal(mse(black, white), 1.0)


def test_is_the_mean_over_pixels_and_channels_of_each_image() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    reconstructions = rng.random((3, 4, 5, 3), dtype=np.float32)
    expected = [((images[i] / 255 - reconstructions[i]) ** 2).sum() / 60 for i in range(3)]
    np.testing.assert_allclose(mse(images, reconstructions), expected, rtol=1e-12)


def test_bytes_and_unit_range_are_the_same_picture() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert mse(images, images / 255) == 0.0


def test_half_precision_is_averaged_in_double() -> None:
    images = np.full((1, 300, 300), 0.1, dtype=np.float16)
    assert mse(images, np.zeros_like(images))[0] == pytest.approx(float(images[0, 0, 0]) ** 2, rel=1e-9)


def test_other_shapes_and_integers_are_refused() -> None:
    images = np.zeros((2, 5, 5, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="axis order"):
        mse(images, np.zeros((2, 3, 5, 5)))
    with pytest.raises(ValueError, match="uint8"):
        mse(images, images.astype(np.int64))
