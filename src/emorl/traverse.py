"""What each dimension of a slot's code does to the picture: sheets and animations.

Dimensions stand in order of activeness, and run over the range that they have in the data. Where the true factors of
the data are known, a dimension is named after the factors that it serves better than the others do, by the importances
of DCI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from emorl.data.base import Source
from emorl.edits import Edits
from emorl.errors import InputError
from emorl.evaluation import infer
from emorl.figures import save_animation, save_figure, traversal_sheet
from emorl.metrics.activeness import activeness, value_grid
from emorl.models.base import InferOptions, Model
from emorl.representation import Budget, Collected, collect, num_describing_steps, of_objects, rendered_dimensions
from emorl.types import Inference

RANGE_IMAGES = 100
"""Whose codes give the range of every dimension, as in the paper's activeness."""
ORDER_IMAGES = 10
"""In which the activeness that orders the dimensions is measured."""
FACTOR_IMAGES = 300
"""Whose objects say which dimension serves which factor."""
MIN_IMPORTANCE = 0.25
"""A factor's name goes to the dimension that serves it best, if that has this part of its importance."""


@dataclass(frozen=True)
class Ranges:
    """What is known of the dimensions of a model's codes."""

    values: np.ndarray
    """D S: evenly spaced over the range of each."""
    order: np.ndarray
    """D: dimensions, most active first."""
    names: list[str]
    """D: `12`, or `12: x, y`."""


def ranges(
    model: Model,
    source: Source,
    num_values: int,
    seed: int,
    progress: Callable[[int], None] = lambda steps: None,
    options: InferOptions = InferOptions(),
) -> Ranges:
    """Look at data for the range, the activeness and the meaning of every dimension of the codes that options give."""
    size = source.size
    if size is None:
        raise InputError(f"{source.name}: codes are compared on images of one size: give one")
    count = min(len(source), FACTOR_IMAGES)
    seen = collect(model, source, count, options, seed, 64, progress)
    few = min(count, ORDER_IMAGES)
    ordered = replace(seen, codes=seen.codes[:RANGE_IMAGES], samples=seen.samples[:RANGE_IMAGES])
    active = activeness(rendered_dimensions(model, ordered, few, seed, size, progress))
    return Ranges(
        value_grid(ordered.samples, num_values),
        np.argsort(-active),
        _names(seen),
    )


def num_ranging_steps(model: Model, source: Source) -> int:
    """How far `ranges` counts: images, and dimensions of the code."""
    return num_describing_steps(model, source, Budget(images=FACTOR_IMAGES))


def _names(seen: Collected) -> list[str]:
    width = seen.codes.shape[2]
    names: list[list[str]] = [[] for _ in range(width)]
    if seen.factors and seen.true_labels is not None and seen.visibility is not None:
        importance = of_objects(seen, probes=False).get("dci", {}).get("importance")
        if importance is not None:
            for factor, column in zip(importance["factors"], np.array(importance["values"]).T, strict=True):
                if column.max() >= MIN_IMPORTANCE:
                    names[int(column.argmax())].append(factor)
    return [f"{d}: {', '.join(found)}" if found else str(d) for d, found in enumerate(names)]


def traverse(
    model: Model,
    source: Source,
    position: int,
    known: Ranges,
    folder: Path,
    *,
    slots: Sequence[int] = (),
    num_dimensions: int = 8,
    seed: int = 0,
) -> list[Path]:
    """Write a sheet and an animation for each slot of an image; returns the files.

    NAME_POSITION_slotK.png has a row for each dimension, most active first, and a column for each value; the .webp of
    that name runs through the rows, there and back. Without `slots` those that win at least 4 pixels are shown.
    """
    scenes = source.read(np.array([position]))
    found = infer(model, scenes, InferOptions(sample=False), seed)
    wins = torch.bincount(found.masks[0, :, 0].argmax(dim=0).flatten(), minlength=found.masks.shape[1])
    chosen = list(slots) or [k for k, pixels in enumerate(wins.tolist()) if pixels >= 4]
    if any(not 0 <= k < found.slots.shape[1] for k in chosen):
        raise InputError(f"slots are numbered 0 to {found.slots.shape[1] - 1}")
    files = []
    for k in chosen:
        stem = folder / f"{Path(source.name).stem}_{position:05d}_slot{k}"
        title = f"Slot {k}: each row is one dimension of its code, the most active first"
        rows = traversed(model, scenes.image[0], found, k, known, num_dimensions)
        files += [stem.with_suffix(".png"), stem.with_suffix(".webp")]
        save_figure(slot_sheet(scenes.image[0], found, k, known, rows, title), files[-2])
        frames = np.concatenate([np.concatenate([row, row[-2:0:-1]]) for row in rows])
        save_animation(frames, files[-1])
    return files


def traversed(
    model: Model, image: np.ndarray, found: Inference, k: int, known: Ranges, num_dimensions: int
) -> list[np.ndarray]:
    """For each of the most active dimensions of slot k's code: image H W 3 with it set to S values, S H W 3."""
    edits = Edits(model, found.slots, torch.tensor([k]), (image.shape[0], image.shape[1]))
    shown = (edits.set_dimension(d, known.values[d])[0] for d in known.order[:num_dimensions].tolist())
    return [pictures[0].permute(0, 2, 3, 1).cpu().numpy() for pictures in shown]


def slot_sheet(
    image: np.ndarray, found: Inference, k: int, known: Ranges, rows: Sequence[np.ndarray], title: str
) -> Figure:
    """The sheet of what `traversed` gives for slot k of an image H W 3, whose inference is `found`."""
    reconstruction = found.reconstruction[0].permute(1, 2, 0).cpu().numpy()
    own = (found.masks[0, k] * found.components[0, k]).permute(1, 2, 0).cpu().numpy()
    names = [known.names[d] for d in known.order[: len(rows)]]
    return traversal_sheet(image, reconstruction, own, rows, names, title=title)
