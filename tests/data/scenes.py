"""Scenes of noise in every published shape, and how two batches are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from emorl.data.base import Size, check_indices, take
from emorl.data.tfrecord import Variant, find_visible
from emorl.types import Batch


def assert_equal(a: Batch, b: Batch) -> None:
    """All but the positions, to the last bit and dtype."""
    for name in ("image", "mask", "visibility"):
        ours, theirs = getattr(a, name), getattr(b, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs, strict=True)
    assert a.factors.keys() == b.factors.keys()
    for name, values in a.factors.items():
        np.testing.assert_array_equal(values, b.factors[name], strict=True)


def is_equal(a: Batch, b: Batch) -> bool:
    try:
        assert_equal(a, b)
    except AssertionError:
        return False
    return True


def some_scenes(variant: Variant, num: int = 3) -> Batch:
    """Noise of a data set's shape, with all its entities as they are stored; nearly every one is somewhere."""
    rng = np.random.default_rng(0)
    height, width, channels = variant.image
    image = rng.integers(0, 256, (num, height, width, channels), np.uint8)
    mask = rng.integers(0, variant.num_entities, (num, height, width), np.uint8)
    factors: dict[str, np.ndarray] = {}
    for name, (kind, tail) in variant.factors.items():
        shape = (num, variant.num_entities, *tail)
        factors[name] = rng.integers(0, 9, shape).astype(kind)
    visibility = rng.integers(0, 2, (num, variant.num_entities)).astype(np.float32)
    return Batch(
        image=np.repeat(image, 3, axis=3) if channels == 1 else image,
        index=np.arange(num),
        mask=mask,
        visibility=visibility if variant.has_visibility else find_visible(mask, variant.num_entities),
        factors=factors,
    )


def merged(scenes: Batch, variant: Variant) -> Batch:
    """The same with one background entity."""
    if variant.num_background == 1:
        return scenes
    assert scenes.mask is not None and scenes.visibility is not None
    mask = np.maximum(scenes.mask, variant.num_background - 1) - np.uint8(variant.num_background - 1)
    background = scenes.visibility[:, : variant.num_background].max(axis=1, keepdims=True)
    visibility = np.concatenate([background, scenes.visibility[:, variant.num_background :]], axis=1)
    return Batch(scenes.image, scenes.index, mask, visibility, scenes.factors)


class Held:
    """A source of scenes in memory.

    Args:
        batch: the scenes.
        name: what it is called, and its fingerprint.
        before: called with the positions before they are read.
    """

    def __init__(self, batch: Batch, name: str = "held", before: Callable[[np.ndarray], None] | None = None) -> None:
        self.batch, self.name, self.before = batch, name, before

    @property
    def size(self) -> Size:
        return self.batch.image.shape[1], self.batch.image.shape[2]

    def __len__(self) -> int:
        return len(self.batch)

    def read(self, indices: np.ndarray) -> Batch:
        index = check_indices(indices, self)
        if self.before is not None:
            self.before(index)
        return take(self.batch, index)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def fingerprint(self) -> str:
        return self.name
