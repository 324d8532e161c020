"""What a hand can hold: which pixels of the picture are a slot's, and which way its code goes when they move.

A mask alone does not say where an object is: where all slots agree on the colour, over a black background for example,
masks are free and mean nothing. So the page goes by *visible* pixels: how much a slot changes the picture by
being there,

    v_k = m_k max over colours |y_k - x_k|,   x_k the mixture of all other slots

The centroid of v_k is where the object is. How its code goes when it moves is the least-squares regression of codes on
centroids over the objects of many scenes: shape and colour do not depend on the place there, so they average out, and
what is left of a code's change is its motion. Axes: B images, K slots, D slot width, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emorl.data.base import Source
from emorl.evaluation import to_tensor
from emorl.models.base import Model
from emorl.representation import MIN_PIXELS
from emorl.traverse import ranges
from emorl.web.networks import Decoder, Encoder

VISIBLE = 0.15
"""A pixel belongs to a slot that changes one of its colours by more than this; page/scene.js says the same."""
FIT_IMAGES = 200
"""Whose objects the motion is fitted to."""
MIN_OBJECTS = 16
"""Fewer say nothing of motion."""
OUTSIDE = 0.1
"""Share of the objects on each side that are outside of what motion is fitted to closely."""


@dataclass(frozen=True)
class Motion:
    """How a code goes when its object moves: a surface in code space that is quadratic in the place.

    With u the column and w the row, 0 at `low` and 1 at `high`, the code changes by `curve` times the change of
    (u, w, u^2, u w, w^2). Outside of 0 to 1 the surface goes on straight, since a square there soon leaves all codes
    that were ever seen.
    """

    low: np.ndarray
    """2: column and row, in pixels, that a tenth of all objects are below."""
    high: np.ndarray
    """2: that a tenth are above."""
    curve: np.ndarray
    """5 D."""


@dataclass(frozen=True)
class Handles:
    """What the page knows of the codes beside the networks."""

    order: np.ndarray
    """D: dimensions, most active first."""
    names: list[str]
    """D: `12`, or `12: x, y` after the factors that it serves."""
    low: np.ndarray
    """D: least value that occurs."""
    high: np.ndarray
    """D: greatest."""
    moves: np.ndarray
    """D 2: by how many pixels one standard deviation of a dimension moves objects to the right and down, the others
    unchanged; zeros where too few objects were seen."""
    motion: Motion | None
    """How codes move objects; None where too few were seen, or in too few places."""


def visible(logits: Tensor, colours: Tensor) -> Tensor:
    """v of B K 1 H W logits and B K 3 H W colours: B K H W in [0, 1]; of a single slot it is its brightness."""
    num_slots = logits.shape[1]
    masks = logits.softmax(dim=1)
    shown = []
    for k in range(num_slots):
        others = [j for j in range(num_slots) if j != k]
        rest = (logits[:, others].softmax(dim=1) * colours[:, others]).sum(dim=1)  # B 3 H W
        shown.append(masks[:, k, 0] * (colours[:, k] - rest).abs().amax(dim=1))
    return torch.stack(shown, dim=1)


def centroids(shown: Tensor) -> Tensor:
    """Visible pixels ... H W -> column and row of their mean, ... 2; NaN where none is above `VISIBLE`."""
    height, width = shown.shape[-2:]
    weight = shown * (shown > VISIBLE)
    total = weight.sum(dim=(-2, -1))
    column = (weight.sum(dim=-2) * torch.arange(width)).sum(dim=-1) / total
    row = (weight.sum(dim=-1) * torch.arange(height)).sum(dim=-1) / total
    return torch.stack([column, row], dim=-1)


def find_handles(model: Model, source: Source, progress: Callable[[int], None] = lambda steps: None) -> Handles:
    """Look at scenes for range, activeness and meaning of every dimension, and for how codes move objects.

    `progress` is told of as many steps as `emorl.traverse.num_ranging_steps` counts. Raises InputError for a source
    whose images have different sizes.
    """
    known = ranges(model, source, 2, seed=0, progress=progress, options=Encoder(model).options)
    codes, places = objects(model, source)
    return Handles(
        order=known.order,
        names=known.names,
        low=known.values[:, 0],
        high=known.values[:, 1],
        moves=moves_of(codes, places),
        motion=motion_of(codes, places),
    )


def objects(model: Model, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Codes M D and centroids M 2 of what looks like an object in the first scenes: neither nothing nor most of all."""
    assert source.size is not None
    encode, decode = Encoder(model), Decoder(model, source.size)
    first = encode.first_noise(source.size)
    codes, places = [], []
    for index in range(min(len(source), FIT_IMAGES)):
        image = to_tensor(source.read(np.array([index])).image)
        with torch.no_grad():
            slots = encode(image, first)[0]  # K D
            logits, colours = decode(slots)
        shown = visible(logits[None], colours[None])[0]  # K H W
        pixels = (shown > VISIBLE).sum(dim=(1, 2))
        chosen = (pixels >= MIN_PIXELS) & (pixels <= shown[0].numel() / 2)
        codes.append(slots[chosen])
        places.append(centroids(shown[chosen]))
    return torch.cat(codes).double().numpy(), torch.cat(places).double().numpy()


def motion_of(codes: np.ndarray, places: np.ndarray) -> Motion | None:
    """Least squares of codes M D on centroids M 2; None where there are too few, or in too few places."""
    if len(codes) < MIN_OBJECTS:
        return None
    low, high = np.quantile(places, [OUTSIDE, 1 - OUTSIDE], axis=0)
    if (low >= high).any():
        return None
    found = terms((places - low) / (high - low))
    found -= found.mean(axis=0)
    curve, _, rank, _ = np.linalg.lstsq(found, codes - codes.mean(axis=0), rcond=None)
    if rank < found.shape[1]:
        return None
    return Motion(low, high, curve)


def terms(places: np.ndarray) -> np.ndarray:
    """u, w, u^2, u w and w^2 of places M 2 as u and w, their tangents outside of 0 to 1: M 5; see `Motion`.

    page/mover.js computes the same.
    """
    (u, w), (out_u, out_w) = places.T, (places - places.clip(0, 1)).T
    return np.stack([u, w, u**2 - out_u**2, u * w - out_u * out_w, w**2 - out_w**2], axis=1)


def moves_of(codes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Least squares of centroids M 2 on codes M D, per standard deviation of the codes: D 2."""
    if len(codes) < max(MIN_OBJECTS, 2 * codes.shape[1]):
        return np.zeros((codes.shape[1], 2))
    centred = codes - codes.mean(axis=0)
    slopes = np.linalg.lstsq(centred, places - places.mean(axis=0), rcond=None)[0]
    moved: np.ndarray = slopes * centred.std(axis=0)[:, None]
    return moved
