"""Likelihoods and Gaussian divergences, one value per image.

Axes: B images, K slots, D slot width, H W pixels. Everything is in nats and summed over what is not B.
Constants 0.5 log(2 pi) are left out throughout, as the reconstruction targets of GECO assume.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Likelihood = Literal["gaussian", "mixture"]


def std_from_raw(raw: Tensor) -> Tensor:
    """Standard deviation of an unconstrained output: sqrt(softplus(min(raw, 80)) + 1e-5).

    The paper (eq. 11) prints the 1e-5 inside the logarithm; the released code has it here.
    """
    return (F.softplus(raw.clamp(max=80.0)) + 1e-5).sqrt()


class Gaussian(NamedTuple):
    """A diagonal Gaussian as networks see it, lambda = (mean, raw); `raw` is the std before its map."""

    mean: Tensor
    raw: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation, shaped like the mean."""
        return std_from_raw(self.raw)

    def sample(self, eps: Tensor) -> Tensor:
        """Reparameterised draw from standard normal noise `eps`, shaped like the mean."""
        return self.mean + self.std * eps

    def cat(self) -> Tensor:
        """The two halves side by side, ... 2D."""
        return torch.cat([self.mean, self.raw], dim=-1)

    def moved(self, delta: Gaussian) -> Gaussian:
        """Add an update (d mean, d raw)."""
        return Gaussian(self.mean + delta.mean, self.raw + delta.raw)

    def leaf(self) -> Gaussian:
        """The same values cut off from their past, ready to be differentiated with respect to."""
        return Gaussian(self.mean.detach().requires_grad_(), self.raw.detach().requires_grad_())


def gaussian_kl(q: Gaussian, p: Gaussian | None) -> Tensor:
    """KL(q || p) per image (B), summed over slots and dimensions; p = None is the standard normal."""
    var_q = q.std.square()
    if p is None:
        kl = 0.5 * (var_q + q.mean.square() - 1 - var_q.log())
    else:
        var_p = p.std.square()
        kl = 0.5 * ((var_q + (q.mean - p.mean).square()) / var_p - 1 + var_p.log() - var_q.log())
    return kl.sum(dim=(1, 2))


def gaussian_nll(images: Tensor, log_masks: Tensor, components: Tensor, sigma: float) -> Tensor:
    """-log N(x; sum_k m_k y_k, sigma) per image (B): paper eq. 12.

    images B 3 H W in [0, 1], log_masks B K 1 H W, components B K 3 H W.
    """
    mean = (log_masks.exp() * components).sum(dim=1)
    squares = (images - mean).square().sum(dim=(1, 2, 3))
    return squares / (2 * sigma**2) + images[0].numel() * math.log(sigma)


def mixture_nll(images: Tensor, log_masks: Tensor, components: Tensor, sigma: float) -> Tensor:
    """-log sum_k m_k N(x; y_k, sigma), mixed in every channel by itself, per image (B): paper eq. 13."""
    log_normal = -(images.unsqueeze(1) - components).square() / (2 * sigma**2)  # B K 3 H W
    log_mixture = torch.logsumexp(log_masks + log_normal, dim=1)  # B 3 H W
    return images[0].numel() * math.log(sigma) - log_mixture.sum(dim=(1, 2, 3))


LIKELIHOODS = {"gaussian": gaussian_nll, "mixture": mixture_nll}
