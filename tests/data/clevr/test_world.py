"""What rays meet, and how much of a lamp is seen from where."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch
from torch import Tensor

from emorl.data.clevr.scene import (
    COVE,
    COVE_AWAY,
    COVE_HALF_WIDTH,
    LAMPS,
    SHAPES,
    SUN,
    SUN_IRRADIANCE,
    SUN_TANGENT,
    Scenes,
    project,
    sample_view,
)
from emorl.data.clevr.world import (
    GROUND,
    NOTHING,
    Light,
    World,
    across_cove,
    along_cove,
    dot,
    ground_height,
    reflect,
    unit,
)
from tests.data.clevr import dense
from tests.data.clevr.by_hand import CPU, Thing, first, scene, together

TRIO = scene(
    Thing("sphere", 0.0, 0.0),
    Thing("cylinder", 1.5, -1.1, "small"),
    Thing("cube", -1.3, -0.6, "large", yaw=0.7),
)


def world(scenes: Scenes, dtype: torch.dtype = torch.float64) -> World:
    return World(scenes, CPU, dtype)


def upward(rng: np.random.Generator, num: int) -> np.ndarray:
    """Unit vectors (num 3) above the horizon."""
    vector = rng.normal(size=(num, 3))
    vector[:, 2] = abs(vector[:, 2]) + 0.05
    result: np.ndarray = vector / np.linalg.norm(vector, axis=1, keepdims=True)
    return result


def put(values: np.ndarray) -> Tensor:
    """M 3 to 3 M."""
    return torch.tensor(values.T, dtype=torch.float64)


def on_cove(s: Tensor, across: Tensor, height: Tensor) -> Tensor:
    x, y = COVE_AWAY.tolist()
    return torch.stack([s * x + across * y, s * y - across * x, height])


def local(scenes: Scenes, place: int, point: np.ndarray) -> np.ndarray:
    """Points (M 3) in the frame of an object of the first scene."""
    half = scenes.half_height[0, place]
    x, y, z = (point - [*scenes.position[0, place], half]).T / half
    cos, sin = np.cos(scenes.rotation[0, place]), np.sin(scenes.rotation[0, place])
    return np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1)


# ---- rays ----------------------------------------------------------------------------------------------------


def test_rays_of_pixels_project_back() -> None:
    rng = np.random.default_rng(0)
    view = sample_view(1, np.arange(5), (3, 10))
    which, col, row = rng.integers(0, 5, 200), rng.uniform(0, 320, 200), rng.uniform(0, 240, 200)
    origin, direction = world(view).primary(torch.tensor(which), torch.tensor(col), torch.tensor(row))
    np.testing.assert_allclose(direction.norm(dim=0), 1, atol=1e-14)
    point = (origin + torch.tensor(rng.uniform(1, 20, 200)) * direction).T.numpy()
    back = project(view.camera[which], point[:, None])[:, 0]
    np.testing.assert_allclose(back[:, :2], np.stack([col, row], axis=1), atol=1e-9)
    np.testing.assert_array_equal(origin.T, view.camera[which])


def test_what_is_met_first_is_the_nearest_of_all() -> None:
    """Every object by itself, by the definition, and the ground."""
    rng = np.random.default_rng(1)
    num = 2000
    origin = 8 * upward(rng, num)
    direction = rng.uniform(-2.5, 2.5, (num, 3)) * [1, 1, 0.5] - origin
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    t, hit = world(TRIO).nearest(first(num), put(origin), put(direction))
    distances = [world(scene(Thing("sphere", -50, 50))).nearest(first(num), put(origin), put(direction))[0].numpy()]
    clear = np.ones(num, bool)
    for place, shape in enumerate(("sphere", "cylinder", "cube")):
        half = TRIO.half_height[0, place]
        start = local(TRIO, place, origin)
        distance, depth = dense.enter(shape, start, half * (local(TRIO, place, origin + direction) - start))
        distances.append(half * distance)
        clear &= abs(depth) > 1e-3
    expected = np.choose(np.argmin(distances, axis=0), [GROUND, 0, 1, 2])
    expected[np.isinf(np.min(distances, axis=0))] = NOTHING
    assert all((expected == number).sum() > 50 for number in (0, 1, 2, GROUND))
    np.testing.assert_array_equal(hit.numpy()[clear], expected[clear])
    np.testing.assert_allclose(t.numpy()[clear], np.min(distances, axis=0)[clear], atol=1e-9)


def test_an_object_as_far_as_the_ground_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    origin, direction = put(np.array([[0, 0, 5.0]])), put(np.array([[0, 0, -1.0]]))
    alone = world(scene(Thing("sphere", 0, 0)))
    ground, _ = world(scene(Thing("sphere", -50, 50))).nearest(first(1), origin, direction)
    for closer, expected in ((0.0, GROUND), (1e-9, 0)):
        monkeypatch.setattr("emorl.data.clevr.world._meet_object", lambda *_, closer=closer: ground - closer)
        t, hit = alone.nearest(first(1), origin, direction)
        assert t == ground - closer and hit == expected


def test_a_ray_does_not_meet_what_it_leaves() -> None:
    rng = np.random.default_rng(2)
    away = upward(rng, 500)
    point = put(0.7 * away + [0, 0, 0.7])
    _, hit = world(TRIO).nearest(first(500), point, put(away), torch.zeros(500, dtype=torch.int64))
    assert (hit != 0).all()
    through = -put(away)
    _, hit = world(TRIO).nearest(first(500), point - 3 * through, through)
    assert (hit == 0).float().mean() > 0.5


def test_rays_meet_the_ground_of_the_table() -> None:
    """Where a dense walk along the ray first falls below the table's heights, inside its edges."""
    rng = np.random.default_rng(3)
    num, steps = 400, 20_000
    origin = np.array([7.0, -6.0, 1.0]) * rng.uniform(0.3, 1.2, (num, 3)) + [0, 0, 4.5]
    direction = rng.uniform(-1, 1, (num, 3)) * [1, 1, 0.3] + [-0.7, 0.4, -0.05]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    t, hit = world(scene(Thing("sphere", -50, 50))).nearest(first(num), put(origin), put(direction))
    walked = np.linspace(0, 60, steps)
    for ray in range(num):
        points = origin[ray] + walked[:, None] * direction[ray]
        s, across = points[:, :2] @ COVE_AWAY, points[:, 0] * COVE_AWAY[1] - points[:, 1] * COVE_AWAY[0]
        below = points[:, 2] < np.interp(s, COVE[:, 0], COVE[:, 1])
        within = (s > COVE[0, 0]) & (s < COVE[-1, 0]) & (abs(across) < COVE_HALF_WIDTH)
        entered = np.flatnonzero(below & within)
        if entered.size:
            assert hit[ray] == GROUND
            assert abs(float(t[ray]) - walked[entered[0]]) < 2 * walked[1]
        else:
            assert hit[ray] == NOTHING and t[ray].isinf()
    assert 0.5 < (hit == GROUND).float().mean() < 0.98


def test_the_height_of_the_ground_is_the_tables() -> None:
    s = torch.linspace(-9.55, 18.09, 5001, dtype=torch.float64)
    height = ground_height(s)
    np.testing.assert_allclose(height, np.interp(s, *COVE.T), atol=1e-12)
    np.testing.assert_allclose(ground_height(torch.tensor(COVE[:, 0])), COVE[:, 1], atol=1e-12)
    assert torch.diff(height, n=2).min() > -1e-12


def test_normals_of_the_ground_lean_between_its_slopes() -> None:
    place = world(TRIO)
    s = torch.linspace(-9.5, 18, 1111, dtype=torch.float64)
    across = torch.linspace(-20, 20, 1111, dtype=torch.float64)
    normal = place.ground_normal(on_cove(s, across, ground_height(s)))
    np.testing.assert_allclose(normal.norm(dim=0), 1, atol=1e-14)
    np.testing.assert_allclose(across_cove(normal), 0, atol=1e-14)
    slope = (-along_cove(normal) / normal[2]).numpy()
    slopes = np.diff(COVE[:, 1]) / np.diff(COVE[:, 0])
    segment = np.clip(np.searchsorted(COVE[:, 0], s.numpy(), side="right") - 1, 0, len(slopes) - 1)
    assert (slope >= slopes[np.maximum(segment - 1, 0)] - 1e-9).all()
    assert (slope <= slopes[np.minimum(segment + 1, len(slopes) - 1)] + 1e-9).all()
    assert (np.diff(slope) > -1e-9).all()


def test_normals_of_turned_objects() -> None:
    """By finite differences of the distance, in the world's frame."""
    rng = np.random.default_rng(4)
    origin = 8 * upward(rng, 3000)
    direction = rng.uniform(-2, 2, (3000, 3)) * [1, 1, 0.4] - origin
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    place = world(TRIO)
    t, hit = place.nearest(first(3000), put(origin), put(direction))
    point = put(origin) + t.nan_to_num(posinf=0) * put(direction)
    normal = place.normal(first(3000), hit, point).numpy().T
    for number, shape in enumerate(("sphere", "cylinder", "cube")):
        rows = np.flatnonzero(hit.numpy() == number)
        at = point.numpy().T[rows]

        def distance(points: np.ndarray, number: int = number, shape: str = shape) -> np.ndarray:
            return dense.distance(shape, local(TRIO, number, points))

        steps = 1e-6 * np.eye(3)
        expected = np.stack([distance(at + step) - distance(at - step) for step in steps], axis=1)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert len(rows) > 100
        assert np.quantile(abs(normal[rows] - expected).max(axis=1), 0.99) < 1e-6
        assert ((normal[rows] * direction[rows]).sum(axis=1) < 1e-6).all()


def test_mirrored_directions() -> None:
    rng = np.random.default_rng(5)
    direction, normal = put(-upward(rng, 100)), put(upward(rng, 100))
    mirrored = reflect(direction, normal)
    np.testing.assert_allclose(dot(mirrored, normal), -dot(direction, normal), atol=1e-14)
    np.testing.assert_allclose(reflect(mirrored, normal), direction, atol=1e-14)


# ---- lamps ---------------------------------------------------------------------------------------------------


def test_light_of_the_lamps() -> None:
    """A quarter of the strength, by both cosines over the square of the distance; the sun is the same everywhere."""
    rng = np.random.default_rng(6)
    point = rng.uniform(-3, 3, (200, 3)) * [1, 1, 0] + [0, 0, 0.5]
    light = world(TRIO).lights(first(200), put(point))
    for number, lamp in enumerate(LAMPS):
        offset = np.array(lamp.position) - point
        distance = np.linalg.norm(offset, axis=1)
        cos = (offset @ lamp.position) / distance / np.linalg.norm(lamp.position)
        irradiance = 0.25 * lamp.strength * np.array(lamp.color)[:, None] * cos / distance**2
        np.testing.assert_allclose(light.irradiance[:, number], irradiance, rtol=1e-12)
        np.testing.assert_allclose(light.direction[:, number].T, offset / distance[:, None], atol=1e-12)
        np.testing.assert_allclose(light.distance[number], distance)
        solid_angle = 4 * light.half_size[number] ** 2 * torch.tensor(cos)
        np.testing.assert_allclose(light.radiance[:, number] * solid_angle, irradiance, rtol=1e-12)
    np.testing.assert_allclose(light.direction[:, 3].T, np.broadcast_to(SUN, (200, 3)), atol=1e-4)
    np.testing.assert_allclose(light.irradiance[:, 3], SUN_IRRADIANCE)
    np.testing.assert_allclose(light.radiance[:, 3] * pi * SUN_TANGENT**2, SUN_IRRADIANCE)
    assert light.distance[3].isinf().all()


def test_lamps_shine_on_one_side() -> None:
    behind = 1.3 * torch.tensor([lamp.position for lamp in LAMPS], dtype=torch.float64).T
    light = world(TRIO).lights(first(3), behind)
    for number in range(3):
        assert not light.irradiance[:, number, number].any() and not light.radiance[:, number, number].any()


def targets(scenes: Scenes, number: int, num: int) -> tuple[np.ndarray, bool]:
    """Points (P 3) spread over a lamp of the first scene, or unit vectors to the sun's disc; and is it the sun?"""
    axis = SUN if number == 3 else scenes.lamps[0, number]
    axis = axis / np.linalg.norm(axis)
    side = np.cross([0, 0, 1], axis)
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    if number == 3:
        k = np.arange(num**2)
        radius, turn = SUN_TANGENT * ((k + 0.5) / num**2) ** 0.5, k * pi * (3 - 5**0.5)
        disc = axis + (radius * np.cos(turn))[:, None] * side + (radius * np.sin(turn))[:, None] * other
        return disc / np.linalg.norm(disc, axis=1, keepdims=True), True
    x, y = (LAMPS[number].side * ((np.indices((num, num)) + 0.5) / num - 0.5)).reshape(2, -1)
    return scenes.lamps[0, number] + x[:, None] * side + y[:, None] * other, False


def seen_share(scenes: Scenes, point: Tensor, number: int, num: int = 16) -> np.ndarray:
    """How much of a lamp is seen from points (3 M): by one ray to each of many places on it."""
    target, is_sun = targets(scenes, number, num)
    ends = torch.tensor(target.T)[:, :, None]
    towards = ends.expand(3, num**2, point.shape[1]) if is_sun else ends - point[:, None]
    origin = point[:, None].expand_as(towards).flatten(1)
    # only objects matter: the ground is lit from above
    _, hit = world(scenes).nearest(first(origin.shape[1]), origin, unit(towards).flatten(1))
    shares: Tensor = ((hit == GROUND) | (hit == NOTHING)).view(num**2, -1).double().mean(dim=0)
    return shares.numpy()


def ground_in_shadow(scenes: Scenes, number: int, num: int, rng: np.random.Generator) -> Tensor:
    """Points of the ground (3 num), the lines from which to a lamp pass near the first object or through it."""
    half = scenes.half_height[0, 0]
    aim = np.array([*scenes.position[0, 0], half]) + 1.7 * half * rng.uniform(-1, 1, (num, 3))
    aim[:, 2] = abs(aim[:, 2]) + 0.01
    down = -SUN if number == 3 else aim - scenes.lamps[0, number]
    point = aim - aim[:, 2:] / np.broadcast_to(down, aim.shape)[:, 2:] * down
    point = point[np.linalg.norm(local(scenes, 0, point)[:, :2], axis=1) > 1.45]
    result = put(point)
    result[2] = ground_height(along_cove(result))
    return result


def visible(scenes: Scenes, point: Tensor, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """4 M, from the ground."""
    num = point.shape[1]
    place = world(scenes, dtype)
    light = place.lights(first(num), point.to(dtype))
    lit = torch.ones(4, num, dtype=torch.bool)
    return place.visible_share(first(num), point.to(dtype), light, torch.full((num,), GROUND), lit).double().numpy()


@pytest.mark.parametrize("number", range(4), ids=["key", "fill", "back", "sun"])
@pytest.mark.parametrize("size", ["large", "small"])
@pytest.mark.parametrize("shape", SHAPES)
def test_soft_shadows_are_shares_of_the_lamp(shape: str, size: str, number: int) -> None:
    """Outlines are taken as straight over the lamp: half-shadows are nearly right, and the rest nearly exact.

    The largest errors, a quarter, are beside the rim of a cylinder that is seen edge on.
    """
    rng = np.random.default_rng(7)
    one = scene(Thing(shape, 0.3, -0.2, size, yaw=0.5))
    point = ground_in_shadow(one, number, 500, rng)
    expected, share = seen_share(one, point, number), visible(one, point)[number]
    half_shadow = (expected > 0) & (expected < 1)
    assert half_shadow.sum() > 20 and (expected == 0).any() and (expected == 1).any()
    error = abs(share - expected)
    assert error.mean() < 0.01
    assert error[half_shadow].mean() < 0.04 and error.max() < 0.3
    assert error[~half_shadow].mean() < 2e-3
    assert ((share >= 0) & (share <= 1)).all()


def test_light_is_full_with_nothing_between_and_none_in_the_middle_of_a_shadow() -> None:
    one = scene(Thing("cube", 0.3, -0.2, yaw=0.5))
    rng = np.random.default_rng(8)
    far = put(np.array([0.3, -0.2, 0]) + rng.uniform(-1, 1, (100, 3)) * [0.5, 0.5, 0] + [-9, -9, 0])
    np.testing.assert_array_equal(visible(one, far), 1)
    assert abs(visible(one, put(np.array([[0.3, -0.2, 0.0]])))).max() < 1e-6
    for number in range(4):
        towards = SUN if number == 3 else one.lamps[0, number] - [0.3, -0.2, 0.35]
        below = np.array([0.3, -0.2, 0.35]) - 0.35 / towards[2] * towards
        assert visible(one, put(below[None]))[number] < 1e-6


def test_objects_hide_independently_whatever_is_asked_with_them() -> None:
    rng = np.random.default_rng(9)
    things = Thing("sphere", 0.3, -0.2), Thing("cube", -0.6, 0.9, "small", yaw=0.4)
    point = torch.cat([ground_in_shadow(scene(*things), number, 150, rng) for number in range(4)], dim=1)
    both, one, other = (visible(scene(*some), point) for some in (things, things[:1], things[1:]))
    np.testing.assert_allclose(both, one * other, atol=1e-6)
    assert ((one < 1) & (other < 1)).sum() > 20
    np.testing.assert_array_equal(visible(scene(*things), point[:, 5:12]), both[:, 5:12])


def test_points_of_several_scenes_are_asked_together() -> None:
    rng = np.random.default_rng(10)
    scenes = scene(Thing("sphere", 0.3, -0.2)), scene(Thing("cylinder", 0.1, 0.2), Thing("cube", 2, 2, "small"))
    points = [ground_in_shadow(one, 2, 100, rng) for one in scenes]
    place = world(together(*scenes), torch.float32)
    which = torch.cat([torch.full((points[n].shape[1],), n) for n in (0, 1)])
    point = torch.cat(points, dim=1).float()
    lit = torch.ones(4, len(which), dtype=torch.bool)
    on_ground = torch.full_like(which, GROUND)
    share = place.visible_share(which, point, place.lights(which, point), on_ground, lit).double().numpy()
    alone = [visible(*pair) for pair in zip(scenes, points, strict=True)]
    np.testing.assert_array_equal(share, np.concatenate(alone, axis=1))


TANGENT = 12**-0.5
"""Of the cones over which light from other surfaces is gathered."""


def hits_in_cone(scenes: Scenes, point: Tensor, direction: Tensor) -> Tensor:
    """What 400 rays (M 400), spread evenly over cones from points (3 M) along directions (3 M), meet."""
    k = torch.arange(400)
    radius, turn = TANGENT * ((k + 0.5) / 400).sqrt().double(), k * (pi * (3 - 5**0.5))
    side = unit(torch.stack([-direction[1], direction[0], 0 * direction[0]]))
    other = torch.linalg.cross(direction, side, dim=0)
    x, y = radius * turn.cos(), radius * turn.sin()
    disc = unit(direction[..., None] + x * side[..., None] + y * other[..., None])
    origin = point[..., None].expand_as(disc).flatten(1)
    _, hit = world(scenes).nearest(first(origin.shape[1]), origin, disc.flatten(1))
    return hit.view(-1, 400)


def test_objects_fill_cones() -> None:
    rng = np.random.default_rng(11)
    one = scene(Thing("sphere", 0.3, -0.2))
    num = 400
    turn = rng.uniform(0, 2 * pi, num)
    away = rng.uniform(1, 2.5, (num, 1)) * np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    point, direction = put(away + [0.3, -0.2, 0]), unit(put(upward(rng, num) - 0.7 * away))
    expected = (hits_in_cone(one, point, direction) == 0).double().mean(dim=1)
    size = torch.full((1, num), TANGENT, dtype=torch.float64)
    cone = Light(direction[:, None], torch.inf * size, direction[:, None], direction[:, None], size, None)
    lit = torch.ones(1, num, dtype=torch.bool)
    ((_, rows, hidden),) = world(one).hidden_shares(first(num), point, cone, torch.full((num,), GROUND), lit)
    share = torch.zeros(num, dtype=torch.float64)
    share[rows] = hidden
    # Over so wide a cone an outline is not straight: more is counted as hidden than is, by a tenth.
    assert 0.2 < expected.mean() < 0.4
    assert (share - expected).abs().mean() < 0.05 and (share - expected).abs().max() < 0.15


def test_the_ground_fills_cones() -> None:
    rng = np.random.default_rng(12)
    empty = scene(Thing("sphere", -50, 50))
    point = put(rng.uniform(-2.5, 2.5, (400, 3)) * [1, 1, 0] + [0, 0, 0.7])
    direction = put(upward(rng, 400) * rng.choice([-1, 1], (400, 1)))
    expected = (hits_in_cone(empty, point, direction) == GROUND).double().mean(dim=1)
    end, share = world(empty).ground_in_cone(point, direction, TANGENT)
    assert (share - expected).abs().mean() < 0.04 and abs((share - expected).mean()) < 0.01
    assert share.min() == 0 and share.max() == 1
    t, _ = world(empty).nearest(first(400), point, direction)
    near = t < 8
    assert near.sum() > 100
    assert (end - point - t * direction)[:2, near].norm(dim=0).max() < 0.3
