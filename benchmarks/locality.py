"""Does changing one slot leave the rest of the picture alone? (EfficientMORL paper, App. B, as a number.)

    python benchmarks/locality.py WEIGHTS... [--images 64] [--json FILE]

For every image one slot that wins some pixels is drawn. Each number of its code in turn is set to 6 values over the
range that it has over the data (posterior means), the picture is decoded anew, and the share of the squared change that
falls outside the slot's own pixels is taken. Numbers that change less than a hundredth of what the most active one
changes are left out; the mean over the others, weighted by how much they change, is printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emorl.data.protocols import Split
from emorl.data.sources import open_source
from emorl.evaluation import to_tensor
from emorl.metrics.locality import leak
from emorl.models.base import InferOptions, Model
from emorl.noise import ImageNoise
from emorl.runs import find_weights, load_weights

VALUES = 6
FAINT = 0.01


def measure(model: Model, images: np.ndarray, index: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Leak of a model on images N H W 3, uint8."""
    size = images.shape[1], images.shape[2]
    with torch.no_grad():
        found = model.infer(to_tensor(images), InferOptions(sample=False), noise=ImageNoise(seed, index))
        codes = found.slots  # N K D
        low, high = codes.flatten(0, 1).amin(dim=0), codes.flatten(0, 1).amax(dim=0)  # D
        decoding = model.decode(codes, size)
        winner = decoding.masks[:, :, 0].argmax(dim=1)  # N H W
        rng = np.random.default_rng(seed)
        slot = torch.tensor([int(rng.choice(np.unique(picture))) for picture in winner.numpy()])  # N
        rows = torch.arange(len(codes))
        before = decoding.reconstruction.permute(0, 2, 3, 1).numpy()  # N H W 3
        own = (winner == slot[:, None, None]).numpy()  # N H W
        leaks, changes = [], []
        for d in range(codes.shape[-1]):
            after, own_after = [], []
            for step in range(VALUES):
                edited = codes.clone()
                edited[rows, slot, d] = low[d] + (high[d] - low[d]) * step / (VALUES - 1)
                new = model.decode(edited, size)
                after.append(new.reconstruction.permute(0, 2, 3, 1).numpy())
                own_after.append((new.masks[:, :, 0].argmax(dim=1) == slot[:, None, None]).numpy())
            pictures = np.stack(after, axis=1)  # N S H W 3
            leaks.append(leak(before, pictures, own, np.stack(own_after, axis=1)))
            changes.append(np.square(pictures - before[:, None]).mean(axis=(1, 2, 3, 4)))
    share, change = np.stack(leaks, axis=1), np.stack(changes, axis=1)  # N D
    active = change.mean(axis=0) > FAINT * change.mean(axis=0).max()  # D
    weights = np.where(np.isnan(share), 0, change)[:, active]
    return {
        "leak": float((np.nan_to_num(share[:, active]) * weights).sum() / weights.sum()),
        "active_numbers": int(active.sum()),
        "mean_squared_change": float(change[:, active].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in given.weights:
        model, about = load_weights(find_weights(name))
        split: Split = "test"
        source = open_source(
            about["data"],
            split=split,
            size=tuple(about["image_size"]),
            fit=about.get("fit", "crop"),
            protocol=about.get("protocol"),
            subset=about.get("subset"),
        )
        scenes = source.read(np.arange(given.images))
        rows.append({"weights": name, "data": about["data"], **measure(model, scenes.image, scenes.index)})
        print(json.dumps(rows[-1]))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
