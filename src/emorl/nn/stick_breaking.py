"""Stick breaking: one slot after another takes a part of what is left of every pixel, the last one takes the rest.

With the scope s_0 = 1 and the part a_k = sigmoid(l_k), in logarithms:

    m_k = s_{k-1} a_k,   s_k = s_{k-1} (1 - a_k)   for k < K,   m_K = s_{K-1}

Burgess et al. 2019 (MONet), section 2.2. log(1 - a) is logsigmoid(-l): the logarithm of a difference would lose the
small parts. Axes: B images, K slots, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def break_off(log_scope: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    """One step: what is left and the logit of the part to take -> log mask and what is left then, shaped alike."""
    return log_scope + F.logsigmoid(logit), log_scope + F.logsigmoid(-logit)


def log_masks_of_logits(logits: Tensor) -> Tensor:
    """All steps at once: logits B K-1 1 H W -> log masks B K 1 H W, whose masks sum to one over K."""
    whole = logits.new_zeros(len(logits), 1, *logits.shape[2:])
    log_scopes = torch.cat([whole, F.logsigmoid(-logits).cumsum(dim=1)], dim=1)  # B K 1 H W: before each step
    return log_scopes + torch.cat([F.logsigmoid(logits), whole], dim=1)
