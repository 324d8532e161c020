"""Weights and data to scores per image, and to the results that are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from emorl.data.base import Source, iterate
from emorl.errors import InputError
from emorl.metrics.ari import ari, foreground_ari
from emorl.metrics.error import mse
from emorl.metrics.iou import matched_iou
from emorl.metrics.segmentation import mean_best_overlap, segmentation_covering
from emorl.metrics.summary import summarise
from emorl.models.base import InferOptions, Model
from emorl.noise import ImageNoise
from emorl.types import Batch, Inference
from emorl.version import __version__


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Images N H W 3, uint8 -> N 3 H W, uint8."""
    return torch.from_numpy(image).permute(0, 3, 1, 2)


def infer(model: Model, scenes: Batch, options: InferOptions, seed: int) -> Inference:
    """The model's inference of a batch; an image's noise depends on (seed, its index) alone."""
    assert isinstance(model, nn.Module)
    device = next(model.parameters()).device
    return model.infer(to_tensor(scenes.image).to(device), options, noise=ImageNoise(seed, scenes.index))


def score(model: Model, scenes: Batch, options: InferOptions, seed: int) -> tuple[dict[str, np.ndarray], Inference]:
    """Scores per image (B each) and the inference they are of; ARI and mIoU only where there are masks."""
    found = infer(model, scenes, options, seed)
    reconstruction = found.reconstruction.permute(0, 2, 3, 1).cpu().numpy()  # B H W 3
    scores = {"mse": mse(scenes.image / 255.0, reconstruction)}
    if scenes.mask is not None:
        labels = found.masks[:, :, 0].argmax(dim=1).cpu().numpy()  # B H W
        scores["foreground_ari"] = foreground_ari(scenes.mask, labels)
        if found.decoder_masks is not None:
            decoded = found.decoder_masks[:, :, 0].argmax(dim=1).cpu().numpy()
            scores["foreground_ari_decoder"] = foreground_ari(scenes.mask, decoded)
        scores["ari"] = ari(scenes.mask, labels)
        scores["miou"] = matched_iou(scenes.mask, labels)
        scores["miou_with_background"] = matched_iou(scenes.mask, labels, include_background=True)
        scores["mbo"] = mean_best_overlap(scenes.mask, labels)
        scores["covering"] = segmentation_covering(scenes.mask, labels)
    if found.steps:
        scores["nll"] = found.steps[-1].nll.double().cpu().numpy()
        scores["kl"] = found.steps[-1].kl.double().cpu().numpy()
        scores["kl_stage1"] = found.steps[0].kl.double().cpu().numpy()
    return scores, found


def score_source(
    model: Model, source: Source, options: InferOptions, seed: int, batch_size: int = 64
) -> Iterator[dict[str, np.ndarray]]:
    """Scores per image, batch by batch; memory does not grow with the number of images."""
    for scenes in iterate(source, batch_size if source.size else 1):  # pictures of their own sizes: one at a time
        yield score(model, scenes, options, seed)[0]


MAY_BE_MISSING = {"foreground_ari", "foreground_ari_decoder", "miou", "mbo", "covering"}
"""Scores that images without objects do not have."""


def summary(batches: list[dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Mean, std over images and number of images of every score."""
    if not batches:
        raise InputError("there are no images to evaluate")
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    for name in joined.keys() - MAY_BE_MISSING:
        if not np.isfinite(joined[name]).all():
            raise InputError(f"the weights give a {name} that is not finite, so nothing they show can be trusted")
    found = {name: dict(summarise(values)) for name, values in joined.items()}
    return {name: values for name, values in found.items() if values["num_images"]}


def evaluate(
    model: Model,
    source: Source,
    *,
    options: InferOptions = InferOptions(),
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, Any]:
    """One row of results.json: every score as {"mean", "std", "num_images"}, and all that is needed to repeat it."""
    batches = []
    for scores in score_source(model, source, options, seed, batch_size):
        batches.append(scores)
        progress(len(scores["mse"]))
    chosen = asdict(options)
    chosen["num_slots"] = chosen["num_slots"] or model.config.num_slots
    if chosen["refinement_steps"] is None:
        chosen["refinement_steps"] = model.config.refinement_steps
    return {
        **summary(batches),
        "options": {**chosen, "seed": seed, "definitions": DEFINITIONS},
        "data": {"name": source.name, "fingerprint": source.fingerprint(), "num_images": len(source)},
        "version": __version__,
    }


DEFINITIONS = {
    "foreground_ari": "adjusted Rand index of the true objects' pixels, argmax of masks, model resolution",
    "foreground_ari_decoder": "the same of the decoder's masks, where the model's are those of attention",
    "ari": "foreground_ari with the background as one more object",
    "miou": "mean IoU of true objects under the best one-to-one matching with slots, argmax of masks",
    "miou_with_background": "the same with the background as one more object",
    "mbo": "mean over true objects of the best IoU with any slot, argmax of masks",
    "covering": "the same weighted by the objects' pixels",
    "mse": "mean squared error over pixels and channels, values in [0, 1]",
    "nll": "nats per image, without 0.5 log(2 pi) per element",
    "kl": "nats per image, of the last refinement step (without refinement: all layers)",
    "kl_stage1": "nats per image, all layers against the hierarchical prior",
    "std": "over images",
}
"""What the numbers mean; written beside them."""
