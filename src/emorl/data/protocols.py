"""Protocols: which scenes of a data set train and which are tested, and how they are brought to a model's size.

Published numbers differ in both (data set specification, section 1.4), so they are compared under a protocol's name.

Filters are part of a split: CLEVR6 is CLEVR with 3 to 6 objects. The number of objects of a scene is
sum(visibility) less the background's entities, as the source has it: also those that a view cuts off count.

Axes: N scenes, E entities (background first).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, runtime_checkable
from typing import Protocol as Contract

import numpy as np

from emorl.data import base
from emorl.data.base import Size, Source, check_indices
from emorl.data.progress import bar
from emorl.data.views import Interpolation, WindowName
from emorl.errors import InputError
from emorl.types import Batch

Split = Literal["train", "test", "validation", "all"]
"""A part of a data source."""

ProtocolName = Literal["efficientmorl", "slot-attention", "genesis", "clevrtex", "object-centric-library"]
"""A key of `PROTOCOLS`."""

_BLOCK = 256  # scenes that are looked at together for their visibility


# ---- which objects there are -----------------------------------------------------------------------------


@runtime_checkable
class HasVisibility(Contract):
    """A source that tells visibility without reading images."""

    def visibility(self, indices: np.ndarray) -> np.ndarray | None:
        """N E of the scenes at `indices` (N, integers), or None where the source has none."""
        ...


SUBSETS: dict[str, tuple[int, int]] = {"clevr6": (3, 6), "clevr10": (7, 10)}
"""Name -> the smallest and the largest number of objects."""


def object_counts(subset: str) -> tuple[int, int]:
    """The smallest and the largest number of objects of a subset: a name of `SUBSETS`, or a range such as 3-6.

    Raises InputError for anything else.
    """
    if subset in SUBSETS:
        return SUBSETS[subset]
    parts = re.fullmatch(r"(\d{1,3})-(\d{1,3})", subset)
    if parts is None or int(parts[1]) > int(parts[2]):
        names = ", ".join(SUBSETS)
        raise InputError(f"there is no subset {subset!r}: choose {names}, or numbers of objects such as 3-6")
    return int(parts[1]), int(parts[2])


def same_objects(one: str | None, other: str | None) -> bool:
    """Whether two subsets, None for all scenes, are the same, or have no scene in common."""
    if one is None or other is None:
        return one == other
    (least, most), (low, high) = object_counts(one), object_counts(other)
    return (least, most) == (low, high) or most < low or high < least


def num_objects(source: Source, indices: np.ndarray) -> np.ndarray:
    """The number of objects (N, int64) in the scenes at `indices` (N, integers), whether in sight or not.

    Raises InputError where the source does not tell.
    """
    visibility = None
    if isinstance(source, HasVisibility):
        visibility = source.visibility(indices)
    elif source.size is not None:  # pictures of their own sizes tell nothing
        visibility = source.read(indices).visibility
    if visibility is None:
        raise InputError(f"{source.name} does not tell how many objects a scene has: leave the subset out")
    counts: np.ndarray = visibility.sum(axis=1).astype(np.int64) - getattr(source, "num_background", 1)
    return counts


class Accepted:
    """The positions of the scenes of a source that a subset accepts, found as far as they are asked for."""

    def __init__(self, source: Source, subset: str | None) -> None:
        self.source = source
        self.counts = None if subset is None else object_counts(subset)

    def between(self, start: int, stop: int | None, most: int | None = None) -> np.ndarray:
        """Accepted positions (M, int64) from `start` on, below `stop` where it is given, `most` of them at most."""
        if self.counts is None:
            if most is not None:
                stop = start + most if stop is None else min(stop, start + most)
            return np.arange(start, max(start, count_up_to(self.source, stop)))
        stop = count_up_to(self.source, stop)
        found: list[np.ndarray] = []
        with bar(f"looking for scenes of {self.source.name} with {self}", max(0, stop - start)) as advance:
            for indices in _blocks(start, stop):
                counts = num_objects(self.source, indices)
                found.append(indices[(counts >= self.counts[0]) & (counts <= self.counts[1])])
                advance(len(indices))
                if most is not None and sum(map(len, found)) >= most:
                    break
        return np.concatenate([*found, np.zeros(0, np.int64)])[:most]

    def __str__(self) -> str:
        return "" if self.counts is None else f"{self.counts[0]} to {self.counts[1]} objects"


def _blocks(start: int, stop: int) -> Iterator[np.ndarray]:
    for first in range(start, stop, _BLOCK):
        yield np.arange(first, min(stop, first + _BLOCK))


def count_up_to(source: Source, limit: int | None) -> int:
    """The number of images of a source, or `limit` if it has more: to count all of a file can take long."""
    count: Callable[[int | None], int] | None = getattr(source, "count", None)
    if limit is not None and count is not None:
        return count(limit)
    return len(source) if limit is None else min(limit, len(source))


# ---- splits ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AfterFirst:
    """Training takes the first scenes; the test ones are those behind them, and validation, ours, those behind that."""

    num_train: int
    """Before the filter."""
    num_held_out: int = 320
    """Of the test and of the validation split, behind the filter."""

    def positions(self, split: Split, accepted: Accepted) -> np.ndarray:
        """Positions (M, int64) of a split other than all."""
        if split == "train":
            return accepted.between(0, self.num_train)
        if split == "test":
            return accepted.between(self.num_train, None, self.num_held_out)
        return accepted.between(self.num_train, None, 2 * self.num_held_out)[self.num_held_out :]

    def __str__(self) -> str:
        return f"train 0-{self.num_train - 1}, then {self.num_held_out} test and {self.num_held_out} validation images"


@dataclass(frozen=True)
class FromTheEnd:
    """Filtered first; the last scenes are for testing, those before them, ours, for validation, all others train."""

    num_held_out: int = 320

    def positions(self, split: Split, accepted: Accepted) -> np.ndarray:
        """Positions (M, int64) of a split other than all."""
        everything = accepted.between(0, None)
        train = max(0, len(everything) - 2 * self.num_held_out)
        test = max(0, len(everything) - self.num_held_out)
        return {"train": everything[:train], "validation": everything[train:test], "test": everything[test:]}[split]

    def __str__(self) -> str:
        return f"the last {self.num_held_out} images test, the {self.num_held_out} before them validation"


@dataclass(frozen=True)
class Ranges:
    """Every split is a range of positions, filtered afterwards: its first one, and the one behind its last."""

    train: tuple[int, int | None]
    validation: tuple[int, int | None]
    test: tuple[int, int | None]

    def positions(self, split: Split, accepted: Accepted) -> np.ndarray:
        """Positions (M, int64) of a split other than all."""
        start, stop = {"train": self.train, "validation": self.validation, "test": self.test}[split]
        return accepted.between(start, stop)

    def __str__(self) -> str:
        ranges = {"train": self.train, "validation": self.validation, "test": self.test}
        return ", ".join(f"{name} {start}-{'' if stop is None else stop - 1}" for name, (start, stop) in ranges.items())


SplitRule = AfterFirst | FromTheEnd | Ranges


@dataclass(frozen=True)
class Protocol:
    """What a group of published numbers has in common."""

    split: SplitRule
    """Of generators, and of files of Tetrominoes and Multi-dSprites."""
    windows: Mapping[Size, WindowName]
    """H, W of a scene -> the window that is cut out of it."""
    interpolation: Interpolation
    """Of the window's image."""
    clevr_split: SplitRule | None = None
    """Of files of CLEVR, where it is another."""


_CLEVR: Size = (240, 320)

PROTOCOLS: dict[str, Protocol] = {
    "efficientmorl": Protocol(
        split=AfterFirst(60_000),
        clevr_split=FromTheEnd(),
        windows={_CLEVR: "clevr"},
        interpolation="bicubic",
    ),
    "slot-attention": Protocol(
        split=AfterFirst(60_000),
        clevr_split=AfterFirst(70_000),
        windows={_CLEVR: "clevr"},
        interpolation="bilinear-tf",
    ),
    "genesis": Protocol(
        split=Ranges(train=(20_000, None), validation=(10_000, 20_000), test=(0, 10_000)),
        windows={_CLEVR: "clevr-centred"},
        interpolation="nearest",
    ),
    "clevrtex": Protocol(
        split=Ranges(train=(30_000, None), validation=(15_000, 30_000), test=(0, 15_000)),
        windows={_CLEVR: "clevr-centred"},
        interpolation="bilinear",
    ),
    "object-centric-library": Protocol(
        split=Ranges(train=(0, 90_000), validation=(90_000, 95_000), test=(95_000, 100_000)),
        windows={(35, 35): "tetrominoes-32"},  # its files of CLEVR have a model's size already
        interpolation="bilinear",
    ),
}
"""Name -> protocol. The first one is the default, but for ClevrTex, whose default is its own."""


def same_splits(one: str | None, other: str | None, *, of_generators: bool) -> bool:
    """Whether two protocols, None for the first one, have the same splits, of generators or also of all files.

    Raises InputError for an unknown name.
    """
    a, b = (find_protocol(name or next(iter(PROTOCOLS))) for name in (one, other))
    return a.split == b.split and (of_generators or a.clevr_split == b.clevr_split)


def find_protocol(name: str) -> Protocol:
    """A protocol by name; raises InputError that lists what there is."""
    if name not in PROTOCOLS:
        raise InputError(f"there is no protocol {name!r}: choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


# ---- parts of a source -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Selected:
    """The scenes of a source at given positions.

    `Batch.index` keeps the position in the whole source, so an image has the same noise in evaluation however it was
    reached.
    """

    source: Source
    """The whole."""
    positions: np.ndarray = field(repr=False)
    """M, int64, at least one: the position in the source of each scene here."""
    what: str
    """Which scenes these are, in words."""

    @property
    def name(self) -> str:
        """The name of the whole source."""
        return self.source.name

    @property
    def size(self) -> Size | None:
        """The size of the whole source's images."""
        return self.source.size

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, indices: np.ndarray) -> Batch:
        """Images by position among the selected ones; see `Source.read`."""
        return self.source.read(self.positions[check_indices(indices, self)])

    def describe(self) -> dict[str, Any]:
        """The facts of the whole source, which part of it this is, and the number of images of the part."""
        return {**self.source.describe(), "part": self.what, "num_images": len(self)}

    def fingerprint(self) -> str:
        """The identity of the whole source, and of the list of positions."""
        digest = hashlib.sha256(self.positions.astype("<i8").tobytes()).hexdigest()
        return f"{self.source.fingerprint()} {len(self)} images ({self.what}) at positions sha256:{digest}"


def select(source: Source, split: Split, subset: str | None, rule: SplitRule | None, seen: Source) -> Source:
    """A part of a source.

    Args:
        source: the whole.
        split: "all", or a split by `rule`, which it needs.
        subset: see `object_counts`; None accepts every scene.
        rule: which scenes belong to a split.
        seen: the same scenes as they are wanted: the source itself, or a view of it.

    Returns:
        The part of `seen`.

    Raises:
        InputError: the part is empty, or the source does not tell the number of objects.
    """
    accepted = Accepted(source, subset)
    if split == "all":
        if subset is None:
            return seen
        positions = accepted.between(0, None)
    else:
        assert rule is not None
        positions = rule.positions(split, accepted)
    if not len(positions):
        kind = f" with {accepted}" if subset else ""
        wanted = "" if split == "all" else f" for its {split} split ({rule})"
        raise InputError(f"{source.name} has {len(source)} images, none{kind}{wanted}: use another part of it")
    if subset is None:
        return base.Subset(seen, int(positions[0]), int(positions[-1]) + 1)
    return Selected(seen, positions, f"{accepted}, {split}" + ("" if split == "all" else f": {rule}"))
