"""Likelihoods and divergences against other ways to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from emorl.prob import (
    LIKELIHOODS,
    Density,
    Gaussian,
    gaussian_kl,
    gaussian_nll,
    log_density,
    log_density_slope,
    mixture_nll,
    pixel_mixture,
    std_from_raw,
)

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


def test_slots_of_a_mixture_may_have_a_sigma_each() -> None:
    images, log_masks, components = scene()
    sigma = torch.tensor([0.1, 0.4, 2.0], dtype=torch.float64)
    densities = [torch.exp(Normal(components[:, k], sigma[k]).log_prob(images) + CONSTANT) for k in range(K)]
    expected = -(log_masks.exp() * torch.stack(densities, dim=1)).sum(dim=1).log().sum(dim=(1, 2, 3))
    torch.testing.assert_close(mixture_nll(images, log_masks, components, sigma), expected, rtol=1e-12, atol=0)
    same = mixture_nll(images, log_masks, components, torch.full((K,), 0.4, dtype=torch.float64))
    torch.testing.assert_close(same, mixture_nll(images, log_masks, components, 0.4), rtol=1e-12, atol=0)


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


# -------------------------------------------------------------- mixtures over pixels

DENSITIES: tuple[Density, ...] = ("gaussian", "logistic")


def torchs(mean: Tensor, scale: float, density: Density) -> torch.distributions.Distribution:
    if density == "gaussian":
        return Normal(mean, scale)
    uniform = torch.distributions.Uniform(torch.zeros_like(mean), torch.ones_like(mean))
    steps = [torch.distributions.SigmoidTransform().inv, torch.distributions.AffineTransform(mean, scale)]
    return torch.distributions.TransformedDistribution(uniform, steps)


@pytest.mark.parametrize("density", DENSITIES)
def test_densities_are_torchs_and_the_gaussian_goes_without_its_constant(density: Density) -> None:
    x = torch.linspace(-0.5, 1.5, 101, dtype=torch.float64)
    mean = torch.full_like(x, 0.4)
    expected = torchs(mean, 0.1, density).log_prob(x) + (CONSTANT if density == "gaussian" else 0)
    torch.testing.assert_close(log_density(x, mean, 0.1, density), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("density", DENSITIES)
def test_the_slope_of_a_density_is_its_derivative_by_the_mean(density: Density) -> None:
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    mean = torch.full_like(x, 0.3).requires_grad_()
    (expected,) = torch.autograd.grad(log_density(x, mean, 0.07, density).sum(), mean)
    found = log_density_slope(x, mean.detach(), 0.07, density)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("density", DENSITIES)
def test_a_pixel_belongs_to_one_slot_with_all_its_channels(density: Density) -> None:
    images, log_masks, components = scene()
    mixture = pixel_mixture(images, log_masks, components, 0.2, density)
    constant = CONSTANT if density == "gaussian" else 0
    for b, i, j in ((0, 0, 0), (1, H - 1, W - 2)):
        weights = torch.distributions.Categorical(logits=log_masks[b, :, 0, i, j])
        colours = torch.distributions.Independent(torchs(components[b, :, :, i, j], 0.2, density), 1)
        expected = torch.distributions.MixtureSameFamily(weights, colours).log_prob(images[b, :, i, j])
        assert float(mixture.log_prob[b, 0, 0, i, j]) == pytest.approx(float(expected) + 3 * constant, rel=1e-9)
    torch.testing.assert_close(mixture.nll(), -mixture.log_prob.flatten(1).sum(dim=1), rtol=1e-12, atol=0)


def test_channels_mixed_apart_are_the_mixture_of_before() -> None:
    images, log_masks, components = scene()
    apart = pixel_mixture(images, log_masks, components, 0.1, "gaussian", joint=False).nll()
    torch.testing.assert_close(apart, mixture_nll(images, log_masks, components, 0.1), rtol=1e-12, atol=0)
    joint = pixel_mixture(images, log_masks, components, 0.1, "gaussian").nll()
    assert bool((joint > apart + 1).all())  # here three channels rarely like the same slot


def test_with_one_channel_or_one_slot_both_mixtures_agree() -> None:
    images, log_masks, components = scene()
    args = (images[:, :1], log_masks, components[:, :, :1], 0.1, "gaussian")
    joint, apart = (pixel_mixture(*args, joint=joint).nll() for joint in (True, False))  # type: ignore[arg-type]
    torch.testing.assert_close(joint, apart, rtol=1e-12, atol=0)
    images, log_masks, components = scene(num_slots=1)
    found = [pixel_mixture(images, log_masks, components, 0.2, "gaussian", joint).nll() for joint in (True, False)]
    for nll in found:
        torch.testing.assert_close(nll, gaussian_nll(images, log_masks, components, 0.2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("density", DENSITIES)
def test_responsibilities_are_what_the_gradient_by_a_log_mask_says(density: Density, joint: bool) -> None:
    images, log_masks, components = scene()
    log_masks.requires_grad_()
    mixture = pixel_mixture(images, log_masks, components, 0.2, density, joint)
    (grad,) = torch.autograd.grad(mixture.nll().sum(), log_masks, retain_graph=True)
    shares = mixture.responsibilities().detach()
    torch.testing.assert_close(shares.sum(dim=2, keepdim=True), -grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones_like(shares[:, 0]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("joint", [True, False])
def test_gain_is_what_a_slot_adds_to_a_mixture_of_the_others(joint: bool) -> None:
    images, log_masks, components = scene()
    whole = pixel_mixture(images, log_masks, components, 0.2, "logistic", joint)
    for k in range(K):
        others = [j for j in range(K) if j != k]
        left = log_masks[:, others].log_softmax(dim=1)
        without = pixel_mixture(images, left, components[:, others], 0.2, "logistic", joint)
        expected = (whole.log_prob - without.log_prob)[:, 0]
        torch.testing.assert_close(whole.gain()[:, k], expected, rtol=1e-9, atol=1e-9)
    alone = pixel_mixture(*scene(num_slots=1), 0.2, "logistic", joint).gain()
    assert torch.equal(alone, torch.zeros_like(alone))


def test_gain_of_a_slot_that_explains_everything_is_exact_in_single_precision() -> None:
    """1 - share is nothing but rounding there."""
    images, log_masks = torch.ones(1, 3, 1, 1), torch.tensor([0.0, -200.0, -201.0]).view(1, 3, 1, 1, 1)
    components = torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1, 1).expand(-1, -1, 3, -1, -1)
    log_masks = log_masks.log_softmax(dim=1)
    single = pixel_mixture(images, log_masks, components, 0.05, "gaussian").gain()
    double = pixel_mixture(images.double(), log_masks.double(), components.double(), 0.05, "gaussian").gain()
    assert float(double[0, 0]) > 100
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("density", DENSITIES)
def test_mixtures_of_extreme_colours_stay_finite_with_their_gradients(density: Density) -> None:
    images, logits = torch.ones(1, 3, 2, 2), torch.tensor([1e4, 0.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 2, 2)
    components = torch.tensor([-30.0, 30.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 2, 2).clone().requires_grad_()
    mixture = pixel_mixture(images, logits.log_softmax(dim=1), components, 0.01, density)
    (grad,) = torch.autograd.grad(mixture.nll().sum(), components)
    assert all(bool(x.isfinite().all()) for x in (mixture.nll(), grad, mixture.gain(), mixture.responsibilities()))


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
