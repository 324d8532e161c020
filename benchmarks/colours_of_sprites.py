"""Why does a small GENESIS-S draw all sprites grey: its codes, or its masks?

    python benchmarks/colours_of_sprites.py [--model genesis-s] [--sprites 1] [--masks true] [--steps 2500]

Trains the network of `genesis-s/multi-dsprites-32` (or of `genesis/multi-dsprites-32`) on scenes of so many sprites,
two to five by default, with its own masks or with the true ones in their place: sprites from left to right, the
background last. Every 500 steps it prints for 256 other scenes the MSE, foreground ARI, and how much of the sprites'
colours is drawn: R^2 of the mean colour of a sprite's pixels, apart for lightness (mean of the channels) and hue (what
is left). One grey for all gets 0. On one CPU core 500 steps take half a minute with one sprite, one with two to five.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from emorl.data.base import Source
from emorl.data.multi_dsprites import MultiDSprites, MultiDSpritesConfig
from emorl.data.views import View, Viewed
from emorl.metrics.ari import foreground_ari
from emorl.models.base import TrainState, images_to_unit
from emorl.models.genesis import Genesis
from emorl.noise import ImageNoise, StepNoise
from emorl.presets import preset
from emorl.types import Batch

SIDE, TRAINING, TESTS = 32, range(8192), range(200_000, 200_256)
LEAST = 1e-4
"""Of a mask where its slot has nothing."""


class ToldMasks(Genesis):
    """Whose masks may be given."""

    told: Tensor | None = None

    def log_masks(self, zm: Tensor, batch_statistics: bool) -> Tensor:
        return super().log_masks(zm, batch_statistics) if self.told is None else self.told


def true_masks(labels: Tensor, num_slots: int) -> Tensor:
    """Labels B H W, 0 the background -> log masks B K 1 H W: sprites from left to right, no object, the background."""
    each = nn.functional.one_hot(labels, num_slots).permute(0, 3, 1, 2).float()  # B K H W
    area = each.sum(dim=(2, 3))
    column = (each.sum(dim=2) * torch.arange(float(SIDE))).sum(dim=-1) / area.clamp_min(1)
    column[area == 0] = SIDE
    column[:, 0] = SIDE + 1
    order = column.argsort(dim=1)
    return each.gather(1, order[:, :, None, None].expand_as(each)).clamp_min(LEAST).log()[:, :, None]


def colours(pictures: Tensor, labels: Tensor) -> Tensor:
    """Mean colour of every sprite of at least 8 pixels, in the order of scenes and labels: N 3."""
    found = []
    for picture, label in zip(pictures, labels, strict=True):
        for sprite in range(1, int(label.max()) + 1):
            if (label == sprite).sum() >= 8:
                found.append(picture[:, label == sprite].mean(dim=1))
    return torch.stack(found)


def explained(true: Tensor, drawn: Tensor) -> float:
    """R^2, over all columns together."""
    return float(1 - (true - drawn).square().sum() / (true - true.mean(dim=0)).square().sum())


def content(scenes: Batch) -> tuple[Tensor, Tensor]:
    """Images B 3 H W of 0..255 and labels B H W."""
    return torch.from_numpy(scenes.image).permute(0, 3, 1, 2), torch.from_numpy(np.asarray(scenes.mask)).long()


def report(model: ToldMasks, scenes: Batch, true: bool) -> str:
    images, labels = content(scenes)
    model.told = true_masks(labels, model.config.num_slots) if true else None
    found = model.infer(images, noise=ImageNoise(0, range(len(images))))
    x = images_to_unit(images, torch.float32)
    inside, drawn = colours(x, labels), colours(found.reconstruction, labels)
    light, drawn_light = inside.mean(dim=1, keepdim=True), drawn.mean(dim=1, keepdim=True)
    ari = float(np.nanmean(foreground_ari(np.asarray(scenes.mask), found.masks[:, :, 0].argmax(dim=1).numpy())))
    mse = float((found.reconstruction - x).square().mean())
    r2 = explained(light, drawn_light), explained(inside - light, drawn - drawn_light)
    return f"MSE {mse:.4f}  foreground ARI {ari:.3f}  lightness {r2[0]:.2f}  hue {r2[1]:.2f}"


def train(model: ToldMasks, source: Source, options: argparse.Namespace) -> None:
    config = preset(f"{options.model}/multi-dsprites-32")
    true = options.masks == "true"
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / config.warmup_steps))
    state = TrainState(kl_weight=torch.tensor(config.model.kl_weight))
    images, labels = content(source.read(np.array(TRAINING)))
    tests = source.read(np.array(TESTS))
    order = np.random.default_rng(options.seed)
    for step in range(options.steps + 1):
        if step % 500 == 0:
            print(f"{step:6}  {report(model, tests, true)}", flush=True)
        chosen = torch.from_numpy(order.integers(0, len(TRAINING), config.batch_size))
        model.told = true_masks(labels[chosen], model.config.num_slots) if true else None
        optimizer.zero_grad()
        (model.loss(images[chosen], state, noise=StepNoise(options.seed, step)).total / len(chosen)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        warmup.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="genesis-s", choices=("genesis", "genesis-s"))
    parser.add_argument("--sprites", type=int, choices=range(1, 6), help="in every scene; 2 to 5 by default")
    parser.add_argument("--masks", default="own", choices=("own", "true"))
    parser.add_argument("--initial-std", type=float, help="of the posteriors; about 1 by default")
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.initial_std is not None and not 0 < options.initial_std < math.inf:
        parser.error("--initial-std must be a positive number")
    count = options.sprites
    scenes = MultiDSprites(0, TESTS.stop, MultiDSpritesConfig(num_sprites=(count or 2, count or 5)))
    config = preset(f"{options.model}/multi-dsprites-32").model
    torch.manual_seed(options.seed)
    model = ToldMasks(replace(config, num_slots=(count or 5) + 1)).to(memory_format=torch.channels_last)
    if options.initial_std is not None:
        for head in (model.first_posterior, model.next_posterior):
            with torch.no_grad():
                head.bias.chunk(2)[1].fill_(math.log(math.expm1(options.initial_std)) - 0.5)  # shifted_softplus_std
    train(model, Viewed(scenes, View((SIDE, SIDE), "centre", "bicubic")), options)


if __name__ == "__main__":
    main()
