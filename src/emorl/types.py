"""Named results that cross module borders, with their axes and ranges.

Axes: N or B images, K slots, D slot width, E entities (background first), H rows, W columns;
h, w the token grid of an encoder (equal to H, W unless it works on patches).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Scenes as a data source gives them, on the host."""

    image: np.ndarray
    """N H W 3, uint8."""
    index: np.ndarray
    """N, int64: position in the source. With a seed it fixes the noise of an image in evaluation."""
    mask: np.ndarray | None = None
    """N H W, uint8 label map, 0 = background; None where the source has no masks."""
    visibility: np.ndarray | None = None
    """N E, float32: 1 for the background and each real object, 0 for padding."""
    factors: dict[str, np.ndarray] = field(default_factory=dict)
    """Factor name -> N E ... array; row 0 of E is the background."""

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over the codes of the slots."""

    mean: Tensor
    """B K D."""
    std: Tensor
    """B K D, positive."""


@dataclass(frozen=True)
class Decoding:
    """What one set of slots looks like."""

    masks: Tensor
    """B K 1 H W, probabilities that sum to one over K."""
    components: Tensor
    """B K 3 H W, RGB in [0, 1]."""

    @property
    def reconstruction(self) -> Tensor:
        """B 3 H W in [0, 1]: the mask-weighted sum of the components."""
        return (self.masks * self.components).sum(dim=1)


@dataclass(frozen=True)
class Layer:
    """One stochastic layer of bottom-up inference."""

    posterior: Posterior
    attention: Tensor
    """B K 1 h w, sums to one over K at every token."""
    kl: Tensor | None = None
    """B, nats: against the hierarchical prior; its part of `kl` of step 0."""
    decoding: Decoding | None = None
    """The layer's own sample decoded; only where the caller asked for it."""


@dataclass(frozen=True)
class Step:
    """One refinement step; step 0 is the posterior before refinement."""

    posterior: Posterior
    nll: Tensor
    """B, nats, without the constant 0.5 log(2 pi) per element."""
    kl: Tensor
    """B, nats: step 0 against the hierarchical prior (all layers), later ones against the refinement prior."""
    decoding: Decoding | None = None
    """Only where the caller asked for every step."""


@dataclass(frozen=True)
class Inference:
    """The scene behind each image."""

    masks: Tensor
    """B K 1 H W, probabilities that sum to one over K: the masks that are scored."""
    components: Tensor
    """B K 3 H W, RGB in [0, 1]."""
    reconstruction: Tensor
    """B 3 H W in [0, 1]."""
    slots: Tensor
    """B K D, the codes that were decoded: a posterior sample, or its mean where the caller asked for that; plain codes
    where there is no posterior."""
    layers: tuple[Layer, ...] = ()
    """One entry per stochastic layer, bottom first."""
    steps: tuple[Step, ...] = ()
    """Entries 0..I, the last one being the result. One entry for a model that does not refine, none where there is no
    posterior."""
    decoder_masks: Tensor | None = None
    """B K 1 H W, sum to 1 over K: those of the decoder, where `masks` are those of an attention network and differ."""

    def but_for(self, images: Tensor, other: Inference) -> Inference:
        """This, with what `other` has of the images that are marked (B, bool)."""
        mixed: Inference = _mixed(images, self, other)
        return mixed


def _mixed(images: Tensor, ours: Any, theirs: Any) -> Any:
    """Tensors at any depth, theirs where images are marked."""
    if isinstance(ours, Tensor):
        return torch.where(images.view(-1, *[1] * (ours.ndim - 1)), theirs, ours)
    if isinstance(ours, tuple):
        return tuple(_mixed(images, *pair) for pair in zip(ours, theirs, strict=True))
    if ours is None:
        return None
    return type(ours)(**{f.name: _mixed(images, getattr(ours, f.name), getattr(theirs, f.name)) for f in fields(ours)})


@dataclass(frozen=True)
class Loss:
    """A training loss."""

    total: Tensor
    """Scalar, differentiable, summed over images: divide by the number of images of the global batch."""
    terms: dict[str, Tensor]
    """Detached values per image, B or B x n (a value per layer or refinement step)."""
