"""Training images on the training device, as uint8.

A source that is quick is read at once. One whose images take long to make, such as CLEVR's renderer, is asked for an
image when a step first needs it: training begins at once, and after an epoch all are there. Where few take as long as
many, on a GPU, it is asked for others that are missing in the same call, and all are there after a few steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from emorl.data.base import Source, Subset, innermost, iterate, read_ahead
from emorl.data.progress import bar
from emorl.errors import InputError

_BATCH = 256


class Images:
    """The first `num` images of a source.

    Args:
        source: any, with at least so many images.
        num: N.
        device: where they are kept.

    Raises:
        InputError: the source has fewer, or images of several sizes.
    """

    def __init__(self, source: Source, num: int, device: torch.device) -> None:
        if len(source) < num:
            raise InputError(
                f"{source.name} has {len(source)} training images, num_images is {num}: give --num-images {len(source)}"
            )
        self.source = source
        self.missing = np.ones(num, bool)
        if source.size is None:  # pictures of their own sizes: read at once, the source says which one differs
            first = source.read(np.arange(num)).image
            self.tensor = torch.zeros(num, 3, *first.shape[1:3], dtype=torch.uint8, device=device)
            self._put(np.arange(num), first)
            return
        self.tensor = torch.zeros(num, 3, *source.size, dtype=torch.uint8, device=device)
        """N 3 H W, uint8; those that are missing are black."""
        if not made_on_demand(source):
            with bar(f"reading {source.name}", num) as advance:
                for batch in iterate(Subset(source, 0, num), _BATCH):
                    start = num - int(self.missing.sum())
                    self._put(np.arange(start, start + len(batch)), batch.image)
                    advance(len(batch))

    def fetch(self, positions: Tensor) -> None:
        """Makes sure that images are there: those at `positions` (any number, int64, on the host)."""
        wanted = np.unique(positions.numpy())
        wanted = wanted[self.missing[wanted]]
        if wanted.size:
            more = read_ahead(self.source) - len(wanted)
            if more > 0:
                others = np.setdiff1d(np.flatnonzero(self.missing), wanted, assume_unique=True)
                wanted = np.concatenate([wanted, others[:more]])
            self._put(wanted, self.source.read(wanted).image)

    def _put(self, positions: np.ndarray, images: np.ndarray) -> None:
        values = torch.from_numpy(images).permute(0, 3, 1, 2)
        self.tensor[torch.from_numpy(positions).to(self.tensor.device)] = values.to(self.tensor.device)
        self.missing[positions] = False


def made_on_demand(source: object) -> bool:
    """Does an image of the source, whatever part or view of it this is, take long to make?"""
    return bool(getattr(innermost(source), "slow", False))
