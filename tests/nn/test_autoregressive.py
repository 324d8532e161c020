"""The autoregressive prior: equal to the plain recurrence, and its laws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from emorl.nn.autoregressive import AutoregressivePrior, bounded_gaussian, exact_kl, sampled_kl
from emorl.types import Posterior

B, K, D, HIDDEN = 2, 4, 3, 5


def build(seed: int = 0) -> AutoregressivePrior:
    """A prior in float64 whose means are large enough for the tanh to matter."""
    torch.manual_seed(seed)
    prior = AutoregressivePrior(D, HIDDEN).double()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter)
    return prior


def codes(batch: int = B, seed: int = 0) -> Tensor:
    return torch.randn(batch, K, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(prior: AutoregressivePrior, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One slot of one scene: code D and state -> mean, std, state."""
    w = dict(prior.recurrence.named_parameters())
    a = w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]
    i, f, g, o = a.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    out = prior.out.weight @ h + prior.out.bias
    return torch.tanh(out[:D]), torch.sigmoid(out[D:] + 4) + 1e-4, h, c


def test_it_equals_the_plain_recurrence() -> None:
    prior, z = build(), codes()
    mean, std = prior(z)
    for b in range(B):
        assert torch.equal(mean[b, 0], torch.zeros(D).double())
        assert torch.equal(std[b, 0], torch.ones(D).double())
        h = c = torch.zeros(HIDDEN).double()
        for k in range(1, K):
            expected_mean, expected_std, h, c = step(prior, z[b, k - 1], h, c)
            torch.testing.assert_close(mean[b, k], expected_mean, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(std[b, k], expected_std, rtol=1e-12, atol=1e-14)
    assert mean.abs().max() > 0.5


def test_a_sample_is_mean_plus_std_times_noise_of_the_very_density() -> None:
    prior, eps = build(), codes(seed=1)
    z = prior.sample(eps)
    mean, std = prior(z)  # with the tanh: a sample without it would not come back
    torch.testing.assert_close((z - mean) / std, eps, rtol=1e-10, atol=1e-12)


def test_a_slot_depends_on_those_before_it_alone() -> None:
    prior, z = build(), codes().requires_grad_()
    for k in range(K):
        mean, std = prior(z)
        (grad,) = torch.autograd.grad((mean[:, k] + std[:, k]).sum() + 0 * z.sum(), z)
        seen = grad.abs().sum(dim=(0, 2)) > 0
        assert seen.tolist() == [j < k for j in range(K)]


def test_permuting_the_slots_does_not_permute_the_density() -> None:
    prior, z = build(), codes()
    mean, _ = prior(z)
    backwards, _ = prior(z.flip(1))
    assert not torch.allclose(backwards.flip(1), mean)


@pytest.mark.parametrize("num_slots", [1, 2, 7])
def test_any_number_of_slots(num_slots: int) -> None:
    prior = build()
    eps = torch.randn(B, num_slots, D, dtype=torch.float64)
    z = prior.sample(eps)
    mean, std = prior(z)
    assert z.shape == mean.shape == std.shape == eps.shape
    torch.testing.assert_close((z - mean) / std, eps, rtol=1e-10, atol=1e-12)


def test_ranges_and_the_value_at_zero() -> None:
    mean, std = bounded_gaussian(torch.tensor([[100.0, -100.0, 0.0, 100.0, -100.0, 0.0]]).double())
    assert mean.tolist() == [[1.0, -1.0, 0.0]]
    torch.testing.assert_close(
        std, torch.tensor([[1 + 1e-4, 1e-4, 0.98211379]], dtype=torch.float64), rtol=1e-7, atol=0
    )


def test_the_number_of_parameters_is_the_papers() -> None:
    assert sum(p.numel() for p in AutoregressivePrior(64).parameters()) == 362_624


def two_gaussians() -> tuple[Posterior, Posterior]:
    a, b, c, d = torch.randn(4, B, K, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Posterior(a, b.exp()), Posterior(c, d.exp())


def test_divergences_equal_those_of_pytorch() -> None:
    (q, p), eps = two_gaussians(), codes(seed=2)
    of_q, of_p = Normal(q.mean, q.std), Normal(p.mean, p.std)
    z = q.mean + q.std * eps
    expected = of_q.log_prob(z) - of_p.log_prob(z)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(sampled_kl(q, p, eps), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(exact_kl(q, p), kl_divergence(of_q, of_p), rtol=1e-10, atol=1e-12)


def test_the_sampled_divergence_has_the_exact_ones_mean() -> None:
    q, p = two_gaussians()
    # eps^2 averages to 1 and eps to 0 over these two points, which is all that the estimate depends on
    both = [sampled_kl(q, p, torch.full_like(q.mean, sign)) for sign in (-1.0, 1.0)]
    torch.testing.assert_close((both[0] + both[1]) / 2, exact_kl(q, p), rtol=1e-12, atol=1e-12)


def test_the_divergences_of_slots_given_those_before_add_up_to_that_of_scenes() -> None:
    """By Monte Carlo: E[log q(z) - log p(z)] of whole scenes is E[sum_k KL(q_k || p(z_k given z_<k))]."""
    prior, count = build(), 40_000
    mean, log_std = 0.5 * codes(1, seed=3), -0.7 + 0.2 * codes(1, seed=4)
    q = Posterior(mean.expand(count, -1, -1), log_std.exp().expand(count, -1, -1))
    eps = codes(count, seed=5)
    z = q.mean + q.std * eps
    with torch.no_grad():
        p = Posterior(*prior(z))
    nats = [-0.5 * ((z - of.mean) / of.std).square() - of.std.log() for of in (q, p)]
    densities = (nats[0] - nats[1]).sum(dim=(1, 2))
    chain = exact_kl(q, p).sum(dim=(1, 2))
    error = (densities - chain).std() / count**0.5
    assert abs(densities.mean() - chain.mean()) < 4 * error
    assert error < 0.02 * chain.mean()  # the estimate is sharp enough to tell
    assert chain.std() > 10 * error  # and what comes before matters


def test_the_sampled_divergence_keeps_its_digits_where_the_posterior_is_narrow() -> None:
    q = Posterior(torch.full((1, 1, 1), 3.0), torch.full((1, 1, 1), 1e-8))
    p = Posterior(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    assert sampled_kl(q, p, torch.full((1, 1, 1), 0.5)).item() == pytest.approx(18.420681 + 4.5 - 0.125, rel=1e-6)
