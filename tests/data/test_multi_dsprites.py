"""The generator's sprites are those of dSprites, and its scenes follow the published laws of each variant."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from matplotlib.path import Path as Outline
from scipy.stats import chisquare, kstest

from emorl.data.base import concatenate, iterate
from emorl.data.multi_dsprites import (
    COLORED_ON_GRAYSCALE,
    FREE_COLORS,
    PATTERNS,
    SCALES,
    VARIANTS,
    VERSION,
    MultiDSprites,
    MultiDSpritesConfig,
    VariantName,
    hsv_to_rgb,
    render,
    sample,
)
from emorl.data.npz import Npz, write_npz
from emorl.data.tfrecord import TFRecords, write_tfrecord
from emorl.errors import InputError
from emorl.types import Batch

SQUARE, ELLIPSE, HEART = 1, 2, 3
NAMES: list[VariantName] = list(VARIANTS)
PUBLISHED: list[VariantName] = ["colored_on_grayscale", "colored_on_colored", "binarized"]
FLOAT32_SLACK = 1e-6

Factors = dict[str, np.ndarray]


def config(variant: VariantName, **changes: Any) -> MultiDSpritesConfig:
    return MultiDSpritesConfig(variant, **changes)


def sprites(*rows: tuple[float, float, int, float, float]) -> tuple[Factors, np.ndarray]:
    """One scene of sprites given as x, y, shape, orientation, scale, in grey levels of their own."""
    entities = 1 + len(rows)
    table = np.array([(0, 0, 0, 0, 0), *rows], np.float64).T[:, None]  # 5 1 E
    factors = dict(zip(("x", "y", "shape", "orientation", "scale"), table, strict=True))
    factors["color"] = np.repeat(np.arange(entities) / entities, 3).reshape(1, entities, 3)
    return factors, np.ones((1, entities))


def draw_one(x: float, y: float, shape: int, orientation: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """64 64, bool: the pixels of a single sprite."""
    pixels: np.ndarray = render(*sprites((x, y, shape, orientation, scale)))[1][0] == 1
    return pixels


def bounding_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    rows, cols = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return rows[0], rows[-1], cols[0], cols[-1]


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.factors.keys() == b.factors.keys()
    for x, y in zip(
        (a.image, a.index, a.mask, a.visibility, *a.factors.values()),
        (b.image, b.index, b.mask, b.visibility, *(b.factors[name] for name in a.factors)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y, strict=True)


def there_and_mask(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """N E bool and N 64 64: which entities a batch has, and where."""
    assert batch.visibility is not None and batch.mask is not None
    return batch.visibility == 1, batch.mask


def num_pixels(mask: np.ndarray, entities: int) -> np.ndarray:
    """N E."""
    counts: np.ndarray = (mask[:, None] == np.arange(entities)[:, None, None]).sum(axis=(2, 3))
    return counts


# ---- sprites ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "areas", "exceptions"),
    [
        (SQUARE, (100, 144, 196, 256, 324, 400), {}),
        (ELLIPSE, (76, 104, 144, 184, 228, 288), {0.5: 4, 1.0: 4}),
        (HEART, (58, 84, 108, 140, 182, 222), {0.6: 2}),
    ],
)
def test_upright_sprites_have_the_areas_of_dsprites(
    shape: int, areas: tuple[int, ...], exceptions: dict[float, int]
) -> None:
    for scale, area in zip(SCALES, areas, strict=True):
        assert abs(draw_one(0, 0, shape, scale=scale).sum() - area) <= exceptions.get(scale, 0)


@pytest.mark.parametrize(
    ("shape", "box"), [(SQUARE, (6, 25, 6, 25)), (ELLIPSE, (9, 22, 3, 28)), (HEART, (7, 23, 6, 25))]
)
def test_upright_sprites_fill_the_boxes_of_dsprites(shape: int, box: tuple[int, int, int, int]) -> None:
    assert bounding_box(draw_one(0, 0, shape)) == box


def test_turned_squares_have_the_areas_of_dsprites() -> None:
    areas = [draw_one(0, 0, SQUARE, 2 * np.pi * turn / 39).sum() for turn in range(1, 39)]
    assert 364 <= min(areas) and max(areas) <= 372


def outline(shape: int) -> np.ndarray:
    """Corners 2: right and up of a sprite's outline at scale 1; the heart's curve as a polygon."""
    t = np.linspace(0, 2 * np.pi, 2001)
    if shape == SQUARE:
        return 9.6 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
    if shape == ELLIPSE:
        return np.stack([12.8 * np.cos(t), 7.2 * np.sin(t)], axis=1)
    height = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([9.6 * np.sin(t) ** 3, 0.6625 * height + 1.43], axis=1)


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_a_pixel_is_on_where_its_centre_lies_inside_the_outline(shape: int) -> None:
    rng = np.random.default_rng(shape)
    rows, cols = np.mgrid[:64, :64] + 0.5
    for _ in range(40):
        x, y, scale, angle = *rng.uniform(0, 1, 2), rng.uniform(0.5, 1), rng.uniform(0, 2 * np.pi)
        turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])  # counter-clockwise
        right, up = (scale * outline(shape) @ turn).T
        corners = np.stack([16 + 32 * x + right, 16 + 32 * y - up], axis=1)
        inside = Outline(corners).contains_points(np.stack([cols, rows], axis=-1).reshape(-1, 2)).reshape(64, 64)
        np.testing.assert_array_equal(draw_one(x, y, shape, angle, scale), inside)


def test_the_last_orientation_looks_like_the_first() -> None:
    for shape in (SQUARE, ELLIPSE, HEART):
        for scale in SCALES:
            first = draw_one(3 / 31, 20 / 31, shape, 0, scale)
            last = draw_one(3 / 31, 20 / 31, shape, float(np.float32(2 * np.pi)), scale)
            np.testing.assert_array_equal(first, last)


def test_x_goes_right_and_y_down() -> None:
    assert bounding_box(draw_one(1, 0, SQUARE)) == (6, 25, 38, 57)
    assert bounding_box(draw_one(0, 1, SQUARE)) == (38, 57, 6, 25)


def test_orientation_turns_counter_clockwise() -> None:
    upright = draw_one(0.5, 0.5, HEART)
    for quarters in range(4):
        turned = draw_one(0.5, 0.5, HEART, quarters * np.pi / 2)
        np.testing.assert_array_equal(turned, np.rot90(upright, quarters))


def test_a_later_sprite_covers_an_earlier_one() -> None:
    factors, visibility = sprites((0.5, 0.5, SQUARE, 0, 1), (0.5, 0.5, SQUARE, 0, 0.5), (0.5, 0.5, HEART, 0, 0.5))
    image, mask = render(factors, visibility)
    assert num_pixels(mask, 4)[0].tolist() == [4096 - 400, 300, 42, 58]
    np.testing.assert_array_equal(image[0, ..., 0], np.rint(255 * np.arange(4) / 4)[mask[0]])
    image, mask = render(*sprites((0.5, 0.5, SQUARE, 0, 0.5), (0.5, 0.5, SQUARE, 0, 1)))
    assert np.unique(mask).tolist() == [0, 2]


# ---- scenes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", NAMES)
def test_every_scene_is_what_its_factors_say(variant: VariantName) -> None:
    batch = MultiDSprites(seed=3, config=config(variant)).read(np.arange(300))
    assert batch.mask is not None and batch.visibility is not None
    image, mask = render(batch.factors, batch.visibility)
    np.testing.assert_array_equal(image, batch.image, strict=True)
    np.testing.assert_array_equal(mask, batch.mask, strict=True)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_flat_entities_have_their_colour(variant: VariantName) -> None:
    batch = MultiDSprites(config=config(variant)).read(np.arange(300))
    _, mask = there_and_mask(batch)
    color = np.rint(255 * batch.factors["color"].astype(np.float64))[np.arange(300)[:, None, None], mask]
    np.testing.assert_array_equal(batch.image, np.broadcast_to(color, batch.image.shape))


@pytest.mark.parametrize("variant", NAMES)
def test_masks_and_padding(variant: VariantName) -> None:
    """Labels are a partition by nature: what is left is that they are those of the entities that are there."""
    low, high = VARIANTS[variant].num_sprites
    batch = MultiDSprites(seed=1, config=config(variant)).read(np.arange(2000))
    there, mask = there_and_mask(batch)
    assert there.shape == (2000, 1 + high) and mask.shape == (2000, 64, 64)
    np.testing.assert_array_equal(num_pixels(mask, 1 + high) > 0, there)
    np.testing.assert_array_equal(there, np.sort(there, axis=1)[:, ::-1])  # padding last
    assert there[:, 0].all() and set(there.sum(axis=1) - 1) == set(range(low, high + 1))
    for name, values in batch.factors.items():
        assert values.dtype == np.float32 and values.shape[:2] == there.shape
        assert not values[~there].any()
        if name in ("x", "y", "shape", "orientation", "scale"):
            assert not values[:, 0].any() and values.ndim == 2


def test_shares_of_the_published_million_images() -> None:
    """Scenes with a visible square of hue 0.25 to 0.42, saturation and value at least one half."""
    batches = iterate(MultiDSprites(num=20_000))
    num = 0
    for batch in batches:
        there, mask = there_and_mask(batch)
        hue, saturation, value = np.moveaxis(rgb_to_hsv(batch.factors["color"]), -1, 0)
        green = there & (batch.factors["shape"] == SQUARE) & (hue >= 0.25) & (hue <= 0.42)
        green &= (saturation >= 0.5 - FLOAT32_SLACK) & (value >= 0.5 - FLOAT32_SLACK)
        num += (green & (num_pixels(mask, 6) > 0)).any(axis=1).sum()
    assert abs(num / 20_000 - 0.183) < 0.008


def assert_uniform(values: np.ndarray, choices: np.ndarray) -> None:
    """Each of the choices is met equally often, and nothing else is."""
    found, counts = np.unique(values, return_counts=True)
    np.testing.assert_allclose(found, choices, rtol=1e-6)
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("variant", NAMES)
def test_each_number_of_sprites_is_equally_likely(variant: VariantName) -> None:
    low, high = VARIANTS[variant].num_sprites
    _, visibility = sample(0, np.arange(5000), config(variant))
    assert_uniform(visibility.sum(axis=1) - 1, np.arange(low, high + 1))


def test_grid_factors_are_uniform_and_independent() -> None:
    factors, visibility = sample(0, np.arange(5000), config("colored_on_grayscale", keep_hidden=True))
    there = visibility[:, 1:] == 1
    x, y, shape, orientation, scale = (
        factors[name][:, 1:][there] for name in ("x", "y", "shape", "orientation", "scale")
    )
    assert_uniform(x, np.linspace(0, 1, 32))
    assert_uniform(y, np.linspace(0, 1, 32))
    assert_uniform(shape, np.array([SQUARE, ELLIPSE, HEART]))
    assert_uniform(orientation, np.linspace(0, 2 * np.pi, 40))
    assert_uniform(scale, SCALES)
    assert abs(np.corrcoef([x, y, shape, orientation, scale]) - np.eye(5)).max() < 4 / np.sqrt(len(x))
    first, second = factors["x"][:, 1], factors["x"][:, 2]
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(len(first))


def test_continuous_factors_are_uniform() -> None:
    law = config("colored_on_grayscale", grid=False, keep_hidden=True)
    factors, visibility = sample(0, np.arange(3000), law)
    there = visibility == 1
    there[:, 0] = False
    for name, low, width in (("x", 0, 1), ("y", 0, 1), ("orientation", 0, 2 * np.pi), ("scale", 0.5, 0.5)):
        assert kstest(factors[name][there], "uniform", (low, width)).pvalue > 1e-3
        assert len(np.unique(factors[name][there])) > 0.99 * there.sum()
    assert_uniform(factors["shape"][there], np.array([SQUARE, ELLIPSE, HEART]))


def test_sprites_on_grey() -> None:
    factors, visibility = sample(0, np.arange(3000))
    background = factors["color"][:, 0]
    assert (background == background[:, :1]).all()
    assert kstest(background[:, 0], "uniform").pvalue > 1e-3
    hue, saturation, value = rgb_to_hsv(factors["color"][:, 1:][visibility[:, 1:] == 1]).T
    for values, low, width in ((hue, 0, 1), (saturation, 0.5, 0.5), (value, 0.5, 0.5)):
        assert low - FLOAT32_SLACK <= values.min() and values.max() <= low + width + FLOAT32_SLACK
        assert kstest(values, "uniform", (low, width)).pvalue > 1e-3


def test_sprites_on_colour() -> None:
    factors, visibility = sample(0, np.arange(3000), config("colored_on_colored"))
    color = factors["color"][visibility == 1]
    for values in (*factors["color"][:, 0].T, *color.T):
        assert kstest(values, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(color.T) - np.eye(3)).max() < 4 / np.sqrt(len(color))


def test_binarized_scenes_are_white_on_black() -> None:
    batch = MultiDSprites(config=config("binarized")).read(np.arange(300))
    there, mask = there_and_mask(batch)
    assert batch.factors["color"].shape == (300, 4, 1)
    np.testing.assert_array_equal(batch.factors["color"][..., 0], there & (np.arange(4) > 0))
    np.testing.assert_array_equal(batch.image, np.repeat(255 * (mask[..., None] > 0), 3, axis=-1))


def test_other_colour_laws() -> None:
    levels = np.array([0, 63, 127, 191, 255])
    law = config("colored_on_colored", background_color="levels", sprite_color="levels")
    batch = MultiDSprites(config=law).read(np.arange(500))
    assert_uniform(np.rint(255 * batch.factors["color"][:, 0].reshape(-1)), levels)
    assert np.unique(batch.image).tolist() == levels.tolist()
    hsv = config("colored_on_colored", background_color="gray", sprite_color="hsv", num_sprites=(2, 5))
    np.testing.assert_array_equal(
        MultiDSprites(config=hsv).read(np.arange(50)).image, MultiDSprites().read(np.arange(50)).image
    )


def test_hsv_is_the_usual_one() -> None:
    hsv = np.random.default_rng(0).uniform(0, 1, (1000, 3))
    rgb = hsv_to_rgb(*hsv.T)
    np.testing.assert_allclose(rgb_to_hsv(rgb), hsv, atol=1e-9)
    np.testing.assert_allclose(hsv_to_rgb(hsv[:, 0] + 1, hsv[:, 1], hsv[:, 2]), rgb, atol=1e-9)


# ---- hidden sprites --------------------------------------------------------------------------------------


def test_a_scene_with_a_hidden_sprite_is_drawn_again() -> None:
    index = np.arange(1000)
    law = config("colored_on_grayscale", num_sprites=(5, 8))
    shown = MultiDSprites(config=law).read(index)
    kept = MultiDSprites(config=replace(law, keep_hidden=True)).read(index)
    there, mask = there_and_mask(kept)
    hidden = (there & (num_pixels(mask, 9) == 0)).any(axis=1)
    assert 50 < hidden.sum() < 200
    np.testing.assert_array_equal(num_pixels(there_and_mask(shown)[1], 9) > 0, there_and_mask(shown)[0])
    np.testing.assert_array_equal((shown.image != kept.image).any(axis=(1, 2, 3)), hidden)
    # The number of sprites and their colours stay.
    np.testing.assert_array_equal(shown.visibility, kept.visibility)
    np.testing.assert_array_equal(shown.factors["color"], kept.factors["color"])


# ---- texture ---------------------------------------------------------------------------------------------


def textured(pattern: int, angle: float, x: float = 0.5, orientation: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """64 64 3 and 64 64: a patterned square on plain black, and its mask."""
    factors, visibility = sprites((x, 0.5, SQUARE, orientation, 1))
    factors["color"] = np.array([[(0, 0, 0), (1, 0, 0)]])
    factors["second_color"] = np.array([[(0, 0, 0), (0, 0, 1)]])
    factors["pattern"] = np.array([[0, pattern]])
    factors["period"] = np.array([[1, 6]])
    factors["pattern_orientation"] = np.array([[0, angle]])
    image, mask = render(factors, visibility)
    return image[0], mask[0]


@pytest.mark.parametrize("pattern", range(1, 1 + len(PATTERNS)))
def test_patterns_move_and_turn_with_their_sprite(pattern: int) -> None:
    image, _ = textured(pattern, 0.3, orientation=0.4)
    for quarters in range(1, 4):
        turned, _ = textured(pattern, 0.3, orientation=0.4 + quarters * np.pi / 2)
        np.testing.assert_array_equal(turned, np.rot90(image, quarters))
    moved, _ = textured(pattern, 0.3, x=0.5 + 3 / 32, orientation=0.4)
    np.testing.assert_array_equal(moved, np.roll(image, 3, axis=1))
    by_sprite, mask = textured(pattern, 0.0, orientation=0.7)
    both = image.any(axis=-1) & (mask == 1)
    assert both.sum() > 300
    np.testing.assert_array_equal(by_sprite[both], image[both])


def test_upright_patterns_are_what_they_are_called() -> None:
    right = np.arange(64) + 0.5 - 32
    up = -right[:, None]
    radius = np.sqrt(right**2 + up**2)
    to_dot = [abs(offset - 6 * np.rint(offset / 6)) for offset in (right, up)]
    expected = {
        "stripes": np.isin(np.arange(64) % 6, (5, 0, 1)) & (up < 99),
        "checks": np.isin(np.arange(64) % 6, (5, 0, 1)) ^ np.isin((63 - np.arange(64)) % 6, (5, 0, 1))[:, None],
        "dots": to_dot[0] ** 2 + to_dot[1] ** 2 < 0.12 * 36,
        "rings": (radius // 3) % 2 == 1,
    }
    for number, name in enumerate(PATTERNS, start=1):
        image, mask = textured(number, 0.0)
        inside = mask == 1
        if name == "gradient":
            share = np.broadcast_to(1 - abs((right / 6 + 1) % 4 - 2) / 2, (64, 64))
            assert abs(image[..., 2] / 255 - share)[inside].max() < 0.5 / 64 + 0.5 / 255 + 1e-9
            assert (image[inside].sum(axis=-1) == 255).all()
        else:
            np.testing.assert_array_equal(image[inside, 2] == 255, expected[name][inside])
            np.testing.assert_array_equal(image[inside, 0] == 0, expected[name][inside])


def test_laws_of_the_texture() -> None:
    factors, visibility = sample(0, np.arange(3000), config("textured"))
    there = visibility[:, 1:] == 1
    first, second = (factors[name][:, 0] for name in ("color", "second_color"))
    assert (first == first[:, :1]).all() and (second == second[:, :1]).all()
    np.testing.assert_allclose(second - first, 0.2, atol=FLOAT32_SLACK)
    assert kstest(first[:, 0], "uniform", (0, 0.8)).pvalue > 1e-3
    hues = []
    for name in ("color", "second_color"):
        hue, saturation, value = rgb_to_hsv(factors[name][:, 1:][there]).T
        assert min(saturation.min(), value.min()) >= 0.5 - FLOAT32_SLACK
        assert kstest(hue, "uniform").pvalue > 1e-3
        hues.append(hue)
    assert kstest((hues[1] - hues[0]) % 1, "uniform", (0.25, 0.5)).pvalue > 1e-3
    for part, num_patterns, num_angles in (
        ((slice(None), 0), 3, 2),
        ((slice(None), slice(1, None)), 5, 4),
    ):
        present = visibility[part] == 1
        assert_uniform(factors["pattern"][part][present], np.arange(1, 1 + num_patterns))
        assert_uniform(factors["period"][part][present], np.array([4, 6, 8]))
        assert_uniform(factors["pattern_orientation"][part][present], np.pi * np.arange(num_angles) / num_angles)


def test_grouping_by_colour_does_not_find_textured_sprites() -> None:
    """Whatever is not covered shows both its colours; the background has two greys in a period of few pixels."""
    batch = MultiDSprites(config=config("textured", num_sprites=(1, 1))).read(np.arange(300))
    _, mask = there_and_mask(batch)
    for scene in range(300):
        colors = [np.rint(255 * batch.factors[name][scene].astype(np.float64)) for name in ("color", "second_color")]
        background, sprite = (batch.image[scene][mask[scene] == entity].astype(float) for entity in (0, 1))
        assert {*map(tuple, background)} == {tuple(colors[0][0]), tuple(colors[1][0])}
        share = (sprite - colors[0][1]) @ (change := colors[1][1] - colors[0][1]) / (change @ change)
        assert share.min() < 0.35 and share.max() > 0.65 and (share > -0.01).all() and (share < 1.01).all()
        period = int(batch.factors["period"][scene, 0])
        for axis in (0, 1):
            shifted = np.roll(batch.image[scene], period, axis)
            alone = (mask[scene] == 0) & (np.roll(mask[scene], period, axis) == 0)
            alone[:period] = alone[:, :period] = False
            np.testing.assert_array_equal(shifted[alone], batch.image[scene][alone])


# ---- the source ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", NAMES)
def test_index_and_seed_fix_every_bit(variant: VariantName) -> None:
    source = MultiDSprites(seed=5, config=config(variant))
    everything = source.read(np.arange(300))
    order = np.random.default_rng(0).permutation(300)
    shuffled = source.read(order)
    for name in ("image", "mask", "visibility"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(everything, name)[order])
    for name, values in everything.factors.items():
        np.testing.assert_array_equal(shuffled.factors[name], values[order])
    for position in (0, 17, 299):
        alone = source.read(np.array([position, position]))
        np.testing.assert_array_equal(alone.image, everything.image[[position, position]])
        np.testing.assert_array_equal(alone.factors["color"], everything.factors["color"][[position, position]])
    assert_equal(concatenate(iterate(MultiDSprites(5, 100, config(variant)), 7)), source.read(np.arange(100)))
    other = MultiDSprites(seed=6, config=config(variant)).read(np.arange(300))
    assert (other.image != everything.image).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("variant", NAMES)
def test_scenes_of_version_one_stay(variant: VariantName) -> None:
    """Weights and results name scenes by seed and index: change these bits and VERSION together."""
    batch = MultiDSprites(config=config(variant)).read(np.arange(60_000, 60_320))
    digest = hashlib.sha256(batch.image.tobytes())
    for name in ("mask", "visibility"):
        digest.update(getattr(batch, name).tobytes())
    for _, values in sorted(batch.factors.items()):
        digest.update(values.tobytes())
    assert (VERSION, digest.hexdigest()[:16]) == (1, DIGESTS[variant])


DIGESTS = {
    "colored_on_grayscale": "28d06d08ee05ead4",
    "colored_on_colored": "93ebf1cdcac6daac",
    "binarized": "3501425626359d96",
    "textured": "06c492a02e2edf65",
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_layout(variant: VariantName, tmp_path: Path) -> None:
    source, path = MultiDSprites(seed=2, num=40, config=config(variant)), tmp_path / "scenes.tfrecords"
    write_tfrecord(path, iterate(source, 16))
    published = TFRecords(path)
    assert published.variant.name == f"multi_dsprites_{variant}"
    assert_equal(concatenate(iterate(published)), source.read(np.arange(40)))


def test_the_textured_set_is_kept_as_arrays(tmp_path: Path) -> None:
    source, path = MultiDSprites(num=10, config=config("textured")), tmp_path / "scenes.npz"
    write_npz(path, iterate(source))
    assert_equal(Npz(path).read(np.arange(10)), source.read(np.arange(10)))
    with pytest.raises(InputError, match="layout"):
        write_tfrecord(tmp_path / "scenes.tfrecords", iterate(source))


def test_sources_tell_what_they_are() -> None:
    configs = [config(variant) for variant in NAMES]
    configs += [config("colored_on_grayscale", sprite_color=color) for color in FREE_COLORS]
    configs += [
        config("textured", grid=False),
        config("textured", keep_hidden=True),
        config("binarized", num_sprites=(1, 3)),
    ]
    sources = [MultiDSprites(config=each) for each in configs] + [MultiDSprites(seed=1)]
    assert len({source.fingerprint() for source in sources}) == len(sources)
    for source in sources:
        facts = json.loads(json.dumps(source.describe()))
        batch = source.read(np.arange(1))
        assert (facts["name"], facts["num_images"], facts["size"]) == (source.name, len(source), [64, 64])
        assert facts["factors"] == list(batch.factors)
        assert batch.visibility is not None and facts["num_entities"] == batch.visibility.shape[1]
    assert [MultiDSprites(config=config(variant)).name for variant in NAMES] == [
        "multi-dsprites",
        "multi-dsprites-colored",
        "multi-dsprites-binarized",
        "multi-dsprites-textured",
    ]
    assert MultiDSprites().config == COLORED_ON_GRAYSCALE == config("colored_on_grayscale")


@pytest.mark.parametrize("variant", NAMES)
def test_empty_reading(variant: VariantName) -> None:
    batch = MultiDSprites(config=config(variant)).read(np.array([], np.int64))
    assert batch.image.shape == (0, 64, 64, 3) and batch.factors["x"].shape[0] == 0


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "colored"}, "variant 'colored'"),
        ({"num_sprites": (0, 2)}, "range of numbers"),
        ({"num_sprites": (3, 2)}, "range of numbers"),
        ({"num_sprites": (2, 11)}, "range of numbers"),
        ({"num_sprites": (2.5, 3)}, "range of numbers"),
        ({"num_sprites": (2,)}, "range of numbers"),
        ({"num_sprites": ()}, "range of numbers"),
        ({"sprite_color": "white"}, "colour law 'white'"),
        ({"background_color": "blue"}, "colour law 'blue'"),
        ({"variant": "binarized", "sprite_color": "rgb"}, "its own colours"),
        ({"variant": "textured", "background_color": "gray"}, "its own colours"),
    ],
)
def test_config_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MultiDSpritesConfig(**changes)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", 1.1, "factor x"),
        ("y", -0.1, "factor y"),
        ("y", np.nan, "factor y"),
        ("shape", 0, "factor shape"),
        ("shape", 4, "factor shape"),
        ("shape", 1.5, "whole numbers"),
        ("scale", 0, "factor scale"),
        ("scale", 1.5, "factor scale"),
        ("orientation", np.inf, "factor orientation"),
        ("color", 255, "factor color"),
        ("second_color", -1, "factor second_color"),
        ("pattern", 6, "factor pattern"),
        ("pattern", 1.5, "whole numbers"),
        ("period", 0, "factor period"),
        ("pattern_orientation", np.nan, "factor pattern_orientation"),
    ],
)
def test_render_refuses(name: str, value: float, message: str) -> None:
    factors, visibility = sample(0, np.arange(4), config("textured"))
    factors[name][2, 1] = value
    with pytest.raises(InputError, match=message):
        render(factors, visibility)


def test_render_needs_every_factor() -> None:
    factors, visibility = sample(0, np.arange(4), config("textured"))
    for name in ("x", "color", "period"):
        with pytest.raises(InputError, match=f"factor {name}"):
            render({key: values for key, values in factors.items() if key != name}, visibility)


def test_render_ignores_what_is_not_there() -> None:
    factors, visibility = sample(0, np.arange(50), config("textured"))
    spoiled = {name: values.copy() for name, values in factors.items()}
    for name, values in spoiled.items():
        values[visibility == 0] = np.nan
        if name in ("x", "y", "shape", "orientation", "scale"):
            values[:, 0] = 7
    for a, b in zip(render(spoiled, visibility), render(factors, visibility), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("indices", [[-1], [60_320], [0.5], [[1]]])
def test_positions_out_of_range(indices: list[object]) -> None:
    with pytest.raises(InputError, match="multi-dsprites"):
        MultiDSprites().read(np.array(indices))
