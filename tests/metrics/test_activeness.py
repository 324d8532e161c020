"""Activeness of linear decoders, whose variance is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from emorl.metrics.activeness import activeness, value_grid, variance_over_values

N, K, D, S, C, H, W = 5, 3, 4, 6, 3, 7, 8


def test_grid_spans_the_samples_of_all_images_and_slots() -> None:
    samples = np.random.default_rng(0).normal(size=(N, K, D)).astype(np.float32)
    samples[..., 2] = 1.5
    grid = value_grid(samples)
    assert grid.shape == (D, S)
    np.testing.assert_array_equal(grid[:, 0], samples.reshape(-1, D).min(axis=0))
    np.testing.assert_array_equal(grid[:, -1], samples.reshape(-1, D).max(axis=0))
    np.testing.assert_allclose(np.diff(grid, n=2, axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(grid[2], 1.5)


def test_a_linear_decoder_has_the_activeness_of_its_weights() -> None:
    """x = sum_k w z_k: the variance of dimension d is that of its values times the mean of w_d squared."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(D, C, H, W))
    weights[1] = 0
    samples = rng.normal(size=(N, K, D))
    grid, chosen = value_grid(samples), rng.integers(K, size=N)

    def renderings() -> Iterator[np.ndarray]:
        for dimension in range(D):
            codes = np.repeat(samples[:, None], S, axis=1)  # N S K D
            for value in range(S):
                codes[np.arange(N), value, chosen, dimension] = grid[dimension, value]
            yield np.einsum("nskd,dchw->nschw", codes, weights)

    # Of n equal steps of length h the unbiased variance is h^2 n (n + 1) / 12, n the number of points.
    expected = np.diff(grid, axis=1)[:, 0] ** 2 * S * (S + 1) / 12 * np.square(weights).mean(axis=(1, 2, 3))
    found = activeness(renderings())
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-20)
    assert found[1] == pytest.approx(0, abs=1e-20)


def test_variance_is_unbiased_and_one_value_per_image() -> None:
    renderings = np.random.default_rng(1).random((N, S, C, H, W), dtype=np.float32)
    expected = [np.var(image.astype(np.float64), axis=0, ddof=1).mean() for image in renderings]
    np.testing.assert_allclose(variance_over_values(renderings), expected, rtol=1e-12)
    assert activeness([renderings, renderings[:2]])[1] == pytest.approx(np.mean(expected[:2]))


def test_a_picture_that_does_not_change_is_not_active() -> None:
    renderings = np.repeat(np.random.default_rng(2).random((N, 1, C, H, W)), S, axis=1)
    np.testing.assert_allclose(variance_over_values(renderings), 0, atol=1e-30)


def test_order_of_values_and_a_constant_do_not_matter() -> None:
    renderings = np.random.default_rng(3).random((N, S, C, H, W))
    np.testing.assert_allclose(
        variance_over_values(renderings[:, ::-1] + 2), variance_over_values(renderings), rtol=1e-10
    )


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="N K D"):
        value_grid(np.zeros((4, 5)))
    with pytest.raises(ValueError, match="N K D"):
        value_grid(np.zeros((0, 5, 6)))
    with pytest.raises(ValueError, match="two values"):
        value_grid(np.zeros((2, 3, 4)), num_values=1)
    with pytest.raises(ValueError, match="two values"):
        variance_over_values(np.zeros((N, 1, C, H, W)))
    with pytest.raises(ValueError, match="N S C H W"):
        variance_over_values(np.zeros((N, S, H, W)))
    with pytest.raises(ValueError, match="floats"):
        variance_over_values(np.zeros((N, S, C, H, W), np.uint8))
    with pytest.raises(ValueError, match="no"):
        activeness([np.zeros((0, S, C, H, W))])
