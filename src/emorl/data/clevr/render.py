"""Pictures of CLEVR's scenes: light from four lamps over a grey cove, on rubber and metal.

No sample is random, so nothing is noisy but the grain that a caller adds: soft shadows are areas of lamps
(`World.visible_share`), highlights are closed forms, and what arrives by way of other surfaces is gathered over fixed
directions. The parts of a pixel's radiance, data set specification, section 3.3:

    rubber, ground   albedo / pi x (lamps + gathered light)         Lambert
    rubber           mixed with velvet towards grazing views        sigma 0.6 under a Fresnel term of 1.4
                     + a weak broad highlight                       Beckmann 0.35 under a Fresnel term of 1.2
    metal            0.6 x what the mirror shows                    GGX 0.01: other objects, ground, lamps
                     + 0.4 x the same, blurred                      GGX 0.2, brushed around the vertical axis

Light that comes from the ground is looked up in a map of it (`Surroundings`), made once for each scene.

Axes: M rays or points, each of the scene `scene[m]`. Vectors and colours are 3 M, linear RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from emorl.data.clevr.scene import COVE_AWAY, MAX_OBJECTS, Scenes
from emorl.data.clevr.world import (
    GROUND,
    NOTHING,
    Light,
    World,
    across_cove,
    along_cove,
    cross,
    dot,
    ground_height,
    over_directions,
    pick,
    reflect,
    unit,
)

GROUND_ALBEDO = 0.8
MIRROR_SHARE, MIRROR_ALPHA = 0.6, 0.01
BLUR_SHARE, BLUR_ALPHA = 0.4, 0.2
COAT_COLOR, COAT_ALPHA, COAT_INDEX = 0.8, 0.35, 1.2
VELVET_SIGMA = 0.6

SUBPIXELS = 3
"""A pixel at an outline, or on metal, is the mean of so many squared."""
HIGHLIGHT_SUBPIXELS = 6
"""Where some of these are brighter than white and others are not."""
_GATHER = 12  # directions over which light from other surfaces is gathered
_GATHER_SUBPIXEL = 2  # for each part of a pixel, other ones in each part
_BLUR_SUBPIXEL = 4  # directions of a blurred reflection, likewise
_MIRRORS = 2  # reflections of reflections that are followed


@dataclass(frozen=True)
class Style:
    """What a path tracer without these features needs to be told to leave out."""

    anisotropy: float = 0.25
    """Of the broad lobe of metal: its roughness is 0.2 x (1 - a) around the vertical axis, 0.2 / (1 - a) across."""
    velvet_index: float = 1.4
    """Refractive index of the Fresnel term that mixes velvet into rubber; 1 leaves velvet out."""
    spread: float = 0.03
    """Share of a pixel's light that goes to each of its four neighbours: the original's pixel filter is wider than a
    square. With 0.03 the outlines of a real record agree best (squared difference 15.8; 18.7 at 0, 16.0 at 0.045)."""


_MAP_S, _MAP_ACROSS = (-9.5, 18.0), (-14.0, 14.0)  # part of the ground that is mapped


def _spiral(num: int) -> tuple[Tensor, Tensor]:
    """Points u in (0, 1) and angles, `num` each, spread evenly over a disc.

    The turn by 2.5 makes a dozen of them balance above and below, where the light of the ground differs most.
    """
    k = torch.arange(num)
    return (k + 0.5) / num, k * (pi * (3 - 5**0.5)) + 2.5


def _frame(normal: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors (3 M each) that stand on a normal and on each other."""
    x, y, z = normal
    side = unit(torch.where(z.abs() > 0.9, torch.stack([torch.zeros_like(x), z, -y]), torch.stack([-y, x, 0 * z])))
    return side, cross(normal, side)


class Surroundings:
    """What surfaces send on to others, roughly: made once for each scene, then looked up.

    A map of the ground's light from the lamps with its shadows; a coarser one of what it gets from the rest
    of itself; and for each object the light it sends in six directions.
    """

    def __init__(self, world: World, style: Style = Style()) -> None:  # noqa: B008 it is frozen
        self.world, self.style = world, style
        self.direct = self._map(0.3, self._lamps)
        self.gathered = torch.zeros_like(self.direct[:, :, :2, :2])
        self.objects = self._sides()
        # once more, with the light that objects throw on the ground
        self.direct = self.direct + self._map(0.3, self._objects_on_ground)
        self.objects = self._sides()
        self.gathered = self._map(1.5, self._rest_of_ground)

    @property
    def blur(self) -> tuple[float, float]:
        """Roughness of metal's broad lobe around the vertical axis, and across."""
        share = 1 - self.style.anisotropy
        return BLUR_ALPHA * share, BLUR_ALPHA / share

    def _sides(self) -> Tensor:
        """6 3 BO: radiance of each object's six sides."""
        world, places = self.world, self.world.num_places
        each = torch.arange(world.num_scenes, device=world.device)
        scene = each.repeat(6 * places)  # of 6 P B points
        place = torch.arange(places, device=world.device).repeat_interleave(len(each)).repeat(6)
        axes = torch.eye(3, device=world.device, dtype=world.dtype)
        outward = torch.stack([axes, -axes], dim=2).flatten(1).repeat_interleave(places * len(each), dim=1)
        point = world.of(world.center, scene, place) + world.of(world.half_height, scene, place) * outward
        color = _soft_object(world, self, scene, point, outward, place, -outward)
        sides = torch.zeros(6, 3, len(world.present), device=world.device, dtype=world.dtype)
        seen = color.view(3, 6, places, len(each)).permute(1, 0, 3, 2)
        sides.view(6, 3, len(each), MAX_OBJECTS)[..., :places] = seen
        return sides

    def _map(self, cell: float, measure: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """B 3 S A: irradiance at points of a grid over the ground."""
        world = self.world
        s = torch.linspace(*_MAP_S, round((_MAP_S[1] - _MAP_S[0]) / cell) + 1, device=world.device)
        across = torch.linspace(*_MAP_ACROSS, round((_MAP_ACROSS[1] - _MAP_ACROSS[0]) / cell) + 1, device=world.device)
        scene = torch.arange(world.num_scenes, device=world.device)
        b = scene.repeat_interleave(len(s) * len(across))
        along = s.repeat_interleave(len(across)).repeat(len(scene))
        side = across.repeat(len(scene) * len(s))
        point = torch.stack(
            [
                along * COVE_AWAY[0] + side * COVE_AWAY[1],
                along * COVE_AWAY[1] - side * COVE_AWAY[0],
                ground_height(along),
            ]
        )
        values = measure(b, point, world.ground_normal(point))
        return values.view(3, world.num_scenes, len(s), len(across))

    def _lamps(self, scene: Tensor, point: Tensor, normal: Tensor) -> Tensor:
        return lamps(self.world, scene, point, normal, torch.full_like(scene, GROUND))

    def _rest_of_ground(self, scene: Tensor, point: Tensor, normal: Tensor) -> Tensor:
        hit = torch.full_like(scene, GROUND)
        return gather(self.world, self, scene, point, normal, hit, 64, torch.zeros_like(scene), 1, objects=False)

    def _look_up(self, layer: Tensor, scene: Tensor, point: Tensor) -> Tensor:
        """Bilinear interpolation in a map (3 B S A) at points (3 M): 3 M."""
        _, _, num_s, num_across = layer.shape
        s, across = along_cove(point), across_cove(point)
        i = ((s - _MAP_S[0]) / (_MAP_S[1] - _MAP_S[0])).clamp(0, 1) * (num_s - 1)
        j = ((across - _MAP_ACROSS[0]) / (_MAP_ACROSS[1] - _MAP_ACROSS[0])).clamp(0, 1) * (num_across - 1)
        top, left = i.long().clamp_max(num_s - 2), j.long().clamp_max(num_across - 2)
        down, right = i - top, j - left
        flat = layer.flatten(1)
        start = (scene * num_s + top) * num_across + left
        upper = torch.lerp(pick(flat, start), pick(flat, start + 1), right)
        lower = torch.lerp(pick(flat, start + num_across), pick(flat, start + num_across + 1), right)
        return torch.lerp(upper, lower, down)

    def ground(self, scene: Tensor, point: Tensor) -> Tensor:
        """Radiance (3 M) of the ground at points above or below it."""
        irradiance = self._look_up(self.direct, scene, point) + self._look_up(self.gathered, scene, point)
        return GROUND_ALBEDO / pi * irradiance

    def object(self, scene: Tensor, place: int, outward: Tensor) -> Tensor:
        """Radiance (3 M) of an object on its side that faces a direction (3 M)."""
        sides = self.world.of(self.objects, scene, place)  # 6 3 M
        total = torch.zeros_like(outward)
        for axis in range(3):
            share = outward[axis]
            total += share * share * torch.where(share > 0, sides[2 * axis], sides[2 * axis + 1])
        return total

    def on_ground(self, scene: Tensor, point: Tensor) -> Tensor:
        """Irradiance (3 M) of points of the ground by way of other surfaces."""
        return self._look_up(self.gathered, scene, point) + self._objects_on_ground(scene, point)

    def _objects_on_ground(self, scene: Tensor, point: Tensor, _: Tensor | None = None) -> Tensor:
        """Irradiance (3 M) of points of the ground from objects.

        An object counts as a ball on the ground, which fills the share h r^2 / d^3 of what a horizontal surface
        sees from a distance d to its centre at height h = r; a cube or a cylinder as a slightly larger one.
        """
        total = torch.zeros_like(point)
        for place in range(self.world.num_places):
            offset = self.world.of(self.world.center, scene, place) - point
            half = self.world.of(self.world.half_height, scene, place)
            square = dot(offset, offset)
            distance = square.sqrt()
            bulk = torch.where(self.world.of(self.world.fillet, scene, place) == 1, 1.0, 1.12)
            fills = (bulk**3 * half**3 / (square * distance)).clamp_max(0.5)
            fills = torch.where(self.world.of(self.world.present, scene, place), fills, 0.0)
            total += pi * fills * self.object(scene, place, -offset / distance)
        return total


def lamps(world: World, scene: Tensor, point: Tensor, normal: Tensor, hit: Tensor) -> Tensor:
    """Irradiance (3 M) of points from the lamps, with shadows."""
    light = world.lights(scene, point)
    facing = dot(light.direction, normal[:, None]).clamp_min(0)
    share = world.visible_share(scene, point, light, hit, facing > 0)
    return over_directions(light.irradiance * (facing * share))


def gather(
    world: World,
    around: Surroundings,
    scene: Tensor,
    point: Tensor,
    normal: Tensor,
    hit: Tensor,
    num: int,
    phase: Tensor,
    phases: int,
    objects: bool = True,
) -> Tensor:
    """Irradiance (3 M) of points from other surfaces, over cones around fixed directions.

    Args:
        world: the scenes.
        around: their surroundings.
        scene: M.
        point: 3 M.
        normal: 3 M.
        hit: M, what the points are on.
        num: directions for each point.
        phase: M, 0 to phases - 1: which of the num x phases directions.
        phases: how many sets of directions there are.
        objects: do objects send light, and stand in its way?
    """
    u, angle = (values.to(world.device, world.dtype) for values in _spiral(num * phases))
    tangent = max(num, _GATHER / 2) ** -0.5
    which = phase + phases * torch.arange(num, device=world.device)[:, None]  # K M
    side, other = _frame(normal)
    radius, up = u.sqrt(), (1 - u).sqrt()
    x, y, z = (radius * angle.cos())[which], (radius * angle.sin())[which], up[which]
    direction = x * side[:, None] + y * other[:, None] + z * normal[:, None]  # 3 K M
    flat = direction.flatten(1)
    of = scene.repeat(num)
    end, share = world.ground_in_cone(point.repeat(1, num), flat, tangent)
    arriving = share * around.ground(of, end)
    if objects:
        size = torch.full_like(z, tangent)
        cone = Light(direction, torch.full_like(z, torch.inf), direction, direction, size, None)
        lit = torch.ones_like(z, dtype=torch.bool)
        for place, rows, hidden in world.hidden_shares(scene, point, cone, hit, lit, steps=3):
            seen = around.object(pick(of, rows), place, -pick(flat, rows))
            arriving[:, rows] = torch.lerp(arriving[:, rows], seen, hidden)
    return pi / num * over_directions(arriving.view_as(direction))


def soft_radiance(
    world: World, around: Surroundings, scene: Tensor, origin: Tensor, direction: Tensor, leaving: Tensor
) -> Tensor:
    """What rays (M) see, where detail does not matter: 3 M. Objects are lit without shadows of others."""
    t, hit = world.nearest(scene, origin, direction, leaving)
    result = torch.zeros_like(origin)
    rows = (hit == GROUND).nonzero().squeeze(1)
    result[:, rows] = around.ground(pick(scene, rows), pick(origin, rows) + pick(t, rows) * pick(direction, rows))
    rows = (hit < GROUND).nonzero().squeeze(1)
    if rows.numel():
        of, place = pick(scene, rows), pick(hit, rows)
        point = pick(origin, rows) + pick(t, rows) * pick(direction, rows)
        normal = world.normal(of, place, point)
        result[:, rows] = _soft_object(world, around, of, point, normal, place, pick(direction, rows))
    return result


def _soft_object(
    world: World, around: Surroundings, scene: Tensor, point: Tensor, normal: Tensor, place: Tensor, direction: Tensor
) -> Tensor:
    metal = world.of(world.metal, scene, place)
    albedo = world.of(world.albedo, scene, place)
    mirrored = reflect(direction, normal)
    # the ground where the mirrored ray would meet it, or below the object for a diffuse surface
    fall = (point[2] / (-mirrored[2]).clamp_min(0.05)).clamp_max(8)
    below = torch.where(metal, point + fall * mirrored, point + 0.7 * normal)
    ground = around.ground(scene, below)
    light = world.lights(scene, point)
    arriving = light.irradiance * dot(light.direction, normal[:, None]).clamp_min(0)
    lit = over_directions(arriving)
    side, other = _frame(normal)
    tangents = side[:, None], other[:, None]
    broad = ggx(light.direction, -direction[:, None], normal[:, None], tangents, (0.35, 0.35))
    shine = over_directions(arriving * broad)
    matte = albedo / pi * (lit + pi / 2 * (1 - normal[2]) * ground)
    return torch.where(metal, albedo * (torch.where(mirrored[2] < 0, ground, 0.0) + shine), matte)


Tangents = tuple[Tensor, Tensor]


def ggx(to_light: Tensor, to_eye: Tensor, normal: Tensor, tangents: Tangents, alpha: tuple[float, float]) -> Tensor:
    """Reflectance (1 / sr) of a GGX surface without Fresnel (Walter et al. 2007; Burley 2012 for two roughnesses).

    Args:
        to_light: 3 L M.
        to_eye: 3 1 M.
        normal: 3 1 M.
        tangents: 3 1 M each, at right angles to the normal and to each other.
        alpha: roughness along each of them.

    Returns:
        L M: D G / (4 n.l n.v), G of Smith, uncorrelated.
    """
    half = unit(to_light + to_eye)
    x, y = (dot(half, axis) / roughness for axis, roughness in zip(tangents, alpha, strict=True))
    z = dot(half, normal).clamp(1e-4, 1)
    d = 1 / (pi * alpha[0] * alpha[1] * (x * x + y * y + z * z) ** 2)
    return d * smith(to_light, normal, tangents, alpha) * smith(to_eye, normal, tangents, alpha)


def smith(v: Tensor, normal: Tensor, tangents: Tangents, alpha: tuple[float, float]) -> Tensor:
    """G of one direction for GGX, divided by 2 n.v; shapes as for `ggx`."""
    x, y = (dot(v, axis) * roughness for axis, roughness in zip(tangents, alpha, strict=True))
    z = dot(v, normal).clamp(1e-4, 1)
    return 1 / (z + (x * x + y * y + z * z).sqrt())


def velvet(to_light: Tensor, to_eye: Tensor, normal: Tensor) -> Tensor:
    """Reflectance (L M, 1 / sr) of velvet (Ashikhmin, Premoze and Shirley 2000); arguments as for `ggx`."""
    half = unit(to_light + to_eye)
    nh = dot(normal, half).clamp(1e-4, 1 - 1e-4)
    nl, nv, hv = (dot(a, b).clamp_min(1e-3) for a, b in ((normal, to_light), (normal, to_eye), (half, to_eye)))
    sine = 1 - nh * nh
    d = torch.exp(-nh * nh / (sine * VELVET_SIGMA**2)) / (pi * VELVET_SIGMA**2 * sine * sine)
    return d * (2 * nh * torch.minimum(nl, nv) / hv).clamp_max(1) / (4 * nl * nv)


def brushed(world: World, scene: Tensor, place: Tensor, point: Tensor, normal: Tensor) -> Tangents:
    """Unit vectors (3 M each) on objects' surfaces: around the vertical axis of each, and across that."""
    offset = point - world.of(world.center, scene, place)
    turning = torch.stack([-offset[1], offset[0], torch.zeros_like(offset[0])])
    across = unit(cross(turning, normal))
    return cross(normal, across), across


def beckmann(to_light: Tensor, to_eye: Tensor, normal: Tensor, alpha: float) -> Tensor:
    """Reflectance (M, 1 / sr) of a Beckmann surface without Fresnel (Walter et al. 2007)."""
    half = unit(to_light + to_eye)
    nh, nl, nv = (dot(normal, v).clamp(1e-3, 1) for v in (half, to_light, to_eye))
    square = nh * nh
    d = torch.exp((square - 1) / (square * alpha**2)) / (pi * alpha**2 * square * square)
    g = torch.ones_like(nh)
    for cos in (nl, nv):
        a = cos / (alpha * (1 - cos * cos).clamp_min(1e-8).sqrt())
        g = g * torch.where(a < 1.6, (3.535 * a + 2.181 * a * a) / (1 + 2.276 * a + 2.577 * a * a), 1.0)
    return d * g / (4 * nl * nv)


def fresnel(cos: Tensor, index: float) -> Tensor:
    """Share (M) of unpolarised light that a dielectric of a refractive index reflects."""
    g = (index * index - 1 + cos * cos).sqrt()
    a, b = (g - cos) / (g + cos), (cos * (g + cos) - 1) / (cos * (g - cos) + 1)
    return 0.5 * a * a * (1 + b * b)


def radiance(
    world: World,
    around: Surroundings,
    scene: Tensor,
    origin: Tensor,
    direction: Tensor,
    leaving: Tensor | None,
    phase: Tensor,
    phases: int,
    mirrors: int = _MIRRORS,
) -> Tensor:
    """What rays see.

    Args:
        world: the scenes.
        around: their surroundings.
        scene: M.
        origin: 3 M.
        direction: 3 M, of unit length.
        leaving: M, what the rays start on.
        phase: M, which of the sets of directions each ray uses.
        phases: how many sets there are; the fewer, the more directions in each.
        mirrors: reflections to follow.

    Returns:
        3 M, linear RGB.
    """
    t, hit = world.nearest(scene, origin, direction, leaving)
    seen = (hit != NOTHING).nonzero().squeeze(1)
    result = torch.zeros_like(origin)
    if not seen.numel():
        return result
    scene, hit, phase, direction = pick(scene, seen), pick(hit, seen), pick(phase, seen), pick(direction, seen)
    point = pick(origin, seen) + pick(t, seen) * direction
    normal = world.normal(scene, hit, point)
    place = hit.clamp_max(MAX_OBJECTS - 1)
    on_ground = hit == GROUND
    metal = ~on_ground & world.of(world.metal, scene, place)
    rubber = ~on_ground & ~metal
    albedo = torch.where(on_ground, GROUND_ALBEDO, world.of(world.albedo, scene, place))
    cos = dot(normal, -direction).clamp(1e-3, 1)

    light = world.lights(scene, point)
    facing = dot(light.direction, normal[:, None]).clamp_min(0)
    share = world.visible_share(scene, point, light, hit, facing > 0)
    arriving = light.irradiance * (facing * share)  # 3 L M
    diffuse = over_directions(arriving)
    mirrored = reflect(direction, normal)

    rows = on_ground.nonzero().squeeze(1)
    diffuse[:, rows] += around.on_ground(pick(scene, rows), pick(point, rows))
    color = albedo / pi * diffuse

    rows = rubber.nonzero().squeeze(1)
    if rows.numel():
        of, p, n, h = pick(scene, rows), pick(point, rows), pick(normal, rows), pick(hit, rows)
        num = _GATHER if phases == 1 else _GATHER_SUBPIXEL
        indirect = gather(world, around, of, p, n, h, num, pick(phase, rows), phases)
        views = pick(light.direction, rows), -pick(direction, rows)[:, None], n[:, None]
        coat = fresnel(pick(cos, rows), COAT_INDEX)
        shine = over_directions(pick(arriving, rows) * beckmann(*views, COAT_ALPHA))
        nap = fresnel(pick(cos, rows), around.style.velvet_index)
        sheen = over_directions(pick(arriving, rows) * velvet(*views))
        above = soft_radiance(world, around, of, p, pick(mirrored, rows), h)
        matte = (1 - nap) / pi * (diffuse[:, rows] + indirect) + nap * sheen
        color[:, rows] = (1 - coat) * pick(albedo, rows) * matte
        color[:, rows] += coat * COAT_COLOR * (shine + above)

    rows = metal.nonzero().squeeze(1)
    if rows.numel():
        of, p, n, h = pick(scene, rows), pick(point, rows), pick(normal, rows), pick(hit, rows)
        some = light.at(rows)
        tangents = brushed(world, of, h, p, n)
        axes = tangents[0][:, None], tangents[1][:, None]
        lobe = ggx(some.direction, -pick(direction, rows)[:, None], n[:, None], axes, around.blur)
        broad = pick(arriving, rows) * lobe
        lamp = some.radiance * (lamp_in_mirror(some, n, -pick(direction, rows)) * pick(share, rows))
        shine = over_directions(BLUR_SHARE * broad + MIRROR_SHARE * lamp)
        rays, sets = pick(direction, rows), pick(phase, rows)
        blurred = blurred_reflection(world, around, of, p, n, tangents, rays, h, sets, phases)
        if mirrors:
            sharp = radiance(world, around, of, p, pick(mirrored, rows), h, sets, phases, mirrors - 1)
        else:
            sharp = soft_radiance(world, around, of, p, pick(mirrored, rows), h)
        color[:, rows] = pick(albedo, rows) * (shine + BLUR_SHARE * blurred + MIRROR_SHARE * sharp)
    result[:, seen] = color
    return result


def lamp_in_mirror(light: Light, normal: Tensor, to_eye: Tensor) -> Tensor:
    """How much of square lamps the sharp lobe of metal shows.

    The slopes of GGX's half vectors, divided by alpha, are distributed as the directions of a cosine lobe are when
    projected onto a plane at distance 1. So the share that falls on half vectors towards a lamp is Lambert's formula
    for the polygon of its corners.

    Args:
        light: L lamps.
        normal: 3 M.
        to_eye: 3 M.

    Returns:
        L M, in [0, 1].
    """
    assert light.axes is not None
    side, other = _frame(normal)
    corners = []
    for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        corner = unit(light.direction + light.half_size * (i * light.axes[0] + j * light.axes[1]))
        half = unit(corner + to_eye[:, None])
        height = dot(half, normal[:, None]).clamp_min(1e-3)
        slopes = [dot(half, axis[:, None]) / height for axis in (side, other)]
        corners.append(unit(torch.stack([*slopes, torch.full_like(height, MIRROR_ALPHA)])))
    total = torch.zeros_like(light.distance)
    for p, q in zip(corners, corners[1:] + corners[:1], strict=True):
        edge = cross(p, q)
        sine = dot(edge, edge).sqrt().clamp_min(1e-12)
        # of the angle between p and q; atan2's bits depend on where in a list a number stands
        total = total + 2 * torch.atan((dot(p - q, p - q) / dot(p + q, p + q)).sqrt()) * edge[2] / sine
    return total.abs() / (2 * pi)


def blurred_reflection(
    world: World,
    around: Surroundings,
    scene: Tensor,
    point: Tensor,
    normal: Tensor,
    tangents: Tangents,
    direction: Tensor,
    hit: Tensor,
    phase: Tensor,
    phases: int,
) -> Tensor:
    """What the broad lobe of metal shows besides lamps: 3 M, from half vectors drawn by GGX's density."""
    num = _GATHER if phases == 1 else _BLUR_SUBPIXEL
    u, angle = (values.to(world.device, world.dtype) for values in _spiral(num * phases))
    which = phase + phases * torch.arange(num, device=world.device)[:, None]  # K M
    slope = (u / (1 - u)).sqrt()
    x, y = (around.blur[0] * slope * angle.cos())[which], (around.blur[1] * slope * angle.sin())[which]
    axes, up, to_eye = (tangents[0][:, None], tangents[1][:, None]), normal[:, None], -direction[:, None]
    half = unit(up + x * axes[0] + y * axes[1])  # 3 K M
    mirrored = reflect(-to_eye, half)
    away = dot(mirrored, up)
    shadowing = 4 * away * smith(mirrored, up, axes, around.blur) * smith(to_eye, up, axes, around.blur)
    weight = shadowing * dot(half, to_eye).clamp_min(0) / dot(half, up)
    weight = torch.where(away > 0, weight.clamp(0, 2), 0.0)
    seen = soft_radiance(world, around, scene.repeat(num), point.repeat(1, num), mirrored.flatten(1), hit.repeat(num))
    return over_directions(weight * seen.view_as(mirrored)) / num


def render(
    scenes: Scenes,
    device: torch.device,
    rows: tuple[int, int],
    cols: tuple[int, int],
    style: Style = Style(),  # noqa: B008 it is frozen
    grain: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Pictures of scenes, in the window of the 320 x 240 frame from the first to before the last row and column.

    Args:
        scenes: N of them.
        device: where to compute.
        rows: of the window.
        cols: of the window.
        style: of surfaces and of the camera.
        grain: N H W, levels, added to all channels before rounding.
        size: H, W of pictures smaller than the window, which is divided into so many pixels: about what the frame's
            own pixels make when they are shrunk, for less work. None takes the frame's own.

    Returns:
        N H W 3, uint8, sRGB.
    """
    world = World(scenes, device, torch.float32)
    around = Surroundings(world, style)
    height, width = size or (rows[1] - rows[0], cols[1] - cols[0])
    pitch = (rows[1] - rows[0]) / height, (cols[1] - cols[0]) / width
    grid = _Grid((height + 2, width + 2), pitch, (rows[0] / pitch[0] - 1, cols[0] / pitch[1] - 1))
    # A frame that is shrunk is averaged as it is displayed, with its highlights clipped; a pixel of the frame is light.
    shown = _expose(world, around, grid, None if size is None else srgb)
    for axis in (2, 3):
        before, pixel, after = (shown.narrow(axis, k, shown.shape[axis] - 2) for k in (0, 1, 2))
        shown = pixel + style.spread * (before - 2 * pixel + after)  # filters that shrink are wider than a square too
    levels = 255 * (srgb(shown) if size is None else shown)
    if grain is not None:
        levels = (levels + grain).clamp(0, 255)
    return levels.round().to(torch.uint8).permute(1, 2, 3, 0)


@dataclass(frozen=True)
class _Grid:
    """The pixels of a picture, and where they lie on the 320 x 240 frame."""

    size: tuple[int, int]
    pitch: tuple[float, float]
    """Height and width of a pixel, in pixels of the frame."""
    corner: tuple[float, float]
    """The picture's corner, down and right of the frame's, in pixels of the picture."""

    def rays(
        self, world: World, scene: Tensor, i: Tensor, j: Tensor, down: Tensor | float, right: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Origins and directions (3 M each) of rays through pixels i, j (M each): so far down and right in each."""
        # in this order windows of the frame's own pixels have the same rays
        row = (i + self.corner[0] + down) * self.pitch[0]
        col = (j + self.corner[1] + right) * self.pitch[1]
        return world.primary(scene, col, row)


def _expose(
    world: World, around: Surroundings, pixels: _Grid, curve: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """3 N H W: mean radiance over each pixel of a grid, or of what a curve makes of the radiance."""
    device, num = world.device, world.num_scenes
    height, width = pixels.size
    grid = (
        torch.arange(num, device=device),
        torch.arange(height + 2, device=device),
        torch.arange(width + 2, device=device),
    )
    scene, r, c = (axis.flatten() for axis in torch.meshgrid(*grid, indexing="ij"))
    origin, direction = pixels.rays(world, scene, r, c, -0.5, -0.5)
    _, hit = world.nearest(scene, origin, direction)
    hit = hit.view(num, height + 2, width + 2)  # with a border, to find outlines

    inner = hit[:, 1:-1, 1:-1]
    place = inner.clamp_max(MAX_OBJECTS - 1)
    on_object = inner < GROUND
    metal = on_object & world.metal.view(num, MAX_OBJECTS)[torch.arange(num, device=device)[:, None, None], place]
    fine = metal.clone()
    for dr in (0, 1, 2):
        for dc in (0, 1, 2):
            fine |= hit[:, dr : dr + height, dc : dc + width] != inner

    def mean(values: Tensor) -> Tensor:
        shown = values if curve is None else curve(values)
        return shown.sum(dim=-1) / shown.shape[-1]  # mean() on a GPU rounds its factor, by how many pixels there are

    result = torch.empty(3, num, height, width, device=device)
    b, i, j = (~fine).nonzero(as_tuple=True)
    zeros = torch.zeros_like(b)
    origin, direction = pixels.rays(world, b, i, j, 0.5, 0.5)
    result[:, b, i, j] = mean(radiance(world, around, b, origin, direction, None, zeros, 1)[..., None])

    def divided(b: Tensor, i: Tensor, j: Tensor, side: int) -> Tensor:
        """3 P parts: radiance of the parts of pixels (P scenes, rows, columns)."""
        part = torch.arange(side * side, device=device)
        at = (torch.arange(side, device=device) + 0.5) / side
        many, rows, cols = (index.repeat_interleave(len(part)) for index in (b, i, j))
        down, right = at[part // side].repeat(len(b)), at[part % side].repeat(len(b))
        origin, direction = pixels.rays(world, many, rows, cols, down, right)
        seen = radiance(world, around, many, origin, direction, None, part.repeat(len(b)), len(part))
        return seen.view(3, len(b), len(part))

    b, i, j = fine.nonzero(as_tuple=True)
    values = divided(b, i, j, SUBPIXELS)
    result[:, b, i, j] = mean(values)
    level = values.amax(dim=0)
    glint = (level.amax(dim=1) > 1) & (level.amin(dim=1) < 0.5 * level.amax(dim=1))
    b, i, j = b[glint], i[glint], j[glint]
    result[:, b, i, j] = mean(divided(b, i, j, HIGHLIGHT_SUBPIXELS))
    return result


def srgb(linear: Tensor) -> Tensor:
    """Linear light, clipped to [0, 1], by the sRGB curve."""
    x = linear.clamp(0, 1)
    # exp and log, since a power's bits depend on where in a list a number stands
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * torch.exp(x.clamp_min(1e-6).log() / 2.4) - 0.055)
