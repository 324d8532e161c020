"""GECO (Rezende & Viola 2018) as a pure transition.

The KL is minimised subject to NLL <= target; c = target - NLL, and e is the moving average of its batch mean.

In EfficientMORL (App. F.2 of its paper) the multiplier softplus(zeta) is on the constraint: the loss is
KL - softplus(zeta) (c + stopgrad(e - c)). Its value uses e, its gradient goes through c. The target is a number, which
has to be found for every data set, or, ours, follows a quantile of the NLL of single images. Such a constraint is met
while the NLL falls, since the target lags behind. After that c stays at quantile - mean, below 0 for the median of a
law with a tail of badly drawn images, and zeta grows by rate x (mean - quantile) a step: faster for a lower quantile,
and not at all for one above the mean, which leaves the plain ELBO.

In the GENESIS family (Engelcke et al. 2020) the multiplier exp(zeta) is on the KL: the loss is NLL + exp(zeta) KL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from emorl import checks
from emorl.errors import InputError

ZETA_MIN = 0.55
"""softplus(0.55) is about 1: the reconstruction never weighs less than in the plain ELBO."""


@dataclass(frozen=True)
class GecoConfig:
    """The constraint and how fast its multiplier moves."""

    target_per_element: float | None = None
    """Target of the NLL divided by 3HW, nats; negative. The paper's numbers are for whole images. None for one that
    follows a quantile."""
    quantile: float | None = None
    """Share of images, between 0 and 1, whose NLL is at most a target that follows; None for a fixed one."""
    warmup_steps: int = 1000
    """Steps of plain ELBO before the constraint is used."""
    decay: float = 0.99
    """Of the moving averages; 1 - decay is also the step of a target that follows, in units of the spread."""
    rate: float = 1e-6
    """Of the multiplier."""
    acceleration: float = 1.0
    """Multiplies the rate while the constraint is met (5 in the released 128x128 runs)."""

    def __post_init__(self) -> None:
        if (self.target_per_element is None) == (self.quantile is None):
            raise InputError("GECO needs either target_per_element or quantile, and the other one None")
        if self.target_per_element is not None and not math.isfinite(self.target_per_element):
            raise InputError(f"target_per_element must be a finite number, got {self.target_per_element}")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise InputError(f"quantile must be between 0 and 1, got {self.quantile}")
        checks.at_least(0, self, "warmup_steps")
        _check_rates(self)


@dataclass(frozen=True)
class KLGecoConfig:
    """The constraint of the GENESIS family: the multiplier exp(zeta) is on the KL."""

    target_per_element: float = 0.5655
    """Target of the NLL divided by 3HW, nats, with the constant 0.5 log(2 pi) per element: that of the released code
    for a standard deviation of 0.7."""
    decay: float = 0.99
    """Of the moving average of the constraint."""
    rate: float = 1e-5
    """Of zeta per nat, for images of 64x64; for others multiplied by 64^2 / HW."""
    acceleration: float = 10.0
    """Multiplies the rate while the constraint is met."""
    zeta_limits: tuple[float, float] = (math.log(1e-5), math.log(1e3))
    """exp(zeta) stays in [1e-5, 1e3], as in object-centric-library; the released code lets it go to 1e-10 and 1e10."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.target_per_element):
            raise InputError(f"target_per_element must be a finite number, got {self.target_per_element}")
        low, high = self.zeta_limits
        if not low <= high:
            raise InputError(f"zeta_limits must be a lower and an upper bound, got {self.zeta_limits}")
        _check_rates(self)


def _check_rates(config: GecoConfig | KLGecoConfig) -> None:
    if not 0 <= config.decay < 1:
        raise InputError(f"decay must be at least 0 and below 1, got {config.decay}")
    checks.not_negative(config, "rate", "acceleration")


@dataclass(frozen=True)
class GecoState:
    """What GECO carries from step to step, all scalars."""

    zeta: Tensor
    """The multiplier is softplus(zeta), in the GENESIS family exp(zeta)."""
    ema: Tensor
    """Moving average e of the constraint, nats."""
    target: Tensor | None = None
    """Of the NLL of an image, nats, where it follows a quantile; else None."""
    spread: Tensor | None = None
    """Moving average of the distance between target and NLL, nats, the unit of the target's steps."""

    def tensors(self) -> dict[str, Tensor]:
        """All that is there, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


def phase(step: int, config: GecoConfig) -> int:
    """0 while the constraint is not used yet, 1 in the step that first uses it, 2 after."""
    return 0 if step < config.warmup_steps else 1 if step == config.warmup_steps else 2


def constrained_loss(state: GecoState, nll: Tensor, num_images: int) -> Tensor:
    """-softplus(zeta) (c + stopgrad(e - c)) summed over images; `nll` is the scalar sum of their NLL.

    The target is in neither the value, which is that of e, nor the gradient.
    """
    return F.softplus(state.zeta) * (nll - (nll + state.ema * num_images).detach())


def image_terms(state: GecoState | None, nll: Tensor, config: GecoConfig, num_elements: int) -> dict[str, Tensor]:
    """What `update` and `follow` need to know of every image, with the shape of `nll`: `constraint`, target - NLL.

    Where the target follows a quantile also `below`, 1 where the NLL is at most the target, and `distance`, the
    constraint's absolute value.
    """
    if config.target_per_element is not None:
        return {"constraint": config.target_per_element * num_elements - nll}
    assert state is not None and state.target is not None
    constraint = state.target - nll
    return {"constraint": constraint, "below": (constraint >= 0).to(nll), "distance": constraint.abs()}


def initial(like: Tensor, config: GecoConfig) -> GecoState:
    """The state before the first step, with the dtype and device of a scalar."""
    state = GecoState(zeta=torch.full_like(like, ZETA_MIN), ema=torch.zeros_like(like))
    if config.target_per_element is not None:
        return state
    return replace(state, target=torch.zeros_like(like), spread=torch.zeros_like(like))


def follow(state: GecoState, means: Mapping[str, Tensor], config: GecoConfig) -> GecoState:
    """Move a target that follows a quantile, from the first step on, by the batch means of `image_terms`.

    Stochastic approximation: up where less than `quantile` of the images are below, in units of the spread, both from 0
    on. From far above it takes about 1 / (1 - decay) / (1 - quantile) steps to come nearer by e, from far below
    1 / (1 - decay) / quantile.
    """
    if config.quantile is None:
        return state
    assert state.target is not None and state.spread is not None
    spread = config.decay * state.spread + (1 - config.decay) * means["distance"]
    target = state.target + (1 - config.decay) * spread * (config.quantile - means["below"])
    return replace(state, target=target, spread=spread)


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
    return replace(state, ema=ema, zeta=(state.zeta - rate * ema).clamp(min=ZETA_MIN))


def update_kl(state: GecoState, constraint: Tensor, config: KLGecoConfig, step: int, num_pixels: int) -> GecoState:
    """The GENESIS family's state after training step `step` (from 0), given the batch mean of c.

    The first step sets the average; every step then moves zeta by it: down, for a better reconstruction, while the
    constraint is not met.
    """
    ema = constraint if step == 0 else config.decay * state.ema + (1 - config.decay) * constraint
    rate = config.rate * 64**2 / num_pixels * (1 + (config.acceleration - 1) * (ema > 0).to(ema))
    return GecoState(ema=ema, zeta=(state.zeta + rate * ema).clamp(*config.zeta_limits))
