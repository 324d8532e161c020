"""Scenes as tensors, and the questions that rays ask of them: what is hit first, and how much of a lamp is seen.

Everything is elementwise arithmetic over lists of rays, so a ray's answer does not depend on which others are
asked with it, and the same code runs on a CPU and a GPU.

Axes: M rays or points, each of the scene `scene[m]`; B scenes, O places for objects. Vectors are 3 M.
"""

from __future__ import annotations

from itertools import pairwise
from math import pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from emorl.data.clevr import solids
from emorl.data.clevr.scene import (
    COVE,
    COVE_AWAY,
    COVE_HALF_WIDTH,
    FOCAL,
    HEIGHT,
    LAMPS,
    MATERIALS,
    MAX_OBJECTS,
    PALETTE,
    SHAPES,
    SUN,
    SUN_IRRADIANCE,
    SUN_TANGENT,
    WIDTH,
    Scenes,
    view_axes,
)

GROUND = MAX_OBJECTS
"""What `World.nearest` calls the ground with its cove; objects are 0 to MAX_OBJECTS - 1."""
NOTHING = GROUND + 1
"""A ray that leaves the scene: the world behind it is black. The largest, so that the least number is what is met."""

SLOPES = np.diff(COVE[:, 1]) / np.diff(COVE[:, 0])
"""Of the ground between two places of its table."""

_FAR = 1e4  # farther than anything
_REACH = {"sphere": 1.0, "cylinder": 2**0.5, "cube": 3**0.5}  # radius of a ball that holds the solid


class Light(NamedTuple):
    """L sources of light as seen from M points."""

    direction: Tensor
    """3 L M, to the middle of the source, of unit length."""
    distance: Tensor
    """L M; infinite for the sun."""
    irradiance: Tensor
    """3 L M, RGB on a surface that faces the source, where nothing stands between."""
    radiance: Tensor
    """3 L M, RGB of the source itself."""
    half_size: Tensor
    """L M: half the side of a square source, or the radius of a disc, at distance 1."""
    axes: tuple[Tensor, Tensor] | None
    """3 L M each: directions of the square's sides; None for discs."""

    def at(self, rows: Tensor) -> Light:
        """The sources as seen from some of the points."""
        return Light(
            pick(self.direction, rows),
            pick(self.distance, rows),
            pick(self.irradiance, rows),
            pick(self.radiance, rows),
            pick(self.half_size, rows),
            None if self.axes is None else (pick(self.axes[0], rows), pick(self.axes[1], rows)),
        )


class World:
    """Scenes on a device.

    Args:
        scenes: B of them.
        device: where.
        dtype: float64 for labels, float32 for light.
    """

    def __init__(self, scenes: Scenes, device: torch.device, dtype: torch.dtype) -> None:
        put, self.dtype, self.device = self._put, dtype, device
        names = np.array(("", *SHAPES))[scenes.shape].ravel()
        yaw = scenes.rotation.ravel()  # the label's number is taken as radians, as the published set has it
        self.num_scenes = len(scenes)
        self.num_places = int(scenes.num_objects.max(initial=1))  # one at least: an empty scene has nothing there
        self.camera = put(scenes.camera.T)  # 3 B
        self.axes = put(view_axes(scenes.camera).transpose(1, 2, 0))  # 3 3 B: axis, coordinate
        self.lamps = put(scenes.lamps.transpose(2, 1, 0))  # 3 L B
        # What objects have: the last axis is B x O.
        self.present = torch.as_tensor((scenes.size > 0).ravel(), device=device)
        center = np.concatenate([scenes.position, scenes.half_height[..., None]], axis=-1).reshape(-1, 3).T
        half = np.where(scenes.size > 0, scenes.half_height, 1).ravel()
        fillet = np.array([solids.FILLETS.get(name, 1.0) for name in names])
        table = put(np.stack([*center, half, np.cos(yaw), np.sin(yaw), fillet, names == "cylinder"]))
        reach = put(np.array([_REACH.get(name, 1.0) for name in names])) * table[3]
        self.table = torch.cat([table, reach[None]])  # 9 BO, in this order, for `Objects.of`
        self.center, self.half_height, self.fillet = self.table[:3], self.table[3], self.table[6]
        # The balls that hold the objects of each place: centre and radius, which is -inf where nothing is to be met.
        balls = torch.cat([self.center, torch.where(self.present, reach, -torch.inf)[None]])
        self.balls = list(balls.view(4, self.num_scenes, MAX_OBJECTS).permute(2, 0, 1).contiguous())  # O times 4 B
        self.metal = torch.as_tensor((scenes.material == 1 + MATERIALS.index("metal")).ravel(), device=device)
        self.albedo = put(np.concatenate([np.zeros((1, 3)), PALETTE])[scenes.color].reshape(-1, 3).T)  # 3 BO
        self._cove_s = put(COVE[:, 0])
        self._lamp_side = put(np.array([lamp.side for lamp in LAMPS]))[:, None]  # L 1
        self._lamp_radiance = put(np.stack([lamp.radiance for lamp in LAMPS], axis=1))[..., None]  # 3 L 1
        self._sun = put(SUN)[:, None, None]  # 3 1 1
        self._sun_across = put(np.array([-SUN[1], SUN[0], 0]) / np.hypot(SUN[0], SUN[1]))[:, None, None]
        # at the corners of the profile, for a smooth normal
        self._corner_slopes = put(np.concatenate([SLOPES[:1], (SLOPES[1:] + SLOPES[:-1]) / 2, SLOPES[-1:]]))

    def _put(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), device=self.device).to(self.dtype)

    def of(self, table: Tensor, scene: Tensor, place: Tensor | int) -> Tensor:
        """What objects have: M, or 3 M, from a table with the last axis B x O."""
        return pick(table, scene * MAX_OBJECTS + place)

    # ---- rays ---------------------------------------------------------------------------------------------

    def primary(self, scene: Tensor, col: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions (3 M each) of rays through points of the 320 x 240 picture (M each)."""
        right, up, back = pick(self.axes, scene)
        direction = (col - WIDTH / 2) / FOCAL * right - (row - HEIGHT / 2) / FOCAL * up - back
        return pick(self.camera, scene), unit(direction)

    def nearest(
        self, scene: Tensor, origin: Tensor, direction: Tensor, leaving: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What rays meet first.

        Args:
            scene: M, int64.
            origin: 3 M.
            direction: 3 M, of unit length.
            leaving: M, the object on whose surface the ray starts; it is convex, so the ray never meets it.

        Returns:
            The distance (M) and what is there (M, int64): an object, `GROUND` or `NOTHING`.
        """
        ground = _meet_ground(origin, direction)
        hit = torch.where(ground < torch.inf, GROUND, NOTHING)
        near = []
        for number, balls in enumerate(self.balls[: self.num_places]):
            near.append(_meets_ball(balls, scene, origin, direction, ground))
            if leaving is not None:
                near[-1] &= leaving != number
        place, rows = _where(near)
        found = _meet_object(self.table, scene, origin, direction, place, rows)
        t = ground.scatter_reduce(0, rows, found, "amin")
        first = (found < pick(ground, rows)) & (found == pick(t, rows))
        return t, hit.scatter_reduce(0, rows, torch.where(first, place, NOTHING), "amin")

    def ground_in_cone(self, origin: Tensor, direction: Tensor, tangent: float) -> tuple[Tensor, Tensor]:
        """Where cones meet the ground.

        Args:
            origin: 3 M.
            direction: 3 M, the axes, of unit length.
            tangent: of the cones' half-angle.

        Returns:
            A point (3 M) above or below the place where the axis meets the ground, or comes nearest to it, and
            the share (M) of the cone that the ground fills.
        """
        level = (direction[0] ** 2 + direction[1] ** 2).sqrt().clamp_min(1e-6)
        ahead = torch.stack([direction[0] / level, direction[1] / level, torch.zeros_like(level)])
        ds, da = along_cove(ahead), across_cove(ahead)
        s, a = along_cove(origin), across_cove(origin)
        # How far to go, level with the ground, to the edge over which the rest of the cone looks.
        edge = torch.where(ds > 0, COVE[-1, 0] - s, s - COVE[0, 0]) / ds.abs().clamp_min(1e-6)
        side = (COVE_HALF_WIDTH - a * da.sign()) / da.abs().clamp_min(1e-6)
        edge = torch.minimum(edge, side).clamp_min(1e-3)
        rise = ground_height(s + edge * ds) - origin[2]
        share = 0.5 + (rise / (rise * rise + edge * edge).sqrt() - direction[2]) / (2 * tangent)
        reached = torch.minimum(_meet_planes(origin, direction, every=3) * level, edge)
        return origin + reached * ahead, share.clamp(0, 1)

    def ground_normal(self, point: Tensor) -> Tensor:
        """Unit normals (3 M) of the ground at points of it (3 M)."""
        s = along_cove(point).clamp(float(COVE[0, 0]), float(COVE[-1, 0]))
        left = (torch.searchsorted(self._cove_s, s, right=True) - 1).clamp(0, len(COVE) - 2)
        start, stop = pick(self._cove_s, left), pick(self._cove_s, left + 1)
        slopes = pick(self._corner_slopes, left), pick(self._corner_slopes, left + 1)
        slope = torch.lerp(*slopes, (s - start) / (stop - start))
        return unit(torch.stack([-slope * COVE_AWAY[0], -slope * COVE_AWAY[1], torch.ones_like(slope)]))

    def normal(self, scene: Tensor, hit: Tensor, point: Tensor) -> Tensor:
        """Unit normals (3 M) at points (3 M) on what was hit (M); the ground's where nothing was."""
        result = self.ground_normal(point)
        rows = (hit < GROUND).nonzero().squeeze(1)
        objects = Objects.of(self.table, pick(scene, rows), pick(hit, rows))
        local = objects.to_frame(pick(point, rows))
        result[:, rows] = objects.turn(solids.normal(objects.solid, local), back=True)
        return result

    # ---- lamps --------------------------------------------------------------------------------------------

    def lights(self, scene: Tensor, point: Tensor) -> Light:
        """The four lamps as seen from points (3 M); the sun's disc as a square of its area, far away."""
        position = pick(self.lamps, scene)  # 3 L M
        side, radiance = self._lamp_side, self._lamp_radiance
        offset = position - point[:, None]
        square = dot(offset, offset)
        distance = square.sqrt()
        direction = offset / distance
        faces = unit(position)
        facing = dot(direction, faces).clamp_min(0)
        across = unit(torch.stack([-faces[1], faces[0], torch.zeros_like(faces[0])]))

        toward_sun, sun_across = (axis.expand(3, 1, point.shape[1]) for axis in (self._sun, self._sun_across))
        ones = torch.ones_like(distance[:1])
        sun = SUN_IRRADIANCE * ones.expand(3, 1, -1)
        return Light(
            direction=torch.cat([direction, toward_sun], dim=1),
            distance=torch.cat([distance, torch.inf * ones]),
            irradiance=torch.cat([radiance * (side**2 * facing / square), sun], dim=1),
            radiance=torch.cat([radiance * (facing > 0), sun / (pi * SUN_TANGENT**2)], dim=1),
            half_size=torch.cat([side / 2 / distance, SUN_TANGENT * pi**0.5 / 2 * ones]),
            axes=(
                torch.cat([across, sun_across], dim=1),
                torch.cat([cross(faces, across), cross(toward_sun, sun_across)], dim=1),
            ),
        )

    def visible_share(self, scene: Tensor, point: Tensor, light: Light, leaving: Tensor, lit: Tensor) -> Tensor:
        """How much of sources of light is seen from points.

        Objects hide independently; see `hidden_shares`.

        Args:
            scene: M.
            point: 3 M.
            light: L sources.
            leaving: M, the object that the point is on; a convex body has no shadow on its lit side.
            lit: L M, bool: where it is worth asking.

        Returns:
            L M, in [0, 1].
        """
        share = torch.ones_like(light.distance).flatten()
        for _, rows, hidden in self.hidden_shares(scene, point, light, leaving, lit):
            share[rows] *= 1 - hidden
        return share.view_as(light.distance)

    def hidden_shares(
        self, scene: Tensor, point: Tensor, light: Light, leaving: Tensor, lit: Tensor, steps: int = 10
    ) -> list[tuple[int, Tensor, Tensor]]:
        """How much each object hides of sources of light.

        An object hides up to its outline, which is taken as straight over the source: the share is that of a
        square, or of a disc, on one side of a line. There are no samples and so no noise. Arguments as for
        `visible_share`.

        Returns:
            For each place: its number, the positions in L x M that are concerned, their shares in [0, 1].
        """
        near = [
            _meets_ball(balls, scene, point, light.direction, light.distance, 1.5 * light.half_size)
            & (lit & (leaving != number))
            for number, balls in enumerate(self.balls[: self.num_places])
        ]
        place, rows = _where(near)
        hidden = _hide(self.table, scene, point, light, place, rows, steps)
        starts = torch.searchsorted(place, torch.arange(len(near) + 1, device=place.device)).tolist()
        return [(number, rows[start:stop], hidden[start:stop]) for number, (start, stop) in enumerate(pairwise(starts))]


class Objects(NamedTuple):
    """An object for each of M rays or points: its shape, and where it lies."""

    center: Tensor
    """3 M."""
    half_height: Tensor
    """M, as the next two."""
    cos: Tensor
    sin: Tensor
    """Of its yaw."""
    solid: solids.Solid
    reach: Tensor
    """Radius of a ball that holds it."""

    @classmethod
    def of(cls, table: Tensor, scene: Tensor, place: Tensor) -> Objects:
        """From a world's table, by scene and place (M each)."""
        some = pick(table, scene * MAX_OBJECTS + place)
        half_height, cos, sin, fillet, is_round, reach = some[3:]
        return cls(some[:3], half_height, cos, sin, solids.Solid(is_round > 0, fillet), reach)

    def turn(self, vector: Tensor, back: bool = False) -> Tensor:
        """Directions (3 M) of the world in the objects' frames, or `back` again."""
        sin = -self.sin if back else self.sin
        x, y, z = vector
        return torch.stack([self.cos * x + sin * y, self.cos * y - sin * x, z])

    def to_frame(self, point: Tensor) -> Tensor:
        """Points (3 M) of the world in the objects' frames."""
        return self.turn((point - self.center) / self.half_height)


def _where(near: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The places that are concerned, one after another, and the positions (in a flattened list) at which they are."""
    place, rows = torch.stack(near).flatten(1).nonzero(as_tuple=True)
    return place.contiguous(), rows.contiguous()  # columns of one array: as indices they are slow


def _meets_ball(
    balls: Tensor, scene: Tensor, origin: Tensor, direction: Tensor, stop: Tensor, widening: Tensor | None = None
) -> Tensor:
    """Do rays or cones meet a ball before they stop?

    Args:
        balls: 4 B, of each scene: centre and radius.
        scene: M.
        origin: 3 M.
        direction: 3 M, or 3 L M: of unit length.
        stop: M or L M, distance along the rays.
        widening: M or L M, how much wider a cone is at distance 1.

    Returns:
        M or L M, bool.
    """
    ball = pick(balls, scene)
    offset, reach = ball[:3] - origin, ball[3]
    offset = offset if direction.ndim == 2 else offset[:, None]
    along = dot(offset, direction)
    wide = reach if widening is None else reach + widening * (along + reach).clamp_min(0)
    near = (dot(offset, offset) - along * along < wide * wide) & (along + reach > 0)
    return near & (along - reach < stop)


def _meet_object(
    table: Tensor, scene: Tensor, origin: Tensor, direction: Tensor, place: Tensor, rows: Tensor
) -> Tensor:
    """How far some rays (rows of M) go to an object each: infinite where they miss it."""
    some = Objects.of(table, pick(scene, rows), place)
    met = solids.intersect(some.solid, some.to_frame(pick(origin, rows)), some.turn(pick(direction, rows)))
    return some.half_height * met


def _hide(table: Tensor, scene: Tensor, point: Tensor, light: Light, place: Tensor, rows: Tensor, steps: int) -> Tensor:
    """Shares of sources of light (rows of L x M) that an object each hides; see `World.hidden_shares`."""
    at = rows % len(scene)
    some = Objects.of(table, pick(scene, at), place)
    origin, direction = pick(point, at), pick(light.direction.flatten(1), rows)
    half, reach = some.half_height, some.reach
    along = dot(some.center - origin, direction)
    found = solids.approach(
        some.solid,
        some.to_frame(origin),
        some.turn(direction),
        (along - reach).clamp_min(0) / half,
        torch.minimum(along + reach, pick(light.distance.flatten(), rows)) / half,
        steps,
    )
    spread = pick(light.half_size.flatten(), rows) * found.t  # of the source's image at the outline
    if light.axes is None:
        return _share_of_disc(-found.distance / spread.clamp_min(1e-6))
    outline = some.turn(found.normal, back=True)
    extents = [spread * dot(outline, pick(axis.flatten(1), rows)).abs() for axis in light.axes]
    return _share_of_square(-found.distance, torch.maximum(*extents), torch.minimum(*extents))


def _meet_ground(origin: Tensor, direction: Tensor) -> Tensor:
    """M: where rays (3 M) from above meet the ground; infinite beyond its edges."""
    t = _meet_planes(origin, direction)
    return torch.where(torch.stack(_within_ground(origin + t * direction)).amin(dim=0) >= 0, t, torch.inf)


def _meet_planes(origin: Tensor, direction: Tensor, every: int = 1) -> Tensor:
    """M: where rays from above meet a ground without edges, of all its planes or of `every` so many.

    It is convex: that is the first of its planes.
    """
    s, ds = along_cove(origin), along_cove(direction)
    t = torch.full_like(s, _FAR)
    for (start, height), slope in zip(COVE[:-1:every].tolist(), SLOPES[::every].tolist(), strict=True):
        falling = slope * ds - direction[2]
        above = (origin[2] - height - slope * (s - start)).clamp_min(0)
        t = torch.where(falling > 0, torch.minimum(t, above / falling), t)
    return t


def ground_height(s: Tensor) -> Tensor:
    """Height of the ground at distances along the cove, any shape."""
    height = torch.full_like(s, -torch.inf)
    for (start, base), slope in zip(COVE[:-1].tolist(), SLOPES.tolist(), strict=True):
        height = torch.maximum(height, base + slope * (s - start))
    return height


def _within_ground(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far points (3 M) are within the near edge, the top, and the sides of the ground: M each."""
    return along_cove(point) - COVE[0, 0], COVE[-1, 1] - point[2], COVE_HALF_WIDTH - across_cove(point).abs()


def _share_of_disc(x: Tensor) -> Tensor:
    """The share of a disc of radius 1 on the lower side of the line at x."""
    x = x.clamp(-1, 1)
    return 0.5 + (x * (1 - x * x).sqrt() + x.asin()) / pi


def _share_of_square(x: Tensor, wide: Tensor, narrow: Tensor) -> Tensor:
    """The share of a square below x, where its sides' half-extents across the line are `wide` >= `narrow`."""
    wide, narrow = wide.clamp_min(1e-6), narrow.clamp_min(1e-6)

    def integral(y: Tensor) -> Tensor:
        return torch.where(y > narrow, y, (y + narrow).clamp_min(0) ** 2 / (4 * narrow))

    return ((integral(x + wide) - integral(x - wide)) / (2 * wide)).clamp(0, 1)


def pick(values: Tensor, rows: Tensor) -> Tensor:
    """Some of the last axis; several times as fast as an index."""
    return values.index_select(-1, rows)


def over_directions(values: Tensor) -> Tensor:
    """3 K M summed over K, always in the same order: a reduction's order depends on the sizes."""
    total = values[:, 0]
    for k in range(1, values.shape[1]):
        total = total + values[:, k]
    return total


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot products over the first axis."""
    result: Tensor = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return result


def unit(vector: Tensor) -> Tensor:
    """Vectors (3 M) at unit length."""
    return vector / dot(vector, vector).sqrt().clamp_min(1e-12)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross products over the first axis."""
    return torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def reflect(direction: Tensor, normal: Tensor) -> Tensor:
    """Directions (3 M) mirrored at surfaces with unit normals (3 M)."""
    return direction - 2 * dot(direction, normal) * normal


def along_cove(point: Tensor) -> Tensor:
    """Distance (M) along the cove of points (3 M)."""
    x, y = COVE_AWAY.tolist()
    result: Tensor = point[0] * x + point[1] * y
    return result


def across_cove(point: Tensor) -> Tensor:
    """Distance (M) across the cove, from its middle, of points (3 M)."""
    x, y = COVE_AWAY.tolist()
    result: Tensor = point[0] * y - point[1] * x
    return result
