"""GECO: the schedule of the released code, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from emorl.errors import InputError
from emorl.geco import (
    ZETA_MIN,
    GecoConfig,
    GecoState,
    KLGecoConfig,
    constrained_loss,
    follow,
    image_terms,
    initial,
    update,
    update_kl,
)

CONFIG = GecoConfig(target_per_element=-1.0)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def state(zeta: float = 0.55, ema: float = 0.0) -> GecoState:
    return GecoState(scalar(zeta), scalar(ema))


def test_defaults_are_those_of_the_paper() -> None:
    assert (CONFIG.warmup_steps, CONFIG.decay, CONFIG.rate, CONFIG.acceleration) == (1000, 0.99, 1e-6, 1.0)
    assert ZETA_MIN == 0.55


def test_nothing_moves_before_the_constraint_is_used() -> None:
    for step in (0, 1, 998, 999):
        assert update(state(), scalar(-300.0), CONFIG, step) == state()


def test_the_first_constrained_step_sets_the_average_and_leaves_zeta() -> None:
    after = update(state(), scalar(-300.0), CONFIG, 1000)
    assert float(after.ema) == -300.0
    assert float(after.zeta) == 0.55


def test_later_steps_move_the_average_then_zeta_with_the_new_average() -> None:
    after = update(state(0.7, -300.0), scalar(-100.0), CONFIG, 1001)
    ema = 0.99 * -300.0 + 0.01 * -100.0
    assert float(after.ema) == pytest.approx(ema, rel=1e-14)
    assert float(after.zeta) == pytest.approx(0.7 + 1e-6 * 298.0, rel=1e-14)
    assert ema == pytest.approx(-298.0)


def test_the_whole_schedule() -> None:
    """Steps 990..1100 against the recurrence written out."""
    generator = torch.Generator().manual_seed(0)
    ours, zeta, e = state(), 0.55, 0.0
    for step in range(990, 1100):
        c = float(torch.randn((), generator=generator)) * 2e5 - 1e5
        ours = update(ours, scalar(c), CONFIG, step)
        if step == 1000:
            e = c
        elif step > 1000:
            e = 0.99 * e + 0.01 * c
            zeta = max(0.55, zeta - 1e-6 * e)
        assert float(ours.zeta) == pytest.approx(zeta, rel=1e-12)
        assert float(ours.ema) == pytest.approx(e, rel=1e-12)
    assert zeta > 0.6


def test_zeta_never_falls_below_its_bound() -> None:
    assert float(update(state(0.5501, 1e5), scalar(1e5), CONFIG, 1001).zeta) == 0.55
    assert float(update(state(0.75, 1e5), scalar(1e5), CONFIG, 1001).zeta) == pytest.approx(0.65, rel=1e-12)


def test_acceleration_acts_where_the_average_meets_the_target_and_nowhere_else() -> None:
    fast = replace(CONFIG, acceleration=5.0)
    assert float(update(state(0.9, 1e4), scalar(1e4), fast, 1001).zeta) == pytest.approx(0.9 - 0.05, rel=1e-12)
    assert float(update(state(0.9, -1e4), scalar(-1e4), fast, 1001).zeta) == pytest.approx(0.9 + 0.01, rel=1e-12)
    # The sign that counts is that of the new average, not of this step's constraint.
    below = update(state(0.9, -1e4), scalar(1e4), fast, 1001)
    assert float(below.zeta) == pytest.approx(0.9 + 1e-6 * 9800, rel=1e-12)


def test_loss_has_the_averages_value_and_the_constraints_gradient() -> None:
    now = state(1.3, -35.0)
    nll = scalar(-812.5).requires_grad_()
    loss = constrained_loss(now, nll, num_images=3)
    multiplier = math.log1p(math.exp(1.3))
    assert float(loss.detach()) == pytest.approx(-multiplier * -35.0 * 3, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, nll)
    assert float(gradient) == pytest.approx(multiplier, rel=1e-12)


def test_the_state_gets_no_gradient_through_the_average() -> None:
    ema = scalar(-35.0).requires_grad_()
    nll = scalar(-812.5).requires_grad_()
    constrained_loss(GecoState(scalar(1.3), ema), nll, 3).backward()
    assert ema.grad is None


def test_loss_is_a_sum_over_images() -> None:
    now, nlls = state(1.3, -35.0), [-200.0, -250.0, -410.0]
    together = constrained_loss(now, scalar(sum(nlls)), 3)
    alone = sum(float(constrained_loss(now, scalar(nll), 1)) for nll in nlls)
    assert float(together) == pytest.approx(alone, rel=1e-12)


def test_an_update_returns_a_new_state() -> None:
    before = state(0.7, -300.0)
    update(before, scalar(-100.0), CONFIG, 1001)
    assert (float(before.zeta), float(before.ema)) == (0.7, -300.0)


# ----------------------------------------------------------------------- a target that follows


def followed(quantile: float, draw: Callable[[int], Tensor], steps: int) -> list[float]:
    """Targets over the steps, of batches of NLL that do not depend on them."""
    config = GecoConfig(quantile=quantile)
    now, found = initial(scalar(0), config), []
    for step in range(steps):
        means = {name: value.mean() for name, value in image_terms(now, draw(step), config, 3).items()}
        now = follow(now, means, config)
        assert now.target is not None
        found.append(float(now.target))
    return found


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize(("quantile", "exact"), [(0.1, math.log(10 / 9)), (0.5, math.log(2)), (0.9, math.log(10))])
def test_a_target_that_follows_comes_to_the_quantile(quantile: float, exact: float, scale: float) -> None:
    """Of exponential draws, shifted: a skewed law, whose mean 1 is none of these."""
    generator = torch.Generator().manual_seed(0)

    def draw(step: int) -> Tensor:
        return scale * (torch.empty(8, dtype=torch.float64).exponential_(generator=generator) - 5)

    found = followed(quantile, draw, 6000)
    late = sum(found[3000:]) / 3000
    assert late / scale + 5 == pytest.approx(exact, abs=0.05 * (1 + exact))
    assert max(found[3000:]) - min(found[3000:]) < scale


def test_a_target_that_follows_falls_with_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    level = [-1000 - 2.0 * min(step, 2000) for step in range(4000)]
    found = followed(0.5, lambda s: level[s] + 30 * torch.randn(8, dtype=torch.float64, generator=generator), 4000)
    assert found[1999] > level[1999] + 60  # behind while it improves: the constraint is met
    assert found[3999] == pytest.approx(level[3999], abs=12)


def test_a_following_target_moves_by_a_part_of_the_spread() -> None:
    config = GecoConfig(quantile=0.25, decay=0.9)
    now = replace(state(), target=scalar(-100.0), spread=scalar(40.0))
    nll = torch.tensor([-130.0, -100.0, -90.0, -20.0], dtype=torch.float64)
    terms = image_terms(now, nll, config, 3)
    assert terms["constraint"].tolist() == [30, 0, -10, -80]
    assert terms["below"].tolist() == [1, 1, 0, 0] and terms["distance"].tolist() == [30, 0, 10, 80]
    after = follow(now, {name: value.mean() for name, value in terms.items()}, config)
    spread = 0.9 * 40 + 0.1 * 30
    assert after.spread is not None and float(after.spread) == pytest.approx(spread, rel=1e-14)
    assert after.target is not None and float(after.target) == pytest.approx(-100 - 0.1 * spread * 0.25, rel=1e-14)
    assert (after.zeta, after.ema) == (now.zeta, now.ema)


def test_a_fixed_target_stays_and_needs_no_state() -> None:
    assert image_terms(None, scalar(-7.0), CONFIG, 4) == {"constraint": scalar(3.0)}
    assert initial(scalar(0), CONFIG) == state()
    assert follow(state(), {}, CONFIG) == state()
    begun = initial(scalar(0), GecoConfig(quantile=0.5))
    assert begun == replace(state(), target=scalar(0), spread=scalar(0)) and begun.zeta.dtype == torch.float64


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({}, "either"),
        ({"target_per_element": -1.0, "quantile": 0.5}, "either"),
        ({"target_per_element": math.nan}, "finite"),
        ({"quantile": 0.0}, "between 0 and 1"),
        ({"quantile": 1.0}, "between 0 and 1"),
        ({"quantile": math.nan}, "between 0 and 1"),
        ({"quantile": 0.5, "decay": 1.0}, "decay"),
        ({"target_per_element": -1.0, "decay": -0.1}, "decay"),
        ({"target_per_element": -1.0, "rate": math.nan}, "rate"),
        ({"target_per_element": -1.0, "acceleration": -1.0}, "acceleration"),
        ({"target_per_element": -1.0, "warmup_steps": -1}, "warmup_steps"),
    ],
)
def test_what_cannot_be_is_refused(words: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        GecoConfig(**words)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"target_per_element": math.inf}, "finite"),
        ({"decay": 5.0}, "decay"),
        ({"rate": -1.0}, "rate"),
        ({"acceleration": math.inf}, "acceleration"),
        ({"zeta_limits": (3.0, -3.0)}, "zeta_limits"),
    ],
)
def test_what_cannot_be_is_refused_of_the_genesis_family_too(words: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        KLGecoConfig(**words)


# ----------------------------------------------------------------------- the GENESIS family's


def beta(step_errors: list[float], goal: float, pixels: int) -> list[tuple[float, float]]:
    """(beta, average error) after each step, by the rule as it is published: a multiplier that is multiplied."""
    weight, average, found = 1.0, 0.0, []
    for step, error in enumerate(step_errors):
        average = error if step == 0 else 0.99 * average + 0.01 * error
        constraint = goal - average
        speed = 1e-5 * 64**2 / pixels * (10 if constraint > 0 else 1)
        weight = min(max(weight * math.exp(speed * constraint), 1e-5), 1e3)
        found.append((weight, average))
    return found


@pytest.mark.parametrize("pixels", [32**2, 64**2, 96 * 128])
def test_the_weight_of_the_kl_moves_as_published(pixels: int) -> None:
    config, goal = KLGecoConfig(), 0.5655 * 3 * pixels
    errors = [goal * (1.5 - 0.01 * step) for step in range(100)]  # from above the goal to below it
    found, moved = [], state(zeta=0.0)
    for step, error in enumerate(errors):
        moved = update_kl(moved, scalar(goal - error), config, step, pixels)
        found.append((math.exp(float(moved.zeta)), goal - float(moved.ema)))
    assert found == [pytest.approx(pair) for pair in beta(errors, goal, pixels)]


def test_a_poor_reconstruction_lowers_the_weight_of_the_kl_and_a_good_one_raises_it_ten_times_as_fast() -> None:
    config = KLGecoConfig()
    poor, good = (update_kl(state(zeta=0.0), scalar(c), config, 0, 64**2) for c in (-100.0, 100.0))
    assert float(poor.zeta) == pytest.approx(-1e-3)
    assert float(good.zeta) == pytest.approx(1e-2)


def test_the_weight_of_the_kl_stays_within_its_limits() -> None:
    config = KLGecoConfig()
    low, high = (update_kl(state(zeta=0.0), scalar(c), config, 0, 64**2) for c in (-1e9, 1e9))
    assert math.exp(float(low.zeta)) == pytest.approx(1e-5)
    assert math.exp(float(high.zeta)) == pytest.approx(1e3)
