"""How a model uses its slots: a part of the picture each, or layers that are blended, or one slot for several objects.

    python benchmarks/slot_use.py WEIGHTS... [--images 256]

For each shipped name or run folder, on the first test scenes of its own data: the MSE; the MSE of a picture in which
every pixel shows only the slot with the largest mask there, equal where slots are parts and far larger where they are
layers; the largest mask of a pixel, mean over the pixels of the background and of objects; and, over objects of at
least 8 pixels, how many have the slot that wins most of their pixels to themselves, share it with another object, or
with the background, whose slot is the one that wins most of its pixels, be they few. Masks are the decoder's, where a
model has others too.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from emorl.errors import InputError
from emorl.feed import feed
from emorl.models.base import images_to_unit
from emorl.noise import ImageNoise
from emorl.runs import find_weights, load_weights

LEAST = 8
"""Pixels of an object that counts."""
HOW = ("alone", "shared", "with the background")


def neighbours(slots: Tensor, labels: Tensor) -> Counter[str]:
    """How many objects of a scene, labels and slot numbers H W, are alone in their slot, with others, or behind."""
    of = {int(label): int(slots[labels == label].mode().values) for label in labels.unique()}
    objects = [label for label in of if label and (labels == label).sum() >= LEAST]
    found: Counter[str] = Counter()
    for label in objects:
        if of[label] == of.get(0):
            found[HOW[2]] += 1
        elif any(of[other] == of[label] for other in objects if other != label):
            found[HOW[1]] += 1
        else:
            found[HOW[0]] += 1
    return found


def told(name: str, count: int) -> str:
    """The line of a model, from so many scenes; raises InputError for bad weights or data without masks."""
    model, about = load_weights(find_weights(name))
    source = feed(about).source
    scenes = source.read(np.arange(min(count, len(source))))
    if scenes.mask is None:
        raise InputError(f"{about['data']} has no true masks")
    images, labels = torch.from_numpy(scenes.image).permute(0, 3, 1, 2), torch.from_numpy(np.asarray(scenes.mask))
    found = model.infer(images, noise=ImageNoise(0, range(len(images))))
    x = images_to_unit(images, torch.float32)
    masks = found.masks if found.decoder_masks is None else found.decoder_masks  # those that reconstruct
    largest, slots = masks[:, :, 0].max(dim=1)  # B H W
    index = slots[:, None, None].expand(-1, 1, 3, -1, -1)
    opaque = found.components.gather(1, index)[:, 0]  # B 3 H W
    counts = sum((neighbours(*scene) for scene in zip(slots, labels, strict=True)), Counter[str]())
    shares = ", ".join(f"{counts[how] / max(counts.total(), 1):.0%} {how}" for how in HOW)
    return (
        f"{name}: MSE {(found.reconstruction - x).square().mean():.4f}, with one slot per pixel "
        f"{(opaque - x).square().mean():.4f}; largest mask {largest[labels == 0].mean():.2f} in the background, "
        f"{largest[labels > 0].mean():.2f} in objects; of {counts.total()} objects {shares}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args()
    if options.images < 1:
        parser.error("--images must be at least 1")
    try:
        for name in options.weights:
            print(told(name, options.images), flush=True)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
