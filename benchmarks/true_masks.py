"""Why does a small GENESIS-v2 find nothing: its attention, or what it makes of masks?

    python benchmarks/true_masks.py [--steps 2500] [--masks own true] [--places no yes] [--seeds 0 1 2]

Trains `genesis-v2/nano` with its own attention or with the true masks in its place, with and without the row and column
of every pixel among the features that are pooled, and prints foreground ARI (by the decoder's masks) and MSE of 64
validation scenes for each seed. No GECO, a KL of weight 1e-5: GECO's lower bound, where runs of this length end up.
About two minutes for each seed on one CPU core.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from emorl.metrics.ari import foreground_ari
from emorl.models.base import TrainState, images_to_unit
from emorl.models.genesis_v2 import GenesisV2, InstanceColouring
from emorl.nn.grids import coordinates
from emorl.noise import ImageNoise, StepNoise
from emorl.presets import preset
from emorl.train import open_data
from emorl.types import Batch

LEAST = 1e-4
"""Of a mask where its slot has nothing."""


class GivenMasks(InstanceColouring):
    """Attention that is told the masks."""

    log_masks: Tensor

    def forward(self, features: Tensor, num_slots: int, uniform: Tensor) -> Tensor:
        return self.log_masks


class WithPlaces(nn.Module):
    """Features n C H W with row and column added to the first two."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.features(x)
        grid = coordinates(out.shape[-2], out.shape[-1], out)
        return torch.cat([out[:, :2] + grid, out[:, 2:]], dim=1)


def give(model: GenesisV2, scenes: Batch) -> Tensor:
    """Images B 3 H W of 0..255; the true masks go to the attention, if it takes them."""
    if isinstance(model.attention, GivenMasks):
        labels = torch.from_numpy(np.asarray(scenes.mask)).long()
        masks = nn.functional.one_hot(labels, model.config.num_slots).permute(0, 3, 1, 2)[:, :, None]
        model.attention.log_masks = masks.float().clamp_min(LEAST).log()
    return torch.from_numpy(scenes.image).permute(0, 3, 1, 2)


def trained(steps: int, true_masks: bool, places: bool, seed: int) -> tuple[float, float]:
    """Foreground ARI and MSE of 64 validation scenes."""
    config = preset("genesis-v2/nano")
    torch.manual_seed(seed)
    model = GenesisV2(replace(config.model, geco=None))
    if true_masks:
        c = model.config
        model.attention = GivenMasks(c.channels, c.kernel, c.num_slots)
    if places:
        model.features = WithPlaces(model.features)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / config.warmup_steps, 1, config.warmup_steps)
    state = TrainState(kl_weight=torch.tensor(1e-5))
    train, validation = open_data(config, "train"), open_data(config, "validation")
    for step in range(steps):
        images = give(model, train.read(np.arange(step * config.batch_size, (step + 1) * config.batch_size)))
        optimizer.zero_grad()
        (model.loss(images, state, noise=StepNoise(seed, step)).total / config.batch_size).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        warmup.step()
    scenes = validation.read(np.arange(64))
    images = give(model, scenes)
    found = model.infer(images, noise=ImageNoise(seed, range(64)))
    labels = found.decoder_masks[:, :, 0].argmax(dim=1).numpy()
    mse = (found.reconstruction - images_to_unit(images, torch.float32)).square().mean()
    return float(foreground_ari(np.asarray(scenes.mask), labels).mean()), float(mse)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--masks", nargs="+", default=["own", "true"], choices=("own", "true"))
    parser.add_argument("--places", nargs="+", default=["no", "yes"], choices=("no", "yes"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    for masks, places in itertools.product(given.masks, given.places):
        scores = [trained(given.steps, masks == "true", places == "yes", seed) for seed in given.seeds]
        print(f"masks: {masks:4}  places: {places:3}", end="  ")
        print("foreground ARI:", *(f"{ari:.3f}" for ari, _ in scores), end="  ")
        print("MSE:", *(f"{mse:.4f}" for _, mse in scores), flush=True)


if __name__ == "__main__":
    main()
