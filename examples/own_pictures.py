"""Train on a folder of your own pictures, and see what the model makes of the first 16.

    python examples/own_pictures.py FOLDER [--steps 2000] [--run runs/own]

Without a folder it makes one: 200 pictures of coloured discs on grey. A few hundred steps show only how it goes; the
run can be continued with `emorl train --resume`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from emorl.data.base import Subset
from emorl.data.sources import open_source
from emorl.decompose import decompose
from emorl.models.base import InferOptions
from emorl.presets import preset
from emorl.runs import find_weights, load_weights
from emorl.train import train

SIZE = (32, 32)


def make_pictures(folder: Path, count: int = 200) -> None:
    """Discs of random colours and places."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        image = Image.new("RGB", (64, 64), "#606060")
        draw = ImageDraw.Draw(image)
        for _ in range(3):
            x, y, radius = rng.integers(10, 54), rng.integers(10, 54), rng.integers(6, 11)
            colour = tuple(rng.integers(0, 256, 3).tolist())
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        image.save(folder / f"{i:03d}.png")


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", nargs="?", type=Path)
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--run", type=Path, default=Path("runs/own"))
given = parser.parse_args()
folder = given.folder or given.run.parent / "own-pictures"
if not folder.exists():
    make_pictures(folder)

nano = preset("nano")
config = replace(
    nano,
    model=replace(nano.model, num_slots=4),
    data=str(folder),
    data_split="all",  # a folder has no splits
    num_images=len(open_source(str(folder), size=SIZE)),
    image_size=SIZE,  # the largest centred square of each picture, resized
    steps=given.steps,
    warmup_steps=min(nano.warmup_steps, given.steps // 4),
    validate_every=max(1, given.steps // 4),
)
train(given.run, config, progress=True)

model, _ = load_weights(find_weights(str(given.run)))
pictures = open_source(str(folder), size=SIZE)
pictures = Subset(pictures, 0, min(16, len(pictures)))
sheets = decompose(model, [pictures], given.run / "sheets", InferOptions(), seed=0)
print(f"{len(sheets)} sheets of {len(pictures)} pictures, the first one: {sheets[0]}")
