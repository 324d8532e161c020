"""How much of a mixture likelihood is had by K fixed colours, without looking at the image?

    python benchmarks/static_mixture.py [--data tetrominoes] [--num-slots 4] [--sigma 0.1 0.3 0.7] [--joint]

Fits K colours and K weights, the same for every pixel of every image, to the pixels of 512 training scenes, and prints
the NLL per pixel and channel of that, of one fixed colour and of a perfect reconstruction. What the fixed colours gain
over one is a local optimum in which a model can stay without inferring anything: see docs/training.md.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from emorl.data.sources import open_source

STARTS, STEPS, PIXELS = 3, 200, 20_000


def fixed_colours(pixels: Tensor, num_colours: int, sigma: float, joint: bool) -> float:
    """Lowest NLL per pixel and channel of fixed colours on pixels N 3 in [0, 1], by descent from three starts."""
    found = []
    for start in range(STARTS):
        generator = torch.Generator().manual_seed(start)
        colours = torch.rand(num_colours, 3, generator=generator).logit().requires_grad_()
        logits = torch.zeros(num_colours, 1, requires_grad=True)
        optimizer = torch.optim.Adam([colours, logits], lr=0.1)
        for _ in range(STEPS):
            x = pixels[torch.randint(len(pixels), (PIXELS,), generator=generator), None]
            optimizer.zero_grad()
            nll(x, colours, logits, sigma, joint).backward()
            optimizer.step()
        with torch.no_grad():
            found.append(float(nll(pixels[:, None], colours, logits, sigma, joint)))
    return min(found)


def nll(x: Tensor, colours: Tensor, logits: Tensor, sigma: float, joint: bool) -> Tensor:
    """Mean over channels; joint: a pixel has one colour (IODINE), else every channel has its own (all others)."""
    log_normal = -0.5 * ((x - colours.sigmoid()) / sigma).square() - math.log(sigma)  # N K 3
    if joint:
        log_normal = log_normal.sum(dim=2, keepdim=True)
    return -(logits.log_softmax(dim=0) + log_normal).logsumexp(dim=1).sum(dim=1).mean() / 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="tetrominoes")
    parser.add_argument("--num-slots", type=int, default=4)
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.1, 0.15, 0.3, 0.7])
    parser.add_argument("--joint", action="store_true")
    given = parser.parse_args()
    images = open_source(given.data, split="train").read(np.arange(512)).image
    pixels = torch.from_numpy(images.reshape(-1, 3)).float() / 255
    table = Table(box=None)
    for column in ("sigma", "one colour", f"{given.num_slots} colours", "perfect", "gained without looking"):
        table.add_column(column, justify="right")
    for sigma in given.sigma:
        one, fixed = (fixed_colours(pixels, count, sigma, given.joint) for count in (1, given.num_slots))
        perfect = math.log(sigma)
        share = (one - fixed) / (one - perfect)
        table.add_row(f"{sigma}", f"{one:.3f}", f"{fixed:.3f}", f"{perfect:.3f}", f"{100 * share:.0f} %")
    Console().print(table)


if __name__ == "__main__":
    main()
