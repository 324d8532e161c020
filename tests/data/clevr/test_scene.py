"""Scenes follow the laws of the original generator."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import stats

from emorl.data.clevr.scene import (
    BEHIND,
    CAMERA,
    COVE,
    LAMPS,
    MAX_OBJECTS,
    RIGHT,
    SIZES,
    Scenes,
    place_objects,
    project,
    sample_view,
    view_axes,
)

NUM = 4000
INDEX = np.arange(NUM)
COUNTS = {"size": 2, "shape": 3, "color": 8, "material": 2}


@pytest.fixture(scope="module")
def drawn() -> tuple[Scenes, np.ndarray]:
    """One attempt at many scenes, and which of them found room."""
    return place_objects(0, INDEX, 0, sample_view(0, INDEX, (3, 10)))


def assert_same(a: Scenes, b: Scenes) -> None:
    for name, values in vars(a).items():
        np.testing.assert_array_equal(values, getattr(b, name), err_msg=name, strict=True)


def test_the_camera_of_a_real_record() -> None:
    """Two objects of the first record of CLEVR with masks, and the camera that they give."""
    camera = np.array([[7.3132, -6.5115, 5.4353]])
    centers = np.array([[(0.754801, 1.772223, 0.7), (1.661774, -0.613287, 0.7)]])
    col, row, depth = project(camera, centers)[0].T
    np.testing.assert_allclose(col, [216, 184], rtol=0, atol=0.5)
    np.testing.assert_allclose(row, [92, 127], rtol=0, atol=0.5)
    np.testing.assert_allclose(depth, [11.397213, 9.417616], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((0, 0, 0), (160, 120, 11.26)),
        ((3, 3, 0), (294.6, 124.4, 11.00)),
        ((-3, -3, 0), (31.4, 115.8, 11.52)),
        ((3, -3, 0), (146.3, 213.2, 7.54)),
        ((-3, 3, 0), (166.9, 73.1, 14.99)),
    ],
)
def test_places_in_the_picture(point: tuple[float, ...], expected: tuple[float, ...]) -> None:
    """Data set specification, section 3.3.3."""
    result = project(CAMERA[None], np.array([[point]], float))[0, 0]
    assert (abs(result - expected) < [0.0501, 0.0501, 0.00501]).all()


def test_the_camera_looks_at_the_origin_with_the_sky_above() -> None:
    view = sample_view(3, INDEX[:200], (3, 10))
    axes = view_axes(view.camera)
    np.testing.assert_allclose(axes @ axes.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (200, 3, 3)), atol=1e-15)
    np.testing.assert_allclose(np.linalg.det(axes), 1)
    np.testing.assert_allclose(np.cross(axes[:, 2], view.camera), 0, atol=1e-14)
    assert (axes[:, 0, 2] == 0).all() and (axes[:, 1, 2] > 0).all()
    middle = project(view.camera, np.zeros((200, 1, 3)))[:, 0]
    np.testing.assert_allclose(middle[:, :2], np.broadcast_to([160, 120], (200, 2)))
    np.testing.assert_allclose(middle[:, 2], np.linalg.norm(view.camera, axis=1))
    # Pitch and the constant directions are those of the camera before jitter.
    right, _, back = view_axes(CAMERA[None])[0]
    assert np.degrees(np.arcsin(back[2])) == pytest.approx(28.3, abs=0.1)
    np.testing.assert_allclose(right[:2], RIGHT, atol=1e-5)
    np.testing.assert_allclose(-back[:2] / np.hypot(*back[:2]), BEHIND, atol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(3, 10), (3, 6), (7, 10), (4, 4)])
def test_the_number_of_objects_is_uniform(low: int, high: int) -> None:
    counts = np.bincount(sample_view(0, INDEX, (low, high)).num_objects, minlength=MAX_OBJECTS + 1)
    assert counts[low : high + 1].sum() == NUM
    if high > low:
        assert stats.chisquare(counts[low : high + 1]).pvalue > 1e-3


def test_jitter_of_camera_and_lamps_is_uniform_in_its_box() -> None:
    view = sample_view(0, INDEX, (3, 10))
    lamps = view.lamps - np.array([lamp.position for lamp in LAMPS])
    jitter = np.concatenate([2 * (view.camera - CAMERA), lamps.reshape(NUM, 9)], axis=1)
    assert abs(jitter).max() <= 1
    assert all(stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > 1e-3 for values in jitter.T)
    correlations = np.corrcoef(jitter.T)[np.triu_indices(12, 1)]
    assert abs(correlations).max() < 5 / NUM**0.5


def test_objects_keep_gap_and_margin(drawn: tuple[Scenes, np.ndarray]) -> None:
    """Of the half-heights, and along the two constant directions: no pair of any scene is too close."""
    scenes, found = drawn
    assert 0.6 < found.mean() < 0.95
    scenes = scenes[np.flatnonzero(found)]
    first, second = np.triu_indices(MAX_OBJECTS, 1)
    both = (scenes.size[:, first] > 0) & (scenes.size[:, second] > 0)
    offset = scenes.position[:, second] - scenes.position[:, first]
    gap = np.linalg.norm(offset, axis=-1) - scenes.half_height[:, first] - scenes.half_height[:, second]
    margins = abs(offset @ np.stack([RIGHT, BEHIND], axis=1))
    assert gap[both].min() >= 0.25 and margins[both].min() >= 0.4
    # It is the bound that keeps them apart.
    assert gap[both].min() < 0.26 and margins[both].min() < 0.41


def test_objects_lie_in_the_square_and_empty_places_last(drawn: tuple[Scenes, np.ndarray]) -> None:
    scenes, _ = drawn
    assert abs(scenes.position).max() <= 3
    present = np.arange(MAX_OBJECTS) < scenes.num_objects[:, None]
    for name, count in COUNTS.items():
        codes = getattr(scenes, name)
        assert ((codes > 0) == present).all() and codes.max() == count, name
    assert not scenes.position[~present].any() and not scenes.rotation[~present].any()
    np.testing.assert_array_equal(scenes.half_height[present], SIZES[scenes.size[present] - 1])
    assert not scenes.half_height[~present].any()


def test_factors_are_uniform_and_independent(drawn: tuple[Scenes, np.ndarray]) -> None:
    scenes, _ = drawn
    present = scenes.size > 0
    for name, count in COUNTS.items():
        drawn_codes = np.bincount(getattr(scenes, name)[present], minlength=count + 1)
        assert drawn_codes[0] == 0 and stats.chisquare(drawn_codes[1:]).pvalue > 1e-3, name
    names = list(COUNTS)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            pairs = getattr(scenes, name)[present], getattr(scenes, other)[present]
            assert stats.chi2_contingency(np.histogram2d(*pairs, bins=(COUNTS[name], COUNTS[other]))[0]).pvalue > 1e-3
    assert stats.kstest(scenes.rotation[present], stats.uniform(0, 360).cdf).pvalue > 1e-3
    # The first object finds its place at once.
    assert all(stats.kstest(values, stats.uniform(-3, 6).cdf).pvalue > 1e-3 for values in scenes.position[:, 0].T)


def test_seed_index_and_attempt_fix_a_scene() -> None:
    order = np.random.default_rng(0).permutation(300)[:100]
    whole, found = place_objects(5, INDEX[:300], 2, sample_view(5, INDEX[:300], (3, 10)))
    some, found_some = place_objects(5, order, 2, sample_view(5, order, (3, 10)))
    assert_same(some, whole[order])
    np.testing.assert_array_equal(found_some, found[order])
    view = sample_view(5, order, (3, 10))
    again, _ = place_objects(5, order, 3, view)
    assert (again.position[:, 0] != some.position[:, 0]).all()
    for name in ("camera", "lamps", "num_objects"):
        np.testing.assert_array_equal(getattr(again, name), getattr(some, name))
    assert (sample_view(6, order, (3, 10)).camera != view.camera).all()


def test_scenes_are_put_over_others() -> None:
    view = sample_view(0, INDEX[:6], (3, 10))
    filled, _ = place_objects(0, INDEX[:6], 0, view)
    rows = np.array([4, 1])
    view.put(rows, filled[rows])
    assert_same(view[rows], filled[rows])
    assert not view[np.array([0, 2, 3, 5])].size.any()


def test_scenes_of_version_one_stay(drawn: tuple[Scenes, np.ndarray]) -> None:
    """Results name scenes by seed and index: change these bits and VERSION together."""
    scenes, _ = drawn
    digest = hashlib.sha256(b"".join(values.tobytes() for values in vars(scenes).values())).hexdigest()
    assert digest == "00593ec03d06160fb04aecd0985b684138dde0d6dbbc4f8f21e0fd6c8f632409"


def test_a_square_lamp_gives_what_its_strength_says() -> None:
    """A quarter of the strength over the area, in its colour."""
    for lamp, irradiance in zip(LAMPS, (25.0, 7.5, 12.5), strict=True):
        np.testing.assert_allclose(lamp.radiance * lamp.side**2, irradiance * np.array(lamp.color))


def test_the_profile_of_the_ground_is_convex() -> None:
    slopes = np.diff(COVE[:, 1]) / np.diff(COVE[:, 0])
    assert (np.diff(COVE[:, 0]) > 0).all() and (np.diff(slopes) > 0).all()
