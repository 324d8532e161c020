"""MONet: equal to the plain formulation, its traps, and the laws it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from emorl.errors import InputError
from emorl.models import build_model
from emorl.models.base import InferOptions, Model
from emorl.models.monet import MONet, MONetConfig, mask_divergence
from emorl.noise import ImageNoise, RecordedNoise
from emorl.presets import preset
from tests.models import plain

B, K, D, H, W = 2, 3, 5, 16, 20
SMALL = MONetConfig(
    image_size=(H, W),
    num_slots=K,
    slot_dim=D,
    sigma_background=0.2,
    sigma_foreground=0.35,
    kl_weight=0.7,
    mask_weight=0.3,
    attention_channels=3,
    component_channels=4,
)


def build(config: MONetConfig = SMALL, seed: int = 0) -> MONet:
    """A model in float64 with weights that matter."""
    model = MONet(config).double()
    plain.random_weights(model, seed)
    return model


def of_preset(name: str) -> MONet:
    model = build_model(preset(f"monet/{name}").model)
    assert isinstance(model, MONet)
    return model


def pictures(batch: int = B, size: tuple[int, int] = (H, W), seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(batch: int = B, num_slots: int = K) -> RecordedNoise:
    generator = torch.Generator().manual_seed(7)
    return RecordedNoise({"slots": [torch.randn(batch, num_slots, D, generator=generator, dtype=torch.float64)]})


def assert_equal(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), expected.detach(), rtol=1e-9, atol=1e-10)


# --------------------------------------------------- equal to the plain formulation


def plain_image(model: MONet, image: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """One image, slot after slot; eps K D."""
    config = model.config
    scope, masks = torch.ones(1, H, W).double(), []
    for _ in range(len(eps) - 1):
        part = torch.sigmoid(model.attention(torch.cat([image, scope.log()])[None])[0])
        masks.append(scope * part)
        scope = scope * (1 - part)
    masks.append(scope)
    kl, codes, components, logits, means = torch.zeros(()).double(), [], [], [], []
    for mask, noise in zip(masks, eps, strict=True):
        q = model.encoder(torch.cat([image, mask.log()])[None])
        mean, std = q.mean[0], q.std[0]
        kl = kl + kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), 1.0)).sum()
        codes.append(mean + std * noise)
        means.append(mean)
        out = model.decoder(codes[-1][None], H, W)[0]
        components.append(torch.sigmoid(out[:3]))
        logits.append(out[3:])
    sigmas = [config.sigma_background] + [config.sigma_foreground] * (len(eps) - 1)
    likelihood = torch.zeros(3, H, W).double()
    for mask, component, sigma in zip(masks, components, sigmas, strict=True):
        density = torch.exp(-((image - component) ** 2) / (2 * sigma**2)) / sigma
        likelihood = likelihood + mask * density
    decoder_masks = torch.stack(logits).softmax(dim=0)

    def pixels(m: Tensor) -> Any:
        clamped = m[:, 0].clamp(min=1e-5).permute(1, 2, 0)  # Categorical makes it sum to one
        return Independent(Categorical(probs=clamped), 2)

    return {
        "nll": -likelihood.log().sum(),
        "kl": kl,
        "mask_kl": kl_divergence(pixels(torch.stack(masks)), pixels(decoder_masks)),
        "masks": torch.stack(masks),
        "decoder_masks": decoder_masks,
        "components": torch.stack(components),
        "slots": torch.stack(codes),
        "means": torch.stack(means),
    }


@pytest.mark.parametrize("num_slots", [1, 2, K])
def test_loss_terms_and_all_gradients_equal_the_plain_formulation(num_slots: int) -> None:
    model, images, noise = build(replace(SMALL, num_slots=num_slots)), pictures(), draws(num_slots=num_slots)
    runs = [plain_image(model, image, eps) for image, eps in zip(images, noise.arrays["slots"][0], strict=True)]
    terms = {name: torch.stack([run[name] for run in runs]) for name in ("nll", "kl", "mask_kl")}
    expected = (terms["nll"] + 0.7 * terms["kl"] + 0.3 * terms["mask_kl"]).sum()
    loss = model.loss(images, model.initial_state(), noise=noise)
    assert_equal(loss.total, expected)
    assert set(loss.terms) == set(terms)
    for name, values in terms.items():
        assert not loss.terms[name].requires_grad
        assert_equal(loss.terms[name], values)
    parameters = [p for name, p in model.named_parameters() if num_slots > 1 or not name.startswith("attention")]
    theirs = torch.autograd.grad(expected, parameters)
    for ours, other in zip(torch.autograd.grad(loss.total, parameters), theirs, strict=True):
        assert float(ours.abs().max()) > 0
        torch.testing.assert_close(ours, other, rtol=1e-7, atol=1e-8 * float(other.abs().max()) + 1e-9)


def test_inference_equals_the_plain_formulation() -> None:
    model, images, noise = build(), pictures(), draws()
    found = model.infer(images, InferOptions(keep_steps=True), noise=noise)
    (step,) = found.steps
    assert found.decoder_masks is not None and step.decoding is not None
    for b, image in enumerate(images):
        run = plain_image(model, image, noise.arrays["slots"][0][b])
        assert_equal(found.masks[b], run["masks"])
        assert_equal(found.decoder_masks[b], run["decoder_masks"])
        assert_equal(found.components[b], run["components"])
        assert_equal(found.slots[b], run["slots"])
        assert_equal(found.reconstruction[b], (run["masks"] * run["components"]).sum(dim=0))
        assert_equal(step.posterior.mean[b], run["means"])
        assert_equal(step.nll[b], run["nll"])
        assert_equal(step.kl[b], run["kl"])
    assert torch.equal(step.decoding.masks, found.masks)
    assert model.infer(images).steps[0].decoding is None


# ------------------------------------------------------------------------- traps


def test_the_background_is_slot_one_by_position() -> None:
    """A picture explained without error has the density of each slot's own sigma in its pixels."""
    model, images = build(), torch.full((B, 3, H, W), 0.5, dtype=torch.float64)
    last = model.decoder.layers[-1]
    for parameter in last.parameters():
        torch.nn.init.zeros_(parameter)
    found = model.infer(images, InferOptions(num_slots=2))
    density = found.masks[:, 0] / SMALL.sigma_background + found.masks[:, 1] / SMALL.sigma_foreground
    assert_equal(found.steps[0].nll, -3 * density.log().sum(dim=(1, 2, 3)))
    assert float(found.masks.std()) > 1e-2
    (alone,) = model.infer(images, InferOptions(num_slots=1)).steps
    assert alone.nll.tolist() == pytest.approx([3 * H * W * math.log(SMALL.sigma_background)] * B)


def test_mask_divergence_is_clamped_and_goes_from_the_attention_to_the_decoder() -> None:
    p = torch.tensor([0.0, 1.0], dtype=torch.float64).view(1, 2, 1, 1, 1)
    q = torch.tensor([0.25, 0.75], dtype=torch.float64).view(1, 2, 1, 1, 1)
    low, high = 1e-5 / (1 + 1e-5), 1 / (1 + 1e-5)
    expected = low * math.log(low / 0.25) + high * math.log(high / 0.75)
    assert float(mask_divergence(p, q)) == pytest.approx(expected, rel=1e-12)
    assert float(mask_divergence(q, p)) == pytest.approx(
        0.25 * math.log(0.25 / low) + 0.75 * math.log(0.75 / high), rel=1e-12
    )
    assert float(mask_divergence(p, p)) == 0


def test_masks_stay_finite_where_a_slot_takes_everything() -> None:
    model = build().float()
    with torch.no_grad():
        model.attention.out.bias.fill_(200.0)  # type: ignore[union-attr,operator]
    loss = model.loss(pictures().float(), model.initial_state(), noise=0)
    loss.total.backward()
    grads = [p.grad for p in model.parameters()]
    assert bool(loss.total.isfinite()) and all(grad is not None and bool(grad.isfinite().all()) for grad in grads)


def test_slots_are_ordered() -> None:
    """Which slot sees what is settled by the attention: exchanging their noise exchanges no masks."""
    model, images, noise = build(), pictures(), draws()
    before = model.infer(images, noise=noise)
    after = model.infer(images, noise=RecordedNoise({"slots": [noise.arrays["slots"][0][:, [2, 0, 1]]]}))
    assert torch.equal(after.masks, before.masks)
    assert not torch.allclose(after.components[:, [1, 2, 0]], before.components, atol=1e-3)


# ------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("side", "count"), [(32, 749_701), (64, 974_085), (96, 1_630_725), (128, 1_788_293)])
def test_parameter_counts_are_those_of_the_genesis_repository(side: int, count: int) -> None:
    model = MONet(MONetConfig(image_size=(side, side)))
    assert sum(p.numel() for p in model.parameters()) == count


def test_parameter_counts_of_the_presets() -> None:
    expected = {
        "tetrominoes": 749_701,
        "multi-dsprites": 974_085,
        "clevr6": 1_630_725,
        "clevr6-128": 1_788_293,
        "nano": 148_445,
    }
    for name, count in expected.items():
        assert sum(p.numel() for p in of_preset(name).parameters()) == count


@pytest.mark.parametrize("size", [(32, 32), (35, 35), (64, 64), (96, 96), (128, 128), (24, 40)])
def test_masks_sum_to_one_at_all_sizes_and_any_number_of_slots(size: tuple[int, int]) -> None:
    model = build(replace(SMALL, image_size=size)).float()
    for asked in (1, K, 6):
        found = model.infer(pictures(1, size), InferOptions(num_slots=asked))
        assert found.decoder_masks is not None
        for masks in (found.masks, found.decoder_masks):
            assert masks.shape == (1, asked, 1, *size)
            torch.testing.assert_close(masks.sum(dim=1), torch.ones(1, 1, *size), rtol=0, atol=1e-4)
        for x in (found.masks, found.components, found.reconstruction):
            assert 0 <= float(x.min()) and float(x.max()) <= 1 + 1e-5


# ------------------------------------------------------------------ what it keeps


def test_it_keeps_the_contract() -> None:
    assert isinstance(build(), Model)


def test_no_image_depends_on_its_batch() -> None:
    model, images, indices = build(), pictures(3), [5, 2, 9]
    state = model.initial_state()
    together = model.infer(images, noise=ImageNoise(0, indices))
    total = model.loss(images, state, noise=ImageNoise(0, indices)).total
    totals = []
    for b, index in enumerate(indices):
        one = images[b : b + 1]
        alone = model.infer(one, noise=ImageNoise(0, [index]))
        assert_equal(alone.masks[0], together.masks[b])
        assert_equal(alone.slots[0], together.slots[b])
        assert_equal(alone.steps[0].nll[0], together.steps[0].nll[b])
        totals.append(model.loss(one, state, noise=ImageNoise(0, [index])).total)
    assert_equal(total, torch.stack(totals).sum())
    assert not torch.allclose(together.slots[0], together.slots[1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(mode: Callable[[], Any]) -> None:
    model, images = build(), pictures()
    expected, codes = model.infer(images), model.encode(images)
    with mode():
        inside = pictures()
        found, other = model.infer(inside), model.encode(inside)
    assert torch.equal(found.slots, expected.slots) and torch.equal(found.reconstruction, expected.reconstruction)
    assert torch.equal(other, codes)
    assert not found.slots.requires_grad and not found.masks.requires_grad and not other.requires_grad


def test_bytes_and_unit_range_are_the_same_picture() -> None:
    model = build()
    images = (pictures() * 256).to(torch.uint8)
    unit, state = images.double() / 255, model.initial_state()
    assert torch.equal(model.infer(images).slots, model.infer(unit).slots)
    assert torch.equal(model.encode(images), model.encode(unit))
    assert torch.equal(model.loss(images, state, noise=0).total, model.loss(unit, state, noise=0).total)


def test_codes_are_posterior_means_and_no_decoder_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, options = build(), pictures(), InferOptions(num_slots=4)
    expected = model.infer(images, options, noise=3).steps[0].posterior.mean
    assert torch.equal(model.infer(images, replace(options, sample=False)).slots, expected)
    monkeypatch.setattr(model, "decode_log", None)
    assert torch.equal(model.encode(images, options, noise=5), expected)


def test_slots_decode_to_the_pictures_they_came_with_and_at_other_sizes() -> None:
    model = build()
    found = model.infer(pictures())
    assert found.decoder_masks is not None
    again = model.decode(found.slots, (H, W))
    assert_equal(again.masks, found.decoder_masks)
    assert_equal(again.components, found.components)
    larger = model.decode(found.slots, (21, 40))
    assert larger.components.shape == (B, K, 3, 21, 40)


def test_samples_are_decoded_draws() -> None:
    model = build()
    drawn = model.sample(3, (H, W), num_slots=4, noise=2)
    expected = ImageNoise(2, range(3)).normal("sample", 0, torch.zeros(3, 4, D).double())
    assert torch.equal(drawn.slots, expected)
    decoding = model.decode(expected, (H, W))
    assert torch.equal(drawn.masks, decoding.masks.detach())
    assert torch.equal(drawn.reconstruction, decoding.reconstruction.detach())
    assert model.sample(1, (H, W)).slots.shape == (1, K, D)
    assert not drawn.masks.requires_grad


def test_single_precision_stays_close_to_double() -> None:
    model, images = build(), pictures()
    double = model.loss(images, model.initial_state(), noise=0).total
    single = model.float().loss(images.float(), model.initial_state(), noise=0).total
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double.item(), rel=1e-4)


# ------------------------------------------------------------------------ training


def test_beta_is_the_states_and_gamma_the_configs() -> None:
    images, noise = pictures(), draws()
    model = build(replace(SMALL, mask_weight=2.0))
    state = model.initial_state()
    assert (state.kl_weight, state.refinement_steps, state.geco) == (0.7, 0, None)
    loss = model.loss(images, replace(state, kl_weight=5.0), noise=noise)
    terms = loss.terms
    assert_equal(loss.total, (terms["nll"] + 5 * terms["kl"] + 2 * terms["mask_kl"]).sum())
    assert model.next_state(state, {}) == replace(state, step=1)


def squares() -> Tensor:
    """Four scenes of three coloured squares on black, uint8 B 3 32 32."""
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [60, 60, 255]], dtype=torch.uint8)
    for b in range(4):
        for i, colour in enumerate(colours):
            top, left = 3 + 9 * i, 3 + 7 * ((b + 2 * i) % 4)
            images[b, :, top : top + 7, left : left + 7] = colour[:, None, None]
    return images


def test_it_learns_a_fixed_batch() -> None:
    torch.manual_seed(0)
    model = of_preset("nano")
    images, state = squares(), model.initial_state()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses, errors = [], []
    for step in range(60):
        optimizer.zero_grad()
        loss = model.loss(images, state, noise=step)
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
        if step in (0, 59):
            errors.append(float((model.infer(images).reconstruction - images / 255).square().mean()))
    assert sum(losses[-5:]) < sum(losses[:5]) - 1e4
    assert errors[1] < 0.5 * errors[0]


# -------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image_size": (16, 15)}, "image_size"),
        ({"num_slots": 0}, "num_slots"),
        ({"slot_dim": 0}, "slot_dim"),
        ({"attention_channels": 0}, "attention_channels"),
        ({"component_channels": -1}, "component_channels"),
        ({"sigma_background": 0.0}, "sigma_background"),
        ({"sigma_foreground": math.inf}, "sigma_foreground"),
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"mask_weight": math.nan}, "mask_weight"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        MONet(replace(SMALL, **change))


def test_impossible_calls_are_refused() -> None:
    model = build()
    for options, match in ((InferOptions(num_slots=0), "num_slots"), (InferOptions(refinement_steps=1), "refinement")):
        with pytest.raises(InputError, match=match):
            model.infer(pictures(), options)
        with pytest.raises(InputError, match=match):
            model.encode(pictures(), options)
    with pytest.raises(InputError, match="num_slots"):
        model.sample(1, (H, W), num_slots=0)
    assert model.infer(pictures(), InferOptions(refinement_steps=0)).slots.shape == (B, K, D)
    calls: list[Callable[[Tensor], object]] = [model.infer, model.encode]
    for call in [*calls, lambda x: model.loss(x, model.initial_state())]:
        with pytest.raises(InputError, match="16x20"):
            call(pictures(size=(20, 16)))
        with pytest.raises(InputError, match="images must be"):
            call(pictures()[:, :2])
