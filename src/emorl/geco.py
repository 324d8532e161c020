"""GECO (Rezende & Viola 2018) as a pure transition; App. F.2 of the EfficientMORL paper.

The KL is minimised subject to NLL <= target. With c = target - NLL, its moving average e and the multiplier
softplus(zeta), the loss is KL - softplus(zeta) (c + stopgrad(e - c)): its value uses e, its gradient goes through c.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

ZETA_MIN = 0.55
"""softplus(0.55) is about 1: the reconstruction never weighs less than in the plain ELBO."""


@dataclass(frozen=True)
class GecoConfig:
    """The constraint and how fast its multiplier moves."""

    target_per_element: float
    """Target of the NLL divided by 3HW, nats; negative. The paper's numbers are for whole images."""
    warmup_steps: int = 1000
    """Steps of plain ELBO before the constraint is used."""
    decay: float = 0.99
    """Of the moving average of the constraint."""
    rate: float = 1e-6
    """Of the multiplier."""
    acceleration: float = 1.0
    """Multiplies the rate while the constraint is met (5 in the released 128x128 runs)."""


@dataclass(frozen=True)
class GecoState:
    """What GECO carries from step to step, all scalars."""

    zeta: Tensor
    ema: Tensor
    """Moving average e of the constraint, nats."""


def phase(step: int, config: GecoConfig) -> int:
    """0 while the constraint is not used yet, 1 in the step that first uses it, 2 after."""
    return 0 if step < config.warmup_steps else 1 if step == config.warmup_steps else 2


def constrained_loss(state: GecoState, nll: Tensor, num_images: int) -> Tensor:
    """-softplus(zeta) (c + stopgrad(e - c)) summed over images; `nll` is the scalar sum of their NLL.

    The target is in neither the value, which is that of e, nor the gradient.
    """
    return F.softplus(state.zeta) * (nll - (nll + state.ema * num_images).detach())


def update(state: GecoState, constraint: Tensor, config: GecoConfig, step: int) -> GecoState:
    """The state after training step `step` (from 0), given the batch mean of c at its last refinement step.

    The first constrained step is number `warmup_steps`; it sets the average, later ones move average and zeta.
    """
    if phase(step, config) == 0:
        return state
    if phase(step, config) == 1:
        return replace(state, ema=constraint)
    ema = config.decay * state.ema + (1 - config.decay) * constraint
    rate = config.rate * (1 + (config.acceleration - 1) * (ema > 0).to(ema))
    return GecoState(ema=ema, zeta=(state.zeta - rate * ema).clamp(min=ZETA_MIN))
