"""Rays and solids: the fast answers against the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from emorl.data.clevr.scene import SHAPES
from emorl.data.clevr.solids import FILLETS, Solid, approach, intersect, normal
from tests.data.clevr import dense

DTYPES = (torch.float64, torch.float32)
NUM = 1500


def solid(shape: str, num: int, dtype: torch.dtype = torch.float64) -> Solid:
    return Solid(torch.full((num,), shape == "cylinder"), torch.full((num,), FILLETS[shape], dtype=dtype))


def put(values: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    """M 3 or M to 3 M or M."""
    return torch.tensor(values.T, dtype=dtype)


def units(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = values / np.linalg.norm(values, axis=-1, keepdims=True)
    return result


def rays(rng: np.random.Generator, num: int = NUM) -> tuple[np.ndarray, np.ndarray]:
    """Rays from all around towards points in and about a solid; they have the same value in float32."""
    origin = units(rng.normal(size=(num, 3))) * rng.uniform(2, 20, (num, 1))
    direction = units(rng.uniform(-1.3, 1.3, (num, 3)) - origin)
    return origin.astype(np.float32).astype(np.float64), direction.astype(np.float32).astype(np.float64)


def surface(shape: str, rng: np.random.Generator, num: int = NUM) -> tuple[np.ndarray, np.ndarray]:
    """Points of the surface and the normals there, by finite differences (M 3 each)."""
    origin, direction = rays(rng, 4 * num)
    t, depth = dense.enter(shape, origin, direction)
    deep = np.flatnonzero(depth < -0.02)[:num]
    point = origin[deep] + t[deep, None] * direction[deep]
    steps = 1e-6 * np.eye(3)
    slopes = [dense.distance(shape, point + step) - dense.distance(shape, point - step) for step in steps]
    return point, units(np.stack(slopes, axis=1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rays_hit_where_a_dense_search_finds_the_surface(shape: str, dtype: torch.dtype) -> None:
    origin, direction = rays(np.random.default_rng(0))
    expected, depth = dense.enter(shape, origin, direction)
    t = intersect(solid(shape, NUM, dtype), put(origin, dtype), put(direction, dtype)).double().numpy()
    assert 0.3 < np.isfinite(expected).mean() < 0.9
    clear = abs(depth) > (1e-9 if dtype == torch.float64 else 1e-5)
    np.testing.assert_array_equal(np.isfinite(t)[clear], np.isfinite(expected)[clear])
    hit = clear & (depth < -1e-3)
    np.testing.assert_allclose(t[hit], expected[hit], rtol=0, atol=1e-11 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("by", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("shape", SHAPES)
def test_grazing_rays(shape: str, by: float) -> None:
    """Lines along the surface, a little above and a little below it.

    Nearer than a thousandth, a fiftieth of a pixel, a ray that passes may count as one that hits.
    """
    rng = np.random.default_rng(1)
    point, up = surface(shape, rng)
    along = units(np.cross(up, rng.normal(size=up.shape)))
    for side in (1, -1):
        origin = point + side * by * up - 5 * along
        expected, _ = dense.enter(shape, origin, along)
        t = intersect(solid(shape, len(point)), put(origin), put(along)).numpy()
        hit = np.isfinite(t)
        assert hit[np.isfinite(expected)].all()
        if by >= 1e-3:
            np.testing.assert_array_equal(hit, np.isfinite(expected))
        assert abs(dense.distance(shape, origin[hit] + t[hit, None] * along[hit])).max(initial=0) < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_a_solid_behind_or_beside_a_ray_is_missed(shape: str) -> None:
    rng = np.random.default_rng(2)
    origin = units(rng.normal(size=(NUM, 3))) * rng.uniform(1.8, 9, (NUM, 1))
    away = origin + 0.5 * rng.normal(size=origin.shape)
    away = units(np.where((away * origin).sum(1, keepdims=True) > 0, away, -away))
    assert intersect(solid(shape, NUM), put(origin), put(away)).isinf().all()
    axes = torch.eye(3, dtype=torch.float64)
    for shift, expected in ((0.0, 2.0), (1.001, torch.inf)):
        start = -3 * axes + shift * axes.roll(1, dims=0)
        assert intersect(solid(shape, 3), start, axes).tolist() == pytest.approx([expected] * 3)


@pytest.mark.parametrize("steps", [7, 15])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_approach_is_the_lowest_of_a_dense_search(shape: str, dtype: torch.dtype, steps: int) -> None:
    """In the bracket that shadows use; an outline is right to a thousandth of the half-height in seven steps."""
    origin, direction = rays(np.random.default_rng(3))
    middle = -(origin * direction).sum(axis=1)
    low, high = np.maximum(middle - 3**0.5, 0), middle + 3**0.5
    _, expected = dense.lowest(shape, origin, direction, low, high)
    o, d, start, stop = (put(values, dtype) for values in (origin, direction, low, high))
    found = approach(solid(shape, NUM, dtype), o, d, start, stop, steps)
    excess = found.distance.double().numpy() - expected
    assert excess.min() > (-1e-9 if dtype == torch.float64 else -3e-6)
    assert excess.max() < (2e-3 if steps == 7 else 2e-5)
    assert excess.mean() < (1e-4 if steps == 7 else 1e-6)
    np.testing.assert_allclose(found.normal.double().norm(dim=0), 1, rtol=0, atol=1e-6)
    at = origin + found.t.double().numpy()[:, None] * direction
    np.testing.assert_allclose(dense.distance(shape, at), found.distance.double().numpy(), rtol=0, atol=5e-6)
    assert ((found.t.double().numpy() >= low - 1e-5) & (found.t.double().numpy() <= high + 1e-5)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_approach_may_be_at_an_end(shape: str) -> None:
    """Segments that stop short of the solid, or start behind its nearest place: the search halves towards the end."""
    origin, direction = rays(np.random.default_rng(4))
    middle = -(origin * direction).sum(axis=1)
    for low, high, end in ((middle - 6, middle - 2, middle - 2), (middle + 2, middle + 6, middle + 2)):
        found = approach(solid(shape, NUM), put(origin), put(direction), put(low), put(high), steps=7)
        excess = found.distance.numpy() - dense.distance(shape, origin + end[:, None] * direction)
        assert -1e-9 < excess.min() and excess.max() < 4 / 2**5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_normals_are_finite_differences(shape: str, dtype: torch.dtype) -> None:
    point, expected = surface(shape, np.random.default_rng(5))
    result = normal(solid(shape, len(point), dtype), put(point, dtype)).double().numpy().T
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-8 if dtype == torch.float64 else 1e-5)


def reach(shape: str, *direction: float) -> float:
    """From the centre to the surface."""
    along = torch.tensor([direction], dtype=torch.float64).T
    along /= along.norm()
    return 4 - float(intersect(solid(shape, 1), 4 * along, -along))


def test_sizes_of_the_published_models() -> None:
    """Data set specification, section 3.3.4."""
    for shape in SHAPES:
        assert [reach(shape, *axis) for axis in np.eye(3)] == pytest.approx([1, 1, 1])
    assert reach("cube", 1, 1, 1) == pytest.approx(1.599, abs=0.01)
    assert reach("cube", 1, -1, 0) == pytest.approx(1.341, abs=0.01)
    assert reach("sphere", 1, 2, 3) == pytest.approx(1)
    assert [reach("cylinder", np.cos(turn), np.sin(turn), 0) for turn in (0.3, 2.0)] == pytest.approx([1, 1])
    assert reach("cylinder", 1, 0, 1) == pytest.approx(2**0.5 - FILLETS["cylinder"] * (2**0.5 - 1), abs=1e-6)
