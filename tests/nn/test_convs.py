"""A stack of convolutions is the nn.Sequential it looks like, and overwrites nothing it should not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from emorl.nn.convs import ConvStack

STACKS = {
    "elu": lambda: [nn.Conv2d(3, 5, 3), nn.ELU(), nn.Conv2d(5, 6, 3), nn.ELU(), nn.Conv2d(6, 4, 3)],
    "relu": lambda: [nn.Conv2d(3, 5, 5, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=2)],
    "ends with an activation": lambda: [nn.Conv2d(3, 5, 2, stride=2), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU()],
    "transposed": lambda: [
        nn.ConvTranspose2d(3, 5, 5, stride=2, padding=2, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(5, 4, 3, padding=1),
    ],
}


def pair(kind: str) -> tuple[ConvStack, nn.Sequential]:
    torch.manual_seed(0)
    layers = STACKS[kind]()
    return ConvStack(*layers).double(), nn.Sequential(*layers)


def picture() -> Tensor:
    return torch.randn(2, 3, 11, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def consumed_twice(y: Tensor) -> Tensor:
    """The gradient of y is one tensor that two branches share."""
    shared = y + y.detach().requires_grad_()
    return (shared.square().sum() + y.sin().sum()).sqrt()


@pytest.mark.parametrize("kind", STACKS)
def test_values_and_gradients_are_those_of_the_layers(kind: str) -> None:
    stack, plain = pair(kind)
    x = picture().requires_grad_()
    before = x.detach().clone()
    inputs = [x, *stack.parameters()]
    ours, theirs = stack(x), plain(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    found = torch.autograd.grad(consumed_twice(ours), inputs)
    expected = torch.autograd.grad(consumed_twice(theirs), inputs)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-12)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("kind", STACKS)
def test_without_gradients_the_values_are_the_same(kind: str) -> None:
    stack, plain = pair(kind)
    with torch.no_grad():
        torch.testing.assert_close(stack(picture()), plain(picture()), rtol=1e-12, atol=1e-13)


def test_the_gradient_of_a_shared_sum_is_left_alone() -> None:
    """An addition hands the same gradient to both its terms: the last activation must not overwrite it."""
    stack, plain = pair("ends with an activation")
    results = []
    for layers in (stack, plain):
        other = torch.zeros(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
        total = (layers(picture()) + other) * torch.arange(5.0, dtype=torch.float64)
        results.append(torch.autograd.grad(total.square().sum(), [other, *layers.parameters()]))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", STACKS)
def test_the_compute_type_is_that_of_the_convolutions_alone(kind: str) -> None:
    stack, _ = pair(kind)
    stack.float()
    exact = stack(picture().float())
    stack.compute_dtype = torch.bfloat16
    rough = stack(picture().float())
    rough.sum().backward()
    assert rough.dtype == torch.float32
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.dtype == p.dtype for p in stack.parameters())
    difference = (rough - exact).abs().max() / exact.abs().max()
    assert 1e-5 < difference < 2e-2


def test_an_activation_it_cannot_overwrite_is_refused() -> None:
    stack = ConvStack(nn.Conv2d(3, 3, 1), nn.GELU(), nn.Conv2d(3, 3, 1))
    with pytest.raises(TypeError, match="ELU"):
        stack(torch.zeros(1, 3, 2, 2))
