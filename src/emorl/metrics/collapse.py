"""Signs that a model has stopped telling objects apart, from its masks and its KL.

Ours; the paper only says that GECO mitigates posterior collapse (App. F.2). Axes: B images, K slots, H W pixels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

ONE_SLOT_SHARE = 0.99
UNIFORM_MARGIN = 1.2
KL_PER_SLOT = 0.1


def largest_share(masks: np.ndarray) -> np.ndarray:
    """Share of an image's pixels that its largest slot wins: B, in [1/K, 1]; masks B K H W."""
    winners = masks.argmax(axis=1)  # B H W
    shares = [(winners == slot).mean(axis=(1, 2)) for slot in range(masks.shape[1])]
    result: np.ndarray = np.max(shares, axis=0)
    return result


def sharpness(masks: np.ndarray) -> np.ndarray:
    """Mask of the winning slot, mean over pixels: B, in [1/K, 1]; 1/K where the slots do not compete at all."""
    result: np.ndarray = masks.max(axis=1).mean(axis=(1, 2))
    return result


Sign = Literal["shared", "one slot", "empty codes"]


def signs_of_collapse(masks: np.ndarray, kl: np.ndarray | None) -> dict[Sign, str]:
    """What is wrong with a batch, and what to try; empty where nothing is. masks B K H W, kl B in nats.

    Means over the batch count: the winning mask is below 1.2/K; one slot wins 99 % of the pixels; the KL is below
    0.1 nats per slot.
    """
    num_slots = masks.shape[1]
    if num_slots == 1 or not np.isfinite(masks).all():
        return {}
    found: dict[Sign, str] = {}
    share, sharp = float(largest_share(masks).mean()), float(sharpness(masks).mean())
    if sharp < UNIFORM_MARGIN / num_slots:
        found["shared"] = (
            f"all slots share every pixel (winning mask {sharp:.2f} of 1, 1/K is {1 / num_slots:.2f}): "
            f"try another seed{', a longer KL warm-up or a smaller sigma' if kl is not None else ' or more steps'}"
        )
    elif share > ONE_SLOT_SHARE:
        found["one slot"] = (
            f"one slot takes {100 * share:.1f} % of the pixels: "
            f"try another seed{', a longer KL warm-up or a larger sigma' if kl is not None else ' or more steps'}"
        )
    if kl is not None and float(kl.mean()) < KL_PER_SLOT * num_slots:
        found["empty codes"] = (
            f"the codes carry nothing (KL {float(kl.mean()):.2g} nats): try a smaller KL weight, a KL warm-up, GECO, "
            "or a smaller sigma"
        )
    return found
