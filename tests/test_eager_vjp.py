"""Decoding and differentiating at once gives what autograd gives, and keeps nothing else."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emorl.eager_vjp import decode_and_differentiate, decode_only, recomputed

B, K, D = 3, 2, 4


class Toy(nn.Module):
    """A decoder whose NLL per image is a smooth function of everything."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(D, 7, dtype=torch.float64)
        self.last = nn.Linear(7, 3, dtype=torch.float64)
        self.hidden: weakref.ref[Tensor] | None = None

    def forward(self, z: Tensor, rows: slice = slice(None)) -> tuple[Tensor, tuple[Tensor, ...]]:
        hidden = torch.tanh(self.first(z))
        self.hidden = weakref.ref(hidden)
        out = self.last(hidden).square()
        return out.sum(dim=(1, 2)), (out.detach(),)


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def z() -> Tensor:
    return torch.randn(B, K, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def grads_of(loss: Callable[[Tensor], Tensor], toy: Toy, z: Tensor) -> list[Tensor | None]:
    """Gradients of a loss made of total, with respect to z and each parameter."""
    eager = decode_and_differentiate(toy, z, list(toy.parameters()))
    loss(eager.total).backward()
    found = [z.grad, *(p.grad for p in toy.parameters())]
    for x in (z, *toy.parameters()):
        x.grad = None
    return found


def test_values_are_the_decoders(toy: Toy, z: Tensor) -> None:
    nll, extra = toy(z)
    eager = decode_and_differentiate(toy, z, list(toy.parameters()))
    assert torch.equal(eager.per_image, nll)
    assert torch.equal(eager.total, nll.sum())
    assert torch.equal(eager.extra[0], extra[0])
    assert eager.total.shape == ()
    assert not eager.per_image.requires_grad
    assert not eager.grad_z.requires_grad


def test_gradients_equal_autograd(toy: Toy, z: Tensor) -> None:
    expected = torch.autograd.grad(toy(z)[0].sum(), [z, *toy.parameters()])
    eager = decode_and_differentiate(toy, z, list(toy.parameters()))
    torch.testing.assert_close(eager.grad_z, expected[0], rtol=1e-14, atol=0)
    ours = grads_of(lambda total: total, toy, z)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=0)


def test_what_comes_before_and_after_is_differentiated_as_usual(toy: Toy, z: Tensor) -> None:
    """A code made from something else, and a loss that bends the total."""
    scale = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)

    def whole(total_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        loss = torch.sin(total_of(torch.exp(scale * z) - 1)) * 3 + scale
        return torch.autograd.grad(loss, [scale, z, *toy.parameters()])

    ours = whole(lambda code: decode_and_differentiate(toy, code, list(toy.parameters())).total)
    expected = whole(lambda code: toy(code)[0].sum())
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("factor", [2.5, -1.0, 0.0])
def test_a_scalar_weight_scales_every_gradient(toy: Toy, z: Tensor, factor: float) -> None:
    once = grads_of(lambda total: total, toy, z)
    scaled = grads_of(lambda total: factor * total, toy, z)
    for mine, theirs in zip(scaled, once, strict=True):
        assert theirs is not None
        torch.testing.assert_close(mine, factor * theirs, rtol=1e-14, atol=0)


def test_gradients_of_several_decodes_add_up(toy: Toy, z: Tensor) -> None:
    parameters = list(toy.parameters())
    losses = [decode_and_differentiate(toy, z * s, parameters).total * s for s in (1.0, 2.0)]
    ours = torch.autograd.grad(losses[0] + losses[1], [z, *parameters])
    expected = torch.autograd.grad(toy(z)[0].sum() + 2 * toy(z * 2.0)[0].sum(), [z, *parameters])
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_the_stored_gradients_serve_one_backward(toy: Toy, z: Tensor) -> None:
    total = decode_and_differentiate(toy, z, list(toy.parameters())).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward runs only once"):
        total.backward()


def test_frozen_parameters_get_no_gradient_and_the_others_keep_theirs(toy: Toy, z: Tensor) -> None:
    expected = grads_of(lambda total: total, toy, z)
    toy.first.weight.requires_grad_(False)
    toy.last.bias.requires_grad_(False)
    ours = grads_of(lambda total: total, toy, z)
    names = ["z", *(n for n, _ in toy.named_parameters())]
    for name, mine, theirs in zip(names, ours, expected, strict=True):
        if name in ("first.weight", "last.bias"):
            assert mine is None
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=0)


def test_all_parameters_frozen_still_gives_the_gradient_of_the_code(toy: Toy, z: Tensor) -> None:
    (expected,) = torch.autograd.grad(toy(z)[0].sum(), z)
    toy.requires_grad_(False)
    eager = decode_and_differentiate(toy, z.detach(), list(toy.parameters()))
    torch.testing.assert_close(eager.grad_z, expected, rtol=1e-14, atol=0)
    assert not eager.total.requires_grad


def test_a_caller_without_gradients_gets_values_and_the_stored_gradient(toy: Toy, z: Tensor) -> None:
    expected = decode_and_differentiate(toy, z, list(toy.parameters()))
    with torch.no_grad():
        eager = decode_and_differentiate(toy, z, list(toy.parameters()))
    assert torch.equal(eager.total, expected.total)
    assert torch.equal(eager.grad_z, expected.grad_z)
    assert not eager.total.requires_grad


def test_activations_are_freed_before_backward(toy: Toy, z: Tensor) -> None:
    gc.disable()  # reference counts alone must do it: the collector runs too late for the next decode
    try:
        eager = decode_and_differentiate(toy, z, list(toy.parameters()))
        assert toy.hidden is not None
        assert toy.hidden() is None
        assert toy(z)[0].requires_grad
    finally:
        gc.enable()
    eager.total.backward()
    assert z.grad is not None


def test_gradients_are_freed_by_backward(toy: Toy, z: Tensor) -> None:
    """A total that is kept for the log keeps no decoder gradients."""
    stored: list[weakref.ref[Any]] = []

    def decode(code: Tensor, rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        nll, _ = toy(code)
        toy.first.weight.register_hook(lambda g: stored.append(weakref.ref(g)))
        return nll, ()

    total = decode_and_differentiate(decode, z, list(toy.parameters())).total
    assert stored and stored[0]() is not None
    total.backward(retain_graph=True)
    toy.zero_grad()
    assert stored[0]() is None


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_a_few_images_at_a_time_give_the_same(toy: Toy, z: Tensor, chunk: int) -> None:
    whole = decode_and_differentiate(toy, z, list(toy.parameters()))
    seen: list[slice] = []

    def decode(code: Tensor, rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        seen.append(rows)
        assert torch.equal(code, z[rows])
        return toy(code)

    parts = decode_and_differentiate(decode, z, list(toy.parameters()), chunk)
    assert [len(range(*rows.indices(B))) for rows in seen] == {1: [1, 1, 1], 2: [2, 1]}.get(chunk, [3])
    torch.testing.assert_close(parts.per_image, whole.per_image, rtol=1e-14, atol=0)
    torch.testing.assert_close(parts.grad_z, whole.grad_z, rtol=1e-14, atol=0)
    torch.testing.assert_close(parts.extra[0], whole.extra[0], rtol=1e-14, atol=0)
    ours = torch.autograd.grad(parts.total, [z, *toy.parameters()])
    for mine, theirs in zip(ours, torch.autograd.grad(whole.total, [z, *toy.parameters()]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("chunk", [None, 2])
def test_decoding_alone_gives_the_same_values(toy: Toy, z: Tensor, chunk: int | None) -> None:
    expected = decode_and_differentiate(toy, z, list(toy.parameters()), chunk)
    alone = decode_only(toy, z, chunk)
    assert torch.equal(alone.per_image, expected.per_image) and torch.equal(alone.total, expected.total)
    assert torch.equal(alone.extra[0], expected.extra[0])
    assert not alone.total.requires_grad and not alone.grad_z.any()


# ------------------------------------------------------------------- run again


@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
def test_what_is_run_again_gives_the_same_values_and_gradients(toy: Toy, z: Tensor, chunk: int | None) -> None:
    codes, parameters = z.detach(), list(toy.parameters())
    weights = torch.arange(B, dtype=torch.float64)
    expected = toy(codes)[0]
    right = torch.autograd.grad((weights * expected).sin().sum(), parameters)
    found = recomputed(lambda rows: toy(codes[rows])[0], parameters, B, chunk)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    for mine, theirs in zip(torch.autograd.grad((weights * found).sin().sum(), parameters), right, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_what_is_run_again_keeps_no_activations(toy: Toy, z: Tensor) -> None:
    codes, runs = z.detach(), list[bool]()

    def function(rows: slice) -> Tensor:
        out: Tensor = toy(codes[rows])[0]
        runs.append(out.requires_grad)
        return out

    gc.disable()
    try:
        found = recomputed(function, list(toy.parameters()), B, 2)
        assert toy.hidden is not None and toy.hidden() is None
    finally:
        gc.enable()
    assert runs == [False, False]
    found.sum().backward()
    assert runs == [False, False, True, True]
    with pytest.raises(RuntimeError):
        found.sum().backward()


def test_what_is_run_again_lets_go_of_its_inputs(toy: Toy, z: Tensor) -> None:
    """A result that is kept for the log keeps nothing of the network."""
    codes = z.detach().clone()
    found = recomputed(lambda rows, codes=codes: toy(codes[rows])[0], list(toy.parameters()), B)  # type: ignore[misc]
    alive = weakref.ref(codes)
    del codes
    assert alive() is not None
    found.sum().backward(retain_graph=True)
    assert alive() is None
    with pytest.raises(RuntimeError, match="backward runs only once"):
        found.sum().backward()


def test_frozen_parameters_of_what_is_run_again_get_no_gradient(toy: Toy, z: Tensor) -> None:
    toy.first.weight.requires_grad_(False)
    recomputed(lambda rows: toy(z.detach()[rows])[0], list(toy.parameters()), B).sum().backward()
    assert toy.first.weight.grad is None
    assert toy.first.bias.grad is not None and bool(toy.first.bias.grad.any())
    toy.requires_grad_(False)
    assert not recomputed(lambda rows: toy(z.detach()[rows])[0], list(toy.parameters()), B).requires_grad
