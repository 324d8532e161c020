"""Set attention: slots compete, tokens are a set."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from emorl.nn.attention import SetAttention, attend, num_parts

B, K, N, C, D = 2, 3, 7, 5, 4


@pytest.fixture
def attention() -> SetAttention:
    torch.manual_seed(0)
    return SetAttention(C, D).double()


@pytest.fixture
def slots() -> Tensor:
    return torch.randn(B, K, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(B, N, C, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3


def test_every_token_is_shared_among_the_slots(attention: SetAttention, slots: Tensor, tokens: Tensor) -> None:
    _, alpha = attention(slots, *attention.keys_values(tokens))
    assert alpha.shape == (B, K, N)
    assert float(alpha.detach().min()) > 0
    torch.testing.assert_close(alpha.sum(dim=1), torch.ones(B, N).double(), rtol=0, atol=1e-7)


def test_order_of_tokens_changes_nothing(attention: SetAttention, slots: Tensor, tokens: Tensor) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    update, alpha = attention(slots, *attention.keys_values(tokens))
    other_update, other_alpha = attention(slots, *attention.keys_values(tokens[:, order]))
    torch.testing.assert_close(other_update, update, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other_alpha, alpha[:, :, order], rtol=1e-12, atol=1e-14)


def test_order_of_slots_permutes_the_updates(attention: SetAttention, slots: Tensor, tokens: Tensor) -> None:
    order = torch.tensor([2, 0, 1])
    update, alpha = attention(slots, *attention.keys_values(tokens))
    other_update, other_alpha = attention(slots[:, order], *attention.keys_values(tokens))
    torch.testing.assert_close(other_update, update[:, order], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other_alpha, alpha[:, order], rtol=1e-12, atol=1e-14)


def test_it_is_the_formula_written_out(attention: SetAttention, slots: Tensor, tokens: Tensor) -> None:
    update, alpha = attention(slots, *attention.keys_values(tokens))
    w = {n: p.detach() for n, p in attention.named_parameters()}
    for b in range(B):
        weight = torch.zeros(K, N).double()
        for n in range(N):
            key = w["key.weight"] @ tokens[b, n]
            dots = [float(w["query.weight"] @ slots[b, k] @ key) / math.sqrt(D) for k in range(K)]
            for k in range(K):
                weight[k, n] = math.exp(dots[k]) / sum(map(math.exp, dots)) + 1e-8
        torch.testing.assert_close(alpha[b].detach(), weight, rtol=1e-12, atol=0)
        for k in range(K):
            mean = sum(weight[k, n] * (w["value.weight"] @ tokens[b, n]) for n in range(N)) / weight[k].sum()
            torch.testing.assert_close(update[b, k].detach(), mean, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("tokens", "parts"), [(4096, 32), (9216, 72), (1225, 7), (251, 1), (257, 1), (1, 1)])
def test_parts_are_equal_and_not_small(tokens: int, parts: int) -> None:
    assert num_parts(tokens) == parts


@pytest.mark.parametrize("parts", [2, 5, 30])
def test_tokens_in_parts_are_the_same(parts: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(B, n, D, dtype=torch.float64).requires_grad_() for n in (K, 30, 30)]
    found = []
    for count in (1, parts):
        update, alpha = attend(*inputs, count)
        weights = torch.linspace(-1, 1, alpha.numel(), dtype=torch.float64).view(B, K, 30)
        found.append([update, alpha, *torch.autograd.grad(update.sin().sum() + (alpha * weights).sum(), inputs)])
    for whole, divided in zip(*found, strict=True):
        torch.testing.assert_close(divided, whole, rtol=1e-10, atol=1e-12)


def test_a_single_slot_gets_the_mean_of_all_values(attention: SetAttention, slots: Tensor, tokens: Tensor) -> None:
    keys, values = attention.keys_values(tokens)
    update, _ = attention(slots[:, :1], keys, values)
    torch.testing.assert_close(update, values.mean(dim=1, keepdim=True), rtol=1e-12, atol=1e-14)


def test_a_slot_that_wins_nothing_still_gets_an_update(attention: SetAttention, tokens: Tensor) -> None:
    """The added 1e-8 keeps the mean over tokens defined where the softmax underflows."""
    keys = torch.ones(B, N, D)
    slots = torch.stack([torch.full((B, D), 1e3), torch.full((B, D), -1e3)], dim=1)
    with torch.no_grad():
        attention.query.weight.copy_(torch.eye(D))
        update, _ = attention.float()(slots, keys, tokens[..., :D].float())
    torch.testing.assert_close(update[:, 1], tokens[..., :D].float().mean(dim=1))
