"""The solids of CLEVR as convex signed distances, and what rays need of them.

A solid is described in its own frame: centre at the origin, turned upright by its yaw, scaled to half-height 1.
All three are boxes or cylinders of half-edge 1 whose edges are rounded by a fillet f:

    distance(p) = |max(q, 0)| + min(max(q), 0) - f     with q = (|x|, |y|, |z|) - (1 - f)
                                                        or  q = (sqrt(x^2 + y^2), |z|) - (1 - f) for a cylinder

and the sphere is the box with f = 1. The distance of a convex body is a convex function, also along a line.
So Newton's method, started where the line has not yet entered, never steps past the surface, and the nearest
approach of a line is the only minimum. Data set specification, section 3.3.4.

Axes: M rays, each with its own solid. Vectors have their coordinates first, 3 M: sums over them are then as
fast as any other arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FILLETS = {"sphere": 1.0, "cylinder": 0.055, "cube": 0.18}
"""Radius of the rounded edges, for half-height 1: those with which the masks of a real record agree best."""

_NEWTON_STEPS = 8


class Solid(NamedTuple):
    """The shape of each ray's solid."""

    round: Tensor
    """M, bool: a cylinder."""
    fillet: Tensor
    """M, in (0, 1]."""


def _distance(solid: Solid, point: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance (M) at points (3 M), and its gradient (3 M): a unit vector."""
    flat = point[:2] * point[:2]
    rho = (flat[0] + flat[1]).sqrt().clamp_min(1e-12)
    x, y, z = point.abs()
    q = torch.stack([torch.where(solid.round, rho, x), torch.where(solid.round, 0.0, y), z]) - (1 - solid.fillet)
    # Outside the inner box the nearest point is on it; inside, the face of largest q is nearest.
    out = q.clamp_min(0)
    square = out * out
    outer = (square[0] + square[1] + square[2]).sqrt()
    deepest = torch.maximum(torch.maximum(q[0], q[1]), q[2])
    distance = outer + deepest.clamp_max(0) - solid.fillet
    is_x, is_y, _ = q == deepest
    face = torch.stack([is_x, is_y & ~is_x, ~(is_x | is_y)])
    gradient = torch.where(deepest <= 0, face.to(q.dtype), out * (1 / outer.clamp_min(1e-12)))
    # from the octant in which q is measured to where the point is
    around = gradient[0] * point[:2] / rho
    gradient = gradient * point.sign()
    return distance, torch.cat([torch.where(solid.round, around, gradient[:2]), gradient[2:]])


def normal(solid: Solid, point: Tensor) -> Tensor:
    """Outward unit normals (3 M) at points of the surface (3 M), in the solid's frame."""
    return _distance(solid, point)[1]


def _along(solid: Solid, origin: Tensor, direction: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distance (M) at places along lines, its slope along them (M), and its gradient (3 M)."""
    distance, gradient = _distance(solid, origin + t * direction)
    x, y, z = gradient * direction
    return distance, x + y + z, gradient


def _enter_box(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Where lines (3 M each) enter and leave the cube of half-edge 1: M each, in units of `direction`."""
    inverse = 1 / torch.where(direction.abs() < 1e-12, 1e-12, direction)
    a, b = (-1 - origin) * inverse, (1 - origin) * inverse
    enter, leave = torch.minimum(a, b), torch.maximum(a, b)
    return enter.amax(dim=0), leave.amin(dim=0)


def intersect(solid: Solid, origin: Tensor, direction: Tensor) -> Tensor:
    """Where rays first meet their solids.

    Args:
        solid: of each ray.
        origin: 3 M, outside the solid, in its frame.
        direction: 3 M, of unit length.

    Returns:
        M, the distance along the ray; infinite where the ray misses.
    """
    enter, leave = _enter_box(origin, direction)
    t = enter.clamp_min(0)
    missed = (enter > leave) | (leave <= 0)
    for _ in range(_NEWTON_STEPS):
        distance, slope, _ = _along(solid, origin, direction, t)
        missed |= (slope >= 0) & (distance > 1e-6)
        t = t + distance.clamp_min(0) / (-slope).clamp_min(1e-3)
    missed |= t > leave
    return torch.where(missed, torch.inf, t)


class Approach(NamedTuple):
    """The place where a line comes nearest to a solid, or deepest into it."""

    distance: Tensor
    """M, signed: negative where the line passes through the solid."""
    t: Tensor
    """M, how far along the line."""
    normal: Tensor
    """3 M, from the solid to the line, of unit length, at that place."""


def approach(solid: Solid, origin: Tensor, direction: Tensor, low: Tensor, high: Tensor, steps: int) -> Approach:
    """Nearest approach of line segments to their solids.

    Args:
        solid: of each line.
        origin: 3 M, in the solid's frame.
        direction: 3 M, of unit length.
        low: M, where on the line to start looking.
        high: M, where to stop.
        steps: of the search; the first alone is exact for no shape, ten are for outlines of all.
    """
    f_low, slope_low, _ = _along(solid, origin, direction, low)
    f_high, slope_high, _ = _along(solid, origin, direction, high)
    t = low
    for step in range(steps):
        middle = 0.5 * (low + high)
        if step % 2 == 0:
            # The two tangents meet below the minimum, and for a smooth function near it.
            gap = slope_high - slope_low
            meet = (f_low - f_high + slope_high * high - slope_low * low) / torch.where(gap.abs() < 1e-9, 1e-9, gap)
            t = torch.where((meet > low) & (meet < high), meet, middle)
        else:
            t = middle
        f, slope, _ = _along(solid, origin, direction, t)
        falling = slope < 0
        low, high = torch.where(falling, t, low), torch.where(falling, high, t)
        f_low, f_high = torch.where(falling, f, f_low), torch.where(falling, f_high, f)
        slope_low, slope_high = torch.where(falling, slope, slope_low), torch.where(falling, slope_high, slope)
    t = torch.where(f_low < f_high, low, high)
    f, _, gradient = _along(solid, origin, direction, t)
    return Approach(f, t, gradient)
