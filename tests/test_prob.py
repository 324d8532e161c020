"""Likelihoods and divergences against other ways to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from emorl.prob import LIKELIHOODS, Gaussian, gaussian_kl, gaussian_nll, mixture_nll, std_from_raw

B, K, D, H, W = 2, 3, 5, 4, 6
CONSTANT = 0.5 * math.log(2 * math.pi)


def gaussian(seed: int, shape: tuple[int, ...] = (B, K, D)) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, raw = (torch.randn(2, *shape, generator=generator, dtype=torch.float64) * 1.5).unbind(0)
    return Gaussian(mean, raw)


def scene(seed: int = 0, num_slots: int = K) -> tuple[Tensor, Tensor, Tensor]:
    """Images, log masks, components."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(B, 3, H, W, generator=generator, dtype=torch.float64)
    logits = torch.randn(B, num_slots, 1, H, W, generator=generator, dtype=torch.float64)
    components = torch.rand(B, num_slots, 3, H, W, generator=generator, dtype=torch.float64)
    return images, logits.log_softmax(dim=1), components


# ------------------------------------------------------------ standard deviation


def test_std_is_the_root_of_the_softplus_plus_a_floor() -> None:
    raw = torch.linspace(-40, 79, 1001, dtype=torch.float64)
    expected = np.sqrt(np.log1p(np.exp(raw.numpy())) + 1e-5)
    np.testing.assert_allclose(std_from_raw(raw).numpy(), expected, rtol=1e-8)


def test_std_stops_growing_at_80_and_never_falls_below_the_floor() -> None:
    raw = torch.tensor([80.0, 81.0, 1e4, 1e30, -1e30], dtype=torch.float64)
    expected = [math.sqrt(80 + 1e-5)] * 4 + [math.sqrt(1e-5)]
    np.testing.assert_allclose(std_from_raw(raw).numpy(), expected, rtol=1e-12)
    assert float(std_from_raw(torch.tensor(79.0))) < float(std_from_raw(torch.tensor(80.0)))


# --------------------------------------------------------------------- Gaussians


def test_kl_agrees_with_torch_for_every_image() -> None:
    q, p = gaussian(0), gaussian(1)
    for prior, other in ((p, Normal(p.mean, p.std)), (None, Normal(torch.zeros(B, K, D).double(), 1.0))):
        expected = kl_divergence(Normal(q.mean, q.std), other).sum(dim=(1, 2))
        torch.testing.assert_close(gaussian_kl(q, prior), expected, rtol=1e-12, atol=0)


def test_kl_agrees_with_monte_carlo() -> None:
    q, p = gaussian(0, (1, 1, 3)), gaussian(1, (1, 1, 3))
    z = q.sample(torch.randn(200_000, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for prior, other in ((p, Normal(p.mean[0], p.std[0])), (None, Normal(torch.zeros(1, 3).double(), 1.0))):
        ratio = (Normal(q.mean[0], q.std[0]).log_prob(z) - other.log_prob(z)).sum(dim=(1, 2))
        error = float(ratio.std()) / math.sqrt(len(z))
        assert float(gaussian_kl(q, prior)) == pytest.approx(float(ratio.mean()), abs=4 * error)
        assert error < 0.02 * float(ratio.mean())


def test_kl_is_zero_for_equal_gaussians_alone() -> None:
    q = gaussian(0)
    torch.testing.assert_close(gaussian_kl(q, q), torch.zeros(B).double(), rtol=0, atol=1e-12)
    assert bool((gaussian_kl(q, gaussian(1)) > 0.1).all())
    unit = Gaussian(torch.zeros(B, K, D).double(), torch.full((B, K, D), math.log(math.expm1(1 - 1e-5))).double())
    torch.testing.assert_close(gaussian_kl(unit, None), torch.zeros(B).double(), rtol=0, atol=1e-9)


def test_a_sample_has_the_moments_of_its_gaussian() -> None:
    q = gaussian(0, (1, 2, 3))
    z = q.sample(torch.randn(100_000, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    torch.testing.assert_close(z.mean(dim=0), q.mean[0], rtol=0, atol=0.02)
    torch.testing.assert_close(z.std(dim=0), q.std[0], rtol=0.02, atol=0)


def test_a_leaf_has_the_values_and_no_past() -> None:
    source = torch.ones(B, K, D, requires_grad=True)
    leaf = Gaussian(source * 2, source * 3).leaf()
    assert torch.equal(leaf.mean, source * 2) and torch.equal(leaf.raw, source * 3)
    (leaf.mean.sum() + leaf.raw.sum()).backward()
    assert source.grad is None
    assert leaf.mean.grad is not None and leaf.raw.grad is not None


def test_updates_add_half_by_half_and_halves_stand_side_by_side() -> None:
    q, update = gaussian(0), gaussian(1)
    assert torch.equal(q.moved(update).mean, q.mean + update.mean)
    assert torch.equal(q.moved(update).raw, q.raw + update.raw)
    assert torch.equal(q.cat()[..., :D], q.mean)
    assert torch.equal(q.cat()[..., D:], q.raw)


# -------------------------------------------------------------------- likelihoods


def test_gaussian_nll_is_torchs_without_its_constant() -> None:
    images, log_masks, components = scene()
    mean = (log_masks.exp() * components).sum(dim=1)
    expected = -(Normal(mean, 0.3).log_prob(images) + CONSTANT).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian_nll(images, log_masks, components, 0.3), expected, rtol=1e-12, atol=0)


def test_mixture_nll_is_torchs_without_its_constant() -> None:
    images, log_masks, components = scene()
    weights = torch.distributions.Categorical(logits=log_masks.permute(0, 2, 3, 4, 1).expand(-1, 3, -1, -1, -1))
    mixture = torch.distributions.MixtureSameFamily(weights, Normal(components.permute(0, 2, 3, 4, 1), 0.1))
    expected = -(mixture.log_prob(images) + CONSTANT).sum(dim=(1, 2, 3))
    torch.testing.assert_close(mixture_nll(images, log_masks, components, 0.1), expected, rtol=1e-12, atol=0)


def test_mixture_nll_is_the_sum_over_pixels_and_channels_of_a_sum_over_slots() -> None:
    images, log_masks, components = scene()
    masks, sigma = log_masks.exp(), 0.4
    for b in range(B):
        total = 0.0
        for c in range(3):
            for i in range(H):
                for j in range(W):
                    p = 0.0
                    for k in range(K):
                        distance = float(images[b, c, i, j] - components[b, k, c, i, j])
                        p += float(masks[b, k, 0, i, j]) * math.exp(-(distance**2) / (2 * sigma**2)) / sigma
                    total -= math.log(p)
        assert float(mixture_nll(images, log_masks, components, sigma)[b]) == pytest.approx(total, rel=1e-12)


def test_both_likelihoods_agree_where_there_is_one_slot() -> None:
    images, log_masks, components = scene(num_slots=1)
    one, other = (nll(images, log_masks, components, 0.2) for nll in LIKELIHOODS.values())
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_a_perfect_picture_has_the_smallest_nll() -> None:
    images, log_masks, _ = scene()
    perfect = images.unsqueeze(1).expand(-1, K, -1, -1, -1)
    for nll in LIKELIHOODS.values():
        floor = torch.full((B,), 3 * H * W * math.log(0.1), dtype=torch.float64)
        torch.testing.assert_close(nll(images, log_masks, perfect, 0.1), floor, rtol=1e-12, atol=0)
        assert bool((nll(images, log_masks, perfect + 0.01, 0.1) > floor).all())


def test_slots_are_exchangeable_and_images_independent() -> None:
    images, log_masks, components = scene()
    order = torch.tensor([2, 0, 1])
    for nll in LIKELIHOODS.values():
        expected = nll(images, log_masks, components, 0.1)
        torch.testing.assert_close(
            nll(images, log_masks[:, order], components[:, order], 0.1), expected, rtol=1e-12, atol=0
        )
        for b in range(B):
            alone = nll(images[b : b + 1], log_masks[b : b + 1], components[b : b + 1], 0.1)
            torch.testing.assert_close(alone, expected[b : b + 1], rtol=1e-12, atol=0)


def test_names_of_the_likelihoods() -> None:
    assert LIKELIHOODS == {"gaussian": gaussian_nll, "mixture": mixture_nll}


# ----------------------------------------------------------------- extreme inputs


@pytest.mark.parametrize("raw", [-1e4, 80.0, 1e4, 1e30])
def test_divergences_of_extreme_outputs_stay_finite_with_their_gradients(raw: float) -> None:
    q = Gaussian(torch.full((1, 1, 2), 30.0), torch.full((1, 1, 2), raw)).leaf()
    for p in (None, Gaussian(torch.zeros(1, 1, 2), torch.full((1, 1, 2), -raw))):
        kl = gaussian_kl(q, p).sum()
        grads = torch.autograd.grad(kl, q)
        assert all(bool(x.isfinite().all()) for x in (kl, *grads))


@pytest.mark.parametrize("nll", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_likelihoods_of_extreme_masks_stay_finite_with_their_gradients(nll: object) -> None:
    images = torch.ones(1, 3, 2, 2)
    logits = torch.zeros(1, 2, 1, 2, 2)
    logits[:, 0] = 1e4  # the slot that owns every pixel is wrong everywhere
    logits.requires_grad_()
    components = torch.zeros(1, 2, 3, 2, 2)
    components[:, 1] = 1
    components.requires_grad_()
    value = nll(images, logits.log_softmax(dim=1), components, 0.01).sum()  # type: ignore[operator]
    grads = torch.autograd.grad(value, [logits, components])
    assert all(bool(x.isfinite().all()) for x in (value, *grads))
    assert float(value.detach()) == pytest.approx(12 * (0.5 / 0.01**2 + math.log(0.01)), rel=1e-5)
