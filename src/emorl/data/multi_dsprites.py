"""Multi-dSprites: squares, ellipses and hearts that cover each other, 64 x 64, in the three published variants
and in a textured one.

The published sets are DeepMind's Multi-Object Datasets, Multi-dSprites. Shapes, grids and the known part of the
laws follow the data set specification, section 3.2; what is not known is a field of the config or a table
entry, with its grade: *stated* by the publishers, *inferred* from counts in the published files, or *ours*.

A scene has a number of sprites, uniform between two bounds. Shape, scale, orientation and position are uniform
and independent. The background is painted first, then the sprites in order, opaque, a later one over an earlier
one; masks are what remains visible. If a sprite has no visible pixel, the geometry of all sprites is drawn
again; their number and looks stay, so that these keep their laws (ours).

The textured variant is described in one sentence of the EfficientMORL paper, appendix B.1: a simple uniform
texture behind sprites of several colours with a distinctive pattern, so that grouping pixels by colour does not
find the objects. All else about it is ours: each entity has one of `PATTERNS` in two colours, anchored at the
sprite's centre and turning with the sprite; a sprite's hues are at least a quarter of the circle apart, the
background has two greys.

Conventions that are not published: x is the column and y the row; orientation turns counter-clockwise on
screen; colour levels are rounded to the nearest byte; the order of the entities is the order of painting.

Factors are drawn in float32, as the files hold them, and pictures computed from these numbers in float64 by
+, -, *, / and square roots alone, so factors, masks and images have the same bits on every machine.

Axes: N scenes, E entities (background first), C colour channels; M sprites drawn at once, each in a window of W
rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from emorl.data.base import check_indices
from emorl.data.scene import random_bits, to_floats, to_integers
from emorl.errors import InputError
from emorl.types import Batch

SIZE = 64
"""Rows and columns of an image."""
VERSION = 1
"""Raised whenever the scenes of a seed change."""

SHAPES = ("square", "ellipse", "heart")
"""The shapes of the codes 1 to 3 in order."""
SCALES = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
NUM_ORIENTATIONS = 40
"""Evenly spaced from 0 to 2 pi, both included: the first and the last look the same."""
NUM_POSITIONS = 32
"""Evenly spaced from 0 to 1, both included."""

MAX_SPRITES = 10
"""Of a config. With so many, a third of the geometries is drawn again for a hidden sprite, and with more sprites
soon nearly all."""

_CHUNK = 32  # scenes that are drawn together, so that what they need stays in the processor's cache


# ---- variants --------------------------------------------------------------------------------------------

VariantName = Literal["colored_on_grayscale", "colored_on_colored", "binarized", "textured"]
Color = Literal["black", "white", "gray", "rgb", "hsv", "levels", "texture", "pattern"]
FREE_COLORS = ("gray", "rgb", "hsv", "levels")
"""The colour laws a config may put in place of a colored variant's own."""


@dataclass(frozen=True)
class Variant:
    """The law of one data set."""

    dataset: str
    """What results call it."""
    num_sprites: tuple[int, int]
    """Lowest and highest number of sprites."""
    background: Color
    """The colour law of the background."""
    sprites: Color
    """The colour law of the sprites, which are independent."""


VARIANTS: dict[VariantName, Variant] = {
    # Stated: 2 to 5 sprites. Inferred: the number is uniform, the hsv law. Ours: grey is uniform.
    "colored_on_grayscale": Variant("multi-dsprites", (2, 5), "gray", "hsv"),
    # Stated: 1 to 4 sprites, random RGB for all. Ours: the number and the levels are uniform.
    "colored_on_colored": Variant("multi-dsprites-colored", (1, 4), "rgb", "rgb"),
    # Stated: 2 to 3 sprites, white on black. Ours: the number is uniform.
    "binarized": Variant("multi-dsprites-binarized", (2, 3), "black", "white"),
    # Stated: textured background, sprites of several colours in a pattern. Ours: everything else.
    "textured": Variant("multi-dsprites-textured", (2, 5), "texture", "pattern"),
}


@dataclass(frozen=True)
class MultiDSpritesConfig:
    """The choices that the publications leave to a generator.

    Raises InputError for a value that is none of the choices.
    """

    variant: VariantName = "colored_on_grayscale"
    """Which data set: a row of `VARIANTS`, where the grade of each of its laws stands."""
    num_sprites: tuple[int, int] | None = None
    """Lowest and highest number of sprites, 1 to 10, each number between equally likely. None: the variant's,
    stated for the published sets, ours for the textured one."""
    background_color: Color | None = None
    """Another colour law of the background, one of `FREE_COLORS`. None: the variant's; its grey is ours."""
    sprite_color: Color | None = None
    """Another colour law of the sprites, one of `FREE_COLORS`. None: the variant's; its hsv is inferred."""
    grid: bool = True
    """Scale, orientation and position from the grids of dSprites (ours: a set made of dSprites suggests it), or
    uniform over the same ranges."""
    keep_hidden: bool = False
    """Keep scenes with a sprite that has no visible pixel (visibility 1, empty mask) instead of drawing the
    geometry again. Ours: what the publishers did is not known."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise InputError(f"there is no Multi-dSprites variant {self.variant!r}: choose from {', '.join(VARIANTS)}")
        colors = [color for color in (self.background_color, self.sprite_color) if color is not None]
        if colors and not self.variant.startswith("colored"):
            raise InputError(
                f"the variant {self.variant} has its own colours: give another colour law to a colored one"
            )
        if unknown := [color for color in colors if color not in FREE_COLORS]:
            raise InputError(f"there is no colour law {unknown[0]!r} to choose: it can be {', '.join(FREE_COLORS)}")
        bounds = self.law.num_sprites
        is_pair = len(bounds) == 2 and all(isinstance(bound, int) for bound in bounds)
        if not (is_pair and 1 <= bounds[0] <= bounds[1] <= MAX_SPRITES):
            raise InputError(
                f"{bounds} is no range of numbers of sprites: give the lowest and the highest, from 1 to {MAX_SPRITES}"
            )

    @property
    def law(self) -> Variant:
        """The row of `VARIANTS` with what this config changes."""
        law = VARIANTS[self.variant]
        return replace(
            law,
            num_sprites=law.num_sprites if self.num_sprites is None else self.num_sprites,
            background=self.background_color or law.background,
            sprites=self.sprite_color or law.sprites,
        )


COLORED_ON_GRAYSCALE = MultiDSpritesConfig()
"""The set on which models are compared."""


# ---- colours and patterns --------------------------------------------------------------------------------


def hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Colours in another space.

    Args:
        hue: any shape, >= 0, in turns: 0 and 1 are red.
        saturation, value: the same shape, 0 to 1.

    Returns:
        The shape with an axis of 3 added, 0 to 1.
    """
    k = (np.array([5, 3, 1]) + 6 * hue[..., None]) % 6
    rgb: np.ndarray = value[..., None] * (1 - saturation[..., None] * np.minimum(k, 4 - k).clip(0, 1))
    return rgb


def _vivid(u: np.ndarray) -> np.ndarray:
    """... 3 to ... 3: hue uniform, saturation and value uniform over the upper half."""
    return hsv_to_rgb(u[..., 0], 0.5 + 0.5 * u[..., 1], 0.5 + 0.5 * u[..., 2])


_COLORS: dict[Color, Callable[[np.ndarray], np.ndarray]] = {
    "black": lambda u: np.zeros_like(u[..., :1]),
    "white": lambda u: np.ones_like(u[..., :1]),
    "gray": lambda u: np.repeat(u[..., :1], 3, axis=-1),
    "rgb": lambda u: u,
    "hsv": _vivid,
    "levels": lambda u: np.array([0, 63, 127, 191, 255])[(5 * u).astype(np.int64)] / 255,  # those of GENESIS
    "texture": lambda u: np.repeat((1 - _CONTRAST) * u[..., :1], 3, axis=-1),  # of its two greys the darker one
    "pattern": _vivid,  # the first of its two colours
}
"""Colour law -> a function from uniform numbers, ... 3, to colours, ... C, both 0 to 1."""


def _is_odd(bands: np.ndarray) -> np.ndarray:
    """Is a point in a second band, counting from the anchor? On a border, up to rounding, it is in the later one."""
    return np.floor(bands + 1e-4).astype(np.int64) & 1


# How much of the second colour there is at a point. u and v count periods to the right of the anchor and up.
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": lambda u, v: _is_odd(2 * u),
    "checks": lambda u, v: _is_odd(2 * u) ^ _is_odd(2 * v),
    "dots": lambda u, v: (u - np.rint(u)) ** 2 + (v - np.rint(v)) ** 2 < 0.12,
    "rings": lambda u, v: _is_odd(2 * np.sqrt(u * u + v * v)),
    "gradient": lambda u, v: 1 - abs((u + 1) % 4 - 2) / 2,
}
"""The patterns of the codes 1 to 5 in order; code 0 is none. Values from 0 to 1."""

_NUM_BACKGROUND_PATTERNS = 3  # stripes, checks and dots: simple, and the same all over the image
_PERIODS = np.array([4, 6, 8])  # px: a sprite shows both its colours, and pixels can follow the pattern
_NUM_ANGLES = 2, 4  # of a background's and of a sprite's pattern, evenly spaced over half a turn
_CONTRAST = 0.2  # between the two greys of the background
_NUM_SHADES = 65  # from the first colour to the second, evenly spaced: pictures are painted from a palette


# ---- geometry --------------------------------------------------------------------------------------------


def _cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of float64 angles by their series, since those of the C library differ among machines."""
    quarter = np.rint(angle / (np.pi / 2))
    z = angle - quarter * (np.pi / 2)  # at most pi / 4, where the series are exact to the last bits
    cos, sin = np.ones_like(z), np.ones_like(z)
    for n in range(18, 0, -2):
        cos = 1 - z * z / (n * (n - 1)) * cos
        sin = 1 - z * z / (n * (n + 1)) * sin
    sin *= z
    turned = quarter % 4
    odd = turned % 2 == 1
    cos, sin = np.where(odd, -sin, cos), np.where(odd, cos, sin)
    return np.where(turned >= 2, -cos, cos), np.where(turned >= 2, -sin, sin)


def _cube_root(x: np.ndarray) -> np.ndarray:
    """Of numbers from 0 to 1, to 1e-15, the same bits on every machine."""
    fourth = np.sqrt(np.sqrt(x))
    sixteenth = np.sqrt(np.sqrt(fourth))
    root: np.ndarray = fourth * sixteenth * np.sqrt(np.sqrt(sixteenth)) + 1e-30  # x^(21/64), never zero
    for _ in range(4):
        root = (2 * root + x / (root * root)) / 3
    return root


def _in_square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (abs(u) <= 9.6) & (abs(v) <= 9.6)


def _in_ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    inside: np.ndarray = (u / 12.8) ** 2 + (v / 7.2) ** 2 <= 1
    return inside


def _in_heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The inside of u = 9.6 sin(t)^3, v = 0.6625 (13 cos t - 5 cos 2t - 2 cos 3t - cos 4t) + 1.43.

    At a given u the curve has two points, whose cosines are c and -c; as a polynomial of the cosine its
    height has an even part, the middle between the two, and an odd part, half their distance. So the test is
    exact but for the rounding of float64.
    """
    sine = _cube_root((abs(u) / 9.6).clip(max=1))  # at 1 the two points meet; beyond there is no inside
    square = 1 - sine * sine
    middle = 1.43 + 0.6625 * (4 - square * (2 + 8 * square))
    half = 0.6625 * np.sqrt(square.clip(min=0)) * (19 - 8 * square)
    inside: np.ndarray = (abs(v - middle) <= half) & (abs(u) <= 9.6)
    return inside


_INSIDE = (_in_square, _in_ellipse, _in_heart)
"""By shape: is a point inside? u and v are px to the right and up from the centre, at scale 1, orientation 0."""
_REACH = (13.58, 12.8, 11.26)
"""By shape: the largest distance of an inside point, px, rounded up."""


_GEOMETRY = ("x", "y", "shape", "orientation", "scale")
_PATTERN = ("second_color", "pattern", "period", "pattern_orientation")
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("x", "y", "color", "second_color"), (0, 1)),
    **dict.fromkeys(("orientation", "pattern_orientation"), (0, float(np.float32(2 * np.pi)))),
    "scale": (1e-3, 1),
    "shape": (1, len(SHAPES)),
    "pattern": (0, len(PATTERNS)),
    "period": (1e-3, np.inf),
}
"""Factor -> its lowest and highest value where there is an entity. Far smaller sprites and periods cannot be seen."""


def _to_pixels(position: np.ndarray) -> np.ndarray:
    """Positions 0 to 1 in pixels from the image's top left corner."""
    return 16 + 32 * position.astype(np.float64)


def _label(factors: dict[str, np.ndarray], visibility: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The label map, N 64 64 uint8, and which entities have a pixel in it, N E bool (the background always)."""
    num, entities = visibility.shape
    col, row = _to_pixels(factors["x"]), _to_pixels(factors["y"])
    scale = factors["scale"].clip(min=_RANGES["scale"][0])  # where there is nothing it is zero
    cos, sin = (part / scale for part in _cos_sin(factors["orientation"].astype(np.float64)))
    mask = np.zeros((num, SIZE, SIZE), np.uint8)
    seen = np.ones((num, entities), bool)
    for start in range(0, num, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        for entity in reversed(range(1, entities)):  # the top one first: it keeps what it has
            for code, (inside, reach) in enumerate(zip(_INSIDE, _REACH, strict=True), start=1):
                there = (visibility[chunk, entity] == 1) & (factors["shape"][chunk, entity] == code)
                scene = start + np.flatnonzero(there)  # M
                at = scene, entity
                window = int(2 * reach) + 1
                left = np.ceil(col[at] - reach - 0.5).astype(np.int64)
                top = np.ceil(row[at] - reach - 0.5).astype(np.int64)
                right = left[:, None, None] + np.arange(window) + 0.5 - col[at][:, None, None]  # M 1 W
                up = row[at][:, None, None] - top[:, None, None] - np.arange(window)[:, None] - 0.5  # M W 1
                c, s = cos[at][:, None, None], sin[at][:, None, None]
                own = inside(right * c + up * s, up * c - right * s)  # M W W
                windows = sliding_window_view(mask, (window, window), axis=(1, 2), writeable=True)
                labels = windows[scene, top, left]  # M W W
                own &= labels == 0
                windows[scene, top, left] = labels + own * np.uint8(entity)
                seen[at] = own.any(axis=(1, 2))
    return mask, seen


def _paint(factors: dict[str, np.ndarray], mask: np.ndarray) -> np.ndarray:
    """The image of a label map, N 64 64 3 uint8."""
    image = np.empty((*mask.shape, 3), np.uint8)
    for start in range(0, len(mask), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        part = {name: values[chunk].astype(np.float64) for name, values in factors.items()}
        levels = 255 * part["color"][:, :, None]  # N E 1 C
        num, entities = levels.shape[:2]
        owner = entities * np.arange(num)[:, None, None] + mask[chunk]  # N 64 64, counting all N x E entities
        shade = owner
        if "pattern" in factors:
            change = 255 * part["second_color"][:, :, None] - levels
            levels = levels + np.linspace(0, 1, _NUM_SHADES)[:, None] * change  # N E shades C
            shade = _NUM_SHADES * owner + _second_share(part, owner)
        palette = np.broadcast_to(np.rint(levels), (*levels.shape[:3], 3)).astype(np.uint8)
        image[chunk] = np.take(palette.reshape(-1, 3), shade, axis=0)
    return image


def _second_share(factors: dict[str, np.ndarray], owner: np.ndarray) -> np.ndarray:
    """How much of its entity's second colour a pixel has: N 64 64, int64, 0 to _NUM_SHADES - 1."""
    flat = {name: values.reshape(-1) for name, values in factors.items()}
    center_col, center_row = _to_pixels(flat["x"]), _to_pixels(flat["y"])
    cos, sin = _cos_sin(flat["orientation"] + flat["pattern_orientation"])
    flat_owner = owner.reshape(-1)
    code = np.take(flat["pattern"], flat_owner)
    share = np.zeros(owner.size, np.int64)
    for number, pattern in enumerate(PATTERNS.values(), start=1):
        pixel = np.flatnonzero(code == number)
        whose = np.take(flat_owner, pixel)
        period, c, s = (np.take(values, whose) for values in (flat["period"], cos, sin))
        line = pixel // SIZE
        row, col = line - line // SIZE * SIZE, pixel - line * SIZE  # the operator % takes far longer
        right = (col + 0.5 - np.take(center_col, whose)) / period
        up = (np.take(center_row, whose) - row - 0.5) / period
        share[pixel] = np.rint((_NUM_SHADES - 1) * pattern(right * c + up * s, up * c - right * s))
    return share.reshape(owner.shape)


def _along(there: np.ndarray, values: np.ndarray) -> np.ndarray:
    """N E as N E 1 ..., to broadcast with a factor."""
    return there.reshape(there.shape + (1,) * (values.ndim - 2))


def render(factors: dict[str, np.ndarray], visibility: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws scenes from their factors, those of the published files or of `sample`.

    Args:
        factors: x, y (0 to 1), shape (codes 1 to 3), orientation (0 to 2 pi) and scale (above 0, at most 1), N E
            each, of which row 0, the background, is not used; color, N E C of 0 to 1, C being 1 or 3. With
            pattern (codes 0 to 5), period (px, above 0) and pattern_orientation (0 to 2 pi), N E each, and
            second_color, N E C, the entities are patterned.
        visibility: N E, 1 for the entities that are there. What the others have as factors does not matter.

    Returns:
        image, N 64 64 3, uint8, and mask, N 64 64, uint8: 0 background, 1 to E - 1 the sprites.

    Raises:
        InputError: a factor is missing, a code is unknown or a value out of range.
    """
    names = (*_GEOMETRY, "color", *(_PATTERN if "pattern" in factors else ()))
    if missing := [name for name in names if name not in factors]:
        raise InputError(f"to draw Multi-dSprites needs the factor {missing[0]}")
    entities = np.asarray(visibility) == 1
    sprites = entities & (np.arange(entities.shape[1]) > 0)
    used = {}
    for name in names:
        values, there = np.asarray(factors[name]), sprites if name in _GEOMETRY else entities
        low, high = _RANGES[name]
        if not ((values[there] >= low) & (values[there] <= high)).all():
            raise InputError(f"the factor {name} of Multi-dSprites goes from {low:.4g} to {high:.4g}")
        used[name] = np.where(_along(there, values), values, 0)
    for name in ("shape", "pattern"):
        if name in used and (used[name] % 1).any():
            raise InputError(f"the factor {name} of Multi-dSprites holds codes, which are whole numbers")
    mask, _ = _label(used, entities)
    return _paint(used, mask), mask


# ---- scenes ----------------------------------------------------------------------------------------------

_COUNT_STREAM, _LOOKS_STREAM, _GEOMETRY_STREAM = range(3)  # the attempts count on from the last


def _sample_geometry(seed: int, index: np.ndarray, attempt: int, num: int, grid: bool) -> dict[str, np.ndarray]:
    """x, y, shape, orientation and scale of N scenes of `num` sprites and a background of zeros, N E float32."""
    words = random_bits(seed, index, _GEOMETRY_STREAM + attempt, 5 * num).reshape(-1, num, 5)
    words = np.moveaxis(words, -1, 0)  # 5 N num
    if grid:
        x, y = to_integers(words[:2], NUM_POSITIONS) / (NUM_POSITIONS - 1)
        turn = to_integers(words[2], NUM_ORIENTATIONS) / (NUM_ORIENTATIONS - 1)
        scale = SCALES[to_integers(words[3], len(SCALES))]
    else:
        x, y, turn, scale = to_floats(words[:4])
        scale = SCALES[0] + (SCALES[-1] - SCALES[0]) * scale
    shape = 1 + to_integers(words[4], len(SHAPES))
    drawn = {"x": x, "y": y, "shape": shape, "orientation": 2 * np.pi * turn, "scale": scale}
    return {name: np.pad(values.astype(np.float32), ((0, 0), (1, 0))) for name, values in drawn.items()}


def _sample_looks(seed: int, index: np.ndarray, law: Variant) -> dict[str, np.ndarray]:
    """color, N E C, and the factors of the patterns where the law has some, all float32."""
    entities = 1 + law.num_sprites[1]
    words = random_bits(seed, index, _LOOKS_STREAM, 9 * entities).reshape(-1, entities, 9)
    u = to_floats(words)
    background, sprites = u[:, :1], u[:, 1:]
    color = np.concatenate(
        [_COLORS[law.background](background[..., :3]), _COLORS[law.sprites](sprites[..., :3])], axis=1
    )
    looks = {"color": color}
    if law.sprites == "pattern":
        hue = sprites[..., 0] + 0.25 + 0.5 * sprites[..., 3]
        looks["second_color"] = np.concatenate(
            [color[:, :1] + _CONTRAST, hsv_to_rgb(hue, 0.5 + 0.5 * sprites[..., 4], 0.5 + 0.5 * sprites[..., 5])],
            axis=1,
        )
        num_patterns, num_angles = (
            np.array([background] + law.num_sprites[1] * [sprite])  # E
            for background, sprite in ((_NUM_BACKGROUND_PATTERNS, len(PATTERNS)), _NUM_ANGLES)
        )
        looks["pattern"] = 1 + to_integers(words[..., 6], num_patterns)
        looks["period"] = _PERIODS[to_integers(words[..., 7], len(_PERIODS))]
        looks["pattern_orientation"] = np.pi * to_integers(words[..., 8], num_angles) / num_angles
    return {name: values.astype(np.float32) for name, values in looks.items()}


def _draw(
    seed: int, index: np.ndarray, config: MultiDSpritesConfig
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Factors and visibility as of `sample`, and the masks, which tell what has to be drawn again."""
    index = np.asarray(index)
    law = config.law
    low, high = law.num_sprites
    num_sprites = low + to_integers(random_bits(seed, index, _COUNT_STREAM, 1), high - low + 1)  # N 1
    there = np.arange(1 + high) <= num_sprites  # N E
    factors = _sample_geometry(seed, index, 0, high, config.grid)
    mask, seen = _label(factors, there)
    for attempt in count(1):
        pending = np.flatnonzero((there & ~seen).any(axis=1))
        if config.keep_hidden or not pending.size:
            break
        again = _sample_geometry(seed, index[pending], attempt, high, config.grid)
        for name, values in again.items():
            factors[name][pending] = values
        mask[pending], seen[pending] = _label(again, there[pending])
    factors |= _sample_looks(seed, index, law)
    names = ["x", "y", "shape", "color", "orientation", "scale"]  # in the order of the published layout
    names += [name for name in factors if name not in names]
    factors = {name: factors[name] * _along(there, factors[name]) for name in names}
    return factors, there.astype(np.float32), mask


def sample(
    seed: int, index: np.ndarray, config: MultiDSpritesConfig = COLORED_ON_GRAYSCALE
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draws the scenes of a seed at `index` (N, integers >= 0).

    Returns:
        The factors and visibility, N E float32, as `render` takes them and as the published files have them: row
        0 is the background with its color (and pattern), zero otherwise; rows without an entity come last, all
        zero. E is one more than the highest number of sprites.
    """
    factors, visibility, _ = _draw(seed, index, config)
    return factors, visibility


class MultiDSprites:
    """Scenes 0 to num - 1 of a seed, with the factors of `sample`."""

    size = (SIZE, SIZE)

    def __init__(self, seed: int = 0, num: int = 60_320, config: MultiDSpritesConfig = COLORED_ON_GRAYSCALE) -> None:
        self.seed, self.num, self.config = seed, num, config

    @property
    def name(self) -> str:
        """The data set's name; what the config changes is told by the fingerprint."""
        return self.config.law.dataset

    def __len__(self) -> int:
        return self.num

    def read(self, indices: np.ndarray) -> Batch:
        """Scenes by position; see `Source.read`."""
        index = check_indices(indices, self)
        factors, visibility, mask = _draw(self.seed, index, self.config)
        return Batch(_paint(factors, mask), index, mask, visibility, factors)

    def describe(self) -> dict[str, Any]:
        """Facts about the generator; see `Source.describe`."""
        law = self.config.law
        return {
            "name": self.name,
            "kind": "generator",
            "num_images": self.num,
            "size": [SIZE, SIZE],
            "num_entities": 1 + law.num_sprites[1],
            "masks": True,
            "factors": list(sample(0, np.zeros(1, np.int64), self.config)[0]),
            "seed": self.seed,
            "version": VERSION,
            "variant": self.config.variant,
            "num_sprites": list(law.num_sprites),
            "background_color": law.background,
            "sprite_color": law.sprites,
            "grid": self.config.grid,
            "keep_hidden": self.config.keep_hidden,
        }

    def fingerprint(self) -> str:
        """Generator, version, seed, and what the config changes of the variant."""
        plain = MultiDSpritesConfig(self.config.variant)
        values = {field.name: getattr(self.config, field.name) for field in fields(plain)}
        changes = [f" {name}={value}" for name, value in values.items() if value != getattr(plain, name)]
        return f"{self.name} generator version {VERSION} seed {self.seed}{''.join(changes)}"
