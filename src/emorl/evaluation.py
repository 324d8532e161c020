"""Weights and data to scores per image, and to the results that are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from emorl.data.base import Size, Source, iterate
from emorl.errors import InputError
from emorl.metrics.ari import ari, foreground_ari
from emorl.metrics.error import mse
from emorl.metrics.iou import matched_iou
from emorl.metrics.segmentation import mean_best_overlap, segmentation_covering
from emorl.metrics.summary import summarise
from emorl.models import model_name
from emorl.models.base import InferOptions, Model
from emorl.noise import ImageNoise
from emorl.threads import side_by_side
from emorl.types import Batch, Inference
from emorl.version import __version__

BATCH_SIZE = 32
"""Images of a batch where the caller names no other number."""


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Images N H W 3, uint8 -> N 3 H W, uint8."""
    return torch.from_numpy(image).permute(0, 3, 1, 2)


def infer(model: Model, scenes: Batch, options: InferOptions, seed: int) -> Inference:
    """The model's inference of a batch; an image's noise depends on (seed, its index) alone.

    Of several `options.draws`, with the noise of this seed and the ones that follow it, each image keeps the one with
    the least NLL + KL of the last step; raises InputError for a model without a posterior, which has neither.
    """
    assert isinstance(model, nn.Module)
    if options.draws < 1:
        raise InputError(f"draws must be at least 1, got {options.draws}")
    images, once = to_tensor(scenes.image).to(next(model.parameters()).device), replace(options, draws=1)
    best = model.infer(images, once, noise=ImageNoise(seed, scenes.index))
    for draw in range(1, options.draws):
        if not best.steps:
            raise InputError(f"{model_name(model.config)} has no likelihood to choose among several draws by")
        other = model.infer(images, once, noise=ImageNoise(seed + draw, scenes.index))
        least, found = best.steps[-1], other.steps[-1]
        best = best.but_for(found.nll + found.kl < least.nll + least.kl, other)
    return best


def winners(masks: torch.Tensor, size: Size) -> np.ndarray:
    """The winning slot of every pixel of masks B K 1 H W -> B height width, at another size after resizing the masks.

    They are resized soft, by Pillow's bicubic filter, as the EfficientMORL authors' evaluation does.
    """
    soft = masks[:, :, 0].float().cpu().numpy()  # B K H W
    if soft.shape[2:] != size:
        resized = [
            Image.fromarray(mask).resize(size[::-1], Image.Resampling.BICUBIC)
            for mask in soft.reshape(-1, *soft.shape[2:])
        ]
        soft = np.stack([np.asarray(mask) for mask in resized]).reshape(*soft.shape[:2], *size)
    labels: np.ndarray = soft.argmax(axis=1)
    return labels


def score_labels(truth: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Every score of a segmentation, per image (B, float64; `DEFINITIONS` says what they are), of whatever method.

    Args:
        truth: B H W, any integer type, the objects: 0 the background.
        labels: B H W, any integer type, not negative and small: the slot that wins each pixel, in any order.

    Returns:
        NaN where an image has no object and a score needs one; `summary` leaves these out.

    Raises:
        ValueError: if the shapes differ, a label is negative, or labels are not integers.
    """
    return {
        "foreground_ari": foreground_ari(truth, labels),
        "ari": ari(truth, labels),
        "miou": matched_iou(truth, labels),
        "miou_with_background": matched_iou(truth, labels, include_background=True),
        "mbo": mean_best_overlap(truth, labels),
        "covering": segmentation_covering(truth, labels),
    }


def score(
    model: Model, scenes: Batch, options: InferOptions, seed: int, truth: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], Inference]:
    """Scores per image (B each) and the inference they are of; ARI and mIoU only where there are masks.

    `truth` are label maps B height width of another size, at which masks are scored instead.
    """
    found = infer(model, scenes, options, seed)
    reconstruction = found.reconstruction.permute(0, 2, 3, 1).cpu().numpy()  # B H W 3
    scores = {"mse": mse(scenes.image / 255.0, reconstruction)}
    mask = scenes.mask if truth is None else truth
    if mask is not None:
        size = (mask.shape[1], mask.shape[2])
        scores |= score_labels(mask, winners(found.masks, size))
        if found.decoder_masks is not None:
            scores["foreground_ari_decoder"] = foreground_ari(mask, winners(found.decoder_masks, size))
    if found.steps:
        scores["nll"] = found.steps[-1].nll.cpu().double().numpy()
        scores["kl"] = found.steps[-1].kl.cpu().double().numpy()
        scores["kl_stage1"] = found.steps[0].kl.cpu().double().numpy()
    return scores, found


def score_source(
    model: Model,
    source: Source,
    options: InferOptions,
    seed: int,
    batch_size: int = BATCH_SIZE,
    truth: Source | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Scores per image, batch by batch; memory does not grow with the number of images.

    Beside those of `score` there is `kl_per_layer` (B L) of a model with stochastic layers. On a CPU a batch is worked
    on by one thread, as many side by side as there are threads: scores do not depend on their number, memory does.
    """
    assert isinstance(model, nn.Module)

    def read() -> Iterator[tuple[Batch, np.ndarray | None]]:
        start = 0
        for scenes in iterate(source, batch_size if source.size else 1):  # pictures of their own sizes: one at a time
            yield scenes, None if truth is None else truth.read(np.arange(start, start + len(scenes))).mask
            start += len(scenes)

    def work(batch: tuple[Batch, np.ndarray | None]) -> dict[str, np.ndarray]:
        scores, found = score(model, batch[0], options, seed, batch[1])
        layers = [layer.kl.cpu().double().numpy() for layer in found.layers if layer.kl is not None]
        return scores | ({"kl_per_layer": np.stack(layers, axis=1)} if layers else {})

    if next(model.parameters()).device.type != "cpu":
        return map(work, read())
    return side_by_side(work, read(), torch.get_num_threads())


MAY_BE_MISSING = {"foreground_ari", "foreground_ari_decoder", "miou", "mbo", "covering"}
"""Scores that images without objects do not have."""


def summary(batches: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Mean, std over images and number of images of every score; a list of them where there is one for every layer."""
    if not batches:
        raise InputError("there are no images to evaluate")
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    for name in joined.keys() - MAY_BE_MISSING:
        if not np.isfinite(joined[name]).all():
            raise InputError(f"the weights give a {name} that is not finite, so nothing they show can be trusted")
    found: dict[str, Any] = {}
    for name, values in joined.items():
        of_columns = [dict(summarise(column)) for column in values.reshape(len(values), -1).T]
        if of_columns[0]["num_images"]:
            found[name] = of_columns if values.ndim > 1 else of_columns[0]
    return found


def evaluate(
    model: Model,
    source: Source,
    *,
    truth: Source | None = None,
    options: InferOptions = InferOptions(),
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, Any]:
    """One row of results.json: every score as {"mean", "std", "num_images"}, and all that is needed to repeat it.

    `truth` has the same scenes at the size at which masks are scored, where that is another one.
    """
    batches = []
    for scores in score_source(model, source, options, seed, batch_size, truth):
        batches.append(scores)
        progress(len(scores["mse"]))
    chosen = asdict(options)
    chosen["num_slots"] = chosen["num_slots"] or model.config.num_slots
    if chosen["refinement_steps"] is None:
        chosen["refinement_steps"] = model.config.refinement_steps
    if truth is not None:
        assert truth.size is not None
        chosen["score_size"] = list(truth.size)
    return {
        **summary(batches),
        "options": {**chosen, "seed": seed, "definitions": DEFINITIONS},
        "data": {"name": source.name, "fingerprint": source.fingerprint(), "num_images": len(source)},
        "version": __version__,
    }


DEFINITIONS = {
    "foreground_ari": "adjusted Rand index of true objects' pixels, argmax of masks, at the model's size or score_size",
    "foreground_ari_decoder": "the same of the decoder's masks, where the model's are those of attention",
    "ari": "foreground_ari with the background as one more object",
    "miou": "mean IoU of true objects under the best one-to-one matching with slots, argmax of masks",
    "miou_with_background": "the same with the background as one more object",
    "mbo": "mean over true objects of the best IoU with any slot, argmax of masks",
    "covering": "the same weighted by the objects' pixels",
    "mse": "mean squared error over pixels and channels, values in [0, 1]",
    "nll": "nats per image; that of Gaussians without 0.5 log(2 pi) per element",
    "kl": "nats per image, of the last refinement step (without refinement: all layers)",
    "kl_stage1": "nats per image, before the first refinement step (EfficientMORL: all layers, against their prior)",
    "kl_per_layer": "the part of each layer of kl_stage1, bottom first",
    "std": "over images",
}
"""What the numbers mean; written beside them."""
