"""Every data source by its name or path, and the files made from generators."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, get_args

import torch

from emorl.data.base import Size, Source, Subset
from emorl.data.clevr.source import Clevr, ClevrConfig
from emorl.data.clevrtex import ClevrTex, NpzFolder, folder_kind
from emorl.data.convert import convert
from emorl.data.hdf5 import Hdf5
from emorl.data.multi_dsprites import MultiDSprites, MultiDSpritesConfig
from emorl.data.npz import Npz
from emorl.data.pictures import SUFFIXES, Pictures, find_pictures
from emorl.data.progress import bar
from emorl.data.protocols import (
    PROTOCOLS,
    Protocol,
    Ranges,
    Selected,
    Split,
    SplitRule,
    find_protocol,
    object_counts,
    select,
)
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.tfrecord import VARIANTS, TFRecords
from emorl.data.views import WINDOWS, View, Viewed, WindowName
from emorl.errors import InputError

Device = torch.device | str

Fit = Literal["crop", "none", WindowName]
"""How images of another size are brought to the wanted one.

"crop" takes the source's own way: the window of its protocol, and of pictures the largest centred one; the name of a
window takes that one; "none" leaves every image at its own size.
"""

DATASETS: dict[str, Callable[[int, int, Device], Source]] = {
    "tetrominoes": lambda seed, num, _: Tetrominoes(seed, num),
    "multi-dsprites": lambda seed, num, _: MultiDSprites(seed, num),
    "multi-dsprites-colored": lambda seed, num, _: MultiDSprites(seed, num, MultiDSpritesConfig("colored_on_colored")),
    "multi-dsprites-binarized": lambda seed, num, _: MultiDSprites(seed, num, MultiDSpritesConfig("binarized")),
    "multi-dsprites-textured": lambda seed, num, _: MultiDSprites(seed, num, MultiDSpritesConfig("textured")),
    "clevr": lambda seed, num, device: Clevr(seed, num, device=device),
    "clevr6": lambda seed, num, device: Clevr(seed, num, ClevrConfig((3, 6)), name="clevr6", device=device),
    "clevr10": lambda seed, num, device: Clevr(seed, num, ClevrConfig((7, 10)), name="clevr10", device=device),
}
"""Generator name -> its scenes 0 to num - 1 for (seed, num, device). Those that are rendered use the device."""


def anywhere(name: str) -> str:
    """The name of a data source that means the same in every folder: a path is made absolute where there is one."""
    return name if name in DATASETS or not Path(name).exists() else str(Path(name).resolve())


GROUPS: dict[Split, str] = {"train": "train", "validation": "val", "test": "test", "all": "train"}
"""Split -> its name in the files of the EfficientMORL authors. What is no split is for training."""

NUM_SCENES = 60_320
"""What is called all of a generator: the training and test scenes of the default protocol."""
_NUM_FOR_SPLITS = 100_000  # where a protocol sets no end, a generator has as many as the published CLEVR

_TFRECORD_SUFFIXES = (".tfrecords", ".tfrecord")
_HDF5_SUFFIXES = (".h5", ".hdf5")


def open_source(
    name: str | Path,
    *,
    split: Split = "all",
    seed: int | None = None,
    size: Size | None = None,
    fit: Fit = "crop",
    protocol: str | None = None,
    subset: str | None = None,
    device: Device = "cpu",
    merge_background: bool = True,
) -> Source:
    """Opens a data source.

    Args:
        name: a generator's name (`DATASETS`); or a path: .tfrecords, .h5, .hdf5, .npz, a folder of ClevrTex or of .npz
            records, a picture, or a folder of pictures.
        split: a part of it, by the protocol. Generators have them, and published files of Tetrominoes, Multi-dSprites
            and CLEVR; other sources do if a protocol is named, and are read as a whole otherwise. A file that is one
            split, as the EfficientMORL authors' are, gives all of it for that one.
        seed: of a generator, 0 by default; files have none.
        size: the H, W that is wanted; None takes images as they are.
        fit: how images of another size are brought to `size`. A window of a fixed size may go without `size`.
        protocol: a name of `PROTOCOLS`; None takes the first one, for ClevrTex its own.
        subset: only scenes with so many objects: a name of `SUBSETS`, or a range such as 3-6.
        device: where a generator renders, if it does.
        merge_background: the four background entities of Objects Room become one; else all are as they are stored.

    Raises:
        InputError: there is no such source, it cannot be read, or an option does not apply to it.
    """
    _check(split, Split, "split")
    _check(fit, Fit, "fit")
    if size is not None and min(size) < 1:
        raise InputError(f"there are no images of {size[0]} x {size[1]}: give a height and a width of at least 1")
    named = None if protocol is None else find_protocol(protocol)
    if subset is not None:
        object_counts(subset)

    source: Source
    if isinstance(name, str) and name in DATASETS:
        source = DATASETS[name](seed or 0, NUM_SCENES if split == "all" else _NUM_FOR_SPLITS, device)
    else:
        path = _find(name)
        if seed is not None:
            raise InputError(f"{path} is a file, which has no seed: leave the seed out")
        source = _open_path(path, merge_background)
    rules = named or PROTOCOLS["clevrtex" if isinstance(source, ClevrTex) else "efficientmorl"]
    view = _view(source, size, fit, rules)
    if isinstance(source, Pictures):  # whose own sizes may differ
        source, view = Pictures(source.paths, view=view, name=source.name), None
    seen = source if view is None else Viewed(source, view)
    own = _own_split(source)
    if split != "all" and own is not None:
        if split != own:
            raise InputError(
                f"{source.name} is the {own} split of its data set: use all of it, or name the file with the {split} "
                "split"
            )
        split = "all"
    rule = _split_rule(source, rules, has_splits=named is not None or name in DATASETS)
    if split != "all" and rule is None:
        raise InputError(f"{source.name} has no split {split!r}: use all of it, or name a protocol that splits it")
    part = select(source, split, subset, rule, seen)
    if isinstance(source, TFRecords) and isinstance(part, Subset | Selected):
        source.first_needed = part.start if isinstance(part, Subset) else int(part.positions[0])
    return part


def _check(value: str, names: object, what: str) -> None:
    if value not in get_args(names):
        raise InputError(f"there is no {what} {value!r}: choose from {', '.join(get_args(names))}")


def _view(source: Source, size: Size | None, fit: Fit, rules: Protocol) -> View | None:
    """What brings images of the source to `size`; None where they stay as they are."""
    own = source.size
    if fit == "none" or (fit in ("crop", "centre") and size in (None, own)):
        return None
    if fit != "crop":
        size = size or (WINDOWS[fit][1].rows, WINDOWS[fit][1].cols)
        return View(size, fit, rules.interpolation)
    assert size is not None
    if own is None:
        return View(size, "centre", rules.interpolation)
    if own not in rules.windows:
        raise InputError(
            f"{source.name} has images of {own[0]} x {own[1]}, not {size[0]} x {size[1]}: --fit none leaves them "
            "as they are, --fit centre makes their centre that size"
        )
    return View(size, rules.windows[own], rules.interpolation)


def _own_split(source: Source) -> Split | None:
    """The split that a whole source is."""
    if isinstance(source, ClevrTex) and source.variant == "outd":
        return "test"
    if isinstance(source, Hdf5) and source.group is not None:
        return next((split for split, group in GROUPS.items() if group == source.group), None)
    return None


def _split_rule(source: Source, rules: Protocol, has_splits: bool) -> SplitRule | None:
    """Which images of a source belong to which split; None where nothing is agreed."""
    if isinstance(source, ClevrTex):  # its own, whatever the protocol: data set specification, section 2.5
        tenth, fifth = len(source) // 10, len(source) // 5
        return Ranges(test=(0, tenth), validation=(tenth, fifth), train=(fifth, None))
    data_set = _data_set(source)
    if data_set == "clevr_with_masks":
        return rules.clevr_split or rules.split
    known = has_splits or data_set.startswith(("tetrominoes", "multi_dsprites"))
    return rules.split if known else None


def _data_set(source: Source) -> str:
    """The published data set that a file is, or nothing."""
    if isinstance(source, TFRecords):
        return source.variant.name
    if isinstance(source, NpzFolder):
        return source.data_set or ""
    if isinstance(source, Hdf5) and source.group is None:
        if "clevrtex" in source.path.stem.lower():  # object-centric-library's: its entities are CLEVR's, its order not
            return ""
        if source.num_entities == 11:  # of any size: object-centric-library keeps it cropped
            return "clevr_with_masks"
        shape = source.size, source.num_entities
        same = (v.name for v in VARIANTS if (v.image[:2], v.num_entities) == shape and source.describe()["factors"])
        return next(same, "")
    return ""


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


def _open_path(path: Path, merge_background: bool) -> Source:
    suffix = path.suffix.lower()
    kind = folder_kind(path) if path.is_dir() else None
    if kind is not None:
        return ClevrTex(path) if kind == "clevrtex" else NpzFolder(path)
    if path.is_dir() or suffix in SUFFIXES:
        return Pictures(find_pictures(path), name=path.name)
    if suffix == ".npz":
        return Npz(path)
    if suffix in _TFRECORD_SUFFIXES:
        return TFRecords(path, merge_background=merge_background)
    if suffix in _HDF5_SUFFIXES:
        return Hdf5(path, merge_background=merge_background)
    readable = ", ".join((".npz", *_TFRECORD_SUFFIXES, *_HDF5_SUFFIXES, *SUFFIXES))
    raise InputError(f"cannot tell what {path} is by its ending: give a folder of pictures or a file of {readable}")


def make(
    name: str,
    out: str | Path,
    *,
    num: int | None = None,
    split: Split = "all",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Writes scenes of a generator to a file; see `write`.

    Args:
        name: a generator's name.
        out: .h5, .hdf5, .tfrecords or .npz.
        num: how many scenes, from the first of the split on; all of the split by default. The split "all" has no end:
            ask for any number.
        split: which scenes, by the default protocol.
        seed: of the generator.
        overwrite: replace an existing file.

    Raises:
        InputError: unknown name, ending or split, more scenes than the split has, or the file cannot be written.
    """
    if name not in DATASETS:
        raise InputError(f"there is no generator {name!r}: choose from {', '.join(DATASETS)}")
    source = open_source(name, split=split, seed=seed)
    num = len(source) if num is None else num
    if num < 1:
        raise InputError(f"cannot make {num} scenes: ask for at least one")
    if split == "all":
        source = DATASETS[name](seed, num, "cpu")
    elif num > len(source):
        raise InputError(f"the {split} split has {len(source)} scenes, not {num}: ask for fewer or for the split all")
    write(source, out, stop=num, group=GROUPS[split], overwrite=overwrite)


def write(
    source: Source,
    out: str | Path,
    *,
    start: int = 0,
    stop: int | None = None,
    group: str = "train",
    overwrite: bool = False,
) -> None:
    """`convert`, with a bar where it takes long."""
    stop = len(source) if stop is None else stop
    with bar(f"{source.name} to {Path(out).name}", stop - start) as advance:
        before = 0

        def show(done: int, _: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        convert(source, Path(out), start=start, stop=stop, group=group, overwrite=overwrite, progress=show)
