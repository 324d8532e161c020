"""emorl data make, convert, show and info."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional

from emorl.cli.shared import check_json, parse, save_json
from emorl.data.base import Source
from emorl.data.protocols import ProtocolName, Split
from emorl.data.sources import DATASETS, GROUPS, Fit, make, open_source, write
from emorl.errors import InputError
from emorl.figures import check_figure_path, contact_sheet, save_figure


@dataclass(frozen=True)
class Part:
    """Which images of a data source, and what is made of them."""

    split: Split = "all"
    """By the protocol; of a file that has splits."""
    subset: str | None = None
    """Only scenes with so many objects: clevr6, clevr10 or a range such as 3-6."""
    protocol: ProtocolName | None = None
    """Whose splits, crop and resizing; the default of the data otherwise."""
    image_size: tuple[int, int] | None = None
    """Height and width to bring images to; their own by default."""
    fit: Fit = "crop"
    """How: crop takes the protocol's window, of pictures the largest centred one; or the name of a window."""
    seed: int | None = None
    """Of a generator; 0 by default."""

    def of(self, name: str, merge_background: bool = True) -> Source:
        """The part of a source."""
        return open_source(
            name,
            split=self.split,
            subset=self.subset,
            protocol=self.protocol,
            size=self.image_size,
            fit=self.fit,
            seed=self.seed,
            merge_background=merge_background,
        )


@dataclass(frozen=True)
class DataMake:
    """Write scenes of a generator to a file."""

    name: Positional[str]
    """Generator; emorl data --help lists them."""
    out: Path
    """The file; its ending says which kind: .npz, .tfrecords, .h5."""
    num: int | None = None
    """Scenes; all of the split by default."""
    split: Split = "all"
    """Which scenes."""
    seed: int = 0
    """Of the generator."""
    overwrite: bool = False
    """Replace an existing file."""


@dataclass(frozen=True)
class DataConvert:
    """Write a data source, or a part of it, to a file; what is written is as it is read."""

    source: Positional[str]
    """Generator or path."""
    out: Positional[Path]
    """The file; its ending says which kind: .npz, .tfrecords, .h5."""
    part: Annotated[Part, tyro.conf.arg(name="")] = Part()
    start: int = 0
    """First image, in the part that is written."""
    stop: int | None = None
    """The one behind the last; all by default."""
    group: str | None = None
    """Name of the split in an .h5 file; that of --split by default."""
    overwrite: bool = False
    """Replace an existing file."""


@dataclass(frozen=True)
class DataShow:
    """Draw a contact sheet with masks."""

    source: Positional[str]
    """Generator or path."""
    part: Annotated[Part, tyro.conf.arg(name="")] = Part()
    out: Path = Path("scenes.png")
    """The picture, .png or .pdf."""
    num: int = 16
    """Scenes."""
    first: int = 0
    """Position of the first one, in the part that is shown."""


@dataclass(frozen=True)
class DataInfo:
    """Print what a data source holds."""

    source: Positional[str]
    """Generator or path."""
    part: Annotated[Part, tyro.conf.arg(name="")] = Part()
    json: Path | None = None
    """Write it there too."""


def data(words: Sequence[str]) -> int:
    """generate scenes (make), write them to another file (convert), look at them (show), say what is there (info)"""
    kinds: dict[str, type[Any]] = {"make": DataMake, "convert": DataConvert, "show": DataShow, "info": DataInfo}
    if not words or words[0] not in kinds:
        if words and words[0] in ("-h", "--help"):
            print("\n".join(f"emorl data {name}: {kind.__doc__}" for name, kind in kinds.items()))
            print(f"generators: {', '.join(DATASETS)}")
            return 0
        raise InputError("say what to do with data: emorl data make, convert, show or info")
    options = parse(kinds[words[0]], words[1:], f"data {words[0]}")
    if isinstance(options, DataShow):
        check_figure_path(options.out)
    if isinstance(options, DataInfo):
        check_json(options.json)

    if isinstance(options, DataMake):
        make(
            options.name,
            options.out,
            num=options.num,
            split=options.split,
            seed=options.seed,
            overwrite=options.overwrite,
        )
        print(f"wrote {options.out}")
        return 0
    # A conversion keeps every background entity, but .npz has no place to say how many there are.
    merge = not isinstance(options, DataConvert) or options.out.suffix.lower() == ".npz"
    source = options.part.of(options.source, merge_background=merge)
    if isinstance(options, DataConvert):
        group = options.group or GROUPS[options.part.split]
        write(source, options.out, start=options.start, stop=options.stop, group=group, overwrite=options.overwrite)
        print(f"wrote {options.out}")
        return 0
    if isinstance(options, DataShow):
        if options.num < 1 or not 0 <= options.first < len(source):
            raise InputError(f"{source.name} has images 0 to {len(source) - 1}, and --num must be at least 1")
        positions = np.arange(options.first, min(len(source), options.first + options.num))
        figure = contact_sheet(source.read(positions), num=len(positions), title=source.name)
        save_figure(figure, options.out)
        print(f"picture: {options.out}")
        return 0
    facts = {**source.describe(), "fingerprint": source.fingerprint()}
    for name, value in facts.items():
        print(f"{name}: {json.dumps(value) if isinstance(value, list | dict) else value}")
    save_json(options.json, facts)
    return 0
