"""A user's own pictures, of any mode and size, as images.

One rule turns any picture into 8-bit RGB: turned as its EXIF orientation says; of an animation the first
frame; a palette expanded; grey repeated in three channels; 16 bits scaled to 8 (round(v / 257)); whatever
is transparent laid over black; other colour spaces converted by Pillow. Pictures of floating-point numbers
have no stated range and are refused.

A view (`emorl.data.views`) brings it to a size: by default the largest centred window of that shape, resized by
antialiased bicubic interpolation; a picture of that size stays as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from emorl.data.base import Size, check_indices, sha256
from emorl.data.views import View
from emorl.errors import InputError
from emorl.types import Batch

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""The file endings that are taken for pictures, in small or capital letters."""

MAX_PIXELS = 2**27
"""Larger pictures are refused before they are decoded: a small file can claim any size."""

# Formats told by the content. Others stay closed: some of Pillow's decoders start external programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def read_picture(path: Path, view: View | None = None) -> np.ndarray:
    """Reads one picture.

    Args:
        path: a PNG, JPEG, WebP, BMP, GIF or TIFF file, whatever its name.
        view: what is made of it; None takes it as it is.

    Returns:
        H W 3, uint8.

    Raises:
        InputError: the file is no such picture, is damaged, too large, or holds floating-point numbers; or the view
        does not fit it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size and odd metadata: the size is judged here, below
            with Image.open(path, formats=_FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise ValueError(f"{opened.width} x {opened.height} is more than {MAX_PIXELS} pixels")
                image = np.array(_to_rgb(ImageOps.exif_transpose(opened)))
    except Exception as error:  # Pillow's decoders raise almost anything for a damaged file
        why = " ".join(str(error).split())
        raise InputError(f"cannot read the picture {path} ({why}): save it again as PNG or JPEG") from error
    seen: np.ndarray = image if view is None else view.see(image[None], str(path))[0]
    return seen


def _to_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode in mode RGB, by the rule at the head of this module."""
    if picture.mode == "F":
        raise ValueError("it holds floating-point numbers, whose range is not known")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it holds integers of more than 16 bits")
        transparent = picture.info.get("transparency")
        if isinstance(transparent, int):
            values = np.where(values == transparent, 0, values)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    return picture.convert("RGB")


def find_pictures(path: Path) -> list[Path]:
    """The pictures directly in a folder, sorted by name, or the one picture that the path is."""
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise InputError(f"no pictures in {path}: looked for {', '.join(SUFFIXES)}, not in folders below it")
    return found


class Pictures:
    """Pictures by position in a list of files; there are no masks.

    Args:
        paths: picture files, at least one.
        view: what is made of each. None keeps the size of each; pictures of different sizes are then read one at a
            time.
        name: what results call them; by default the first file's name.
    """

    def __init__(self, paths: Sequence[Path], *, view: View | None = None, name: str | None = None) -> None:
        if not paths:
            raise InputError("no pictures were given: name at least one file")
        if missing := [path for path in paths if not path.is_file()]:
            raise InputError(f"there is no picture {missing[0]}: check its name")
        self.paths, self.view = list(paths), view
        self.name = name or self.paths[0].name

    @property
    def size(self) -> Size | None:
        """H, W of the view; None where each has its own."""
        return None if self.view is None else self.view.size

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: np.ndarray) -> Batch:
        """Pictures by position; see `Source.read`. Raises InputError if their sizes differ."""
        index = check_indices(indices, self)
        images = [read_picture(self.paths[i], self.view) for i in index]
        for i, image in zip(index, images, strict=True):
            if image.shape != images[0].shape:
                first, other = images[0].shape[:2], image.shape[:2]
                raise InputError(
                    f"{self.paths[index[0]]} has {first[0]} x {first[1]} pixels but {self.paths[i]} has "
                    f"{other[0]} x {other[1]}: crop them to one size (--image-size), or read them one at a time"
                )
        height, width = self.size or (0, 0)
        return Batch(np.stack(images) if images else np.zeros((0, height, width, 3), np.uint8), index)

    def describe(self) -> dict[str, Any]:
        """Facts about the pictures; see `Source.describe`."""
        return {
            "name": self.name,
            "kind": "pictures",
            "num_images": len(self),
            "size": None if self.size is None else list(self.size),
            "num_entities": None,
            "masks": False,
            "factors": [],
        }

    def fingerprint(self) -> str:
        """The SHA-256 of the files in order, and the view."""
        return f"sha256:{sha256(self.paths)}" + ("" if self.view is None else f" {self.view}")
