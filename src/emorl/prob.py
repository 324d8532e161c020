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


def gaussian_nll(
    images: Tensor, log_masks: Tensor, components: Tensor, sigma: float, inside: Tensor | None = None
) -> Tensor:
    """-log N(x; sum_k m_k y_k, sigma) per image (B): paper eq. 12.

    images B 3 H W in [0, 1], log_masks B K 1 H W, components B K 3 H W. Pixels may stand in any order; with `inside`
    (H W, 0 or 1) only those where it is 1 are counted.
    """
    mean = (log_masks.exp() * components).sum(dim=1)
    squares = sum_inside((images - mean).square(), inside)
    return squares / (2 * sigma**2) + _count(images, inside) * math.log(sigma)


def mixture_nll(
    images: Tensor, log_masks: Tensor, components: Tensor, sigma: float | Tensor, inside: Tensor | None = None
) -> Tensor:
    """-log sum_k m_k N(x; y_k, sigma), mixed in every channel by itself, per image (B): paper eq. 13.

    Arguments as `gaussian_nll`; `sigma` may also be a tensor K, one for each slot.
    """
    squares = (images.unsqueeze(1) - components).square()  # B K 3 H W
    if isinstance(sigma, Tensor):
        sigma = sigma.view(-1, 1, 1, 1)
        log_mixture = torch.logsumexp(log_masks - squares / (2 * sigma**2) - sigma.log(), dim=1)  # B 3 H W
        return -sum_inside(log_mixture, inside)
    log_mixture = torch.logsumexp(log_masks - squares / (2 * sigma**2), dim=1)  # B 3 H W
    return _count(images, inside) * math.log(sigma) - sum_inside(log_mixture, inside)


def sum_inside(values: Tensor, inside: Tensor | None) -> Tensor:
    """Values B 3 H W -> B: the sum over the pixels where `inside` (H W, 0 or 1) is 1; None for all."""
    return (values if inside is None else values * inside).sum(dim=(1, 2, 3))


def _count(images: Tensor, inside: Tensor | None) -> int | Tensor:
    """How many elements of an image count."""
    return images[0].numel() if inside is None else images.shape[1] * inside.sum()


LIKELIHOODS = {"gaussian": gaussian_nll, "mixture": mixture_nll}

Density = Literal["gaussian", "logistic"]
"""Of one colour value around that of a slot."""


def log_density(x: Tensor, mean: Tensor, scale: float, density: Density) -> Tensor:
    """log f(x; mean, scale) of every element; the Gaussian's without its 0.5 log(2 pi), the logistic's as it is."""
    u = (x - mean) / scale
    return (2 * F.logsigmoid(u) - u if density == "logistic" else -0.5 * u.square()) - math.log(scale)


def log_density_slope(x: Tensor, mean: Tensor, scale: float, density: Density) -> Tensor:
    """d log f / d mean of every element."""
    u = (x - mean) / scale
    return (torch.tanh(u / 2) if density == "logistic" else u) / scale


class PixelMixture(NamedTuple):
    """log sum_k m_k f_k(x) at every pixel, and what it is made of; C = 1, or 3 where channels are mixed apart."""

    log_masks: Tensor
    """B K 1 H W."""
    log_densities: Tensor
    """log f_k, B K C H W."""
    log_prob: Tensor
    """B 1 C H W."""

    def nll(self) -> Tensor:
        """-log p(x) per image (B)."""
        return -self.log_prob.sum(dim=(1, 2, 3, 4))

    def responsibilities(self) -> Tensor:
        """m_k f_k / sum_j m_j f_j, B K C H W: how far each slot explains what is seen; sums to one over K."""
        return (self.log_masks + self.log_densities - self.log_prob).exp()

    def gain(self) -> Tensor:
        """log p(x) - log p(x without slot k), B K C H W: the others' masks are scaled to sum to one.

        Zero where there is one slot.
        """
        if self.log_masks.shape[1] == 1:
            return torch.zeros_like(self.log_densities)
        joint = self.log_masks + self.log_densities
        return self.log_prob - _log_sum_of_others(joint) + _log_sum_of_others(self.log_masks)


def _log_sum_of_others(x: Tensor) -> Tensor:
    """log sum_{j != k} exp x_j for every k of axis 1, summed anew: a sum less its largest part is rounding alone."""
    rest = [torch.cat([x[:, :k], x[:, k + 1 :]], dim=1) for k in range(x.shape[1])]
    return torch.stack([torch.logsumexp(others, dim=1) for others in rest], dim=1)


def pixel_mixture(
    images: Tensor, log_masks: Tensor, components: Tensor, scale: float, density: Density, joint: bool = True
) -> PixelMixture:
    """A mixture over slots at every pixel, whose three channels all belong to one slot (Greff et al. 2019).

    images B 3 H W in [0, 1], log_masks B K 1 H W, components B K 3 H W. Without `joint` every channel is mixed by
    itself: with Gaussian densities that is `mixture_nll`.
    """
    log_densities = log_density(images.unsqueeze(1), components, scale, density)  # B K 3 H W
    if joint:
        log_densities = log_densities.sum(dim=2, keepdim=True)  # B K 1 H W
    log_prob = torch.logsumexp(log_masks + log_densities, dim=1, keepdim=True)
    return PixelMixture(log_masks, log_densities, log_prob)
