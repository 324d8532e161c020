"""Scenes as a PyTorch data set, what a model makes of them, its scores, and a picture.

    python examples/batches.py [--data tetrominoes] [--weights nano] [--out batches.png]

The scores are those of `emorl evaluate` with the same number of images; some seconds on a laptop.
"""

from __future__ import annotations

import argparse

import numpy as np
from torch.utils.data import DataLoader, Dataset

import emorl
from emorl.data.base import Source
from emorl.data.sources import open_source
from emorl.evaluation import infer, score_labels, summary
from emorl.figures import decomposition_sheet, save_figure
from emorl.models.base import InferOptions
from emorl.types import Batch


class Scenes(Dataset[Batch]):
    """A source of emorl, read a batch at a time: `image` B H W 3 (uint8), `mask` B H W, `factors`, `index`."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, positions: list[int]) -> Batch:
        return self.source.read(np.array(positions))


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
parser.add_argument("--data", default="tetrominoes")
parser.add_argument("--weights", default="nano")
parser.add_argument("--num-images", type=int, default=64)
parser.add_argument("--out", default="batches.png")
given = parser.parse_args()

model = emorl.load(given.weights)
scenes = Scenes(open_source(given.data, split="test"))
batches = []
for batch in DataLoader(scenes, batch_size=32, collate_fn=lambda batch: batch):  # also with shuffle and num_workers
    found = infer(model, batch, InferOptions(), seed=0)  # noise by an image's index, so in any order the same
    labels = found.masks[:, :, 0].argmax(dim=1).numpy()  # B H W: the slot that wins each pixel
    if not batches:
        save_figure(decomposition_sheet(batch.image, found, true_masks=batch.mask), given.out)
    batches.append(score_labels(batch.mask, labels))
    if sum(len(scores["ari"]) for scores in batches) >= given.num_images:
        break
for name, score in summary(batches).items():
    print(f"{name:22} {score['mean']:.4f} ± {score['std']:.4f}  ({score['num_images']} images)")
print(f"wrote {given.out}")
