"""Pictures to files: sheets, masks, components and codes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from emorl.data.base import Source
from emorl.errors import InputError
from emorl.evaluation import infer
from emorl.figures import decomposition_sheet, save_figure, write_picture_outputs
from emorl.files import write_whole
from emorl.models.base import InferOptions, Model

PER_SHEET = 8
"""Images on a sheet."""


def decompose(
    model: Model,
    sources: Sequence[Source],
    folder: Path,
    options: InferOptions,
    seed: int,
    progress: Callable[[int], None] = lambda images: None,
) -> list[Path]:
    """Decompose every image of every source into files of `folder`; returns the sheets.

    Per image NAME_masks.png, NAME_reconstruction.png, NAME_slotK_mask.png and NAME_slotK.png, NAME being the
    source's name (with a number where several are called the same) and the image's position. Per source
    NAME_sheet_N.png and NAME_slots.npz: codes `slots` (N K D, posterior means), their `std` where there is a posterior
    and the positions `index`, also of what was found before an image that cannot be read. Memory does not grow with the
    number of images, beyond the codes.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder: name a new one, so that no older result is mixed in")
    sheets: list[Path] = []
    for source, stem in zip(sources, _stems(sources), strict=True):
        codes: list[dict[str, np.ndarray]] = []
        chunk = PER_SHEET if source.size else 1  # pictures of their own sizes are read one at a time
        try:
            for start in range(0, len(source), chunk):
                scenes = source.read(np.arange(start, min(len(source), start + chunk)))
                found = infer(model, scenes, options, seed)
                for row, index in enumerate(scenes.index):
                    write_picture_outputs(folder, f"{stem}_{index:05d}", found, row)
                figure = decomposition_sheet(scenes.image, found, true_masks=scenes.mask, title=stem)
                sheets.append(folder / f"{stem}_sheet_{start // chunk:03d}.png")
                save_figure(figure, sheets[-1])
                del figure
                gc.collect()  # the parts of figures point at each other: some hundred MiB would wait for the collector
                if found.steps:
                    posterior = found.steps[-1].posterior
                    part = {"slots": posterior.mean.cpu().numpy(), "std": posterior.std.cpu().numpy()}
                else:
                    part = {"slots": found.slots.cpu().numpy()}
                codes.append(part | {"index": scenes.index})
                progress(len(scenes))
        except BaseException:  # of an image that cannot be read, for example: what was found is kept
            with suppress(InputError):
                _write_codes(codes, folder / f"{stem}_slots.npz")
            raise
        _write_codes(codes, folder / f"{stem}_slots.npz")
    return sheets


def _write_codes(parts: list[dict[str, np.ndarray]], path: Path) -> None:
    if parts:
        joined: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        with write_whole(path, overwrite=True) as file:
            np.savez(file, **joined)


def _stems(sources: Sequence[Source]) -> list[str]:
    stems: list[str] = []
    taken: set[str] = set()  # without case: some disks know none
    for source in sources:
        stem = Path(source.name).stem or "image"
        numbered = (f"{stem}-{i}" for i in count(2))
        stems.append(next(name for name in chain([stem], numbered) if name.casefold() not in taken))
        taken.add(stems[-1].casefold())
    return stems
