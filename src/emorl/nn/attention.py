"""Set attention (Slot Attention's, Locatello et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-8
_PART = 128  # tokens at least


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
        return attend(query, keys, values, num_parts(keys.shape[1]) if keys.is_cuda else 1)


def attend(query: Tensor, keys: Tensor, values: Tensor, parts: int = 1) -> tuple[Tensor, Tensor]:
    """Scaled queries B K D, keys and values B N D -> updates B K D and attention B K N; N in so many equal parts."""
    keys, values = (x.view(len(x), parts, x.shape[1] // parts, x.shape[2]) for x in (keys, values))  # B P N/P D
    attention = torch.softmax(query.unsqueeze(1) @ keys.mT, dim=2) + EPSILON  # B P K N/P
    weights = attention / attention.sum(dim=(1, 3), keepdim=True)  # B P K N/P
    return (weights @ values).sum(dim=1), attention.transpose(1, 2).flatten(2)


def num_parts(num_tokens: int) -> int:
    """Into how many equal parts tokens are best divided on a GPU.

    There a product of K x N and N x D matrices, K few and N thousands, takes one multiprocessor an image: many such
    products of parts and their sum are four times as fast.
    """
    return max(parts for parts in range(1, max(1, num_tokens // _PART) + 1) if num_tokens % parts == 0)
