"""Every data source by its name or path, and the files made from generators."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from emorl.data.base import Size, Source, Subset, iterate
from emorl.data.npz import Npz, write_npz
from emorl.data.pictures import SUFFIXES, Pictures, find_pictures
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.tfrecord import TFRecords, write_tfrecord
from emorl.errors import InputError
from emorl.types import Batch

Split = Literal["train", "test", "validation", "all"]
"""A part of a data source."""

Fit = Literal["crop", "none"]
"""How pictures of another size are brought to the wanted one: cropped and resized, or not at all."""

SPLITS: dict[str, tuple[int, int]] = {
    "train": (0, 60_000),
    "test": (60_000, 60_320),
    "validation": (60_320, 60_640),
}
"""First position of a split and the one behind its last: of generators and of published files.

Train and test are the field's; what is looked at during training comes from behind them. "all" of a
generator is train and test.
"""

DATASETS: dict[str, Callable[[int, int, Size | None], Source]] = {
    "tetrominoes": lambda seed, num, size: Tetrominoes(seed, num),
}
"""Generator name -> its scenes 0 to num - 1 for (seed, num, wanted H W or None for its own).

A generator that has one size only gives that one; `open_source` compares.
"""

_TFRECORD_SUFFIXES = (".tfrecords", ".tfrecord")
_PROGRESS_AFTER = 2.0  # seconds


def open_source(
    name: str | Path,
    *,
    split: Split = "all",
    seed: int | None = None,
    size: Size | None = None,
    fit: Fit = "crop",
) -> Source:
    """Opens a data source.

    Args:
        name: a generator's name (`DATASETS`); or a path: .tfrecords, .npz, a picture, or a folder of
            pictures.
        split: a part of it, by `SPLITS`. Generators have them, and the published files of Tetrominoes and
            Multi-dSprites; other sources are read as a whole.
        seed: of a generator, 0 by default; files have none.
        size: the H, W that is wanted; None takes images as they are.
        fit: "crop" brings pictures to `size`, and refuses other sources that do not have it; "none" leaves
            every image at its own size, whatever `size` says.

    Raises:
        InputError: there is no such source, it cannot be read, or an option does not apply to it.
    """
    if split not in ("all", *SPLITS):
        raise InputError(f"there is no split {split!r}: choose all, {' or '.join(SPLITS)}")
    if size is not None and min(size) < 1:
        raise InputError(f"there are no images of {size[0]} x {size[1]}: give a height and a width of at least 1")
    wanted = None if fit == "none" else size
    start, stop = SPLITS.get(split, (0, None))

    source: Source
    if isinstance(name, str) and name in DATASETS:
        source = DATASETS[name](seed or 0, stop or SPLITS["test"][1], wanted)
    else:
        path = _find(name)
        if seed is not None:
            raise InputError(f"{path} is a file, which has no seed: leave the seed out")
        source = _open_path(path, wanted, start)
        if stop is not None:
            if not (isinstance(source, TFRecords) and source.variant.has_split):
                raise InputError(f"{path} has no split {split!r}: use all of it")
            num = source.count(stop)
            if num <= start:
                raise InputError(f"{path} has {num} images, but its {split} split starts at {start}: use all of it")
            stop = min(stop, num)
    if wanted is not None and source.size != wanted:
        have = f"{source.size[0]} x {source.size[1]}" if source.size else "various sizes"
        raise InputError(
            f"{source.name} has images of {have}, not {wanted[0]} x {wanted[1]}: only pictures are resized, "
            "take its own size"
        )
    return source if stop is None else Subset(source, start, stop)


def _find(name: str | Path) -> Path:
    """The path that is meant, or InputError naming what there is instead."""
    path = Path(name)
    try:
        if path.exists():
            return path
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        raise InputError(f"{str(name)[:80]!r} is no data source ({error}): give a name or a path") from error
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"there is no file {path}: check the path, or name a generator ({', '.join(DATASETS)})")
    close = get_close_matches(str(name).lower(), DATASETS, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}?" if close else f"there is {', '.join(DATASETS)}, or give a path"
    raise InputError(f"unknown data source {str(name)!r}: {meant}")


def _open_path(path: Path, size: Size | None, first_needed: int) -> Source:
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in SUFFIXES:
        return Pictures(find_pictures(path), size=size, name=path.name)
    if suffix == ".npz":
        return Npz(path)
    if suffix in _TFRECORD_SUFFIXES:
        return TFRecords(path, first_needed=first_needed)
    readable = ", ".join((".npz", *_TFRECORD_SUFFIXES, *SUFFIXES))
    raise InputError(f"cannot tell what {path} is by its ending: give a folder of pictures or a file of {readable}")


def make(
    name: str,
    out: str | Path,
    *,
    num: int | None = None,
    split: Split = "all",
    seed: int = 0,
    size: Size | None = None,
    overwrite: bool = False,
) -> None:
    """Writes scenes of a generator to a file, which appears only when complete.

    Args:
        name: a generator's name.
        out: .npz or .tfrecords (the published encoding, gzip).
        num: how many scenes, from the first of the split on; all of the split by default. The split "all"
            has no
            end: ask for any number.
        split: which scenes, by `SPLITS`.
        seed: of the generator.
        size: H, W, where the generator has several.
        overwrite: replace an existing file.

    Raises:
        InputError: unknown name, ending or split, more scenes than the split has, or the file cannot be
        written.
    """
    out = Path(out)
    writers = {".npz": write_npz, **dict.fromkeys(_TFRECORD_SUFFIXES, write_tfrecord)}
    if out.suffix.lower() not in writers:
        raise InputError(f"cannot write {out}: end its name with {' or '.join(writers)}")
    if name not in DATASETS:
        raise InputError(f"there is no generator {name!r}: choose from {', '.join(DATASETS)}")
    source = open_source(name, split=split, seed=seed, size=size)
    num = len(source) if num is None else num
    if num < 1:
        raise InputError(f"cannot make {num} scenes: ask for at least one")
    if split == "all":
        source = DATASETS[name](seed, num, size)
    elif num > len(source):
        raise InputError(f"the {split} split has {len(source)} scenes, not {num}: ask for fewer or for the split all")
    batches = _showing_progress(iterate(Subset(source, 0, num)), num, f"{name} to {out.name}")
    writers[out.suffix.lower()](out, batches, overwrite=overwrite)


def _showing_progress(batches: Iterable[Batch], total: int, title: str) -> Iterator[Batch]:
    """Passes batches on, with a progress bar on standard error where it takes longer than two seconds."""
    from rich.console import Console  # here, since importing the package should not load it
    from rich.progress import Progress

    progress = Progress(console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=total)
    started = time.monotonic()
    try:
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))
            if not progress.live.is_started and time.monotonic() - started > _PROGRESS_AFTER:
                progress.start()
    finally:
        if progress.live.is_started:
            progress.stop()
