"""What the codes of weights are worth: how disentangled, how readable, how much each of their dimensions shows.

One pass over a data source collects codes, labels and true factors; everything else is a function of those. Codes are
posterior means, or the plain slots of a model without a posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from emorl.data.base import Source
from emorl.edits import AT_ONCE, Edits
from emorl.errors import InputError
from emorl.evaluation import infer
from emorl.metrics.activeness import activeness, value_grid
from emorl.metrics.dci import dci, dci_released
from emorl.metrics.factors import FactorScores
from emorl.metrics.locality import leak
from emorl.metrics.properties import linear_probe, match_slots, mlp_probe
from emorl.metrics.slots import slot_count_error, slot_usage, stability
from emorl.models.base import InferOptions, Model
from emorl.runs import without_nan
from emorl.types import Batch

DISCRETE = ("shape", "size", "material")
"""Factors that are classes although files may hold them as floats; beside all that are integers."""
REPEATED = ("pixel_coords", "yaw")
"""Factors that say again what x, y and rotation say. The paper's eight factors of CLEVR (App. E.2) are all others."""
MIN_PIXELS = 4
"""Fewer pixels do not make a slot one that is in use."""
MIN_OBJECT = 50 / 192**2
"""Objects that cover less of the picture are not compared with codes (released code)."""
MIN_IOU = 0.1
"""Nor are matches with less overlap (released code)."""
FAINT = 0.01
"""Dimensions of a code that change the picture by less than this part of what the most active does are not active."""


@dataclass(frozen=True)
class Budget:
    """How much is spent on what takes long."""

    images: int = 1000
    """Of the source, at most: codes, factors, slots."""
    activeness_images: int = 100
    """As the paper; every dimension of the code is set to six values in each."""
    stability_images: int = 100
    repeats: int = 3
    """Inferences of each of those with different noise."""


@dataclass(frozen=True)
class Collected:
    """Codes and labels of images."""

    codes: np.ndarray
    """N K D: means."""
    samples: np.ndarray
    """N K D: posterior samples, whose range activeness covers; the means where there is no posterior."""
    labels: np.ndarray
    """N H W: winning slots."""
    code_labels: np.ndarray
    """N H W: the same where the codes are decoded in place of samples."""
    true_labels: np.ndarray | None
    visibility: np.ndarray | None
    factors: dict[str, np.ndarray]


def collect(
    model: Model,
    source: Source,
    count: int,
    options: InferOptions,
    seed: int,
    batch_size: int,
    progress: Callable[[int], None],
) -> Collected:
    """Look at the first `count` images of a source."""
    parts: list[tuple[np.ndarray, ...]] = []
    batches = []
    for start in range(0, count, batch_size):
        scenes = source.read(np.arange(start, min(count, start + batch_size)))
        found = infer(model, scenes, options, seed)
        means = found.steps[-1].posterior.mean if found.steps else found.slots
        winners = decoded = found.masks[:, :, 0].argmax(dim=1).cpu().numpy()
        if found.steps and found.decoder_masks is None:  # masks of attention are not decoded
            _, decoded = _pictures(model, means, (winners.shape[1], winners.shape[2]))
        parts.append((means.cpu().numpy(), found.slots.cpu().numpy(), winners, decoded))
        batches.append(scenes)
        progress(len(scenes))
    first = batches[0]

    def joined(values: list[np.ndarray | None]) -> np.ndarray | None:
        return None if values[0] is None else np.concatenate([value for value in values if value is not None])

    codes, samples, labels, code_labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Collected(
        codes,
        samples,
        labels,
        code_labels,
        joined([batch.mask for batch in batches]),
        joined([batch.visibility for batch in batches]),
        {name: np.concatenate([batch.factors[name] for batch in batches]) for name in first.factors},
    )


def winning_slots(
    model: Model, source: Source, count: int, options: InferOptions, seed: int, batch_size: int
) -> np.ndarray:
    """The slots N H W that win the pixels of the first `count` images."""
    parts = []
    for start in range(0, count, batch_size):
        scenes = source.read(np.arange(start, min(count, start + batch_size)))
        parts.append(infer(model, scenes, options, seed).masks[:, :, 0].argmax(dim=1).cpu().numpy())
    return np.concatenate(parts)


def rendered_dimensions(
    model: Model, seen: Collected, count: int, seed: int, size: tuple[int, int], progress: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """For each dimension of the code: pictures N S 3 H W of the first images, with it set to S values in one slot.

    The slot is drawn evenly for each image, and the values cover the range of the samples (released code).
    """
    assert isinstance(model, nn.Module)
    device = next(model.parameters()).device
    grid = value_grid(seen.samples)  # D S
    codes = torch.from_numpy(seen.codes[:count]).to(device)
    slot = torch.from_numpy(np.random.default_rng(seed % 2**64).integers(codes.shape[1], size=len(codes)))
    edits = Edits(model, codes, slot, size)
    for d in range(codes.shape[2]):
        pictures, _ = edits.set_dimension(d, grid[d])
        yield pictures.cpu().numpy()
        progress(1)


def describe(
    model: Model,
    source: Source,
    *,
    options: InferOptions = InferOptions(),
    seed: int = 0,
    batch_size: int = 64,
    budget: Budget = Budget(),
    progress: Callable[[int], None] = lambda steps: None,
) -> dict[str, Any]:
    """Everything results.json says of codes and slots, as plain values; `progress` is told of images and dimensions.

    `slots`: usage by slot, error of the count of objects. `stability`. `activeness`: of D dimensions, most active first
    in `order`. Where there are factors of objects: `objects`, how many of them have a slot, and of four or more `dci`,
    `dci_released` where it is defined, `linear_probe`, `mlp_probe`. Raises InputError for a source whose images have
    different sizes.
    """
    size = source.size
    if size is None:
        raise InputError(f"{source.name}: codes are compared on images of one size: give one, or leave out --codes")
    count = min(len(source), budget.images)
    seen = collect(model, source, count, options, seed, batch_size, progress)
    usage = slot_usage(seen.labels, seen.codes.shape[1], MIN_PIXELS)
    found: dict[str, Any] = {
        "slots": {"share": usage.share.tolist(), "frequency": usage.frequency.tolist(), "num_images": count}
    }
    if seen.true_labels is not None:
        error = slot_count_error(seen.true_labels, seen.labels, MIN_PIXELS)
        found["slots"] |= {"count_error": float(error.mean()), "absolute_count_error": float(np.abs(error).mean())}

    again = min(count, budget.stability_images)
    labelings = [seen.labels[:again]]
    for repeat in range(1, budget.repeats):
        other = seed + repeat * options.draws  # whose draws are of other seeds
        labelings.append(winning_slots(model, source, again, options, other, batch_size))
    truth = None if seen.true_labels is None else seen.true_labels[:again]
    values = stability(np.stack(labelings), truth)
    shown = values[np.isfinite(values)]  # images without objects have none
    found["stability"] = {
        "mean": float(shown.mean()) if len(shown) else None,
        "repeats": budget.repeats,
        "num_images": again,
    }

    few = min(count, budget.activeness_images)
    ranged = replace(seen, samples=seen.samples[:few])
    rendered = rendered_dimensions(model, ranged, few, seed, size, progress)
    active = activeness(rendered)
    found["activeness"] = {"values": active.tolist(), "order": np.argsort(-active).tolist()}

    if seen.factors and seen.true_labels is not None and seen.visibility is not None:
        try:
            found |= of_objects(seen)
        except ValueError as error:  # what a file says of its objects contradicts itself, or is too little
            raise InputError(f"{source.name}: its factors cannot be compared with codes ({error})") from None
    return {name: without_nan(part) for name, part in found.items()}


def are_active(changes: np.ndarray) -> np.ndarray:
    """Which dimensions of a code, by how much each changes the picture (D, at least 0), are active: D, bool."""
    result: np.ndarray = (changes > 0) & (changes >= FAINT * changes.max())
    return result


def num_describing_steps(model: Model, source: Source, budget: Budget = Budget()) -> int:
    """How far `describe` counts: images, and dimensions of the code."""
    assert isinstance(model, nn.Module)
    image = torch.zeros(1, 3, *(source.size or (1, 1)), dtype=torch.uint8, device=next(model.parameters()).device)
    width = model.encode(image, noise=0).shape[-1]
    return min(len(source), budget.images) + width


def of_objects(seen: Collected, probes: bool = True) -> dict[str, Any]:
    """What the codes of matched slots say of the factors of their objects; without `probes` DCI alone.

    As the released code, it leaves out objects of few pixels and poor matches, and learns from half of the others,
    drawn at random.
    """
    assert seen.true_labels is not None and seen.visibility is not None
    height, width = seen.true_labels.shape[1:]
    matched = match_slots(
        seen.codes,
        seen.code_labels,
        seen.true_labels,
        seen.visibility,
        min_pixels=MIN_OBJECT * height * width,
        min_iou=MIN_IOU,
    ).shuffled(seed=0)
    factors = {
        name: values.astype(np.int64) if _is_class(name, values) else values
        for name, values in matched.factors(seen.factors).items()
        if not name.startswith(REPEATED)
    }
    # continuous ones first: the released code's regressor takes discrete ones too, its classifier no others
    factors = dict(sorted(factors.items(), key=lambda item: np.issubdtype(item[1].dtype, np.integer)))
    found: dict[str, Any] = {"objects": {"matched": len(matched.codes), "without_slot": matched.num_dropped}}
    if len(matched.codes) < 4 or not factors:
        return found
    ours = dci(matched.codes, factors)
    found |= {
        "dci": {
            "disentanglement": ours.disentanglement,
            "completeness": ours.completeness,
            "informativeness": _scores(ours.informativeness),
            "importance": {"factors": list(ours.factors), "values": ours.importance.tolist()},
        },
    }
    if not probes:
        return found
    with suppress(ValueError):  # it is not defined for one factor, one dimension, or a constant class
        released = dci_released(matched.codes, factors)
        found["dci_released"] = {
            "disentanglement": released.disentanglement,
            "completeness": released.completeness,
            "informativeness_train": released.informativeness_train,
            "informativeness_test": released.informativeness_test,
        }
    return found | {
        "linear_probe": _scores(linear_probe(matched.codes, factors)),
        "mlp_probe": _scores(mlp_probe(matched.codes, factors)),
    }


def _is_class(name: str, values: np.ndarray) -> bool:
    """Whether a factor is a class: an integer, or one of a class's name that is kept as a whole number of floats."""
    if np.issubdtype(values.dtype, np.integer):
        return True
    return name in DISCRETE and bool((np.isfinite(values) & (values == np.rint(values))).all())


def _scores(scores: FactorScores) -> dict[str, dict[str, float]]:
    return {"accuracy": dict(scores.accuracy), "r2": dict(scores.r2)}


def locality(
    model: Model, scenes: Batch, *, num_values: int = 6, seed: int = 0, progress: Callable[[int], None] = lambda d: None
) -> dict[str, Any]:
    """Does changing one slot leave the rest of the picture alone? (EfficientMORL paper, App. B, as a number.)

    For every image one slot that wins some pixels is drawn. Each dimension of its code in turn is set to `num_values`
    values over the range that it has over the images (posterior means), and the picture is decoded anew.

    Args:
        model: any.
        scenes: N images.
        num_values: S.
        seed: of the noise and of the slots drawn.
        progress: told of every dimension of the code.

    Returns:
        `leak`: the share of the squared change that falls outside the slot's own pixels (`metrics.locality.leak`), mean
        over the dimensions that change at least `FAINT` of what the most active one does, weighted by how much they do;
        None where nothing changes. `active_dimensions`: how many these are. `num_images`.
    """
    size = (scenes.image.shape[1], scenes.image.shape[2])
    codes = infer(model, scenes, InferOptions(sample=False), seed).slots  # N K D
    grid = value_grid(codes.cpu().numpy(), num_values)  # D S
    _, winner = _pictures(model, codes, size)  # N H W
    rng = np.random.default_rng(seed % 2**64)
    slot = np.array([int(rng.choice(np.unique(picture))) for picture in winner])  # N
    own = winner == slot[:, None, None]
    edits = Edits(model, codes, torch.from_numpy(slot), size)
    unchanged, _ = edits(codes[torch.arange(len(codes)), torch.from_numpy(slot)][:, None])
    before = unchanged[:, 0].movedim(1, -1).cpu().numpy()  # N H W 3, rounded as the edited ones are
    shares, changes = [], []
    for d, values in enumerate(grid):
        after, own_after = edits.set_dimension(d, values)
        pictures = after.movedim(2, -1).cpu().numpy()  # N S H W 3
        shares.append(leak(before, pictures, own, own_after.cpu().numpy()))
        changes.append(np.square(pictures - before[:, None]).mean(axis=(1, 2, 3, 4)))
        progress(1)
    share, change = np.stack(shares, axis=1), np.stack(changes, axis=1)  # N D
    mean_change = change.mean(axis=0)
    active = are_active(mean_change)  # D
    weights = np.where(np.isnan(share), 0, change)[:, active]
    total = weights.sum()
    return {
        "leak": float((np.nan_to_num(share[:, active]) * weights).sum() / total) if total > 0 else None,
        "active_dimensions": int(active.sum()),
        "num_images": len(scenes),
    }


def _pictures(model: Model, codes: torch.Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures N H W 3 of codes N K D, and the slots N H W that win their pixels."""
    with torch.no_grad():
        decodings = [model.decode(part, size) for part in torch.split(codes, AT_ONCE)]
    pictures = torch.cat([decoding.reconstruction for decoding in decodings]).permute(0, 2, 3, 1)
    winners = torch.cat([decoding.masks[:, :, 0].argmax(dim=1) for decoding in decodings])
    return pictures.cpu().numpy(), winners.cpu().numpy()
