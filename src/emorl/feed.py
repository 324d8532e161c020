"""Images as weights want them: the data they were trained on, or other data brought to the same size the same way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emorl.data.base import Source
from emorl.data.pictures import SUFFIXES
from emorl.data.protocols import ProtocolName, Split, same_objects, same_splits
from emorl.data.sources import DATASETS, Fit, open_source
from emorl.errors import InputError


@dataclass(frozen=True)
class Feed:
    """A source, and how it was opened: what a result has to say of its data."""

    source: Source
    split: Split
    fit: Fit
    protocol: ProtocolName | None
    subset: str | None
    seen: bool
    """The weights may have been trained on some of these images, or all."""
    truth: Source | None = None
    """The same scenes at the size at which masks are scored, where that is another one."""


def image_size(about: dict[str, Any]) -> tuple[int, int] | None:
    """H W of the images that weights were trained on, as their folder's `about` says."""
    size = about.get("image_size")
    return None if size is None else (int(size[0]), int(size[1]))


def feed(
    about: dict[str, Any],
    data: str | None = None,
    *,
    split: Split | None = None,
    fit: Fit | None = None,
    protocol: ProtocolName | None = None,
    subset: str | None = None,
    score_size: int | None = None,
) -> Feed:
    """Open data for weights.

    Args:
        about: what the weights' folder says of them.
        data: a generator's name or a path; None for the data that they were trained on, which may also be named.
        split: None takes the test split of a generator and of the weights' own data, and all of anything else.
        fit: None takes that of the training images, but of pictures, which have sizes of their own, the largest
            centred window.
        protocol: None takes that of the weights.
        subset: None takes that of the weights on their own data, and all scenes of other data.
        score_size: height and width at which masks are scored: that of the window that is cut out of the scenes. None
            for the size of the images.

    Raises:
        InputError: as `open_source`, and where the window has another size than `score_size`.
    """
    own = data is None or data == about["data"] or _same_file(data, about["data"])
    name = about["data"] if data is None else data
    trained_split = about.get("data_split", "train" if name in DATASETS else None)
    held_out = name in DATASETS or (own and trained_split == "train")
    split = split or ("test" if held_out else "all")
    usual, trained_on = about.get("protocol"), about.get("subset")
    same_split = protocol is None or same_splits(protocol, usual, of_generators=name in DATASETS)
    protocol = protocol or usual
    subset = subset or (trained_on if own else None)
    if name not in DATASETS:  # of a file the splits may be counted within the subset
        same_split &= same_objects(subset, trained_on)
    kept = trained_split == "train" and split in ("test", "validation") and same_split
    path = Path(name)
    pictures = name not in DATASETS and (path.is_dir() or path.suffix.lower() in SUFFIXES)
    fit = fit or ("crop" if pictures else about.get("fit", "crop"))

    def opened(size: tuple[int, int] | None) -> Source:
        return open_source(name, split=split, size=size, fit=fit, protocol=protocol, subset=subset)

    truth = None
    if score_size is not None:
        truth = opened((score_size, score_size))
        view = truth.describe().get("view")
        if view is not None and any(stop - start != score_size for start, stop in view["rows_and_columns"]):
            window = " x ".join(str(stop - start) for start, stop in view["rows_and_columns"])
            raise InputError(f"{name}: masks are scored against an exact truth, which is {window}, not {score_size}")
    source = opened(image_size(about))
    return Feed(source, split, fit, protocol, subset, own and not kept, truth)


def _same_file(one: str, other: str) -> bool:
    """Do two paths lead to the same file or folder that is there?"""
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):  # one of them is not there, or no path
        return False
