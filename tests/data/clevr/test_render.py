"""Pictures have the tones of the published ones, and nothing depends on how they are computed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from emorl.data.clevr.labels import label_maps
from emorl.data.clevr.render import (
    MIRROR_ALPHA,
    Surroundings,
    beckmann,
    fresnel,
    ggx,
    lamp_in_mirror,
    radiance,
    render,
    smith,
    srgb,
    velvet,
)
from emorl.data.clevr.scene import (
    CAMERA,
    LAMPS,
    RIGHT,
    SHAPES,
    Scenes,
    place_objects,
    project,
    sample_view,
)
from emorl.data.clevr.source import Clevr
from emorl.data.clevr.world import World, unit
from emorl.data.views import resize
from tests.data.clevr.by_hand import CPU, WHOLE, Thing, first, scene, together

Window = tuple[tuple[int, int], tuple[int, int]]


def picture(scenes: Scenes, window: Window = WHOLE) -> np.ndarray:
    """N H W 3, float64 levels."""
    result: np.ndarray = render(scenes, CPU, *window).numpy().astype(np.float64)
    return result


def labels_of(scenes: Scenes, window: Window = WHOLE) -> np.ndarray:
    result: np.ndarray = label_maps(scenes, CPU).numpy()[:, slice(*window[0]), slice(*window[1])]
    return result


def around(mask: np.ndarray, margin: int = 0) -> Window:
    """The smallest window (rows, columns) around what is true in 240 x 320 pixels."""
    rows, cols = np.nonzero(mask)
    return (
        (max(0, int(rows.min()) - margin), min(240, int(rows.max()) + 1 + margin)),
        (max(0, int(cols.min()) - margin), min(320, int(cols.max()) + 1 + margin)),
    )


@pytest.fixture(scope="module")
def empty() -> np.ndarray:
    """240 320 3: the ground alone, lamps and camera without jitter."""
    result: np.ndarray = picture(scene())[0]
    return result


@pytest.fixture(scope="module")
def made() -> np.ndarray:
    """Six pictures of the generator."""
    result: np.ndarray = Clevr().read(np.arange(6)).image.astype(np.float64)
    return result


@pytest.fixture(scope="module")
def photos(shared: Path) -> np.ndarray:
    """Five published pictures."""
    files = [shared / "data" / f"clevr_sample_{number}.png" for number in (1, 2, 3, 4)]
    with np.load(shared / "data" / "clevr_real_record0.npz") as record:
        images = [*(np.asarray(Image.open(file)) for file in files), record["image"]]
    return np.stack(images).astype(np.float64)


# ---- tones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("col", "row", "low", "high"),
    [
        (160, 231, 138, 159),
        (8, 231, 119, 125),
        (311, 231, 135, 163),
        (8, 120, 125, 138),
        (311, 120, 110, 124),
        (160, 120, 126, 135),
        (160, 40, 105, 108),
        (160, 8, 104, 107),
        (8, 8, 104, 107),
        (311, 8, 102, 103),
    ],
)
def test_tones_of_the_backdrop(empty: np.ndarray, col: int, row: int, low: float, high: float) -> None:
    """Red levels of small patches of ten published pictures; data set specification, sections 3.3.6 and 5."""
    level = empty[row - 3 : row + 4, col - 3 : col + 4, 0].mean()
    assert low - 5 <= level <= high + 5


def test_the_backdrop_is_smooth_and_neutral(empty: np.ndarray) -> None:
    """No noise, no horizon, a bluish pool at the left and warm light at the bottom right."""
    assert all(abs(np.diff(empty, axis=axis)).max() <= 2 for axis in (0, 1))
    assert abs(empty[:60].mean(axis=(0, 1)) - empty[:60].mean()).max() < 1
    red, _, blue = empty[110:130, :16].mean(axis=(0, 1))
    assert 3 < blue - red < 8
    red, _, blue = empty[-16:, -32:].mean(axis=(0, 1))
    assert 4 < red - blue < 12


RUBBER = {"red": (118, 57, 56), "cyan": (69, 137, 132), "green": (51, 89, 42), "gray": (81, 81, 81)}
METAL = {
    "red": (86, 39, 40),
    "green": (38, 72, 32),
    "blue": (48, 63, 106),
    "purple": (76, 42, 90),
    "cyan": (49, 108, 107),
}
"""Mean levels over objects of published pictures; data set specification, section 3.3.2.

That of brown metal is of a cube that stands in much light: it has a test of its own.
"""
MIDDLE = (80, 140), (125, 195)

Looks = dict[tuple[str, str], list[np.ndarray]]


@pytest.fixture(scope="module")
def looks() -> Looks:
    """Pixels (P 3) of large objects at the origin, of each shape, by material and colour."""
    found: Looks = {}
    for material, colors in (("rubber", RUBBER), ("metal", METAL)):
        pairs = list(product(colors, SHAPES))
        scenes = together(*(scene(Thing(shape, 0, 0, "large", color, material, 0.4)) for color, shape in pairs))
        images, masks = picture(scenes, MIDDLE), labels_of(scenes, MIDDLE)
        for (color, _), image, mask in zip(pairs, images, masks, strict=True):
            found.setdefault((material, color), []).append(image[mask == 1])
    return found


def mean_of(parts: list[np.ndarray]) -> np.ndarray:
    result: np.ndarray = np.mean([part.mean(axis=0) for part in parts], axis=0)
    return result


@pytest.mark.parametrize("color", [color for color in RUBBER if color != "cyan"])
def test_colors_of_rubber(looks: Looks, color: str) -> None:
    """The published cyan object stands in more light; it is compared at its own pose, below."""
    assert abs(mean_of(looks["rubber", color]) - RUBBER[color]).max() < 12


@pytest.mark.parametrize("color", METAL)
def test_colors_of_metal(looks: Looks, color: str) -> None:
    """The published ones are of different shapes in different places."""
    assert abs(mean_of(looks["metal", color]) - METAL[color]).max() < 15


@pytest.mark.parametrize("color", ["red", "cyan", "green"])
def test_metal_is_darker_than_rubber_and_rubber_is_matte(looks: Looks, color: str) -> None:
    """Levels between the 5th and the 95th percentile; data set specification, section 3.3.8."""
    rubber, metal = looks["rubber", color], looks["metal", color]
    assert mean_of(metal).mean() < 0.9 * mean_of(rubber).mean()
    spreads = [[np.ptp(np.percentile(part.mean(axis=1), [5, 95])) for part in parts] for parts in (rubber, metal)]
    assert all(15 < spread < 50 for spread in spreads[0])
    sphere, _, cube = spreads[1]
    assert sphere > 1.5 * spreads[0][0] and cube > 1.5 * spreads[0][2]
    assert max(part.max() for part in rubber) < 200


def test_objects_of_a_real_record_have_their_colors(shared: Path) -> None:
    """A sphere and a cylinder of rubber whose poses are published, and a metal cube whose pose fits its mask."""
    with np.load(shared / "data" / "clevr_real_record0.npz") as record:
        photo, masks = record["image"].astype(np.float64), record["mask"] > 0
    real = scene(
        Thing("sphere", 0.754801, 1.772223, "large", "red"),
        Thing("cylinder", 1.661774, -0.613287, "large", "cyan"),
        Thing("cube", 2.798, -2.488, "large", "brown", "metal", -0.0655),
        camera=np.array([7.3132, -6.5115, 5.4353]),
    )
    image, labels = picture(real)[0], labels_of(real)[0]
    for place, entity in ((1, 1), (2, 2), (3, 7)):
        ours, theirs = image[labels == place], photo[masks[entity]]
        assert abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 12
        assert abs(ours.std(axis=0) - theirs.std(axis=0)).max() < 8


def statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """Mean levels (N 3) of the usual crop of pictures, and of parts that few objects reach."""
    crop = images[:, 29:221, 64:256]
    return {
        "top": images[:, :3].mean(axis=(1, 2)),
        "top of crop": crop[:, :3].mean(axis=(1, 2)),
        "mean": crop.mean(axis=(1, 2)),
        "std": crop.std(axis=(1, 2)),
        "left": images[:, 115:125, :8].mean(axis=(1, 2)),
        "bottom left": np.median(crop[:, -6:, :12], axis=(1, 2)),
        "bottom right": np.median(crop[:, -6:, -12:], axis=(1, 2)),
    }


def test_statistics_of_pictures_are_those_of_photos(made: np.ndarray, photos: np.ndarray) -> None:
    """On average, since lamps and objects differ; the top of the backdrop is nearly the same in all."""
    ours, real = statistics(made), statistics(photos)
    for images in (made, photos):
        assert (images[:, :3].std(axis=(1, 2)) < 2).all()
    for name in ("top", "top of crop"):
        assert (abs(ours[name] - 105) < 3.5).all() and (abs(real[name] - 105) < 3.5).all()
    for name, most in (("mean", 8), ("std", 6), ("left", 10), ("bottom left", 10), ("bottom right", 10)):
        assert abs(ours[name].mean(axis=0) - real[name].mean(axis=0)).max() < most, name
    assert (ours["mean"] > 90).all() and (ours["mean"] < 140).all()
    assert (ours["std"] > 15).all() and (ours["std"] < 50).all()
    blueness = ours["left"][:, 2] - ours["left"][:, 0]
    assert (blueness > 2).all() and (blueness < 10).all()


# ---- light and shadow ----------------------------------------------------------------------------------------


def patch(image: np.ndarray, x: float, y: float) -> float:
    """Mean level about the picture of a point of the ground."""
    col, row, _ = project(CAMERA[None], np.array([[[x, y, 0.0]]]))[0, 0]
    return float(image[int(row) - 2 : int(row) + 3, int(col) - 2 : int(col) + 3].mean())


def loss(before: np.ndarray, after: np.ndarray, x: float, y: float) -> np.ndarray:
    """3: mean levels that are lost about a point of the ground."""
    col, row, _ = project(CAMERA[None], np.array([[[x, y, 0.0]]]))[0, 0]
    about = slice(int(row) - 2, int(row) + 3), slice(int(col) - 2, int(col) + 3)
    result: np.ndarray = (before[about] - after[about]).mean(axis=(0, 1))
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_the_back_lamp_throws_a_shadow_towards_the_viewer(empty: np.ndarray, shape: str) -> None:
    """And slightly to the left; it ends, and there is none at the side."""
    image = picture(scene(Thing(shape, 0, 0)))[0]
    away = -np.array(LAMPS[2].position[:2]) / np.hypot(*LAMPS[2].position[:2])
    losses = [loss(empty, image, *(reach * away)).mean() for reach in (0.9, 1.2, 1.6, 2.2, 3.5)]
    assert 8 < losses[1] < 40 and abs(losses[-1]) < 1
    assert max(b - a for a, b in pairwise(losses)) < 2
    assert abs(loss(empty, image, *(1.5 * RIGHT))).max() < 0.4 * losses[1]
    assert loss(empty, image, *(1.2 * away)).mean() > loss(empty, image, *(1.2 * RIGHT)).mean() + 5


def test_the_fill_lamp_throws_a_faint_shadow_to_the_right(empty: np.ndarray) -> None:
    """In its own light, which is bluish."""
    place = np.array([-2.0, -1.0])
    image = picture(scene(Thing("cylinder", *place)))[0]
    away = place - LAMPS[1].position[:2]
    away /= np.hypot(*away)
    assert away @ RIGHT > 0.9
    for reach in (1.4, 2.0, 2.5):
        red, _, blue = loss(empty, image, *(place + reach * away))
        assert 2 < red < blue < 15
    assert abs(loss(empty, image, *(place + 6 * away))).max() < 1


def test_the_ground_is_dark_just_under_a_sphere(empty: np.ndarray) -> None:
    one = scene(Thing("sphere", 0, 0))
    image, mask = picture(one)[0], labels_of(one)[0] > 0
    lost = (empty - image).mean(axis=2)
    bottom = np.nonzero(mask[:, 160])[0].max()
    assert lost[bottom + 2, 157:164].min() > 3 * lost[bottom + 10, 157:164].max()


@pytest.mark.parametrize("material", ["metal", "rubber"])
def test_metal_shows_its_neighbours(material: str) -> None:
    """Their colour, and rubber hardly any of it."""
    pair = [
        scene(Thing("sphere", 0, 0, "large", "gray", material), Thing("cube", 0.4, -1.9, "large", color))
        for color in ("red", "cyan")
    ]
    scenes = together(*pair)
    mask = labels_of(pair[0])[0] == 1
    window = around(mask)
    red, cyan = picture(scenes, window)
    inner = ndimage.binary_erosion(mask, iterations=2)[slice(*window[0]), slice(*window[1])]
    change = abs(red - cyan).max(axis=2)[inner]
    if material == "metal":
        assert (change > 15).mean() > 0.04
        assert (red - cyan)[inner][change > 15][:, 0].min() > 0  # there is more red beside the red one
    else:
        assert change.max() < 15


@pytest.mark.parametrize("shape", ["cylinder", "cube"])
def test_flat_tops_of_metal_are_dark(shape: str) -> None:
    """They mirror the black sky, but for the back lamp where it is seen; sides show the lit ground."""
    places = [(-2, -2), (0, 0), (1.5, 1.5), (2, -1)]
    scenes = together(*(scene(Thing(shape, *place, "large", "gray", "metal", 0.4)) for place in places))
    window = around(labels_of(scenes).max(axis=0))
    images, masks = picture(scenes, window), labels_of(scenes, window)
    world = World(scenes, CPU, torch.float64)
    tops, sides = [], []
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        rows, cols = np.nonzero(mask == 1)
        which = torch.full((len(rows),), number)
        at = torch.tensor(cols + window[1][0] + 0.5), torch.tensor(rows + window[0][0] + 0.5)
        origin, direction = world.primary(which, *at)
        t, hit = world.nearest(which, origin, direction)
        up = world.normal(which, hit, origin + t * direction)[2].numpy()
        levels = image[rows, cols].mean(axis=1)
        tops.append(levels[up > 0.99].mean())
        sides.append(levels[abs(up) < 0.01].mean())
    assert np.mean(tops) < 0.9 * np.mean(sides)
    assert min(tops) < 0.8 * min(sides)


def test_metal_spheres_carry_small_highlights() -> None:
    """Of the lamps, in the upper half, as bright as levels go; otherwise it is darker above, where the sky is."""
    one = scene(Thing("sphere", 0, 0, "large", "gray", "metal"))
    mask = labels_of(one)[0] == 1
    window = around(mask)
    image, mask = picture(one, window)[0].mean(axis=2), mask[slice(*window[0]), slice(*window[1])]
    bright = mask & (image > 200)
    half = len(image) // 2
    assert 2 <= ndimage.label(bright)[1] <= 4 and image.max() > 250
    assert bright.sum() < 0.03 * mask.sum() and not bright[half + 2 :].any()
    assert np.median(image[:half][mask[:half]]) < 0.9 * np.median(image[half:][mask[half:]])


def test_outlines_are_blended() -> None:
    """A pixel that an outline crosses has a level between those of its sides."""
    one = scene(Thing("cube", 0, 0, "large", "yellow", yaw=0.3))
    mask = labels_of(one)[0] == 1
    window = around(mask, 3)
    blue, mask = picture(one, window)[0, ..., 2], mask[slice(*window[0]), slice(*window[1])]
    inner, outer = ndimage.binary_erosion(mask, iterations=2), ~ndimage.binary_dilation(mask, iterations=2)
    edge = ~inner & ~outer
    low, high = np.percentile(blue[inner], 99), np.percentile(blue[outer], 1)
    between = (blue > low + 5) & (blue < high - 5)
    assert between[edge].mean() > 0.08 and between[~edge].mean() < 0.01


# ---- how it is computed --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd() -> Scenes:
    """Three full scenes."""
    scenes, _ = place_objects(2, np.arange(3), 0, sample_view(2, np.arange(3), (6, 10)))
    return scenes


PART: Window = (90, 170), (90, 230)


@pytest.fixture(scope="module")
def part(crowd: Scenes) -> np.ndarray:
    return picture(crowd, PART)


def test_a_window_is_cut_from_the_whole(crowd: Scenes, part: np.ndarray) -> None:
    one = crowd[np.array([1])]
    whole = picture(one)
    np.testing.assert_array_equal(part[1], whole[0, 90:170, 90:230])
    for rows, cols in (((0, 17), (0, 33)), ((223, 240), (299, 320)), ((121, 122), (160, 161)), ((29, 221), (64, 256))):
        np.testing.assert_array_equal(picture(one, (rows, cols)), whole[:, slice(*rows), slice(*cols)])


def test_a_scene_looks_the_same_in_any_company(crowd: Scenes, part: np.ndarray) -> None:
    for number in range(3):
        np.testing.assert_array_equal(picture(crowd[np.array([number])], PART)[0], part[number])
    np.testing.assert_array_equal(picture(crowd[np.array([2, 0])], PART), part[[2, 0]])


@pytest.mark.parametrize(("size", "mean", "root"), [((48, 48), 0.9, 2.0), ((80, 84), 0.65, 1.83)])
def test_small_pictures_look_like_shrunk_ones(crowd: Scenes, size: tuple[int, int], mean: float, root: float) -> None:
    rows, cols = (29, 221), (64, 64 + 192 * size[1] // size[0])
    ours = render(crowd, CPU, rows, cols, size=size).numpy()
    shrunk = resize(render(crowd, CPU, rows, cols).numpy(), size, "bicubic")
    difference = ours.astype(float) - shrunk
    assert abs(difference).mean() < mean and np.square(difference).mean() ** 0.5 < root
    bright = ours.max(axis=-1) > np.quantile(ours.max(axis=-1), 0.995)  # highlights, which are clipped before the mean
    assert abs(difference.max(axis=-1)[bright].mean()) < 2
    for number in (0, 2):
        alone = render(crowd[np.array([number])], CPU, rows, cols, size=size)
        np.testing.assert_array_equal(alone[0], ours[number])


@pytest.mark.slow  # threads wait for one another
def test_threads_change_nothing(crowd: Scenes, part: np.ndarray) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            np.testing.assert_array_equal(picture(crowd[np.array([1])], PART)[0], part[1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("phases", [1, 9])
def test_a_ray_sees_the_same_in_any_company(crowd: Scenes, phases: int) -> None:
    """To the last bit of its float, so that no level can depend on which rays are computed together."""
    world = World(crowd, CPU, torch.float32)
    sent = Surroundings(world)
    rng = np.random.default_rng(0)
    which = torch.from_numpy(rng.integers(0, 3, 300))
    col, row = (torch.from_numpy(rng.uniform(*of, 300)).float() for of in ((60, 260), (70, 200)))
    origin, direction = world.primary(which, col, row)
    phase = torch.from_numpy(rng.integers(0, phases, 300))

    def see(some: slice) -> torch.Tensor:
        rays = which[some], origin[:, some].contiguous(), direction[:, some].contiguous()
        return radiance(world, sent, *rays, None, phase[some], phases)

    whole = see(slice(None))
    for size, stop in ((1, 20), (7, 140), (100, 300)):
        parts = [see(slice(start, start + size)) for start in range(0, stop, size)]
        np.testing.assert_array_equal(torch.cat(parts, dim=1), whole[:, :stop])


def test_surroundings_are_the_same_in_any_company(crowd: Scenes) -> None:
    sent = Surroundings(World(crowd, CPU, torch.float32))
    for number in range(3):
        alone = Surroundings(World(crowd[np.array([number])], CPU, torch.float32))
        np.testing.assert_array_equal(sent.direct[:, number], alone.direct[:, 0])
        np.testing.assert_array_equal(sent.gathered[:, number], alone.gathered[:, 0])


# ---- parts ---------------------------------------------------------------------------------------------------


def test_the_curve_of_srgb() -> None:
    linear = torch.tensor([-1.0, 0, 0.001, 0.0031308, 0.2140411, 0.5, 1, 7])
    expected = [0, 0, 0.01292, 0.04044994, 0.5, 0.7353570, 1, 1]
    np.testing.assert_allclose(srgb(linear), expected, atol=2e-6)
    assert torch.diff(srgb(torch.linspace(0, 1, 10_001))).min() > 0


def test_the_curve_of_srgb_is_the_same_in_any_company() -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(torch.cat([srgb(x[i : i + 1]) for i in range(1000)]), srgb(x))


def half_sphere(num: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions (3 M) evenly spread over the upper half sphere, and the solid angle of each."""
    z = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    turn = (torch.arange(2 * num, dtype=torch.float64) + 0.5) * torch.pi / num
    height, angle = (x.flatten() for x in torch.meshgrid(z, turn, indexing="ij"))
    flat = (1 - height**2).sqrt()
    direction = torch.stack([flat * angle.cos(), flat * angle.sin(), height])
    return direction, torch.tensor(2 * torch.pi / direction.shape[1])


@pytest.mark.parametrize("tilt", [0.1, 0.8, 1.3])
def test_surfaces_send_no_more_than_they_get(tilt: float) -> None:
    """Reflectances: what is sent in all directions is nearly all at a small tilt, and never more."""
    light, each = half_sphere()
    eye = torch.tensor([[np.sin(tilt)], [0], [np.cos(tilt)]]).expand_as(light)
    up = torch.tensor([[0.0], [0], [1]], dtype=torch.float64).expand_as(light)
    axes = torch.zeros_like(light), torch.zeros_like(light)
    axes[0][0], axes[1][1] = 1, 1
    lobes: list[Callable[..., torch.Tensor]] = [
        lambda to_light, to_eye: ggx(to_light, to_eye, up, axes, (0.2, 0.2)),
        lambda to_light, to_eye: ggx(to_light, to_eye, up, axes, (0.15, 0.27)),
        lambda to_light, to_eye: beckmann(to_light, to_eye, up, 0.35),
    ]
    for lobe in lobes:
        sent = float((lobe(light, eye) * light[2]).sum() * each)
        assert 0.8 < sent < 1.001
        np.testing.assert_allclose(lobe(light, eye), lobe(eye, light), rtol=1e-6)
    sheen = velvet(light, eye, up)
    assert 0 < float((sheen * light[2]).sum() * each) < 1
    np.testing.assert_allclose(sheen, velvet(eye, light, up), rtol=1e-6)


def test_the_broad_lobe_is_normalised_and_brushed() -> None:
    """Its half vectors cover the plane once, and spread more across the brushing than along it."""
    half, each = half_sphere()
    up = torch.zeros_like(half)
    up[2] = 1
    axes = torch.zeros_like(half), torch.zeros_like(half)
    axes[0][0], axes[1][1] = 1, 1
    alpha = (0.15, 0.27)
    # seen from above, n.v = h.n: D = 4 n.l n.v f / G, with the light mirrored at the half vector
    light = 2 * half[2] * half - up
    above = light[2] > 0.05
    g = [2 * v[2] * smith(v, up, axes, alpha) for v in (light, up)]
    d = 4 * light[2] * ggx(light, up, up, axes, alpha) / (g[0] * g[1])
    total = float((d * half[2])[above].sum() * each)
    assert 0.9 < total < 1.01
    assert float((d * half[2] * half[0] ** 2)[above].sum()) < 0.6 * float((d * half[2] * half[1] ** 2)[above].sum())


def test_fresnel_at_its_ends() -> None:
    cos = torch.linspace(0, 1, 101, dtype=torch.float64)[1:]
    share = fresnel(cos, 1.2)
    assert float(share[-1]) == pytest.approx((0.2 / 2.2) ** 2)
    assert float(fresnel(torch.tensor(1e-6, dtype=torch.float64), 1.4)) == pytest.approx(1, abs=1e-4)
    assert (torch.diff(share) < 0).all()


@pytest.mark.parametrize("number", range(4), ids=["key", "fill", "back", "sun"])
def test_lamps_in_a_mirror(number: int) -> None:
    """The share of GGX's half vectors that turn the eye's direction to a place on the lamp, by 4000 of them."""
    rng = np.random.default_rng(number)
    num, many = 60, 4000
    world = World(scene(), CPU, torch.float64)
    light = world.lights(first(num), torch.tensor([[0.2], [-0.1], [0.5]], dtype=torch.float64).expand(3, num))
    assert light.axes is not None
    middle, size = light.direction[:, number, 0].numpy(), float(light.half_size[number, 0])
    sides = [size * axis[:, number, 0].numpy() for axis in light.axes]
    x, y = rng.uniform(-2, 2, (2, num))
    aim = unit(torch.tensor(middle[:, None] + x * sides[0][:, None] + y * sides[1][:, None]))
    to_eye = unit(torch.tensor(CAMERA)[:, None] + torch.tensor(rng.normal(size=(3, num))))
    normal = unit(aim + to_eye)
    share = lamp_in_mirror(light, normal, to_eye)[number].numpy()

    k = np.arange(many)
    u, turn = (k + 0.5) / many, k * np.pi * (3 - 5**0.5)
    slope = MIRROR_ALPHA * (u / (1 - u)) ** 0.5
    expected = []
    for n, e in zip(normal.numpy().T, to_eye.numpy().T, strict=True):
        one = np.cross(n, [0.3, -0.5, 0.8])
        one /= np.linalg.norm(one)
        half = n + (slope * np.cos(turn))[:, None] * one + (slope * np.sin(turn))[:, None] * np.cross(n, one)
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        mirrored = 2 * (half @ e)[:, None] * half - e
        ahead, *across = np.linalg.solve(np.stack([middle, *sides], axis=1), mirrored.T)
        expected.append(((ahead > 0) & (abs(np.array(across)) < ahead).all(axis=0)).mean())
    assert abs(share - expected).mean() < 0.01 and abs(share - expected).max() < 0.08
    assert max(expected) > 0.7 and min(expected) < 0.2
