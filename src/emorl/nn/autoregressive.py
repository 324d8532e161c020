"""A prior over the codes of the slots of a scene, one after the other (GENESIS; Engelcke et al. 2020).

    p(z_1) = N(0, I);   p(z_k given z_1..z_{k-1}) = N(tanh(a_k), sigmoid(b_k + 4) + 1e-4),   (a_k, b_k) = W LSTM(z_<k)

The mean goes through the tanh in sampling too; the released GENESIS leaves it out there. Beside the prior, the KL to
such a prior: it depends on the sample of the slots before, so that only the KL of each slot given those is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emorl.types import Posterior


def bounded_gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (... D each) of a prior of the GENESIS family from a network's output ... 2D.

    The mean is in (-1, 1), the standard deviation in (1e-4, 1 + 1e-4) and 0.98 for an output of 0.
    """
    mean, std = raw.chunk(2, dim=-1)
    return mean.tanh(), (std + 4).sigmoid() + 1e-4


def sampled_kl(q: Posterior, p: Posterior, eps: Tensor) -> Tensor:
    """log q(z) - log p(z) for z = q.mean + q.std eps, shaped like eps: KL(q || p) estimated from one sample.

    (z - q.mean) / q.std is eps, and is not computed from z: that would lose all digits where q is narrow.
    """
    z = q.mean + q.std * eps
    return p.std.log() - q.std.log() + 0.5 * ((z - p.mean) / p.std).square() - 0.5 * eps.square()


def exact_kl(q: Posterior, p: Posterior) -> Tensor:
    """KL(q || p) of every dimension, shaped like the means: the mean of `sampled_kl` over eps."""
    return p.std.log() - q.std.log() + 0.5 * (q.std.square() + (q.mean - p.mean).square()) / p.std.square() - 0.5


class AutoregressivePrior(nn.Module):
    """The prior of K codes of width D, for any K."""

    def __init__(self, dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.recurrence = nn.LSTMCell(dim, hidden)
        self.out = nn.Linear(hidden, 2 * dim)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Codes B K D -> mean and standard deviation of every slot given those before it, B K D each."""
        means, stds = [torch.zeros_like(z[:, 0])], [torch.ones_like(z[:, 0])]
        state = None
        for before in z[:, :-1].unbind(1):  # B D
            state = self.recurrence(before, state)
            mean, std = bounded_gaussian(self.out(state[0]))  # B D
            means.append(mean)
            stds.append(std)
        return torch.stack(means, dim=1), torch.stack(stds, dim=1)

    def sample(self, eps: Tensor) -> Tensor:
        """Codes B K D drawn slot after slot from standard normal noise B K D."""
        draws = [eps[:, 0]]  # B D
        state = None
        for noise in eps[:, 1:].unbind(1):
            state = self.recurrence(draws[-1], state)
            mean, std = bounded_gaussian(self.out(state[0]))
            draws.append(mean + std * noise)
        return torch.stack(draws, dim=1)
