"""The one source of randomness of a model: standard normal draws asked for by name.

A draw depends on its name and on the seed, never on what was drawn before it; so adding a refinement step or a
layer leaves all other draws as they were, and no generator state needs saving to resume a run.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Noise(Protocol):
    """Standard normal draws for a batch."""

    def normal(self, name: str, index: int, like: Tensor) -> Tensor:
        """Draw number `index` called `name`, with the shape (B ...), dtype and device of `like`."""
        ...


class _Draws:
    """A generator that is set to one draw after the other: making one for each costs more than the draw."""

    def __init__(self, seed: int, name: str, index: int) -> None:
        counter = np.array([0, 0, index, zlib.crc32(name.encode())], dtype=np.uint64)
        self.bits = np.random.Philox(key=0, counter=counter)
        self.start = self.bits.state
        self.key = self.start["state"]["key"]
        self.key[0] = seed % 2**64
        self.generator = np.random.Generator(self.bits)

    def of(self, stream: int) -> np.random.Generator:
        """At the beginning of the draw of a stream."""
        self.key[1] = stream % 2**64
        self.bits.state = self.start
        return self.generator


class ImageNoise:
    """Noise of an image that depends on (seed, image index) alone: for evaluation."""

    def __init__(self, seed: int, indices: Sequence[int] | np.ndarray) -> None:
        self.seed = seed
        self.indices = [int(i) for i in indices]

    def normal(self, name: str, index: int, like: Tensor) -> Tensor:
        """See `Noise`; B must be the number of indices."""
        draws, rows = _Draws(self.seed, name, index), np.empty((len(self.indices), *like.shape[1:]))
        for row, image in enumerate(self.indices):
            draws.of(image).standard_normal(out=rows[row : row + 1])
        return torch.from_numpy(rows).to(like)


class StepNoise:
    """Noise of a training step, drawn for the global batch and sliced by process."""

    def __init__(self, seed: int, step: int, first: int = 0) -> None:
        """`first` is the position in the global batch of this process's first image."""
        self.seed = seed
        self.step = step
        self.first = first

    def normal(self, name: str, index: int, like: Tensor) -> Tensor:
        """See `Noise`."""
        shape = (self.first + like.shape[0], *like.shape[1:])
        draw = _Draws(self.seed, name, index).of(self.step).standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(draw[self.first :]).to(like)


class RecordedNoise:
    """Recorded arrays, replayed: name -> one tensor (B ...) per draw."""

    def __init__(self, arrays: dict[str, Sequence[Tensor]]) -> None:
        self.arrays = arrays

    def normal(self, name: str, index: int, like: Tensor) -> Tensor:
        """See `Noise`; raises ValueError where the recorded shape differs."""
        draw = self.arrays[name][index]
        if draw.shape != like.shape:
            raise ValueError(f"recorded noise {name}[{index}] is {tuple(draw.shape)}, need {tuple(like.shape)}")
        return draw.to(like)


def as_noise(noise: int | Noise | None, batch: int) -> Noise:
    """A seed means the images are number 0..B-1 of their source; None is seed 0."""
    if noise is None or isinstance(noise, int | np.integer):
        return ImageNoise(int(noise or 0), range(batch))
    return noise
