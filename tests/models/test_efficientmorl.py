"""EfficientMORL: equal to the plain formulation, and the laws it keeps."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from emorl.errors import InputError
from emorl.geco import GecoConfig, GecoState
from emorl.models.base import InferOptions, Model, TrainState
from emorl.models.efficientmorl import (
    EfficientMORL,
    EfficientMORLConfig,
    as_released,
    step_weights,
)
from emorl.nn.choices import PatchConfig
from emorl.noise import ImageNoise, RecordedNoise
from emorl.types import Inference, Loss
from tests.models import plain

B, K, D, H, W = 2, 3, 6, 7, 9  # no two alike, H and W no multiples of a patch
SMALL = EfficientMORLConfig(
    num_slots=K,
    slot_dim=D,
    num_layers=2,
    refinement_steps=2,
    sigma=0.3,
    encoder="patch",
    decoder="subpixel",
    patch=PatchConfig(
        encoder_patch=2,
        encoder_channels=10,
        encoder_layers=2,
        decoder_patch=3,
        decoder_channels=8,
        decoder_layers=3,
        decoder_waves=1,
    ),
)


def build(config: EfficientMORLConfig = SMALL, seed: int = 0) -> EfficientMORL:
    """A model in float64 with weights that matter."""
    model = EfficientMORL(config).double()
    plain.random_weights(model, seed)
    return model


def pictures(batch: int = B, size: tuple[int, int] = (H, W), seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --------------------------------------------------- equal to the plain formulation


@dataclass(frozen=True)
class Case:
    """One way to set the model up."""

    prior: str
    num_layers: int
    num_steps: int
    likelihood: str = "mixture"
    gru: str = "dual"
    geco: str = "none"
    kl_weight: float = 1.0
    loss_weights: str = "paper"
    encoder: str = "patch"
    decoder: str = "subpixel"

    def __str__(self) -> str:
        values = (f"L{self.num_layers}", f"I{self.num_steps}", self.likelihood, self.gru, f"geco {self.geco}")
        rest = (f"beta{self.kl_weight:g}", self.loss_weights, self.encoder, self.decoder)
        return " ".join((self.prior, *values, *rest))


PRIORS = ("reversed++", "reversed", "bottom-up", "bottom-up, standard in refinement")
OTHERS: dict[str, tuple[Any, ...]] = {
    "likelihood": ("gaussian", "mixture"),
    "gru": ("dual", "single"),
    "geco": ("none", "before", "after"),
    "kl_weight": (1.0, 2.0),
    "loss_weights": ("paper", "released"),
}


def latent_cases() -> list[Case]:
    """All priors, depths and step counts; the other choices drawn so that every pair of choices meets."""
    rng = np.random.default_rng(0)
    return [
        Case(prior, layers, steps, **{n: values[rng.integers(len(values))] for n, values in OTHERS.items()})
        for prior, layers, steps in itertools.product(PRIORS, (0, 1, 2, 3), (0, 1, 3))
    ]


NETWORK_CASES = [
    Case("reversed++", 1, 1, encoder=encoder, decoder=decoder, likelihood=likelihood, geco="after")
    for encoder, decoder, likelihood in itertools.product(
        ("conv", "patch"), ("broadcast", "small", "deconv", "subpixel", "modulated"), ("gaussian", "mixture")
    )
]


def test_every_pair_of_choices_meets_in_some_case() -> None:
    choices = {"prior": PRIORS, "num_layers": (0, 1, 2, 3), "num_steps": (0, 1, 3)} | OTHERS
    for (a, a_values), (b, b_values) in itertools.combinations(choices.items(), 2):
        met = {(getattr(case, a), getattr(case, b)) for case in latent_cases()}
        assert met == set(itertools.product(a_values, b_values)), (a, b)


@pytest.mark.parametrize("case", [*latent_cases(), *NETWORK_CASES], ids=str)
def test_loss_terms_and_all_gradients_equal_the_plain_formulation(case: Case) -> None:
    size = (18, 33) if case.decoder == "deconv" else (H, W)
    pixels = 3 * size[0] * size[1]
    config = replace(
        SMALL,
        prior=case.prior.split(",")[0],  # type: ignore[arg-type]
        bottom_up_refinement_prior="standard" if "," in case.prior else "conditional",
        num_layers=case.num_layers,
        likelihood=case.likelihood,  # type: ignore[arg-type]
        gru=case.gru,  # type: ignore[arg-type]
        geco=None if case.geco == "none" else GecoConfig(target_per_element=-0.9),
        loss_weights=case.loss_weights,  # type: ignore[arg-type]
        encoder=case.encoder,  # type: ignore[arg-type]
        decoder=case.decoder,  # type: ignore[arg-type]
    )
    model, images = build(config), pictures(size=size)
    noise = plain.random_noise(config, B, case.num_steps, seed=1)
    state = TrainState(refinement_steps=case.num_steps, kl_weight=case.kl_weight)
    constraint = None
    if case.geco != "none":
        geco_state = GecoState(zeta=torch.tensor(1.25).double(), ema=torch.tensor(-35.0).double())
        state = replace(state, step=999 if case.geco == "before" else 1000, geco=geco_state)
    if case.geco == "after":
        constraint = plain.Constraint(zeta=1.25, ema=-35.0, target=-0.9 * pixels)

    w = dict(model.named_parameters())
    runs = [
        plain.run(
            w,
            config,
            image,
            plain.of_image(noise, b),
            case.num_steps,
            kl_weight=case.kl_weight,
            constraint=constraint,
        )
        for b, image in enumerate(images)
    ]
    expected_total = sum((run.total for run in runs), torch.zeros(()))
    loss = model.loss(images, state, noise=RecordedNoise(noise))
    assert_equal(loss.total, expected_total)
    expected = {
        "nll": [run.steps[-1].nll for run in runs],
        "kl": [run.steps[-1].kl for run in runs],
        "nll_per_step": [[step.nll for step in run.steps] for run in runs],
        "kl_per_step": [[step.kl for step in run.steps] for run in runs],
        "kl_per_layer": [run.kl_per_layer for run in runs],
        "delta_norm_per_step": [
            [torch.cat(step.delta, dim=-1).norm(dim=-1).mean() for step in run.steps if step.delta] for run in runs
        ],
    }
    if case.geco != "none":
        expected["constraint"] = [-0.9 * pixels - run.steps[-1].nll for run in runs]  # type: ignore[misc]
    assert set(loss.terms) == set(expected)
    for name, values in expected.items():
        assert not loss.terms[name].requires_grad
        assert_equal(loss.terms[name], stacked(values))

    gradients = plain.gradients(expected_total, w)
    loss.total.backward()
    scale = max(float(g.abs().max()) for g in gradients.values())
    assert scale > 1e-3
    for name, parameter in w.items():
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        # Some true gradients are zero (the bias of the mask logit): there only rounding is left to compare.
        size_of = max(float(gradients[name].abs().max()), 1e-4 * scale)
        assert float((ours - gradients[name]).abs().max()) < 1e-9 * size_of, name


def assert_equal(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), expected.detach(), rtol=1e-10, atol=1e-11)


def stacked(values: list[Any]) -> Tensor:
    """Nested lists of scalars as a tensor, cut off from their past."""
    if values and not isinstance(values[0], Tensor):
        return torch.stack([stacked(row) for row in values])
    return torch.stack(values).detach() if values else torch.zeros(0, dtype=torch.float64)


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_inference_equals_the_plain_formulation(sample: bool, constrained: bool, num_layers: int) -> None:
    """With GECO, refinement follows softplus(zeta) NLL, zeta as the weights remember it."""
    geco = GecoConfig(target_per_element=-0.9) if constrained else None
    config = replace(SMALL, num_layers=num_layers, geco=geco, kl_weight=1.5)
    model, images = build(config), pictures()
    model.remember(TrainState(geco=GecoState(torch.tensor(2.0), torch.tensor(7.0))))
    noise = plain.random_noise(config, B, 2, seed=2)
    options = InferOptions(sample=sample, keep_steps=True, decode_layers=True)
    ours = model.infer(images, options, noise=RecordedNoise(noise))
    assert len(ours.layers) == num_layers
    assert len(ours.steps) == 3
    for b, image in enumerate(images):
        w = dict(model.named_parameters())
        run = plain.run(
            w,
            config,
            image,
            plain.of_image(noise, b),
            2,
            kl_weight=1.5,
            constraint=plain.Constraint(2.0, 0.0, 0.0) if constrained else None,
            sample=sample,
        )
        for layer, (mean, raw), z, alpha in zip(ours.layers, run.layers, run.samples[1:], run.attention, strict=True):
            assert_equal(layer.posterior.mean[b], mean)
            assert_equal(layer.posterior.std[b], plain.std(raw))
            assert_equal(layer.attention[b, :, 0], alpha)
            assert layer.decoding is not None
            log_masks, components = plain.decode(w, config, z, H, W)
            assert_equal(layer.decoding.masks[b], log_masks.exp())
            assert_equal(layer.decoding.components[b], components)
        for step, expected in zip(ours.steps, run.steps, strict=True):
            assert_equal(step.posterior.mean[b], expected.mean)
            assert_equal(step.posterior.std[b], plain.std(expected.raw))
            assert_equal(step.nll[b], expected.nll)
            assert_equal(step.kl[b], expected.kl)
            assert step.decoding is not None
            assert_equal(step.decoding.masks[b], expected.log_masks.exp())
            assert_equal(step.decoding.components[b], expected.components)
        last = run.steps[-1]
        assert_equal(ours.slots[b], last.z)
        assert_equal(ours.masks[b], last.log_masks.exp())
        assert_equal(ours.components[b], last.components)
        assert_equal(ours.reconstruction[b], (last.log_masks.exp() * last.components).sum(dim=0))


def test_zeta_of_the_weights_changes_refinement_only_where_reconstruction_is_constrained() -> None:
    for geco, matters in ((GecoConfig(-0.9), True), (None, False)):
        model = build(replace(SMALL, geco=geco))
        before = model.infer(pictures()).slots
        model.geco_zeta.fill_(5.0)
        assert torch.equal(model.infer(pictures()).slots, before) != matters


# ------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (EfficientMORLConfig(slot_dim=64, decoder="broadcast"), 666_500),
        (EfficientMORLConfig(slot_dim=32, decoder="small", num_slots=4), 467_236),
    ],
)
def test_parameter_counts_are_the_published_models(config: EfficientMORLConfig, count: int) -> None:
    assert sum(p.numel() for p in EfficientMORL(config).parameters()) == count


def test_initial_weights_follow_the_released_code() -> None:
    torch.manual_seed(0)
    model = EfficientMORL(EfficientMORLConfig(gru="dual"))
    named = {n: p.detach() for n, p in model.named_parameters()}
    assert torch.equal(model.initial_mean, torch.zeros(64))
    assert torch.equal(model.initial_raw, torch.ones(64))
    untouched = {"encoder.position.", "refinement.recurrence."}  # PyTorch's default
    for name, p in named.items():
        if name.startswith("gru."):
            assert float(p.mean()) == pytest.approx(0, abs=0.2)
            assert float(p.std()) == pytest.approx(1, abs=0.2)
        elif "norm" in name:
            assert torch.equal(p, torch.full_like(p, float(name.endswith("weight"))))
        elif name.startswith("encoder.position.weight"):
            assert 0.4 < float(p.abs().max()) <= 0.5
        elif p.ndim > 1 and not any(name.startswith(n) for n in untouched):
            receptive = math.prod(p.shape[2:])
            std = 0.02 * math.sqrt(2 / (receptive * (p.shape[0] + p.shape[1])))
            assert float(p.std()) == pytest.approx(std, rel=0.15), name
        elif name.endswith("bias") and not any(name.startswith(n) for n in untouched):
            assert torch.equal(p, torch.zeros_like(p)), name


def test_initial_weights_of_keras_are_not_small_and_the_gru_is_not_saturated() -> None:
    torch.manual_seed(0)
    model = EfficientMORL(EfficientMORLConfig(initial_weights="keras"))
    for name, p in model.named_parameters():
        if p.ndim == 4:
            fans = math.prod(p.shape[2:]) * (p.shape[0] + p.shape[1])
            assert float(p.detach().std()) == pytest.approx(math.sqrt(2 / fans), rel=0.05), name
    assert float(model.gru.weight_ih.detach().std()) == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert torch.equal(model.initial_raw, torch.ones(64))


def test_one_gru_keeps_its_own_initial_weights() -> None:
    torch.manual_seed(0)
    model = EfficientMORL(EfficientMORLConfig(gru="single"))
    named = {n: p.detach() for n, p in model.named_parameters()}
    assert float(named["gru.project.weight"].std()) == pytest.approx(0.02 * math.sqrt(2 / 192), rel=0.05)
    assert float(named["gru.cell.weight_hh"].std()) == pytest.approx(128**-0.5 / math.sqrt(3), rel=0.05)


def test_slots_steps_and_size_are_chosen_at_call_time() -> None:
    model = build()
    result = model.infer(pictures(size=(10, 5)), InferOptions(num_slots=5, refinement_steps=1))
    assert result.masks.shape == (B, 5, 1, 10, 5)
    assert result.components.shape == (B, 5, 3, 10, 5)
    assert result.reconstruction.shape == (B, 3, 10, 5)
    assert result.slots.shape == (B, 5, D)
    assert len(result.steps) == 2
    assert [layer.attention.shape for layer in result.layers] == [(B, 5, 1, 5, 3)] * 2
    assert [layer.decoding for layer in result.layers] == [None, None]
    assert [step.decoding for step in result.steps] == [None, None]
    assert model.encode(pictures(size=(10, 5)), InferOptions(5, 0)).shape == (B, 5, D)
    default = model.infer(pictures())
    assert default.slots.shape == (B, K, D)
    assert len(default.steps) == 1 + SMALL.refinement_steps


# ------------------------------------------------------------------ what it keeps


def test_masks_sum_to_one_and_colours_stay_in_range() -> None:
    result = build().infer(pictures(), InferOptions(keep_steps=True, decode_layers=True))
    for decoding in [result, *(x.decoding for x in (*result.layers, *result.steps))]:
        assert decoding is not None
        torch.testing.assert_close(decoding.masks.sum(dim=1), torch.ones(B, 1, H, W).double())
        for x in (decoding.masks, decoding.components, decoding.reconstruction):
            assert 0 <= float(x.min()) < float(x.max()) <= 1
    for layer in result.layers:
        torch.testing.assert_close(layer.attention.sum(dim=1), torch.ones(B, 1, 4, 5).double())


def per_slot(result: Inference) -> list[Tensor]:
    """Everything that has an axis K."""
    found = [result.masks, result.components, result.slots]
    for layer in result.layers:
        assert layer.decoding is not None
        found += [layer.posterior.mean, layer.posterior.std, layer.attention, layer.decoding.masks]
        found += [layer.decoding.components]
    for step in result.steps:
        assert step.decoding is not None
        found += [step.posterior.mean, step.posterior.std, step.decoding.masks, step.decoding.components]
    return found


def everything(result: Inference) -> list[Tensor]:
    return per_slot(result) + per_image(result)


def per_image(result: Inference) -> list[Tensor]:
    """Everything that has no axis K."""
    return [result.reconstruction, *(x for step in result.steps for x in (step.nll, step.kl))]


def test_permuting_the_noise_of_slots_permutes_the_slots_and_nothing_else() -> None:
    model, images, order = build(), pictures(), torch.tensor([2, 0, 1])
    noise = plain.random_noise(SMALL, B, 2, seed=3)
    permuted = {name: [draw[:, order] for draw in draws] for name, draws in noise.items()}
    options = InferOptions(keep_steps=True, decode_layers=True)
    before = model.infer(images, options, noise=RecordedNoise(noise))
    after = model.infer(images, options, noise=RecordedNoise(permuted))
    for x, y in zip(per_slot(before), per_slot(after), strict=True):
        assert_equal(y, x[:, order])
        assert float((y - x).abs().max()) > 1e-3
    for x, y in zip(per_image(before), per_image(after), strict=True):
        assert_equal(y, x)


@pytest.mark.parametrize("prior", ["reversed++", "bottom-up"])
def test_no_image_depends_on_its_batch(prior: Any) -> None:
    config = replace(SMALL, prior=prior, geco=GecoConfig(-0.9))
    model, images, indices = build(config), pictures(3), [5, 2, 9]
    state = TrainState(1000, 2, geco=GecoState(torch.tensor(1.25).double(), torch.tensor(-35.0).double()))
    options = InferOptions(keep_steps=True, decode_layers=True)
    together = model.infer(images, options, noise=ImageNoise(0, indices))
    run = model.training_pass(images, state, ImageNoise(0, indices))
    total = model.loss(images, state, noise=ImageNoise(0, indices)).total
    totals = []
    for b, index in enumerate(indices):
        alone = model.infer(images[b : b + 1], options, noise=ImageNoise(0, [index]))
        for x, y in zip(everything(together), everything(alone), strict=True):
            assert_equal(x[b : b + 1], y)
        single = model.training_pass(images[b : b + 1], state, ImageNoise(0, [index]))
        for x, y in zip(run.steps[1:], single.steps[1:], strict=True):
            assert x.grad is not None and y.grad is not None
            assert_equal(x.grad.mean[b], y.grad.mean[0])
            assert_equal(x.grad.raw[b], y.grad.raw[0])
            assert float(y.grad.mean.abs().max()) > 1e-3
        totals.append(model.loss(images[b : b + 1], state, noise=ImageNoise(0, [index])).total)
    assert_equal(total, torch.stack(totals).sum())
    assert not torch.allclose(together.slots[0], together.slots[1])


def test_inference_and_training_refine_alike() -> None:
    model, images = build(), pictures()
    run = model.training_pass(images, TrainState(refinement_steps=2), ImageNoise(0, range(B)))
    result = model.infer(images, noise=0)
    for step, trained in zip(result.steps, run.steps, strict=True):
        assert_equal(step.posterior.mean, trained.posterior.mean)
        assert_equal(step.nll, trained.nll.per_image)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("num_steps", [0, 2])
def test_the_callers_gradient_mode_does_not_matter(mode: Callable[[], Any], num_steps: int) -> None:
    model, images = build(), pictures()
    options = InferOptions(refinement_steps=num_steps, keep_steps=True, decode_layers=True)
    expected = model.infer(images, options)
    codes = model.encode(images, options)
    with mode():
        inside = pictures()  # under inference_mode this is an inference tensor
        result = model.infer(inside, options)
        other_codes = model.encode(inside, options)
    for x, y in zip(everything(result), everything(expected), strict=True):
        assert torch.equal(x, y)
        assert not x.requires_grad
    assert torch.equal(other_codes, codes)
    assert not other_codes.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_inference_leaves_no_gradient_with_images_that_want_one() -> None:
    images = pictures().requires_grad_()
    assert not build().infer(images).reconstruction.requires_grad
    assert images.grad is None


def test_bytes_and_unit_range_are_the_same_picture() -> None:
    model = build()
    images = (pictures() * 256).to(torch.uint8)
    unit, state = images.double() / 255, TrainState(refinement_steps=1)
    assert torch.equal(model.infer(images).slots, model.infer(unit).slots)
    assert torch.equal(model.encode(images), model.encode(unit))
    assert torch.equal(model.loss(images, state, noise=0).total, model.loss(unit, state, noise=0).total)


def test_no_noise_given_is_seed_zero_and_seeds_matter() -> None:
    model, images = build(), pictures()
    assert torch.equal(model.infer(images).slots, model.infer(images, noise=0).slots)
    assert torch.equal(model.infer(images).slots, model.infer(images, noise=ImageNoise(0, range(B))).slots)
    assert not torch.equal(model.infer(images).slots, model.infer(images, noise=1).slots)


# --------------------------------------------------------------- codes and pictures


class Forbidden(nn.Module):
    """A decoder that must not run."""

    def forward(self, *_: object) -> Tensor:
        raise AssertionError("the decoder ran")

    def images_per_chunk(self, num_slots: int, height: int, width: int) -> int:
        return 1


@pytest.mark.parametrize("num_layers", [0, 2])
def test_codes_without_refinement_never_touch_the_decoder(num_layers: int) -> None:
    model, images = build(replace(SMALL, num_layers=num_layers)), pictures()
    options = InferOptions(refinement_steps=0)
    expected = model.infer(images, options, noise=3).steps[-1].posterior.mean
    model.decoder = Forbidden()
    assert_equal(model.encode(images, options, noise=3), expected)
    with pytest.raises(AssertionError, match="the decoder ran"):
        model.encode(images, InferOptions(refinement_steps=1), noise=3)


def test_the_posterior_whose_means_are_the_codes_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = build(), pictures()
    decoded: list[int] = []
    draw = EfficientMORL.decode_nll
    monkeypatch.setattr(EfficientMORL, "decode_nll", lambda *given: decoded.append(len(given[1])) or draw(*given))
    for num_steps in (0, 1, 3):
        decoded.clear()
        model.encode(images, InferOptions(refinement_steps=num_steps), noise=3)
        assert sum(decoded) == num_steps * len(images)


def test_codes_are_the_last_posterior_mean() -> None:
    model, images = build(), pictures()
    for num_steps in (0, 1, 2):
        options = InferOptions(num_slots=4, refinement_steps=num_steps)
        last = model.infer(images, options, noise=3).steps[-1].posterior.mean
        assert_equal(model.encode(images, options, noise=3), last)


def test_without_sampling_the_mean_is_decoded() -> None:
    model, images = build(), pictures()
    for num_steps in (0, 2):
        result = model.infer(images, InferOptions(refinement_steps=num_steps, sample=False))
        assert torch.equal(result.slots, result.steps[-1].posterior.mean)
        sampled = model.infer(images, InferOptions(refinement_steps=num_steps))
        assert not torch.allclose(sampled.slots, sampled.steps[-1].posterior.mean)


def test_slots_decode_to_the_pictures_they_came_with() -> None:
    model = build()
    result = model.infer(pictures())
    again = model.decode(result.slots, (H, W))
    assert_equal(again.masks, result.masks)
    assert_equal(again.components, result.components)
    assert_equal(again.reconstruction, result.reconstruction)


def test_pictures_of_steps_and_layers_come_on_request_and_change_nothing() -> None:
    model, images = build(), pictures()
    bare = model.infer(images)
    full = model.infer(images, InferOptions(keep_steps=True, decode_layers=True))
    assert torch.equal(bare.masks, full.masks)
    assert full.steps[-1].decoding is not None
    assert torch.equal(full.steps[-1].decoding.masks, full.masks)
    assert full.steps[0].decoding is not None
    assert full.layers[-1].decoding is not None
    # What enters refinement is the sample of the last layer.
    assert_equal(full.layers[-1].decoding.masks, full.steps[0].decoding.masks)
    assert not torch.allclose(full.steps[0].decoding.masks, full.masks)


# ----------------------------------------------------------------- few layers


def test_without_layers_every_slot_starts_from_the_learned_code() -> None:
    model = build(replace(SMALL, num_layers=0))
    result = model.infer(pictures(), InferOptions(refinement_steps=1))
    assert result.layers == ()
    first = result.steps[0]
    assert_equal(first.posterior.mean, model.initial_mean.expand(B, K, D))
    assert torch.equal(first.kl, torch.zeros(B).double())
    second = result.steps[1]
    assert_equal(second.kl, kl_to_standard_normal(second.posterior.mean, second.posterior.std))


@pytest.mark.parametrize("prior", ["reversed++", "reversed", "bottom-up"])
def test_with_one_layer_both_priors_are_standard_normal(prior: Any) -> None:
    model = build(replace(SMALL, num_layers=1, prior=prior))
    for step in model.infer(pictures(), InferOptions(refinement_steps=1)).steps:
        assert_equal(step.kl, kl_to_standard_normal(step.posterior.mean, step.posterior.std))


def kl_to_standard_normal(mean: Tensor, std: Tensor) -> Tensor:
    p = Normal(torch.zeros_like(mean), 1.0)
    return kl_divergence(Normal(mean, std), p).sum(dim=(1, 2))


# -------------------------------------------------------------------- the savings


class Watch:
    """Counts the runs of a decoder and fails where an earlier one is still in memory."""

    def __init__(self, decoder: nn.Module) -> None:
        self.forward = self.backward = 0
        self.outputs: list[weakref.ref[Tensor]] = []
        decoder.register_forward_pre_hook(self.enter)
        decoder.register_forward_hook(self.leave)

    def enter(self, *_: object) -> None:
        assert self.num_alive() == 0
        self.forward += 1

    def leave(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.outputs.append(weakref.ref(output))
        if output.requires_grad:
            output.register_hook(self.differentiated)

    def differentiated(self, _: Tensor) -> None:
        self.backward += 1

    def num_alive(self) -> int:
        return sum(ref() is not None for ref in self.outputs)


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_every_decode_runs_forward_once_and_backward_once_and_is_freed(num_steps: int) -> None:
    model, images = build(), pictures()
    watch = Watch(model.decoder)
    loss = model.loss(images, TrainState(refinement_steps=num_steps), noise=0)
    assert watch.num_alive() == 0
    loss.total.backward()
    assert (watch.forward, watch.backward) == (num_steps + 1, num_steps + 1)
    watch.forward = watch.backward = 0
    model.infer(images, InferOptions(refinement_steps=num_steps))
    assert (watch.forward, watch.backward) == (num_steps + 1, num_steps)


def test_a_second_backward_is_refused() -> None:
    loss = build().loss(pictures(), TrainState(refinement_steps=1), noise=0)
    loss.total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.total.backward()


# ------------------------------------------------------------------------ training


def test_it_keeps_the_contract() -> None:
    assert isinstance(build(), Model)


def test_weights_of_the_steps() -> None:
    assert step_weights(3, "paper") == [1, 0.75, 0.5, 0.25]
    assert step_weights(3, "released") == [1.5, 1.25, 1, 0.75]
    assert step_weights(0, "paper") == [1]


def means(loss: Loss) -> dict[str, Tensor]:
    return {name: values.mean(dim=0) for name, values in loss.terms.items()}


def test_the_state_moves_by_the_last_refinement_step_alone() -> None:
    config = replace(SMALL, geco=GecoConfig(target_per_element=-0.9, warmup_steps=2))
    model, images = build(config), pictures()
    state = model.initial_state()
    assert state.geco is not None
    assert (state.step, state.refinement_steps, state.kl_weight) == (0, 2, 1.0)
    assert float(state.geco.zeta) == pytest.approx(0.55)
    for _ in range(2):
        state = model.next_state(state, means(model.loss(images, state, noise=0)))
        assert state.geco is not None
        assert float(state.geco.ema) == 0
    loss = model.loss(images, state, noise=0)
    state = model.next_state(state, means(loss))
    assert state.geco is not None
    assert state.step == 3
    target = -0.9 * 3 * H * W
    last_nll = float(loss.terms["nll_per_step"][:, -1].mean())
    assert float(state.geco.ema) == pytest.approx(target - last_nll, rel=1e-12)


def test_without_a_constraint_only_the_step_moves() -> None:
    model = build()
    state = model.initial_state()
    assert state.geco is None
    assert model.next_state(state, means(model.loss(pictures(), state, noise=0))) == replace(state, step=1)


def test_zeta_is_a_buffer_of_the_weights() -> None:
    model = build(replace(SMALL, geco=GecoConfig(-0.9)))
    assert float(model.geco_zeta) == pytest.approx(0.55)
    model.remember(TrainState(geco=GecoState(torch.tensor(0.75), torch.tensor(0.0))))
    other = build(replace(SMALL, geco=GecoConfig(-0.9)), seed=1)
    other.load_state_dict(model.state_dict())
    assert float(other.geco_zeta) == 0.75
    assert torch.equal(other.infer(pictures()).slots, model.infer(pictures()).slots)


def test_released_choices_differ_from_the_paper_in_two_options() -> None:
    released = as_released(SMALL)
    assert released == replace(SMALL, loss_weights="released", bottom_up_refinement_prior="standard")


def test_single_precision_stays_close_to_double() -> None:
    model, images, state = build(), pictures(), TrainState(refinement_steps=1)
    double = model.loss(images, state, noise=0).total
    single = model.float().loss(images.float(), state, noise=0).total
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double.item(), rel=1e-4)


# -------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, H, W),
        torch.zeros(B, 1, H, W),
        torch.zeros(B, H, W, 3),
        torch.zeros(B, 3, H, W, dtype=torch.int64),
    ],
)
def test_other_shapes_and_types_are_refused(images: Tensor) -> None:
    model = build()
    with pytest.raises(InputError, match="images must be"):
        model.infer(images)
    with pytest.raises(InputError, match="images must be"):
        model.encode(images, InferOptions(refinement_steps=0))
    with pytest.raises(InputError, match="images must be"):
        model.loss(images, model.initial_state(), noise=0)


def test_impossible_counts_are_refused() -> None:
    for options in (InferOptions(num_slots=0), InferOptions(refinement_steps=-1)):
        with pytest.raises(InputError, match="at least"):
            build().infer(pictures(), options)
    for field in ("num_layers", "num_slots", "refinement_steps"):
        with pytest.raises(InputError, match="at least"):
            EfficientMORL(replace(SMALL, **{field: -1}))  # type: ignore[arg-type]


# ----------------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    ("prior", "refinement_prior", "steps", "chain"),
    [
        ("reversed++", "conditional", 2, True),
        ("reversed++", "conditional", 0, False),
        ("reversed", "conditional", 2, False),
        ("bottom-up", "conditional", 2, True),
        ("bottom-up", "standard", 2, False),
        ("bottom-up", "standard", 0, True),
    ],
)
def test_scenes_are_drawn_from_the_prior_that_the_codes_were_trained_against(
    prior: Any, refinement_prior: Any, steps: int, chain: bool
) -> None:
    config = replace(SMALL, prior=prior, bottom_up_refinement_prior=refinement_prior, refinement_steps=steps)
    model, noise = build(config), ImageNoise(3, [0, 1])
    drawn = model.sample(2, (H, W), noise=noise)
    like = torch.zeros(2, K, D, dtype=torch.float64)
    z = noise.normal("sample", 0, like)
    if chain:
        z = model.prior(z).sample(noise.normal("sample", 1, like))  # of the second of two layers
    assert torch.equal(drawn.slots, z)
    assert torch.equal(drawn.masks, model.decode(z, (H, W)).masks)
    assert drawn.masks.sum(dim=1).sub(1).abs().max() < 1e-12
