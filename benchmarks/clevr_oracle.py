"""Compares the CLEVR renderer with a path tracer: the same scenes, traced by mitsuba.

    python benchmarks/clevr_oracle.py --seed 0 --scenes 5 --spp 1024 --out DIR

needs mitsuba 3 (`pip install mitsuba`), which the package itself does not. Geometry, lamps and materials are
those of the data set specification, section 3.3, written down a second time: solids as fine meshes with the
normals of the true surface, the ground as the ruled surface over its table, lamps as area emitters.

How the tracer is made to show the same model:

- Light is linear, so each lamp is traced in a scene of its own and the four pictures are added. No lamp then
  stands in another's light (lamps throw no shadows in the original), and the sampler's strata are not spent on
  the choice of a lamp.
- The sun is a far disc that faces the origin. Its radiance is such that a surface facing it receives the
  stated irradiance.
- Metal is a blend of two `roughconductor` without Fresnel term. Rubber is a blend of `diffuse` and of a
  Beckmann `roughconductor` without Fresnel term; the weight of the latter is the Fresnel term of the angle at
  which the camera sees the surface, given to the mesh's corners. `roughplastic` would not do: it darkens the
  diffuse part once more for light that enters, and colours it by inner reflections. Where the camera does not
  see the surface, that is for light that goes on to other surfaces, the weight is the Fresnel term's mean.
- The original's "glossy blur 2" widens glossy lobes behind a diffuse bounce: Cycles then raises roughness to
  sqrt(1 - p / 2) / 2, with p the bounce's density, cos / pi. So what is thrown on ground and rubber is traced
  with metal of GGX 0.47, and only metal itself with the sharp lobes. This also spares the tracer the grains of
  focused light.
- One pixel is a box, as in the renderer.

Differences are in 8-bit grey levels, over the window that is cropped from the picture, without pixels within
2 pixels of an outline: there the two differ in how they share a pixel between surfaces. `noise` is what the
tracer's own two halves lead one to expect of the mean absolute difference were the renderer exact.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import atan, degrees, pi
from pathlib import Path
from typing import Any

import drjit
import mitsuba
import numpy as np
import torch
import tyro
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

mitsuba.set_variant("scalar_rgb")
mitsuba.set_log_level(mitsuba.LogLevel.Error)  # it warns of rounding numbers of samples up

from emorl.data.clevr import render  # noqa: E402
from emorl.data.clevr.scene import (  # noqa: E402
    COVE,
    COVE_AWAY,
    COVE_HALF_WIDTH,
    FOCAL,
    HEIGHT,
    LAMPS,
    MATERIALS,
    PALETTE,
    SHAPES,
    SUN,
    SUN_IRRADIANCE,
    SUN_TANGENT,
    WIDTH,
    Scenes,
)
from emorl.data.clevr.solids import FILLETS  # noqa: E402
from emorl.data.clevr.source import ClevrConfig, sample  # noqa: E402

ROWS, COLS = (29, 221), (64, 256)
PLAIN = render.Style(anisotropy=0.0, velvet_index=1.0, spread=0.0)  # what the tracer can be told to do
"""The window of the picture that is compared: what the usual crop keeps."""
MARGIN = 2
"""Pixels around outlines that are left out."""
SUN_DISTANCE = 500.0
REGIONS = ("all", "ground", "rubber", "metal")
BEHIND_DIFFUSE_ALPHA = 0.47
"""Of metal's lobes: sqrt(1 - p / 2) / 2 at p = 2 / (3 pi), the mean over a diffuse bounce."""
DEPTH = 9
"""Edges of a path from lamp to camera: 8 surfaces."""
_STEPS = 32  # of a mesh, over a quarter turn


@dataclass(frozen=True)
class Surface:
    """A mesh with smooth normals."""

    points: np.ndarray
    """V 3."""
    normals: np.ndarray
    """V 3, of unit length."""
    faces: np.ndarray
    """F 3, counter-clockwise from outside."""


def _grid_faces(rows: int, cols: int) -> np.ndarray:
    """Triangles of a grid of points whose first axis x second axis points outwards: F 3."""
    at = np.arange(rows * cols).reshape(rows, cols)
    a, b, c, d = (part.ravel() for part in (at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]))
    return np.concatenate([np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)])


def _profile(fillet: float) -> np.ndarray:
    """From -1 to 1, fine over the fillets: where a grid over the face of a cube has its lines."""
    inner = 1 - fillet
    bend = inner + fillet * np.tan(np.linspace(0, pi / 4, _STEPS + 1))
    half = np.concatenate([np.linspace(0, inner, _STEPS + 1)[:-1], bend]) if inner else bend
    return np.concatenate([-half[:0:-1], half])


def rounded_box(fillet: float) -> Surface:
    """The cube of half-edge 1 with rounded edges; the sphere, where the fillet is 1."""
    at = _profile(fillet)
    u, v = np.meshgrid(at, at, indexing="ij")
    corners: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            sides = [u, v] if sign > 0 else [v, u]
            sides.insert(0, np.full_like(u, sign))
            corners.append(np.stack([sides[(i - axis) % 3] for i in range(3)], axis=-1).reshape(-1, 3))
            faces.append(_grid_faces(len(at), len(at)) + len(faces) * len(at) ** 2)
    outside = np.concatenate(corners)
    core = outside.clip(fillet - 1, 1 - fillet)
    normals = outside - core
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Surface(core + fillet * normals, normals, np.concatenate(faces))


def rounded_cylinder(fillet: float) -> Surface:
    """The cylinder of radius and half-height 1 with rounded rims."""
    angle = np.linspace(0, pi / 2, _STEPS + 1)
    inner = 1 - fillet
    flat = np.linspace(0, inner, _STEPS + 1)[:-1]
    radial = np.concatenate([0 * flat, np.sin(angle), np.ones_like(flat)])  # normal, from the top's middle to z = 0
    upward = np.concatenate([1 + 0 * flat, np.cos(angle), np.zeros_like(flat)])
    radius = np.concatenate([flat, inner + fillet * np.sin(angle), np.ones_like(flat)])
    height = np.concatenate([np.ones_like(flat), inner + fillet * np.cos(angle), inner - inner / _STEPS - flat])
    radial, radius = (np.concatenate([x, x[-2::-1]]) for x in (radial, radius))
    upward, height = (np.concatenate([x, -x[-2::-1]]) for x in (upward, height))
    turn = np.linspace(0, 2 * pi, 8 * _STEPS + 1)
    turn[-1] = 0  # the same bits as the start: no gap
    cos, sin = np.cos(turn), np.sin(turn)

    def revolve(across: np.ndarray, up: np.ndarray) -> np.ndarray:
        parts = [across[:, None] * cos, across[:, None] * sin, up[:, None] * np.ones_like(cos)]
        return np.stack(parts, axis=-1).reshape(-1, 3)

    return Surface(revolve(radius, height), revolve(radial, upward), _grid_faces(len(radius), len(turn)))


def ground() -> Surface:
    """The cove: straight across, bent along its table, with normals whose slopes run evenly between the corners."""
    slopes = np.diff(COVE[:, 1]) / np.diff(COVE[:, 0])
    corner = np.concatenate([slopes[:1], (slopes[1:] + slopes[:-1]) / 2, slopes[-1:]])
    place = np.linspace(0, len(COVE) - 1, 16 * (len(COVE) - 1) + 1)
    s, height, slope = (np.interp(place, np.arange(len(COVE)), x) for x in (*COVE.T, corner))
    side = np.array([COVE_AWAY[1], -COVE_AWAY[0]])
    points = np.empty((len(s), 2, 3))
    points[..., :2] = s[:, None, None] * COVE_AWAY + np.array([COVE_HALF_WIDTH, -COVE_HALF_WIDTH])[None, :, None] * side
    points[..., 2] = height[:, None]
    normals = np.concatenate([-slope[:, None] * COVE_AWAY, np.ones_like(slope)[:, None]], axis=-1)
    normals = np.repeat(normals / np.linalg.norm(normals, axis=1, keepdims=True), 2, axis=0)
    faces = _grid_faces(len(s), 2)
    a, b, c = points.reshape(-1, 3)[faces[0]]
    if np.cross(b - a, c - a)[2] < 0:
        faces = faces[:, ::-1]
    return Surface(points.reshape(-1, 3), normals, faces)


def solid(name: str) -> Surface:
    return rounded_cylinder(FILLETS[name]) if name == "cylinder" else rounded_box(FILLETS[name])


def fresnel(cos: np.ndarray, index: float) -> np.ndarray:
    """Share of unpolarised light that a dielectric reflects."""
    inside = np.sqrt(1 - (1 - cos**2) / index**2)
    across = (cos - index * inside) / (cos + index * inside)
    along = (index * cos - inside) / (index * cos + inside)
    return (across**2 + along**2) / 2


def mesh(name: str, surface: Surface, bsdf: dict[str, Any], coat: np.ndarray | None = None) -> mitsuba.Mesh:
    """A mesh of mitsuba's, with a material and a number (V) at each corner for it."""
    props = mitsuba.Properties()
    props["bsdf"] = mitsuba.load_dict(bsdf)
    made = mitsuba.Mesh(name, len(surface.points), len(surface.faces), props=props, has_vertex_normals=True)
    if coat is not None:
        made.add_attribute("vertex_coat", 1, coat.tolist())
    params = mitsuba.traverse(made)
    params["vertex_positions"] = surface.points.astype(np.float32).ravel()
    params["vertex_normals"] = surface.normals.astype(np.float32).ravel()
    params["faces"] = surface.faces.astype(np.uint32).ravel()
    params.update()
    return made


def _rgb(values: np.ndarray | float) -> dict[str, Any]:
    return {"type": "rgb", "value": (np.ones(3) * values).tolist()}


def _glossy(color: np.ndarray | float, distribution: str, alpha: float) -> dict[str, Any]:
    return {
        "type": "roughconductor",
        "material": "none",
        "distribution": distribution,
        "alpha": alpha,
        "specular_reflectance": _rgb(color),
    }


def metal(color: np.ndarray, behind_diffuse: bool) -> dict[str, Any]:
    if behind_diffuse:
        return _glossy(color, "ggx", BEHIND_DIFFUSE_ALPHA)
    return {
        "type": "blendbsdf",
        "weight": render.BLUR_SHARE,
        "sharp": _glossy(color, "ggx", render.MIRROR_ALPHA),
        "blurred": _glossy(color, "ggx", render.BLUR_ALPHA),
    }


def rubber(color: np.ndarray) -> dict[str, Any]:
    return {
        "type": "blendbsdf",
        "weight": {"type": "mesh_attribute", "name": "vertex_coat"},
        "inside": {"type": "diffuse", "reflectance": _rgb(color)},
        "coat": _glossy(render.COAT_COLOR, "beckmann", render.COAT_ALPHA),
    }


def objects(scenes: Scenes, index: int, behind_diffuse: bool) -> list[mitsuba.Mesh]:
    """The ground, then the objects of one scene; `behind_diffuse`: metal is as a diffuse surface sees it."""
    made = [mesh("ground", ground(), {"type": "diffuse", "reflectance": _rgb(render.GROUND_ALBEDO)})]
    grid = (np.arange(512) + 0.5) / 512
    unseen = float((2 * grid * fresnel(grid, render.COAT_INDEX)).mean())
    for place in range(scenes.num_objects[index]):
        unit = solid(SHAPES[scenes.shape[index, place] - 1])
        size, yaw = scenes.half_height[index, place], scenes.rotation[index, place]  # radians
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        points = size * unit.points @ turn.T + np.array([*scenes.position[index, place], size])
        surface = Surface(points, unit.normals @ turn.T, unit.faces)
        color = PALETTE[scenes.color[index, place] - 1]
        if MATERIALS[scenes.material[index, place] - 1] == "metal":
            made.append(mesh(f"object{place}", surface, metal(color, behind_diffuse)))
            continue
        eye = scenes.camera[index] - points
        cos = (eye * surface.normals).sum(-1) / np.linalg.norm(eye, axis=1)
        coat = np.where(cos > 0, fresnel(cos.clip(0, 1), render.COAT_INDEX), unseen)
        made.append(mesh(f"object{place}", surface, rubber(color), coat))
    return made


def emitters(scenes: Scenes, index: int) -> list[dict[str, Any]]:
    """Key, fill and back lamp of a scene, and the sun."""
    frame = mitsuba.ScalarTransform4f
    made = []
    for lamp, position in zip(LAMPS, scenes.lamps[index], strict=True):
        place = frame().look_at(origin=position.tolist(), target=[0, 0, 0], up=[0, 0, 1]) @ frame().scale(lamp.side / 2)
        made.append(
            {
                "type": "rectangle",
                "to_world": place,
                "emitter": {"type": "area", "radiance": _rgb(lamp.radiance)},
            }
        )
    place = frame().look_at(origin=(SUN_DISTANCE * SUN).tolist(), target=[0, 0, 0], up=[0, 0, 1])
    radiance = SUN_IRRADIANCE / (pi * np.sin(atan(SUN_TANGENT)) ** 2)
    made.append(
        {
            "type": "disk",
            "to_world": place @ frame().scale(SUN_DISTANCE * SUN_TANGENT),
            "emitter": {"type": "area", "radiance": _rgb(radiance)},
        }
    )
    return made


def sensor(scenes: Scenes, index: int, spp: int) -> dict[str, Any]:
    """The camera, with the window as its film."""
    place = mitsuba.ScalarTransform4f().look_at(origin=scenes.camera[index].tolist(), target=[0, 0, 0], up=[0, 0, 1])
    return {
        "type": "perspective",
        "fov": degrees(2 * atan(WIDTH / 2 / FOCAL)),
        "fov_axis": "x",
        "to_world": place,
        "sampler": {"type": "multijitter", "sample_count": spp},
        "film": {
            "type": "hdrfilm",
            "width": WIDTH,
            "height": HEIGHT,
            "crop_offset_x": COLS[0],
            "crop_offset_y": ROWS[0],
            "crop_width": COLS[1] - COLS[0],
            "crop_height": ROWS[1] - ROWS[0],
            "rfilter": {"type": "box"},
            "pixel_format": "rgb",
            "component_format": "float32",
        },
    }


def trace(scenes: Scenes, index: int, spp: int, seed: int, behind_diffuse: bool) -> np.ndarray:
    """Linear pictures of one scene, one for each lamp: 4 H W 3."""
    meshes = {f"mesh{k}": made for k, made in enumerate(objects(scenes, index, behind_diffuse))}
    integrator = mitsuba.load_dict({"type": "path", "max_depth": DEPTH, "rr_depth": 1000, "hide_emitters": True})
    pictures = []
    for number, emitter in enumerate(emitters(scenes, index)):
        scene = mitsuba.load_dict({"type": "scene", "sensor": sensor(scenes, index, spp), "lamp": emitter, **meshes})
        traced = mitsuba.render(scene, integrator=integrator, spp=spp, seed=mitsuba.UInt32(4 * seed + number))
        pictures.append(np.array(traced))
    return np.stack(pictures)


def picture(scenes: Scenes, index: int, labels: np.ndarray, spp: int, seed: int) -> np.ndarray:
    """The linear picture of one scene (H W 3), of `spp` samples for each lamp: metal's pixels with sharp lobes."""
    traced: np.ndarray = trace(scenes, index, spp, seed, behind_diffuse=True).sum(axis=0)
    on_metal = metal_places(scenes, index)[_window(labels)]
    if on_metal.any():
        traced[on_metal] = trace(scenes, index, spp, seed, behind_diffuse=False).sum(axis=0)[on_metal]
    return traced


def _window(values: np.ndarray) -> np.ndarray:
    return values[ROWS[0] : ROWS[1], COLS[0] : COLS[1]]


def metal_places(scenes: Scenes, index: int) -> np.ndarray:
    """For each label, the background's first: is it metal?"""
    return np.concatenate([[False], scenes.material[index] == 1 + MATERIALS.index("metal")])


def traced_labels(scenes: Scenes, index: int) -> np.ndarray:
    """H W: what mitsuba's rays through the pixels' centres meet, as in label maps."""
    meshes = {f"mesh{label}": made for label, made in enumerate(objects(scenes, index, behind_diffuse=False))}
    scene = mitsuba.load_dict({"type": "scene", "sensor": sensor(scenes, index, 1), **meshes})
    camera = scene.sensors()[0]
    number = {made.id(): label for label, made in enumerate(meshes.values())}
    height, width = ROWS[1] - ROWS[0], COLS[1] - COLS[0]
    labels = np.zeros((height, width), int)
    for row, col in np.ndindex(height, width):
        ray, _ = camera.sample_ray(0.0, 0.0, [(col + 0.5) / width, (row + 0.5) / height], [0.5, 0.5])
        found = scene.ray_intersect(ray)
        if found.is_valid():
            labels[row, col] = number[found.shape.id()]
    return labels


def to_bytes(linear: np.ndarray) -> np.ndarray:
    """Grey levels, not rounded, of linear light."""
    levels: np.ndarray = 255 * render.srgb(torch.from_numpy(linear)).numpy()
    return levels


def regions(scenes: Scenes, index: int, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Pixels (H W, bool) of each of REGIONS in the window, away from outlines, from the labels of the picture."""
    inside = maximum_filter(labels, 2 * MARGIN + 1) == minimum_filter(labels, 2 * MARGIN + 1)
    inside, seen = _window(inside), _window(labels)
    is_metal = metal_places(scenes, index)[seen]
    return {
        "all": inside,
        "ground": inside & (seen == 0),
        "rubber": inside & (seen > 0) & ~is_metal,
        "metal": inside & is_metal,
    }


def _report(title: str, per_region: dict[str, np.ndarray]) -> None:
    """One line: for each region the mean absolute and the mean signed difference, and the tracer's noise."""
    cells = []
    for name in REGIONS:
        absolute, signed, noise = per_region[name]
        cells.append(f"{absolute:7.2f} {signed:+7.2f} {noise:6.2f}")
    print(f"{title:>8} | " + " | ".join(cells), flush=True)


def _montage(ours: np.ndarray, traced: np.ndarray) -> Image.Image:
    difference = (128 + 4 * (ours - traced)).clip(0, 255)
    row = np.concatenate([ours, traced, difference], axis=1).round().astype(np.uint8)
    return Image.fromarray(row.repeat(3, axis=0).repeat(3, axis=1))


def main(out: Path, seed: int = 0, scenes: int = 5, spp: int = 1024) -> None:
    """Renders scenes both ways and reports how much they differ.

    Args:
        out: folder for pictures: ours, the tracer's, and four times the difference around grey.
        seed: of the generator of scenes.
        scenes: how many.
        spp: samples of a pixel, over the four lamps and two halves; of metal as many again.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu")
    drawn, seen = sample(seed, np.arange(scenes), ClevrConfig(), device)
    labels = seen.cpu().numpy()
    print("grey levels, for each region: mean absolute difference, ours less the tracer's, noise of the tracer")
    print(f"{'scene':>8} | " + " | ".join(f"{name:^22}" for name in REGIONS))
    rows = []
    for index in range(scenes):
        mine = render.render(drawn[np.array([index])], device, ROWS, COLS, PLAIN)[0].cpu().numpy().astype(float)
        halves = [picture(drawn, index, labels[index], max(spp // 8, 1), 2 * index + half) for half in (0, 1)]
        traced = to_bytes((halves[0] + halves[1]) / 2)
        spread = abs(to_bytes(halves[0]) - to_bytes(halves[1])) / 2
        row = {}
        for name, chosen in regions(drawn, index, labels[index]).items():
            difference = mine[chosen] - traced[chosen]
            values = (abs(difference), difference, spread[chosen])
            row[name] = np.array([x.mean() if x.size else np.nan for x in values])
        rows.append(row)
        _report(str(index), row)
        found = traced_labels(drawn, index)
        wrong = (found != _window(labels[index])).sum()
        print(f"{'':>8}   {wrong} of {found.size} labels differ", flush=True)
        _montage(mine, traced).save(out / f"scene-{seed}-{index}.png")
    _report("mean", {name: np.nanmean([row[name] for row in rows], axis=0) for name in REGIONS})


if __name__ == "__main__":
    drjit.set_thread_count(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tyro.cli(main)
