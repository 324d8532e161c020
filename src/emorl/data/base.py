"""The contract of a data source, and what is done with batches of any of them.

A source knows its images by position and gives any of them at any time, in any order: shuffling, splitting
among processes and resuming then need nothing but positions. Generators compute, readers look up; a model
cannot tell them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from emorl.errors import InputError
from emorl.types import Batch

Size = tuple[int, int]
"""Height and width in pixels, in this order."""


class Source(Protocol):
    """Images by position, with their masks and factors where the source has them."""

    @property
    def name(self) -> str:
        """What results call this source: the generator's name or the file's name."""
        ...

    @property
    def size(self) -> Size | None:
        """H, W of every image; None where they may differ."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Batch:
        """The images at `indices` (B, integers from 0 to len - 1, any order, repeats allowed), in that order.

        Raises InputError for an index out of range and for a damaged file.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Facts about the source that JSON can hold: kind, number of images, size, entities, factors."""
        ...

    def fingerprint(self) -> str:
        """Identifies the content in results: generator, version and seed, or the SHA-256 of the file."""
        ...


class Subset:
    """The positions start to stop - 1 of a source, counted from zero.

    `Batch.index` keeps the position in the whole source, so an image has the same noise in evaluation
    however it was reached.

    Args:
        source: the whole.
        start: its position that is 0 here.
        stop: the position behind the last. The source must go so far: to ask it can take long.
    """

    def __init__(self, source: Source, start: int, stop: int) -> None:
        if not 0 <= start < stop:
            raise InputError(f"there are no images from {start} to {stop - 1} in {source.name}")
        self.source, self.start, self.stop = source, start, stop

    @property
    def name(self) -> str:
        """The name of the whole source."""
        return self.source.name

    @property
    def size(self) -> Size | None:
        """The size of the whole source's images."""
        return self.source.size

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, indices: np.ndarray) -> Batch:
        """Images by position in the subset; see `Source.read`."""
        return self.source.read(check_indices(indices, self) + self.start)

    def describe(self) -> dict[str, Any]:
        """The facts of the whole source, which part of it this is, and the number of images of the part."""
        return {**self.source.describe(), "part": [self.start, self.stop - 1], "num_images": len(self)}

    def fingerprint(self) -> str:
        """The identity of the whole source, and the range."""
        return f"{self.source.fingerprint()} images {self.start}-{self.stop - 1}"


def innermost(source: Any) -> Any:
    """The source that a part or a view of one is of; a source that is neither is returned as it is."""
    while (inner := getattr(source, "source", None)) is not None:
        source = inner
    return source


def read_ahead(source: object) -> int:
    """How many images a source, or a part or view of one, is best asked for at a time: 1 if any will do."""
    return int(getattr(innermost(source), "read_ahead", 1))


def as_positions(indices: np.ndarray, name: str) -> np.ndarray:
    """Positions (B, any integer type) as B int64, or InputError if they are no positions in any source."""
    index = np.asarray(indices)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise InputError(f"positions in {name} are a list of integers, not {index.dtype} of shape {index.shape}")
    if index.size and index.min() < 0:
        raise InputError(f"{name} has no image {index.min()}: positions count from 0")
    return index.astype(np.int64)


def check_indices(indices: np.ndarray, source: Source) -> np.ndarray:
    """Positions (B, any integer type) as B int64, or InputError if one is outside the source."""
    index = as_positions(indices, source.name)
    if index.size and index.max() >= len(source):
        raise no_image(source.name, int(index.max()), len(source))
    return index


def no_image(name: str, position: int, num_images: int) -> InputError:
    """The error for a position beyond the last image of a source."""
    return InputError(f"{name} has no image {position}: the last one is {num_images - 1}")


def take(batch: Batch, rows: np.ndarray) -> Batch:
    """The images of a batch at `rows` (M, integers), in that order."""
    return Batch(
        image=batch.image[rows],
        index=batch.index[rows],
        mask=None if batch.mask is None else batch.mask[rows],
        visibility=None if batch.visibility is None else batch.visibility[rows],
        factors={name: values[rows] for name, values in batch.factors.items()},
    )


def concatenate(batches: Iterable[Batch]) -> Batch:
    """Batches of one source, at least one, joined in order."""
    parts = list(batches)
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return replace(
        first,
        image=np.concatenate([part.image for part in parts]),
        index=np.concatenate([part.index for part in parts]),
        mask=None if first.mask is None else np.concatenate([part.mask for part in parts]),
        visibility=None if first.visibility is None else np.concatenate([part.visibility for part in parts]),
        factors={name: np.concatenate([part.factors[name] for part in parts]) for name in first.factors},
    )


def iterate(source: Source, batch_size: int = 256) -> Iterator[Batch]:
    """All images of a source in order, at most `batch_size` at a time; the last batch may be shorter."""
    for start in range(0, len(source), batch_size):
        yield source.read(np.arange(start, min(start + batch_size, len(source))))


def sha256(paths: Iterable[Path]) -> str:
    """The SHA-256 of files read one after the other, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
