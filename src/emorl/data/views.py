"""How a scene of a source's own size is brought to a model's size: a window is cut out, then resized.

The windows and interpolations are those of the field (data set specification, section 1.4). Which of them a
published number used is part of its protocol; see `emorl.data.protocols`.

Pixel i of a resized row or column of n pixels has its centre at (i + 1/2) * m / n of the m pixels of the window,
for images and masks alike, so that they stay aligned:

    bicubic, bilinear  Pillow's, antialiased: when shrinking, the filter grows with the pixels it makes. What a source
                       can compute at its small size by itself (CLEVR's generator) stands in for bicubic
    bilinear-tf        between the four pixels around that centre, without antialiasing, as TensorFlow 2 resizes; in
                       float32, rounded to the nearest level (halves to the even one), where TensorFlow stays in floats
    nearest            pixel floor((i + 1/2) * m / n), the later one of two at the same distance: all masks, and the
                       images of GENESIS

Axes: N scenes, E entities (background first), H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from emorl.data.base import Size, Source, concatenate, read_ahead
from emorl.errors import InputError
from emorl.types import Batch

WindowName = Literal["centre", "clevr", "clevr-centred", "tetrominoes-32"]
"""A key of `WINDOWS`, or "centre": the largest centred window of the wanted shape."""

Interpolation = Literal["bicubic", "bilinear", "bilinear-tf", "nearest"]
"""See the head of this module."""

_CHUNK = 256  # scenes that are in memory at their own size, if the source does not ask for more


@dataclass(frozen=True)
class Window:
    """Rows top to top + rows - 1 and columns left to left + cols - 1 of a scene."""

    top: int
    left: int
    rows: int
    cols: int


WINDOWS: dict[WindowName, tuple[Size, Window]] = {
    "clevr": ((240, 320), Window(29, 64, 192, 192)),
    "clevr-centred": ((240, 320), Window(24, 64, 192, 192)),
    "tetrominoes-32": ((35, 35), Window(2, 2, 32, 32)),
}
"""Name -> the H, W of the scenes it is for, and the window.

"clevr" is that of IODINE, Slot Attention and EfficientMORL, five rows below the centre; "clevr-centred" that of GENESIS
and ClevrTex; "tetrominoes-32" that of object-centric-library.
"""


def centre_window(own: Size, wanted: Size) -> Window:
    """The largest window of a scene of H, W `own` that has the shape of `wanted`, in its middle, up to a pixel."""
    scale = min(own[0] / wanted[0], own[1] / wanted[1])
    rows, cols = max(1, round(scale * wanted[0])), max(1, round(scale * wanted[1]))
    return Window((own[0] - rows) // 2, (own[1] - cols) // 2, rows, cols)


def resize(images: np.ndarray, size: Size, interpolation: Interpolation) -> np.ndarray:
    """Images N H W 3, uint8, at the H, W of `size`, by the rules at the head of this module."""
    height, width = size
    if images.shape[1:3] == size:
        return images
    if interpolation == "nearest":
        return resize_labels(images, size)
    if interpolation == "bilinear-tf":
        low, high, part = _neighbours(images.shape[2], width)
        left, right = images[:, :, low].astype(np.float32), images[:, :, high].astype(np.float32)
        rows = left + (right - left) * part[:, None]  # N H' W 3
        low, high, part = _neighbours(images.shape[1], height)
        upper, lower = rows[:, low], rows[:, high]
        resized: np.ndarray = np.rint(upper + (lower - upper) * part[:, None, None]).astype(np.uint8)
        return resized
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    pictures = (Image.fromarray(image).resize((width, height), filters[interpolation]) for image in images)
    return np.array([np.asarray(picture) for picture in pictures], np.uint8).reshape(-1, height, width, 3)


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """Label maps N H W, or images N H W 3, of any dtype, at the H, W of `size`, each pixel from its nearest one."""
    rows, cols = ((2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(labels.shape[1:3], size, strict=True))
    resized: np.ndarray = labels.take(rows, axis=1).take(cols, axis=2)
    return resized


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each new pixel: the pixels on both sides of its centre, at the border the same, and its way between them."""
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    low = np.floor(centre)
    pixels = np.clip(np.stack([low, low + 1]), 0, old - 1).astype(np.int64)
    return pixels[0], pixels[1], (centre - low).astype(np.float32)


@dataclass(frozen=True)
class View:
    """A window of a scene, resized."""

    size: Size
    """H, W of the result."""
    window: WindowName = "centre"
    """What is cut out."""
    interpolation: Interpolation = "bicubic"
    """How an image is resized. Masks are resized by the nearest pixel always."""

    def find_window(self, own: Size, name: str) -> Window:
        """The window in a scene of H, W `own`.

        Raises InputError, naming the source `name`, where the window is for other scenes or of another shape than
        `size`.
        """
        if self.window == "centre":
            return centre_window(own, self.size)
        meant, window = WINDOWS[self.window]
        if own != meant:
            raise InputError(
                f"{name} has images of {own[0]} x {own[1]}, but the window {self.window} is for {meant[0]} x "
                f"{meant[1]}: fit the centre instead"
            )
        if window.rows * self.size[1] != window.cols * self.size[0]:
            raise InputError(
                f"the window {self.window} of {window.rows} x {window.cols} cannot become {self.size[0]} x "
                f"{self.size[1]} undistorted: ask for an image size of that shape, or fit the centre"
            )
        return window

    def see(self, images: np.ndarray, name: str) -> np.ndarray:
        """Images N H W 3, uint8, of the source `name` -> N H' W' 3, uint8."""
        window = self.find_window((images.shape[1], images.shape[2]), name)
        return resize(_cut(images, window), self.size, self.interpolation)

    def __str__(self) -> str:
        return f"window {self.window} {self.interpolation} {self.size[0]} x {self.size[1]}"


def _cut(pixels: np.ndarray, window: Window) -> np.ndarray:
    """The window of N H W ..., a view of the same memory."""
    return pixels[:, window.top : window.top + window.rows, window.left : window.left + window.cols]


@runtime_checkable
class HasWindows(Protocol):
    """A source that makes less work of a part of its images."""

    def read_window(
        self, indices: np.ndarray, rows: tuple[int, int], cols: tuple[int, int], size: Size | None = None
    ) -> Batch:
        """As `Source.read`, with these rows and columns (first, behind the last) of images and masks alone.

        Visibility and factors are those of the whole. With a `size`, H W, to which the window will be shrunk by
        bicubic interpolation, a source may make images at that size, if it can do so well with less work; masks stay
        those of the window.
        """
        ...


class Viewed:
    """A source seen through a view.

    Masks are resized by the nearest pixel. Visibility becomes 0 for an object that has no pixel left; the background
    keeps it, so that sum(visibility) - 1 counts the objects in the picture. The factor `pixel_coords` (N E 3: column,
    row, depth of a centre) is told in pixels of the view, (column - left) * W / cols and so on, and lies outside the
    picture where the centre does. All other factors stay as they are: world positions have no pixels, and the x and y
    of Tetrominoes and Multi-dSprites are told in the data set's own terms.

    Args:
        source: images of one size, larger or smaller.
        view: what is made of them.

    Raises:
        InputError: the view does not fit the source.
    """

    def __init__(self, source: Source, view: View) -> None:
        if source.size is None:
            raise InputError(f"{source.name} has images of various sizes, which have no common window")
        self.source, self.view = source, view
        self._window = view.find_window(source.size, source.name)

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.source.name

    @property
    def size(self) -> Size:
        """H, W of the view."""
        return self.view.size

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray) -> Batch:
        """Images by position; see `Source.read`. They are at the source's own size a part at a time."""
        chunk = max(_CHUNK, read_ahead(self.source))
        starts = range(0, max(1, len(indices)), chunk)
        return concatenate(self._see(self._read_window(indices[start : start + chunk])) for start in starts)

    def _read_window(self, indices: np.ndarray) -> Batch:
        window = self._window
        if isinstance(self.source, HasWindows):
            rows, cols = (window.top, window.top + window.rows), (window.left, window.left + window.cols)
            return self.source.read_window(
                indices, rows, cols, self.size if self.view.interpolation == "bicubic" else None
            )
        batch = self.source.read(indices)
        mask = None if batch.mask is None else _cut(batch.mask, window)
        return replace(batch, image=_cut(batch.image, window), mask=mask)

    def _see(self, batch: Batch) -> Batch:
        image = resize(batch.image, self.size, self.view.interpolation)
        if batch.mask is None:
            return replace(batch, image=image)
        mask = resize_labels(batch.mask, self.size)
        if batch.visibility is None:
            return replace(batch, image=image, mask=mask)
        num_entities = batch.visibility.shape[1]
        if mask.max(initial=0) >= num_entities:
            raise InputError(f"{self.source.name}: a mask has the label {mask.max()}, of {num_entities} entities")
        seen = np.stack([(mask == entity).any(axis=(1, 2)) for entity in range(num_entities)], axis=1)
        seen[:, 0] = True
        factors = dict(batch.factors)
        if "pixel_coords" in factors:
            factors["pixel_coords"] = self._move(factors["pixel_coords"], batch.visibility)
        return replace(batch, image=image, mask=mask, visibility=batch.visibility * seen, factors=factors)

    def _move(self, coords: np.ndarray, visibility: np.ndarray) -> np.ndarray:
        """Column and row of N E 3 in pixels of the view. Rows of no object stay zero."""
        window, (height, width) = self._window, self.size
        origin = np.array([window.left, window.top, 0], coords.dtype)
        scale = np.array([width / window.cols, height / window.rows, 1], coords.dtype)
        is_object = visibility > 0
        is_object[:, 0] = False
        moved: np.ndarray = np.where(is_object[..., None], (coords - origin) * scale, coords)
        return moved

    def describe(self) -> dict[str, Any]:
        """The facts of the source, its view, and the size of that."""
        window = self._window
        cut = [[window.top, window.top + window.rows], [window.left, window.left + window.cols]]
        view = {"window": self.view.window, "rows_and_columns": cut, "interpolation": self.view.interpolation}
        return {**self.source.describe(), "size": list(self.size), "view": view}

    def fingerprint(self) -> str:
        """The identity of the source, and the view."""
        return f"{self.source.fingerprint()} {self.view}"
