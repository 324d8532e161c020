"""Tetrominoes: three tetrominoes of bevelled tiles on black, 35 x 35, equal to the published images bit for
bit.

The published set is DeepMind's Multi-Object Datasets, Tetrominoes. Shape codes, tile values, colours and
the meaning of x (the row) and y (the column) follow the data set specification, section 3.1. A scene draws
three shapes, positions and colours uniformly; if any two pieces share a pixel the whole scene is drawn
again.

Axes: N scenes, P pieces, E = 4 entities (background first).
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, count
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from emorl.data.base import check_indices
from emorl.data.scene import random_bits, to_integers
from emorl.errors import InputError
from emorl.types import Batch

SIZE = 35
"""Rows and columns of an image."""
NUM_PIECES = 3
"""Pieces in every scene."""
VERSION = 1
"""Raised whenever the scenes of a seed change."""

SHAPES = (
    "XXXX X/X/X/X XXX/X.. X../XXX ..X/XXX XXX/..X XX/.X/.X .X/.X/XX XX/X./X. X./X./XX "
    "XX./.XX .XX/XX. .X/XX/X. X./XX/.X .X./XXX XXX/.X. .X/XX/.X X./XX/X. XX/XX"
).split()
"""The outline of the codes 1 to 19 in order: X is a block, rows are separated by a slash."""

COLORS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)], np.uint8)
"""6 3: red, green, blue, yellow, magenta, cyan."""

TILE = np.array(
    [
        (191, 255, 255, 255, 223),
        (127, 159, 159, 159, 191),
        (127, 159, 159, 159, 191),
        (127, 159, 159, 159, 191),
        (95, 63, 63, 63, 127),
    ],
    np.uint8,
)
"""5 5: the level of one block in each channel that its colour has."""


@cache
def _blocks() -> np.ndarray:
    """20 4 2: row and column of the four blocks of a code in pixels from its corner; code 0 is unused."""
    cells = [
        [(r, c) for r, line in enumerate(shape.split("/")) for c, x in enumerate(line) if x == "X"] for shape in SHAPES
    ]
    return len(TILE) * np.array([cells[0], *cells])


def _extent(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height and width in pixels of the pieces of the given codes, each in the shape of `shape`."""
    size = _blocks().max(axis=1) + len(TILE)  # 20 2
    return size[shape, 0], size[shape, 1]


def _corners(shape: np.ndarray, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N P 4 each: row and column of the top left pixel of every block."""
    blocks = _blocks()[shape]  # N P 4 2
    return row[..., None] + blocks[..., 0], col[..., None] + blocks[..., 1]


def render(shape: np.ndarray, row: np.ndarray, col: np.ndarray, color: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws scenes; a later piece covers an earlier one.

    Args:
        shape: N P, integers, codes 1 to 19.
        row: N P, integers, the top edge of the piece's bounding box.
        col: N P, integers, its left edge.
        color: N P 3, each 0 or 1.

    Returns:
        image, N 35 35 3, uint8, and mask, N 35 35, uint8: 0 background, 1 to P the pieces.

    Raises:
        InputError: an unknown code, a level other than 0 and 1, or a piece that leaves the image.
    """
    shape, row, col = (np.asarray(a).astype(np.int64) for a in (shape, row, col))
    color = np.asarray(color)
    if not ((shape >= 1) & (shape <= len(SHAPES))).all():
        raise InputError(f"a tetromino's shape is a code from 1 to {len(SHAPES)}")
    if not ((color == 0) | (color == 1)).all():
        raise InputError("a tetromino's colour has the levels 0 and 1 only")
    height, width = _extent(shape)
    if not ((row >= 0) & (col >= 0) & (row + height <= SIZE) & (col + width <= SIZE)).all():
        raise InputError(f"a tetromino leaves the image: keep its bounding box within {SIZE} x {SIZE}")

    num, pieces = shape.shape
    image = np.zeros((num, SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((num, SIZE, SIZE), np.uint8)
    tiles = color.astype(np.uint8)[..., None, None] * TILE  # N P 3 5 5
    image_windows = sliding_window_view(image, TILE.shape, axis=(1, 2), writeable=True)  # N 31 31 3 5 5
    mask_windows = sliding_window_view(mask, TILE.shape, axis=(1, 2), writeable=True)  # N 31 31 5 5
    top, left = _corners(shape, row, col)
    scene = np.arange(num)[:, None]
    for piece in range(pieces):
        at = scene, top[:, piece], left[:, piece]  # N 4
        image_windows[at] = tiles[:, piece, None]
        mask_windows[at] = piece + 1
    return image, mask


def _overlaps(shape: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """N, bool: do two pieces of the scene share a pixel?"""
    top, left = (corner.astype(np.int16) for corner in _corners(shape, row, col))  # N P 4
    result = np.zeros(len(shape), bool)
    for a, b in combinations(range(shape.shape[1]), 2):
        near = abs(top[:, a, :, None] - top[:, b, None]) < len(TILE)  # N 4 4
        near &= abs(left[:, a, :, None] - left[:, b, None]) < len(TILE)
        result |= near.any(axis=(1, 2))
    return result


def sample(seed: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws the scenes of a seed at `index` (N, integers >= 0).

    Returns:
        shape, row, col (N 3 each, int64) and color (N 3 3, uint8), as `render` takes them.
    """
    index = np.asarray(index)
    scenes = np.zeros((4, len(index), NUM_PIECES), np.int64)  # shape, row, column, number of the colour
    pending = np.arange(len(index))
    for attempt in count():
        if not pending.size:
            break
        words = random_bits(seed, index[pending], attempt, 4 * NUM_PIECES).reshape(-1, 4, NUM_PIECES)
        shape = 1 + to_integers(words[:, 0], len(SHAPES))
        height, width = _extent(shape)
        row = to_integers(words[:, 1], SIZE + 1 - height)
        col = to_integers(words[:, 2], SIZE + 1 - width)
        color = to_integers(words[:, 3], len(COLORS))
        scenes[:, pending] = shape, row, col, color
        pending = pending[_overlaps(shape, row, col)]
    shape, row, col, color = scenes
    return shape, row, col, COLORS[color]


class Tetrominoes:
    """Scenes 0 to num - 1 of a seed.

    Factors, as in the published files: x (the row of the top edge), y (the column of the left edge) and
    shape, N 4 float32; color, N 4 3 float32. Row 0 is the background, all zero. Visibility is 1 throughout.
    """

    name = "tetrominoes"
    size = (SIZE, SIZE)

    def __init__(self, seed: int = 0, num: int = 60_320) -> None:
        self.seed, self.num = seed, num

    def __len__(self) -> int:
        return self.num

    def read(self, indices: np.ndarray) -> Batch:
        """Scenes by position; see `Source.read`."""
        index = check_indices(indices, self)
        shape, row, col, color = sample(self.seed, index)
        image, mask = render(shape, row, col, color)
        factors = {"x": row, "y": col, "shape": shape, "color": color}
        return Batch(
            image=image,
            index=index,
            mask=mask,
            visibility=np.ones((len(index), NUM_PIECES + 1), np.float32),
            factors={name: _with_background(values) for name, values in factors.items()},
        )

    def describe(self) -> dict[str, Any]:
        """Facts about the generator; see `Source.describe`."""
        return {
            "name": self.name,
            "kind": "generator",
            "num_images": self.num,
            "size": [SIZE, SIZE],
            "num_entities": NUM_PIECES + 1,
            "masks": True,
            "factors": ["x", "y", "shape", "color"],
            "seed": self.seed,
            "version": VERSION,
        }

    def fingerprint(self) -> str:
        """Generator, version and seed."""
        return f"{self.name} generator version {VERSION} seed {self.seed}"


def _with_background(values: np.ndarray) -> np.ndarray:
    """N P ... to N 1+P ..., float32, zeros for the background."""
    return np.pad(values.astype(np.float32), [(0, 0), (1, 0)] + [(0, 0)] * (values.ndim - 2))
