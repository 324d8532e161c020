"""What is visible of a slot, where it is, and how its code goes when it moves."""

from __future__ import annotations

import numpy as np
import torch

from emorl.feed import feed
from emorl.runs import find_weights, load_weights
from emorl.web.handles import MIN_OBJECTS, centroids, motion_of, moves_of, objects, terms, visible


def test_where_slots_agree_none_is_visible() -> None:
    colours = torch.rand(1, 1, 3, 5, 7).expand(1, 4, 3, 5, 7)
    assert visible(torch.randn(1, 4, 1, 5, 7), colours).max() < 1e-6


def test_a_slot_is_as_visible_as_the_picture_changes_without_it() -> None:
    logits, colours = torch.randn(2, 3, 1, 5, 7), torch.rand(2, 3, 3, 5, 7)
    shown = visible(logits, colours)
    assert shown.shape == (2, 3, 5, 7)

    def mixture(slots: list[int]) -> torch.Tensor:
        return (logits[:, slots].softmax(dim=1) * colours[:, slots]).sum(dim=1)

    for k in range(3):
        change = mixture([0, 1, 2]) - mixture([j for j in range(3) if j != k])
        torch.testing.assert_close(shown[:, k], change.abs().amax(dim=1))
    alone = visible(logits[:, :1], colours[:, :1])  # without it there is black
    torch.testing.assert_close(alone[:, 0], colours[:, 0].amax(dim=1))


def test_the_centroid_of_a_blob_is_its_middle() -> None:
    shown = torch.zeros(2, 9, 12)
    shown[0, 2:5, 7:10] = 0.8
    shown[0, 8, 0] = 0.1  # too faint to count
    found = centroids(shown)
    torch.testing.assert_close(found[0], torch.tensor([8.0, 3.0]))  # column, row
    assert found[1].isnan().all()


def test_planted_motion_is_found() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 30, (4000, 2))
    curve = rng.normal(size=(5, 6))
    low, high = np.quantile(places, [0.1, 0.9], axis=0)
    look = rng.normal(scale=0.1, size=(4000, 6))  # what shape and colour do to the code
    found = motion_of(terms((places - low) / (high - low)) @ curve + look + 3, places)
    assert found is not None
    np.testing.assert_allclose(found.curve, curve, atol=0.1)
    np.testing.assert_allclose([found.low, found.high], [low, high])


def test_no_motion_is_made_up() -> None:
    codes, places = np.random.default_rng(0).normal(size=(100, 5)), np.random.default_rng(1).normal(size=(100, 2))
    assert motion_of(codes, places) is not None
    assert motion_of(codes[: MIN_OBJECTS - 1], places[: MIN_OBJECTS - 1]) is None
    for few in (places * [0, 1], places[:, :1] @ [[1.0, 2]], np.sign(places)):  # two lines, and four places
        assert motion_of(codes, few) is None


def test_the_surface_is_quadratic_inside_and_goes_on_as_its_tangent() -> None:
    inside = np.random.default_rng(0).uniform(0, 1, (50, 2))
    u, w = inside.T
    np.testing.assert_allclose(terms(inside), np.stack([u, w, u**2, u * w, w**2], axis=1))
    for border in (np.array([0.3, 1.0]), np.array([0.0, 0.6]), np.array([1.0, 1.0])):
        away = np.where(border == 1, 1, np.where(border == 0, -1, 0))
        steps = np.array([[0], [0.001], [1], [2], [3]]) * away
        values = terms(border + steps)
        np.testing.assert_allclose(np.diff(values, axis=0), np.diff(steps, axis=0) @ _slope(border), atol=1e-9)


def _slope(place: np.ndarray) -> np.ndarray:
    """Of u, w, u^2, u w, w^2 at a place: 2 5."""
    u, w = place
    return np.array([[1, 0, 2 * u, w, 0], [0, 1, 0, u, 2 * w]])


def test_a_dimension_that_moves_objects_is_named_with_its_direction() -> None:
    rng = np.random.default_rng(0)
    codes = rng.normal(scale=[2, 1, 1], size=(500, 3))
    places = 10 + codes @ np.array([[3.0, 0], [0, -4], [0, 0]])
    np.testing.assert_allclose(moves_of(codes, places), [[6, 0], [0, -4], [0, 0]], atol=0.3)
    assert not moves_of(codes[:5], places[:5]).any()


def test_nano_codes_go_with_the_places_of_objects() -> None:
    """What dragging rests on: codes tell the place linearly, and go with it on a quadratic surface."""
    model, about = load_weights(find_weights("nano"))
    codes, places = objects(model, feed(about).source)
    assert len(codes) > 400  # three in each of 200 scenes, some of them hidden or merged
    design = np.pad(codes, ((0, 0), (0, 1)), constant_values=1)
    fit, *_ = np.linalg.lstsq(design[::2], places[::2], rcond=None)
    missed = np.linalg.norm(design[1::2] @ fit - places[1::2], axis=1)
    assert np.median(missed) < 2
    unexplained = _left_out(np.zeros((len(codes), 0)), codes)
    low, high = np.quantile(places, [0.1, 0.9], axis=0)
    curved = terms((places - low) / (high - low))
    assert _left_out(curved, codes) < 0.93 * _left_out(curved[:, :2], codes) < 0.5 * unexplained


def _left_out(found: np.ndarray, codes: np.ndarray) -> float:
    """Squared error of codes M D, each regressed on terms M T by all the others."""
    design = np.pad(found, ((0, 0), (0, 1)), constant_values=1)
    hat = design @ np.linalg.pinv(design)
    errors = (codes - hat @ codes) / (1 - np.diag(hat))[:, None]
    return float((errors**2).sum())
