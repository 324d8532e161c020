"""Take a scene apart, move one object, take another away, and look.

    python examples/edit_a_scene.py [--out edited.png]

Uses the shipped nano weights and a generated scene of Tetrominoes; about ten seconds on a laptop.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from PIL import Image

import emorl
from emorl.data.sources import open_source
from emorl.models.base import InferOptions


def picture(tensor: torch.Tensor) -> np.ndarray:
    """3 H W in [0, 1] -> H W 3, uint8, enlarged."""
    image = (tensor.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    return image.repeat(6, axis=0).repeat(6, axis=1)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", default="edited.png")
out = parser.parse_args().out

model = emorl.load("nano")
scene = open_source("tetrominoes", split="test").read(np.array([1])).image  # 1 35 35 3, uint8
images = torch.from_numpy(scene).permute(0, 3, 1, 2)

# Codes of the objects: one row per slot. Means rather than samples, so that the picture is the best guess.
found = model.infer(images, InferOptions(sample=False), noise=0)
slots = found.slots  # 1 K D
pixels = torch.bincount(found.masks[0, :, 0].argmax(dim=0).flatten(), minlength=slots.shape[1])
visible = (found.masks * found.components).amax(dim=(2, 3, 4))[0]  # brightest pixel of each slot
objects = [k for k in pixels.argsort(descending=True).tolist() if visible[k] > 0.5]
print(f"slots that show an object: {objects}")

# Which dimension of the code moves the first object most, and which way?
first, second = objects[:2]
moved = slots.clone()
best, farthest = slots, 0.0
for d in range(slots.shape[2]):
    trial = slots.clone()
    trial[0, first, d] += 1.0
    change = (model.decode(trial, (35, 35)).reconstruction - found.reconstruction).square().sum().item()
    if change > farthest:
        best, farthest, which = trial, change, d
print(f"dimension {which} of slot {first}'s code changes the picture most")

without = torch.cat([slots[:, :second], slots[:, second + 1 :]], dim=1)  # any number of slots can be decoded
pictures = [
    images[0] / 255,
    found.reconstruction[0],
    model.decode(best, (35, 35)).reconstruction[0],
    model.decode(without, (35, 35)).reconstruction[0],
]
Image.fromarray(np.concatenate([picture(p) for p in pictures], axis=1)).save(out)
print(f"image, reconstruction, slot {first} changed, slot {second} taken away: {out}")
