"""Set attention (Slot Attention's, Locatello et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-8


class SetAttention(nn.Module):
    """Slots compete for image tokens: the softmax runs over slots, the mean over tokens."""

    def __init__(self, token_dim: int, slot_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(slot_dim, slot_dim, bias=False)
        self.key = nn.Linear(token_dim, slot_dim, bias=False)
        self.value = nn.Linear(token_dim, slot_dim, bias=False)
        self.scale = slot_dim**-0.5

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens B N C -> keys and values, B N D each; computed once for all layers."""
        return self.key(tokens), self.value(tokens)

    def forward(self, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Slots B K D (normalised by the caller) -> updates B K D and attention B K N, which sums to one over K."""
        query = self.query(slots) * self.scale  # B K D
        attention = torch.softmax(query @ keys.mT, dim=1) + EPSILON  # B K N
        weights = attention / attention.sum(dim=-1, keepdim=True)  # B K N
        return weights @ values, attention
