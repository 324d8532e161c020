"""CLEVR's scenes: what lies where, of which shape, size, colour and material, and how it is looked at and lit.

The laws are those of the original generator (Johnson et al., CLEVR, CVPR 2017) as the data set specification,
section 3.3, has them: number of objects, placement with a gap and a margin, the jitter of camera and lamps,
palette and sizes. The codes of the factors are those of DeepMind's CLEVR with masks. Which scenes are
accepted also depends on what the camera sees of each object; that is decided where pictures are made.

Axes: N scenes, O = 10 places for objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emorl.data.scene import random_bits, to_floats, to_integers

MAX_OBJECTS = 10
"""Places for objects in a scene."""

HEIGHT, WIDTH = 240, 320
"""Rows and columns of a picture."""
FOCAL = 350.0
"""Focal length in pixels: a 35 mm lens before a sensor of 32 mm."""
CAMERA = np.array([7.481132, -6.507640, 5.343665])
"""Position before jitter. It looks at the origin, with the z axis upright in the picture."""
CAMERA_JITTER = 0.5
LAMP_JITTER = 1.0

RIGHT = np.array([0.656311, 0.754490])
BEHIND = np.array([-0.754490, 0.656311])
"""Directions on the ground along which objects keep their margin. The original has them as constants."""

SIZES = np.array([0.7, 0.35])
"""Half-heights r of the codes 1 large, 2 small."""
MATERIALS = ("rubber", "metal")
SHAPES = ("sphere", "cylinder", "cube")
COLORS = ("red", "cyan", "green", "blue", "brown", "gray", "purple", "yellow")
"""Names of the codes 1, 2, ... of each factor."""
PALETTE = (
    np.array(
        [
            (173, 35, 35),
            (41, 208, 208),
            (29, 105, 20),
            (42, 75, 215),
            (129, 74, 25),
            (87, 87, 87),
            (129, 38, 192),
            (255, 238, 51),
        ]
    )
    / 255
)
"""8 3: reflectance of each colour, linear."""

AREA = 3.0
"""Centres lie in the square from -AREA to AREA."""
MIN_GAP = 0.25
"""Between two objects on the ground, measured between circles of their half-heights."""
MIN_MARGIN = 0.4
"""Between two centres along RIGHT, and along BEHIND."""
MAX_TRIES = 50
"""Places that are tried for an object before the scene starts again."""
_FEW_TRIES = 10  # are enough for seven of eight scenes of up to six objects, half of those of up to ten


@dataclass(frozen=True)
class Lamp:
    """A square area lamp that faces the origin."""

    position: tuple[float, float, float]
    side: float
    strength: float
    color: tuple[float, float, float]

    @property
    def radiance(self) -> np.ndarray:
        """3, linear RGB: colour x strength x 0.25 / area (data set specification, section 3.3.6)."""
        return np.array(self.color) * self.strength * 0.25 / self.side**2


LAMPS = (
    Lamp((6.446710, -2.905175, 4.258398), 0.5, 100.0, (1.0, 0.9323, 0.8167)),
    Lamp((-4.671124, -4.013597, 3.011225), 0.5, 30.0, (0.7617, 0.8177, 1.0)),
    Lamp((-1.168501, 2.646024, 5.815737), 1.0, 50.0, (1.0, 1.0, 1.0)),
)
"""Key, fill and back lamp before jitter."""
SUN = np.array([0.41450, -0.19458, 0.88901])
"""Direction to the distant lamp, which does not move."""
SUN_IRRADIANCE = 0.45
SUN_TANGENT = 0.1
"""Of its angular radius."""

COVE = np.array(
    [
        (-9.55, 0.0),
        (0.36, 0.006),
        (2.90, 0.020),
        (5.12, 0.048),
        (7.05, 0.099),
        (8.71, 0.183),
        (10.14, 0.312),
        (11.35, 0.499),
        (12.39, 0.761),
        (13.26, 1.115),
        (13.99, 1.578),
        (14.60, 2.174),
        (15.12, 2.924),
        (15.56, 3.854),
        (15.93, 4.989),
        (16.26, 6.358),
        (16.56, 7.991),
        (16.83, 9.920),
        (17.10, 12.179),
        (17.36, 14.804),
        (17.64, 17.832),
        (17.94, 21.301),
        (18.09, 23.215),
    ]
)
"""Distance along COVE_AWAY, and height of the ground there: a convex curve."""
COVE_AWAY = np.array([-0.90321, 0.42920])
"""Direction on the ground away from the camera's side."""
COVE_HALF_WIDTH = 28.0


@dataclass(frozen=True)
class Scenes:
    """Scenes as numbers, all float64 or int64."""

    camera: np.ndarray
    """N 3, position."""
    lamps: np.ndarray
    """N 3 3, positions of the key, fill and back lamp."""
    num_objects: np.ndarray
    """N."""
    position: np.ndarray
    """N O 2, x and y of the centres; z is the half-height. Empty places come last and are all zero."""
    rotation: np.ndarray
    """N O, the stored label, 0 to 360. The generator of the published set hands it on as radians: the yaw
    about the z axis is so many radians, not degrees."""
    size: np.ndarray
    """N O, code, 0 for an empty place; as the next three."""
    material: np.ndarray
    shape: np.ndarray
    color: np.ndarray

    def __len__(self) -> int:
        return len(self.num_objects)

    @property
    def half_height(self) -> np.ndarray:
        """N O: r of each object, 0 for an empty place."""
        heights: np.ndarray = np.array([0.0, *SIZES])[self.size]
        return heights

    def __getitem__(self, rows: np.ndarray) -> Scenes:
        return Scenes(**{name: values[rows] for name, values in vars(self).items()})

    def put(self, rows: np.ndarray, other: Scenes) -> None:
        """Overwrites the scenes at `rows` by those of `other`, in order."""
        for name, values in vars(self).items():
            values[rows] = getattr(other, name)


def view_axes(camera: np.ndarray) -> np.ndarray:
    """Axes of a picture (N 3 3: right, up, and back towards the camera) for camera positions (N 3)."""
    back = camera / np.sqrt((camera**2).sum(-1, keepdims=True))
    right = np.stack([-back[:, 1], back[:, 0], np.zeros(len(back))], axis=-1)
    right /= np.sqrt((right**2).sum(-1, keepdims=True))
    # up = back x right, written out: the same bits on every machine
    up = np.stack([-back[:, 2] * right[:, 1], back[:, 2] * right[:, 0], np.zeros(len(back))], axis=-1)
    up[:, 2] = back[:, 0] * right[:, 1] - back[:, 1] * right[:, 0]
    return np.stack([right, up, back], axis=1)


def project(camera: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where points appear in the 320 x 240 picture.

    Args:
        camera: N 3, positions.
        points: N P 3.

    Returns:
        N P 3: column and row in pixels (the centre of the first pixel is 0.5), and the depth along the
        optical axis.
    """
    axes = view_axes(camera)
    offset = points - camera[:, None]
    along = (offset[:, :, None] * axes[:, None]).sum(-1)  # N P 3: right, up, back
    depth = -along[..., 2]
    col = WIDTH / 2 + FOCAL * along[..., 0] / depth
    row = HEIGHT / 2 - FOCAL * along[..., 1] / depth
    return np.stack([col, row, depth], axis=-1)


def sample_view(seed: int, index: np.ndarray, num_objects: tuple[int, int]) -> Scenes:
    """Scenes without objects: their number, uniform from the first to the last of `num_objects`, camera and lamps.

    These stay when the objects of a scene are drawn again.
    """
    num = len(index)
    words = random_bits(seed, index, 0, 13)
    low, high = num_objects
    jitter = 2 * to_floats(words[:, 1:]) - 1
    codes = np.zeros((num, MAX_OBJECTS), np.int64)
    return Scenes(
        camera=CAMERA + CAMERA_JITTER * jitter[:, :3],
        lamps=np.array([lamp.position for lamp in LAMPS]) + LAMP_JITTER * jitter[:, 3:].reshape(num, 3, 3),
        num_objects=low + to_integers(words[:, 0], high + 1 - low),
        position=np.zeros((num, MAX_OBJECTS, 2)),
        rotation=np.zeros((num, MAX_OBJECTS)),
        size=codes,
        material=codes.copy(),
        shape=codes.copy(),
        color=codes.copy(),
    )


def place_objects(seed: int, index: np.ndarray, attempt: int, view: Scenes) -> tuple[Scenes, np.ndarray]:
    """Fills scenes with objects: one attempt, from its own stream of bits.

    Args:
        seed: of the generator.
        index: N, the scenes' numbers.
        attempt: counts from 0.
        view: the scenes, from `sample_view`.

    Returns:
        The scenes, and N bool: did every object find a place in `MAX_TRIES` tries?
    """
    filled, found = _place(seed, index, attempt, view, _FEW_TRIES)
    left = (~found).nonzero()[0]
    if left.size:
        again, found[left] = _place(seed, index[left], attempt, view[left], MAX_TRIES)
        filled.put(left, again)
    return filled, found


def _place(seed: int, index: np.ndarray, attempt: int, view: Scenes, num_tries: int) -> tuple[Scenes, np.ndarray]:
    """`place_objects` with the first `num_tries` of an object's `MAX_TRIES`."""
    num = len(index)
    first = (5 + 2 * MAX_TRIES) * np.arange(MAX_OBJECTS, dtype=np.uint64)[:, None]
    draws = (first + np.arange(5 + 2 * num_tries, dtype=np.uint64)).ravel()
    words = random_bits(seed, index, 1 + attempt, draws).reshape(num, MAX_OBJECTS, -1)
    present = np.arange(MAX_OBJECTS) < view.num_objects[:, None]
    size, shape, color, material = (
        np.where(present, 1 + to_integers(words[..., draw], count), 0)
        for draw, count in enumerate((len(SIZES), len(SHAPES), len(COLORS), len(MATERIALS)))
    )
    rotation = np.where(present, 360 * to_floats(words[..., 4]), 0)
    radius = np.array([0.0, *SIZES])[size]
    tries = AREA * (2 * to_floats(words[..., 5:]).reshape(num, MAX_OBJECTS, num_tries, 2) - 1)

    position = np.zeros((num, MAX_OBJECTS, 2))
    found = np.ones(num, bool)
    rows = np.arange(num)
    for place in range(MAX_OBJECTS):
        offset = tries[:, place, :, None] - position[:, None, :place]  # N tries earlier 2
        x, y = offset[..., 0], offset[..., 1]
        reach = radius[:, None, :place] + radius[:, place, None, None]
        free = np.sqrt(x * x + y * y) - reach >= MIN_GAP
        for axis in (RIGHT, BEHIND):
            free &= abs(x * axis[0] + y * axis[1]) >= MIN_MARGIN
        good = (free | ~present[:, None, :place]).all(axis=-1)  # N tries
        found &= good.any(axis=1) | ~present[:, place]
        position[:, place] = np.where(present[:, place, None], tries[rows, place, good.argmax(axis=1)], 0)
    filled = Scenes(view.camera, view.lamps, view.num_objects, position, rotation, size, material, shape, color)
    return filled, found
