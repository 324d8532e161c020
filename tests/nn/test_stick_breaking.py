"""Stick breaking: both forms against sigmoids and products, and at logits where those fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from emorl.nn.stick_breaking import break_off, log_masks_of_logits

B, K, H, W = 2, 4, 3, 5
Form = Callable[[Tensor], Tensor]


def logits(scale: float = 1.0, slots: int = K - 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(B, slots, 1, H, W, generator=generator, dtype=torch.float64)


def sequential(parts: Tensor) -> Tensor:
    log_scope, found = torch.zeros(B, 1, H, W, dtype=torch.float64), []
    for logit in parts.unbind(dim=1):
        log_mask, log_scope = break_off(log_scope, logit)
        found.append(log_mask)
    return torch.stack([*found, log_scope], dim=1)


@pytest.mark.parametrize("form", [log_masks_of_logits, sequential])
def test_masks_are_the_parts_of_what_the_earlier_slots_left(form: Form) -> None:
    scope, expected = torch.ones(B, 1, H, W, dtype=torch.float64), []
    for logit in logits().unbind(dim=1):
        expected.append(scope * torch.sigmoid(logit))
        scope = scope * (1 - torch.sigmoid(logit))
    torch.testing.assert_close(form(logits()).exp(), torch.stack([*expected, scope], dim=1))


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("form", [log_masks_of_logits, sequential])
def test_masks_sum_to_one_and_their_logarithms_are_finite(form: Form, scale: float) -> None:
    log_masks = form(logits(scale))
    assert bool(log_masks.isfinite().all())
    torch.testing.assert_close(log_masks.exp().sum(dim=1), torch.ones(B, 1, H, W).double())


def test_small_parts_keep_their_logarithm_in_single_precision() -> None:
    """1 - sigmoid(l) would be zero from l = 17 on."""
    large = torch.full((1, 1, 1, 1, 1), 50.0)
    assert float(log_masks_of_logits(large)[0, 1]) == pytest.approx(-50)
    assert float(break_off(torch.zeros(1, 1, 1, 1), large[:, 0])[1]) == pytest.approx(-50)


def test_a_single_slot_takes_everything() -> None:
    assert torch.equal(log_masks_of_logits(logits(slots=0)), torch.zeros(B, 1, 1, H, W).double())
