"""GENESIS, and what it shares with GENESIS-S: equal to the plain formulation, and the laws they keep."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emorl.config import from_json, to_json
from emorl.errors import InputError
from emorl.geco import GecoState, KLGecoConfig
from emorl.models.base import InferOptions, Model, TrainState
from emorl.models.genesis import Genesis, GenesisConfig, GenesisSConfig, strides_of
from emorl.nn.gated import BatchNorm, GatedConv
from emorl.presets.genesis import PRESETS, target
from emorl.types import Inference, Loss
from tests.models import plain_genesis as plain

B, K, H, W = 2, 3, 16, 24  # no two alike, H and W neither
TWO_STAGE = GenesisConfig(
    image_size=(H, W),
    num_slots=K,
    mask_dim=5,
    mask_channels=3,
    component_channels=4,
    sigma=0.3,
    component_dim=2,
)
ONE_STAGE = GenesisSConfig(image_size=(H, W), num_slots=K, mask_dim=5, mask_channels=3, component_channels=4, sigma=0.3)
BOTH = pytest.mark.parametrize("config", [TWO_STAGE, ONE_STAGE], ids=["genesis", "genesis-s"])
AnyConfig = GenesisConfig | GenesisSConfig


def build(config: AnyConfig = TWO_STAGE, seed: int = 0) -> Genesis:
    """A model in float64 with weights and running statistics that matter."""
    model = Genesis(config).double()
    plain.random_weights(model, seed)
    return model


def pictures(batch: int = B, size: tuple[int, int] = (H, W), seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Given:
    """Noise that is the same tensor whoever asks."""

    draw: Tensor

    def normal(self, name: str, index: int, like: Tensor) -> Tensor:
        assert self.draw.shape == like.shape
        return self.draw.to(like)


def noise_for(model: Genesis, num_slots: int = K, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, num_slots, model.slot_dim, generator=generator, dtype=torch.float64)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def everything(result: Inference) -> list[Tensor]:
    step = result.steps[0]
    found = [result.masks, result.components, result.reconstruction, result.slots, step.nll, step.kl]
    return [*found, step.posterior.mean, step.posterior.std]


# --------------------------------------------------- equal to the plain formulation


CASES = [
    (config, likelihood, norm, analytic)
    for config, (likelihood, norm, analytic) in itertools.product(
        (TWO_STAGE, ONE_STAGE),
        [("mixture", "batch", False), ("gaussian", "batch", True), ("mixture", "instance", True)],
    )
]


@pytest.mark.parametrize(("config", "likelihood", "norm", "analytic"), CASES)
def test_loss_terms_and_all_gradients_equal_the_plain_formulation(
    config: AnyConfig, likelihood: Any, norm: Any, analytic: bool
) -> None:
    config = replace(config, likelihood=likelihood, norm=norm, analytic_kl=analytic)
    model, images = build(config), pictures()
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    trained = {name: weights[name].requires_grad_() for name, _ in model.named_parameters()}
    state = TrainState(step=5, kl_weight=0.7, geco=GecoState(torch.tensor(-0.4).double(), torch.tensor(3.0).double()))
    eps = noise_for(model)

    loss = model.loss(images, state, noise=Given(eps))
    loss.total.backward()  # type: ignore[no-untyped-call]
    slow = plain.run(weights, config, images, eps, training=True, analytic=analytic)
    kl = slow.kl_masks + slow.kl_components
    total = (slow.nll + 0.7 * math.exp(-0.4) * kl).sum()
    expected = torch.autograd.grad(total, list(trained.values()))

    assert_equal(loss.total, total)
    assert_equal(loss.terms["nll"], slow.nll)
    assert_equal(loss.terms["kl"], kl)
    if isinstance(config, GenesisConfig):
        assert_equal(loss.terms["kl_masks"], slow.kl_masks)
        assert_equal(loss.terms["kl_components"], slow.kl_components)
    with_constant = slow.nll + 3 * H * W * 0.5 * math.log(2 * math.pi)
    assert_equal(loss.terms["constraint"], 0.5655 * 3 * H * W - with_constant)
    assert not any(values.requires_grad for values in loss.terms.values())
    for (name, parameter), grad in zip(model.named_parameters(), expected, strict=True):
        assert parameter.grad is not None, name
        # A bias in front of a norm over its channel has no gradient: only rounding is left of it.
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-6, atol=1e-7, msg=name)


@BOTH
@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("num_slots", [1, K, 5])
def test_inference_equals_the_plain_formulation_with_running_statistics(
    config: AnyConfig, sample: bool, num_slots: int
) -> None:
    model, images = build(config), pictures()
    eps = noise_for(model, num_slots)
    found = model.infer(images, InferOptions(num_slots=num_slots, sample=sample), noise=Given(eps))
    weights = dict(model.state_dict())
    slow = plain.run(weights, config, images, eps if sample else 0 * eps, training=False, analytic=True)
    assert_equal(found.masks, slow.masks)
    assert_equal(found.components, slow.components)
    assert_equal(found.slots, slow.slots)
    assert_equal(found.steps[0].posterior.mean, slow.means)
    assert_equal(found.steps[0].nll, slow.nll)
    assert_equal(found.steps[0].kl, slow.kl_masks + slow.kl_components)
    assert found.decoder_masks is None and found.layers == () and len(found.steps) == 1


def test_the_large_strides_equal_the_plain_formulation() -> None:
    config = replace(TWO_STAGE, image_size=(72, 16))
    model, images, eps = build(config), pictures(size=(72, 16)), noise_for(build())
    found = model.infer(images, noise=Given(eps))
    weights = dict(model.state_dict())
    slow = plain.run(weights, config, images, eps, training=False, analytic=True, strides=(2, 2, 2, 1, 1))
    assert_equal(found.masks, slow.masks)
    assert_equal(found.slots, slow.slots)


@pytest.mark.parametrize(("side", "count"), [(32, 4_559_620), (64, 12_620_548), (96, 8_360_708), (128, 13_406_980)])
def test_parameter_counts_are_the_released_models(side: int, count: int) -> None:
    assert num_parameters(GenesisConfig(image_size=(side, side))) == count


def num_parameters(config: AnyConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Genesis(config).parameters())


# ------------------------------------------------------------------------- masks


@BOTH
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (64, 48), (64, 64), (96, 96), (128, 128), (16, 128)])
def test_masks_sum_to_one_at_every_size(config: AnyConfig, size: tuple[int, int]) -> None:
    model = build(replace(config, image_size=size)).float()
    masks = model.infer(pictures(size=size), InferOptions(num_slots=4)).masks
    assert masks.shape == (B, 4, 1, *size)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(B, 1, *size))


def test_the_last_slot_takes_what_is_left_whatever_its_code() -> None:
    model = build()
    slots = model.infer(pictures()).slots
    changed = slots.clone()
    changed[:, -1, : TWO_STAGE.mask_dim] += 1
    before, after = model.decode(slots, (H, W)), model.decode(changed, (H, W))
    assert torch.equal(before.masks, after.masks)
    changed[:, 0, : TWO_STAGE.mask_dim] += 1
    assert not torch.allclose(before.masks, model.decode(changed, (H, W)).masks)


@BOTH
@pytest.mark.parametrize("bias", [-200.0, 200.0])
def test_gradients_stay_finite_where_a_slot_takes_everything_or_nothing(config: AnyConfig, bias: float) -> None:
    """GENESIS's component encoder sees log masks, which are far below zero then."""
    model = build(config).float()
    model.mask_decoder.last.load_state_dict({"bias": torch.full((1,), bias)}, strict=False)
    loss = model.loss(pictures().float(), model.initial_state(), noise=0)
    loss.total.backward()
    grads = [p.grad for p in model.parameters()]
    assert bool(loss.total.isfinite()) and all(grad is not None and bool(grad.isfinite().all()) for grad in grads)


def test_the_last_slots_code_counts_in_the_kl_and_drives_its_component() -> None:
    """Through the component's prior, not its mask: the KL of the last component moves with the noise of zm_K."""
    model, images = build(), pictures()
    eps = noise_for(model)
    other = eps.clone()
    other[:, -1, : TWO_STAGE.mask_dim] += 1
    state = model.initial_state()
    with torch.no_grad():
        slots = [model.infer(images, noise=Given(e)) for e in (eps, other)]
        assert_equal(slots[0].masks, slots[1].masks)
        assert_equal(slots[0].components, slots[1].components)
        terms = [model.loss(images, state, noise=Given(e)).terms for e in (eps, other)]
    for name in ("kl_masks", "kl_components"):
        assert not torch.allclose(terms[0][name], terms[1][name]), name


@BOTH
def test_the_order_of_the_slots_matters(config: AnyConfig) -> None:
    model, images = build(config), pictures()
    eps, order = noise_for(model), [2, 0, 1]
    found = model.infer(images, noise=Given(eps))
    permuted = model.infer(images, noise=Given(eps[:, order]))
    assert not torch.allclose(permuted.slots, found.slots[:, order], atol=1e-3)
    assert not torch.allclose(permuted.masks, found.masks[:, order], atol=1e-3)
    again = model.decode(found.slots[:, order], (H, W))
    assert_equal(again.components, found.components[:, order])  # each slot's own
    assert not torch.allclose(again.masks, found.masks[:, order], atol=1e-3)  # stick breaking is not


@BOTH
def test_a_slot_depends_on_the_noise_of_those_before_it_alone(config: AnyConfig) -> None:
    model, images = build(config), pictures()
    eps = noise_for(model)
    before = model.infer(images, noise=Given(eps)).slots[:, :, : config.mask_dim]
    eps[:, 1] += 1
    after = model.infer(images, noise=Given(eps)).slots[:, :, : config.mask_dim]
    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1:] - after[:, 1:]).abs().amax(dim=(0, 2)).min() > 1e-3


# --------------------------------------------------------------- the contract


@BOTH
def test_it_keeps_the_contract(config: AnyConfig) -> None:
    assert isinstance(build(config), Model)


@BOTH
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(config: AnyConfig, mode: Callable[[], Any]) -> None:
    model, images = build(config), pictures()
    expected, codes = model.infer(images), model.encode(images)
    with mode():
        inside = pictures()
        result, other_codes = model.infer(inside), model.encode(inside)
        drawn = model.sample(B, (H, W))
    for x, y in zip(everything(result), everything(expected), strict=True):
        assert torch.equal(x, y)
        assert not x.requires_grad
    assert torch.equal(other_codes, codes)
    assert not drawn.reconstruction.requires_grad


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_inference_knows_no_companions_and_moves_nothing(config: AnyConfig, training: bool) -> None:
    model, images = build(config).train(training), pictures(batch=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole, codes = model.infer(images), model.encode(images)
    alone = model.infer(images[:1])
    for x, y in zip(everything(whole), everything(alone), strict=True):
        assert_equal(x[:1], y)
    assert_equal(codes[:1], model.encode(images[:1]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@BOTH
def test_batch_norm_ties_a_training_batch_and_instance_norm_does_not(config: AnyConfig) -> None:
    for norm in ("batch", "instance"):
        model, images = build(replace(config, norm=norm)), pictures()
        eps, state = noise_for(model), model.initial_state()
        together = model.loss(images, state, noise=Given(eps)).terms["nll"]
        alone = [model.loss(images[i : i + 1], state, noise=Given(eps[i : i + 1])).terms["nll"] for i in range(B)]
        assert torch.allclose(together, torch.cat(alone), rtol=1e-10) == (norm == "instance")


def test_training_moves_the_running_statistics_towards_the_batchs() -> None:
    model, images = build(), pictures()
    layer = model.mask_encoder.layers[0]
    assert isinstance(layer, GatedConv) and isinstance(layer.norm, BatchNorm)
    before = layer.norm.running_mean.clone()
    model.loss(images, model.initial_state(), noise=0)
    mean = layer.conv(images).mean(dim=(0, 2, 3))
    assert_equal(layer.norm.running_mean, 0.9 * before + 0.1 * mean)


def test_bytes_and_unit_range_are_the_same_picture() -> None:
    model = build()
    images = (pictures() * 256).to(torch.uint8)
    unit, state = images.double() / 255, model.initial_state()
    assert torch.equal(model.infer(images).slots, model.infer(unit).slots)
    assert torch.equal(model.encode(images), model.encode(unit))
    assert torch.equal(model.loss(images, state, noise=0).total, model.loss(unit, state, noise=0).total)


def test_no_noise_given_is_seed_zero_and_seeds_matter() -> None:
    model, images = build(), pictures()
    assert torch.equal(model.infer(images).slots, model.infer(images, noise=0).slots)
    assert not torch.equal(model.infer(images).slots, model.infer(images, noise=1).slots)


@BOTH
def test_codes_are_the_means_given_means(config: AnyConfig) -> None:
    model, images = build(config), pictures()
    found = model.infer(images, InferOptions(sample=False, num_slots=4))
    codes = model.encode(images, InferOptions(num_slots=4))
    assert_equal(codes, found.slots)
    assert_equal(codes, found.steps[0].posterior.mean)
    assert torch.equal(codes, model.encode(images, InferOptions(num_slots=4), noise=7))


class Forbidden(nn.Module):
    """A network that must not run."""

    def forward(self, *_: object) -> Tensor:
        raise AssertionError("it ran")


def test_codes_need_the_masks_but_no_picture() -> None:
    model = build()
    model.component_decoder = model.component_prior = model.mask_prior = Forbidden()  # type: ignore[assignment]
    assert model.encode(pictures()).shape == (B, K, 7)
    model.mask_decoder = Forbidden()  # type: ignore[assignment]
    with pytest.raises(AssertionError, match="it ran"):
        model.encode(pictures())


@BOTH
def test_slots_decode_to_the_pictures_they_came_with(config: AnyConfig) -> None:
    model, images = build(config), pictures()
    for found in (model.infer(images, InferOptions(keep_steps=True)), model.sample(B, (H, W), num_slots=4)):
        again = model.decode(found.slots, (H, W))
        assert_equal(again.masks, found.masks)
        assert_equal(again.components, found.components)
        assert_equal(again.reconstruction, found.reconstruction)
        for step in found.steps:
            assert step.decoding is not None
            assert torch.equal(step.decoding.masks, found.masks)
    assert model.infer(images).steps[0].decoding is None


@BOTH
def test_samples_are_draws_from_the_prior_they_are_trained_against(config: AnyConfig) -> None:
    model = build(config)
    eps = noise_for(model)
    slots = model.sample(B, (H, W), noise=Given(eps)).slots
    zm = slots[:, :, : config.mask_dim]
    mean, std = model.mask_prior(zm)
    assert_equal((zm - mean) / std, eps[:, :, : config.mask_dim])
    if isinstance(config, GenesisConfig):
        mean, raw = model.component_prior(zm).chunk(2, dim=-1)
        expected = mean.tanh() + ((raw + 4).sigmoid() + 1e-4) * eps[:, :, config.mask_dim :]
        assert_equal(slots[:, :, config.mask_dim :], expected)


@BOTH
def test_gradients_reach_every_parameter_of_a_fresh_model(config: AnyConfig) -> None:
    torch.manual_seed(0)
    model = Genesis(config)
    model.loss(pictures(), model.initial_state(), noise=0).total.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_single_precision_stays_close_to_double() -> None:
    model, images = build(), pictures()
    state = TrainState()
    double = model.loss(images, state, noise=0).total.item()
    single = model.float().loss(images.float(), state, noise=0).total
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double, rel=1e-4)


# ------------------------------------------------------------------------ training


def means(loss: Loss) -> dict[str, Tensor]:
    return {name: values.mean(dim=0) for name, values in loss.terms.items()}


@BOTH
def test_the_multiplier_is_on_the_kl_and_follows_the_constraint(config: AnyConfig) -> None:
    model, images = build(config), pictures()
    state = model.initial_state()
    assert state.geco is not None
    assert float(state.geco.zeta) == 0 and state.geco.zeta.dtype == torch.float64
    first = model.loss(images, state, noise=0)
    assert_equal(first.total, (first.terms["nll"] + first.terms["kl"]).sum())
    moved = model.next_state(state, means(first))
    assert moved.geco is not None and moved.step == 1
    c = first.terms["constraint"].mean()
    assert_equal(moved.geco.ema, c)
    assert_equal(moved.geco.zeta, (1 if c < 0 else 10) * 1e-5 * 64**2 / (H * W) * c)
    again = model.next_state(moved, means(first) | {"constraint": 3 * c})
    assert again.geco is not None
    assert_equal(again.geco.ema, 0.99 * c + 0.01 * 3 * c)
    second = model.loss(images, moved, noise=0)
    assert_equal(second.total, (second.terms["nll"] + moved.geco.zeta.exp() * second.terms["kl"]).sum())
    assert model.step_form(state) != model.step_form(moved) == model.step_form(again)


def test_without_a_constraint_the_kl_has_its_own_weight() -> None:
    model, images = build(replace(TWO_STAGE, geco=None, kl_weight=0.5)), pictures()
    state = model.initial_state()
    loss = model.loss(images, state, noise=0)
    assert state == TrainState(kl_weight=0.5) and "constraint" not in loss.terms
    assert_equal(loss.total, (loss.terms["nll"] + 0.5 * loss.terms["kl"]).sum())
    assert model.next_state(state, means(loss)) == replace(state, step=1)
    assert model.step_form(state) == model.step_form(replace(state, step=1))


@BOTH
def test_it_learns_a_few_pictures_by_heart(config: AnyConfig) -> None:
    """Their shapes too: the error falls far below that of the best picture of one colour."""
    torch.manual_seed(0)
    side, sigma = 16, 0.3
    model = Genesis(
        replace(
            config, image_size=(side, side), mask_channels=4, component_channels=8, geco=KLGecoConfig(target(sigma))
        )
    )
    images = torch.full((3, 3, side, side), 0.1)
    for i in range(3):
        images[i, i, 2 * i : 2 * i + 8, 3 * i : 3 * i + 8] = 0.9
    plain_error = (images - images.mean(dim=(2, 3), keepdim=True)).square().sum(dim=(1, 2, 3)).mean() / (2 * sigma**2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    state = model.initial_state()
    for step in range(130):
        optimizer.zero_grad()
        loss = model.loss(images, state, noise=step)
        (loss.total / len(images)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        state = model.next_state(state, means(loss))
    assert loss.terms["nll"].mean() - 3 * side**2 * math.log(sigma) < 0.4 * plain_error


# ------------------------------------------------------------------------- presets


def test_the_target_of_a_sigma_is_the_released_one_at_the_released_sigma() -> None:
    assert target(0.7) == pytest.approx(0.5655, abs=1e-4)
    assert target(0.1, mse=0) == pytest.approx(-1.38365, abs=1e-5)


def test_presets_have_the_released_codes_values() -> None:
    slots = {"tetrominoes": 4, "multi-dsprites": 6, "clevr6": 7, "multi-dsprites-textured": 6}
    for name, count in slots.items():
        for model_name in ("genesis", "genesis-s"):
            run = PRESETS[f"{model_name}/{name}"]()
            assert isinstance(run.model, GenesisConfig if model_name == "genesis" else GenesisSConfig)
            assert (run.model.num_slots, run.model.image_size) == (count, run.image_size)
            assert (run.batch_size, run.learning_rate, run.steps, run.clip_norm) == (32, 1e-4, 500_000, None)
            assert (run.warmup_steps, run.decay, run.betas) == (0, "none", (0.9, 0.999))
            assert run.model.geco is not None
            if name == "multi-dsprites-textured":
                assert (run.model.likelihood, run.model.sigma, run.model.geco.rate) == ("gaussian", 0.1, 1e-6)
                assert run.model.geco.target_per_element == pytest.approx(-1.38365 + 0.16, abs=1e-5)
            else:
                assert (run.model.likelihood, run.model.sigma) == ("mixture", 0.7)
                assert run.model.geco == KLGecoConfig(0.5655, rate=1e-5, acceleration=10)
    assert 3 * 64**2 * 0.5655 == pytest.approx(6948.9, abs=0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = PRESETS[name]()
    assert from_json(json.loads(json.dumps(to_json(config))), "here") == config


# -------------------------------------------------------------------- wrong input


@pytest.mark.parametrize("size", [(35, 35), (4, 4), (64, 66), (100, 128), (8, 96), (256, 256), (0, 32)])
def test_other_image_sizes_are_refused_with_those_that_are_not(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"image_size is {size[0]}x{size[1]}.*32x32, 64x64, 96x96, 128x128"):
        Genesis(replace(TWO_STAGE, image_size=size))


def test_strides_leave_the_released_kernels() -> None:
    kernels = {side: side // math.prod(strides_of((side, side))) for side in (32, 64, 96, 128)}
    assert kernels == {32: 8, 64: 16, 96: 12, 128: 16}
    assert strides_of((96, 96)) == strides_of((128, 64)) == (2, 2, 2, 1, 1)


@BOTH
def test_impossible_input_is_refused_in_a_line(config: AnyConfig) -> None:
    model, images = build(config), pictures()
    for wrong in (pictures(size=(W, H)), images[:, :1]):
        for ask in (model.infer, model.encode, lambda x: model.loss(x, model.initial_state(), noise=0)):
            with pytest.raises(InputError, match="images"):
                ask(wrong)
    with pytest.raises(InputError, match="num_slots must be at least 1"):
        model.infer(images, InferOptions(num_slots=0))
    with pytest.raises(InputError, match="num_slots must be at least 1"):
        model.sample(1, (H, W), num_slots=0)
    with pytest.raises(InputError, match="no refinement steps"):
        model.infer(images, InferOptions(refinement_steps=1))
    with pytest.raises(InputError, match="built for 16x24 alone"):
        model.decode(torch.zeros(1, K, model.slot_dim).double(), (H, H))
    with pytest.raises(InputError, match=f"slots must be B K {model.slot_dim}"):
        model.decode(torch.zeros(1, K, model.slot_dim + 1).double(), (H, W))
    for name, value in {"num_slots": 0, "mask_dim": 0, "mask_channels": -1, "component_channels": 0}.items():
        with pytest.raises(InputError, match=f"{name} must be at least 1"):
            Genesis(replace(config, **{name: value}))  # type: ignore[arg-type]
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="sigma must be a positive number"):
            Genesis(replace(config, sigma=sigma))


def test_a_component_code_has_a_width() -> None:
    with pytest.raises(InputError, match="component_dim must be at least 1"):
        Genesis(replace(TWO_STAGE, component_dim=0))
