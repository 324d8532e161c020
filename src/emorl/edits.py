"""Pictures of scenes of which one slot's code is changed.

Where a model shows every slot by itself, the others are decoded once: with c_k and l_k the colours and mask logit of
the slot k that is changed, and the others' logits l_j,

    picture = w c_k + (1 - w) rest,    w = sigmoid(l_k - log sum_j exp l_j),    rest the mixture of the others alone

so that an edit costs the decode of one slot in place of K. Where masks depend on each other, scenes are decoded whole.

Axes: N scenes, K slots, D slot width, E edits of each scene, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from emorl.models.base import Model

AT_ONCE = 24
"""Scenes, or slots by themselves, that are decoded together."""


class Edits:
    """Scenes of codes N K D, in each of which one slot is to be changed: N numbers of slots, int64."""

    def __init__(self, model: Model, codes: Tensor, slot: Tensor, size: tuple[int, int]) -> None:
        self.model, self.codes, self.slot, self.size = model, codes, slot.to(codes.device), size
        self.rest = self._others()

    def __call__(self, edited: Tensor) -> tuple[Tensor, Tensor]:
        """Codes N E D of the slots that change -> pictures N E 3 H W, and the pixels that these slots win, N E H W."""
        scenes = torch.arange(len(edited), device=self.codes.device).repeat_interleave(edited.shape[1])
        draw = self._whole if self.rest is None else self._mixed
        pictures, won = _in_parts(lambda rows: draw(scenes[rows], edited.flatten(0, 1)[rows]), len(scenes))
        return pictures.view(*edited.shape[:2], *pictures.shape[1:]), won.view(*edited.shape[:2], *won.shape[1:])

    def set_dimension(self, dimension: int, values: np.ndarray) -> tuple[Tensor, Tensor]:
        """The same with one dimension of the slots' own codes set to each of E values."""
        own = self.codes[torch.arange(len(self.codes)), self.slot]  # N D
        edited = own[:, None].repeat(1, len(values), 1)
        edited[:, :, dimension] = torch.from_numpy(values).to(edited)
        return self(edited)

    def _whole(self, scenes: Tensor, edited: Tensor) -> tuple[Tensor, ...]:
        """Of scenes M, with one slot at M D: decoded with all their slots."""
        codes, slot = self.codes[scenes], self.slot[scenes]
        codes[torch.arange(len(codes)), slot] = edited
        decoding = self.model.decode(codes, self.size)
        return decoding.reconstruction, decoding.masks[:, :, 0].argmax(dim=1) == slot[:, None, None]

    def _mixed(self, scenes: Tensor, edited: Tensor) -> tuple[Tensor, ...]:
        """The same, of what the other slots make together."""
        assert self.rest is not None
        logits, colours = _shown(self.model, edited, self.size)
        total, mixture, best, first = (part[scenes] for part in self.rest)
        weight = (logits - total).sigmoid()
        ahead = self.slot[scenes, None, None, None] < first  # of equal ones the first wins
        won = (logits > best) | ((logits == best) & ahead)
        return weight * colours + (1 - weight) * mixture, won[:, 0]

    def _others(self) -> tuple[Tensor, ...] | None:
        """What the slots that stay make together: their logits' log sum of exponentials N 1 H W and mixture N 3 H W,
        the largest logit and its slot, N 1 H W each; None where slots do not show by themselves."""
        num_slots = self.codes.shape[1]
        with torch.no_grad():
            if self.model.decode_slots(self.codes[:1, 0], self.size) is None:
                return None

        def of(rows: slice) -> tuple[Tensor, ...]:
            parts = _shown(self.model, self.codes[rows].flatten(0, 1), self.size)
            logits, colours = (part.view(-1, num_slots, *part.shape[1:]) for part in parts)  # N K 1 H W, N K 3 H W
            own = torch.arange(num_slots, device=logits.device) == self.slot[rows, None]  # N K
            logits = logits.masked_fill(own[:, :, None, None, None], -math.inf)
            mixture = (logits.softmax(dim=1).nan_to_num() * colours).sum(dim=1)  # 0 where there are no others
            return logits.logsumexp(dim=1), mixture, *logits.max(dim=1)

        return _in_parts(of, len(self.codes), max(1, AT_ONCE // num_slots))


def _shown(model: Model, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    shown = model.decode_slots(slots, size)
    assert shown is not None
    return shown


def _in_parts(of: Callable[[slice], tuple[Tensor, ...]], count: int, at_once: int = AT_ONCE) -> tuple[Tensor, ...]:
    """What `of` gives of so many rows, a few at a time, without gradients."""
    with torch.no_grad():
        parts = [of(slice(start, start + at_once)) for start in range(0, count, at_once)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
