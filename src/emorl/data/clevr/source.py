"""CLEVR made on the spot: scenes by seed and index, with pictures, masks and factors.

The set of Johnson et al. (CVPR 2017) with the masks and factors of DeepMind's version, as the data set
specification, section 3.3, has it. What a scene holds is drawn by the original's laws (`scene`), a scene is
kept when every object shows at least 200 pixels (`labels`), and its picture is computed (`render`).

Masks and factors are the same on every machine. Pictures are the same each time on the CPU of one machine; another
one, or a GPU, may round a level differently, and a GPU in parts of another size too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import prod
from threading import local
from typing import Any

import numpy as np
import torch

from emorl.data.base import Size, check_indices, concatenate
from emorl.data.clevr.labels import MIN_PIXELS, label_maps, num_pixels
from emorl.data.clevr.render import render
from emorl.data.clevr.scene import HEIGHT, MAX_OBJECTS, WIDTH, Scenes, place_objects, project, sample_view
from emorl.data.scene import random_words
from emorl.errors import InputError
from emorl.threads import side_by_side
from emorl.types import Batch

VERSION = 1
"""Raised whenever the scenes of a seed change."""
PICTURES = 2
"""Raised whenever the pictures of scenes change: 2 computes those that would be shrunk at their own size."""

_GRAIN_STREAM = 2**32  # of random bits; the attempts at a scene count up from 1
_PIXELS_AT_ONCE = 2 * 192 * 192  # few: their rays stay near the cache
_GPU_PARTS = 2  # at a time: one waits for the GPU while the next one's scenes are drawn on the CPU
_GPU_MOST = 2048  # scenes in a part
_GPU_BYTES_PER_PIXEL = 3000  # of a picture: 1.6 to 3.2 kB are alive at most while it is computed
_GPU_BYTES_PER_SCENE = 8_000_000  # at least: labels, always on the whole frame, take 5 to 7 MB
_SHRUNK = 2  # pixels of the frame to one of a picture, from which on pictures are computed at their own size


@dataclass(frozen=True)
class ClevrConfig:
    """Which scenes."""

    num_objects: tuple[int, int] = (3, 10)
    """Fewest and most objects; uniform between, as in the original."""
    min_pixels: int = MIN_PIXELS
    """Of the 320 x 240 picture that each object has to show."""
    grain: float = 0.7
    """Standard deviation, in levels, of the grey grain on pictures. The published ones have 0.55 to 0.95, left over
    from path tracing; 0 leaves it out. It is a function of seed, index and pixel like all else."""


def sample(
    seed: int, index: np.ndarray, config: ClevrConfig, device: torch.device | str = "cpu"
) -> tuple[Scenes, torch.Tensor]:
    """Draws scenes and decides which object is seen where.

    Args:
        seed: of the generator.
        index: N, integers >= 0.
        config: which scenes.
        device: where labels are computed.

    Returns:
        The scenes, and their labels, N 240 320 uint8 on the device: 0 background, 1 + o the object at place o.
    """
    scenes = sample_view(seed, index, config.num_objects)
    labels = torch.zeros(len(index), HEIGHT, WIDTH, dtype=torch.uint8, device=device)
    pending = np.arange(len(index))
    for attempt in count():
        if not pending.size:
            return scenes, labels
        tried, placed = place_objects(seed, index[pending], attempt, scenes[pending])
        rows, tried = pending[placed], tried[placed]
        if not rows.size:
            continue
        seen = label_maps(tried, torch.device(device))
        enough = num_pixels(seen, MAX_OBJECTS).cpu().numpy() >= config.min_pixels
        good = (enough | (tried.size == 0)).all(axis=1)
        scenes.put(rows[good], tried[good])
        put, kept = (torch.from_numpy(which).to(labels.device) for which in (rows[good], good.nonzero()[0]))
        labels[put] = seen[kept]
        pending = np.setdiff1d(pending, rows[good], assume_unique=True)
    raise AssertionError("count has no end")


class Clevr:
    """Scenes 0 to num - 1 of a seed, 240 x 320.

    Factors, as in the published files: x, y, z (the centre), rotation (the label, 0 to 360; see `Scenes`) and
    pixel_coords (column, row, depth), float32; size, material, shape, color, uint8 codes; N 11 each, row 0 is
    the background. Besides these `yaw`, N 11 float32 in radians, 0 to 2 pi: what the picture shows.
    """

    size = (HEIGHT, WIDTH)
    slow = True
    """Images take long to make; `emorl.data.images`, as `read_ahead`."""

    def __init__(
        self,
        seed: int = 0,
        num: int = 60_320,
        config: ClevrConfig = ClevrConfig(),  # noqa: B008 it is frozen
        *,
        name: str = "clevr",
        device: torch.device | str = "cpu",
    ) -> None:
        low, high = config.num_objects
        if not 1 <= low <= high <= MAX_OBJECTS:
            raise InputError(f"a scene has 1 to {MAX_OBJECTS} objects, not {low} to {high}")
        if not 0 <= config.min_pixels <= 300:
            raise InputError(f"objects cannot all show {config.min_pixels} pixels: ask for 0 to 300")
        if not 0 <= config.grain <= 10:
            raise InputError(f"a grain of {config.grain} levels is none of a picture: choose 0 to 10")
        self.seed, self.num, self.config, self.name = seed, num, config, name
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:  # threads do not know the caller's choice
            self.device = torch.device("cuda", torch.cuda.current_device())

    def __len__(self) -> int:
        return self.num

    def read(self, indices: np.ndarray) -> Batch:
        """Scenes by position; see `Source.read`."""
        return self.read_window(indices, (0, HEIGHT), (0, WIDTH))

    def read_window(
        self, indices: np.ndarray, rows: tuple[int, int], cols: tuple[int, int], size: Size | None = None
    ) -> Batch:
        """The window of pictures from the first to before the last row and column; only that is computed.

        With a `size`, H W, no side longer than the window's and at most half as many pixels, images have that size,
        computed at it: the window divided into so many pixels, close to the window shrunk. Masks are the window's.
        Visibility and factors are those of the whole picture.
        """
        index = check_indices(indices, self)
        window = rows[1] - rows[0], cols[1] - cols[0]
        if size is not None and (size[0] > window[0] or size[1] > window[1] or _SHRUNK * prod(size) > prod(window)):
            size = None
        num, on_gpu = max(1, len(index)), self.device.type == "cuda"
        threads = _GPU_PARTS if on_gpu else torch.get_num_threads()
        fewest = 1 if on_gpu else min(threads, num)
        num_parts = max(fewest, -(-num // self._scenes_at_once(prod(size or window))))
        step = -(-num // num_parts)
        parts = [index[start : start + step] for start in range(0, num, step)]

        own = local()  # on a GPU each thread's stream, so that a part waits for its own work alone

        def draw(part: np.ndarray) -> Batch:
            if not on_gpu:
                return self._draw(part, rows, cols, size)
            if not hasattr(own, "stream"):
                own.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            with torch.cuda.stream(own.stream):
                return self._draw(part, rows, cols, size)

        batch = concatenate(side_by_side(draw, parts, min(threads, len(parts))))
        if on_gpu:
            torch.cuda.empty_cache()  # the work took most of the memory, which others may want now
        return batch

    @property
    def read_ahead(self) -> int:
        """How many images are best asked for at a time: on a GPU, where few take as long as many, what fits into it."""
        if self.device.type != "cuda":
            return 1
        memory = torch.cuda.get_device_properties(self.device).total_memory
        return min(_GPU_PARTS * _GPU_MOST, max(64, memory // 32_000_000))

    def _scenes_at_once(self, pixels: int) -> int:
        """How many pictures of so many pixels a thread computes together: at least 1."""
        if self.device.type != "cuda":
            return max(1, _PIXELS_AT_ONCE // pixels)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        each = max(_GPU_BYTES_PER_PIXEL * pixels, _GPU_BYTES_PER_SCENE)
        return min(max(1, 4 * free // 5 // _GPU_PARTS // each), _GPU_MOST)

    def _draw(self, index: np.ndarray, rows: tuple[int, int], cols: tuple[int, int], size: Size | None) -> Batch:
        scenes, labels = sample(self.seed, index, self.config, self.device)
        present = np.arange(1 + MAX_OBJECTS) <= scenes.num_objects[:, None]
        grain = self._grain(index, rows, cols, size or (rows[1] - rows[0], cols[1] - cols[0]))
        return Batch(
            image=render(scenes, self.device, rows, cols, grain=grain, size=size).cpu().numpy(),
            index=index,
            mask=labels[:, slice(*rows), slice(*cols)].cpu().numpy(),
            visibility=present.astype(np.float32),
            factors=_factors(scenes),
        )

    def _grain(
        self, index: np.ndarray, rows: tuple[int, int], cols: tuple[int, int], size: Size
    ) -> torch.Tensor | None:
        """N H W: for each pixel the difference of two uniform numbers, scaled.

        A pixel of a small picture has that of a pixel of the frame within, as much smaller as a mean would be.
        """
        if not self.config.grain:
            return None
        row, col = (
            torch.from_numpy(first + (2 * np.arange(new) + 1) * (end - first) // (2 * new)).to(self.device)
            for (first, end), new in zip((rows, cols), size, strict=True)
        )
        words = random_words(self.seed, index, _GRAIN_STREAM, WIDTH * row[:, None] + col)
        low, high = ((words >> shift & 0xFFFFFFFF).to(torch.float32) for shift in (0, 32))
        share = (prod(size) / ((rows[1] - rows[0]) * (cols[1] - cols[0]))) ** 0.5
        return (low - high) / 2**32 * float(np.float32(6**0.5 * self.config.grain * share))

    def visibility(self, indices: np.ndarray) -> np.ndarray:
        """N 11 float32: 1 for the background and each object. Nothing is rendered."""
        index = check_indices(indices, self)
        num_objects = sample_view(self.seed, index, self.config.num_objects).num_objects
        return (np.arange(1 + MAX_OBJECTS) <= num_objects[:, None]).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Facts about the generator; see `Source.describe`."""
        return {
            "name": self.name,
            "kind": "generator",
            "num_images": self.num,
            "size": [HEIGHT, WIDTH],
            "num_entities": 1 + MAX_OBJECTS,
            "masks": True,
            "factors": list(_factors(sample_view(0, np.zeros(0, np.int64), self.config.num_objects))),
            "num_objects": list(self.config.num_objects),
            "seed": self.seed,
            "version": VERSION,
            "pictures": PICTURES,
        }

    def fingerprint(self) -> str:
        """Generator, version, seed and which scenes."""
        low, high = self.config.num_objects
        return (
            f"clevr generator version {VERSION}, pictures {PICTURES}, seed {self.seed}, {low} to {high} objects of at "
            f"least {self.config.min_pixels} pixels, grain {self.config.grain}"
        )


def _factors(scenes: Scenes) -> dict[str, np.ndarray]:
    """Factors of scenes under their published names, with a row of zeros for the background."""
    height = scenes.half_height
    center = np.concatenate([scenes.position, height[..., None]], axis=-1)
    pixels = project(scenes.camera, center)
    pixels[..., :2] = np.floor(pixels[..., :2] + 0.5)
    pixels *= (scenes.size > 0)[..., None]
    floats = {
        "x": center[..., 0],
        "y": center[..., 1],
        "z": height,
        "rotation": scenes.rotation,
        "pixel_coords": pixels,
        "yaw": scenes.rotation % (2 * np.pi),
    }
    codes = {"size": scenes.size, "material": scenes.material, "shape": scenes.shape, "color": scenes.color}
    typed = {name: values.astype(np.float32) for name, values in floats.items()}
    typed |= {name: values.astype(np.uint8) for name, values in codes.items()}
    return {name: np.pad(values, [(0, 0), (1, 0)] + [(0, 0)] * (values.ndim - 2)) for name, values in typed.items()}
