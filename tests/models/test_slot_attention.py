"""Slot Attention: equal to the plain formulation, and the laws it keeps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from emorl.errors import InputError
from emorl.models.base import InferOptions, Model, TrainState
from emorl.models.slot_attention import SlotAttention, SlotAttentionConfig
from emorl.nn.choices import DecoderKind
from emorl.noise import ImageNoise, RecordedNoise
from emorl.precision import place
from emorl.presets import preset
from emorl.train import learning_rate
from emorl.types import Inference
from tests.models import plain, plain_slots

B, K, D, H, W = 2, 3, 6, 7, 9  # no two alike, H and W no multiples of a patch
SMALL = SlotAttentionConfig(
    num_slots=K, slot_dim=D, refinement_steps=2, encoder="patch", encoder_channels=10, decoder="subpixel"
)


def build(config: SlotAttentionConfig = SMALL, seed: int = 0) -> SlotAttention:
    """A model in float64 with weights that matter; some colours lie outside of [-1, 1]."""
    model = SlotAttention(config).double()
    plain.random_weights(model, seed)
    return model


def pictures(batch: int = B, size: tuple[int, int] = (H, W), seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(batch: int = B, num_slots: int = K, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, num_slots, D, generator=generator, dtype=torch.float64)


def recorded(eps: Tensor) -> RecordedNoise:
    return RecordedNoise({"slots": [eps]})


def assert_equal(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), expected.detach(), rtol=1e-10, atol=1e-11)


# --------------------------------------------------- equal to the plain formulation


def plain_slots_of(w: plain.Weights, config: SlotAttentionConfig, image: Tensor, eps: Tensor, num_steps: int) -> Tensor:
    """Slots K D of an image 3 H W, by sums over tokens and slots."""
    x = plain_slots.features(w, config, image)
    x = plain.mlp(w, "encoder.mlp", plain_slots.layer_norm(w, "encoder.norm", x.reshape(-1, config.encoder_channels)))
    x = plain_slots.layer_norm(w, "norm_tokens", x)
    keys, values = plain.linear(w, "attention.key", x), plain.linear(w, "attention.value", x)  # N D
    slots = w["initial_mean"] + torch.exp(w["initial_log_std"]) * eps
    for _ in range(num_steps):
        query = plain.linear(w, "attention.query", plain_slots.layer_norm(w, "norm_slots", slots))
        logits = (keys @ query.T) / math.sqrt(config.slot_dim)  # N K
        shares = torch.stack([torch.exp(row) / torch.exp(row).sum() for row in logits]) + 1e-8  # a token's, over slots
        updates = []
        for k in range(len(eps)):
            weights = shares[:, k] / shares[:, k].sum()  # over tokens
            updates.append((weights[:, None] * values).sum(dim=0))
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        slots = plain.gru_cell(torch.stack(updates), slots, *(w[f"gru.{kind}"] for kind in kinds))
        slots = slots + plain.mlp(w, "mlp", plain_slots.layer_norm(w, "norm_mlp", slots))
    return slots


CASES = [
    *itertools.product(("patch",), ("subpixel",), (0, 1, 3)),
    *itertools.product(("conv",), ("deconv", "small"), (2,)),
]


@pytest.mark.parametrize(("encoder", "decoder", "num_steps"), CASES)
def test_loss_and_all_gradients_equal_the_plain_formulation(encoder: Any, decoder: Any, num_steps: int) -> None:
    size = (18, 33) if decoder == "deconv" else (H, W)
    config = replace(SMALL, encoder=encoder, decoder=decoder)
    model, images, eps = build(config), pictures(size=size), draws()
    w = dict(model.named_parameters())
    errors = []
    for image, noise in zip(images, eps, strict=True):
        masks, colours = plain_slots.decode(w, decoder, plain_slots_of(w, config, image, noise, num_steps), *size)
        assert float(colours.detach().abs().max()) > 1  # the loss sees colours out of range as they are
        errors.append(plain_slots.error(image, masks, colours))
    expected = torch.stack(errors)
    loss = model.loss(images, TrainState(refinement_steps=num_steps), noise=recorded(eps))
    assert_equal(loss.total, expected.sum())
    assert set(loss.terms) == {"mse"}
    assert not loss.terms["mse"].requires_grad
    assert_equal(loss.terms["mse"], expected / 4)

    gradients = plain.gradients(expected.sum(), w)
    loss.total.backward()
    scale = max(float(g.abs().max()) for g in gradients.values())
    assert scale > 1e-3
    for name, parameter in w.items():
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        # The true gradient of the mask logit's bias is zero: there only rounding is left to compare.
        size_of = max(float(gradients[name].abs().max()), 1e-4 * scale)
        assert float((ours - gradients[name]).abs().max()) < 1e-9 * size_of, name


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_inference_equals_the_plain_formulation(num_steps: int) -> None:
    model, images, eps = build(), pictures(), draws(num_slots=5)
    result = model.infer(images, InferOptions(num_slots=5, refinement_steps=num_steps), noise=recorded(eps))
    w = dict(model.named_parameters())
    assert (result.layers, result.steps, result.decoder_masks) == ((), (), None)
    for b, image in enumerate(images):
        slots = plain_slots_of(w, SMALL, image, eps[b], num_steps)
        masks, colours = plain_slots.decode(w, "subpixel", slots, H, W)
        assert_equal(result.slots[b], slots)
        assert_equal(result.masks[b], masks)
        assert_equal(result.components[b], ((colours + 1) / 2).clamp(0, 1))
        assert_equal(result.reconstruction[b], (((masks * colours).sum(dim=0) + 1) / 2).clamp(0, 1))


def test_a_few_images_at_a_time_are_decoded_to_the_same() -> None:
    model, images, eps = build(), pictures(5), draws(5)
    whole, state = model.infer(images, noise=recorded(eps)), TrainState(refinement_steps=1)
    expected = model.loss(images, state, noise=recorded(eps))
    expected.total.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.decoder.layers.chunk_bytes = 2 * K * 64 * 2 * 3 * 8  # two images of 2x3 positions, 64 channels, 8 bytes
    assert model.decoder.images_per_chunk(K, H, W) == 2
    calls: list[int] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    for ours, other in zip(per_slot(model.infer(images, noise=recorded(eps))), per_slot(whole), strict=True):
        assert_equal(ours, other)
    assert calls == [2 * K, 2 * K, K]
    loss = model.loss(images, state, noise=recorded(eps))
    loss.total.backward()
    assert_equal(loss.total, expected.total)
    assert_equal(loss.terms["mse"], expected.terms["mse"])
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.grad is not None
        assert_equal(parameter.grad, grad)


# ------------------------------------------------------------- sizes and first weights


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (SlotAttentionConfig(num_slots=7), 890_308),  # the released code's
        (SlotAttentionConfig(num_slots=11), 890_308),
        (SlotAttentionConfig(num_slots=6, decoder="small"), 479_204 + 2 * 64),  # EfficientMORL's repository has
        (SlotAttentionConfig(num_slots=4, slot_dim=32, decoder="small"), 419_236 + 2 * 64),  # no LayerNorm on tokens
    ],
)
def test_parameter_counts_are_the_published_models(config: SlotAttentionConfig, count: int) -> None:
    assert sum(p.numel() for p in SlotAttention(config).parameters()) == count


def test_initial_weights_follow_keras() -> None:
    torch.manual_seed(0)
    model = SlotAttention(SlotAttentionConfig())
    named = {name: p.detach() for name, p in model.named_parameters()}
    for name, p in named.items():
        if name.startswith("initial"):
            assert 0.25 < float(p.abs().max()) <= math.sqrt(6 / 65)  # PyTorch's own rule would stop at 0.217
        elif "norm" in name:
            assert torch.equal(p, torch.full_like(p, float(name.endswith("weight")))), name
        elif p.ndim == 1:
            assert torch.equal(p, torch.zeros_like(p)), name
        elif name == "gru.weight_hh":
            torch.testing.assert_close(p.T @ p, torch.eye(64), atol=1e-5, rtol=0)
        else:
            bound = math.sqrt(6 / ((p.shape[0] + p.shape[1]) * math.prod(p.shape[2:])))
            assert 0.9 * bound < float(p.abs().max()) <= bound, name
            assert float(p.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1), name
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 4 and {norm.eps for norm in norms} == {1e-3}


# ------------------------------------------------------------------ what it keeps


def per_slot(result: Inference) -> list[Tensor]:
    """Everything that has an axis K."""
    return [result.masks, result.components, result.slots]


def everything(result: Inference) -> list[Tensor]:
    return [*per_slot(result), result.reconstruction]


@pytest.mark.parametrize("decoder", get_args(DecoderKind))
@pytest.mark.parametrize("size", [(7, 9), (35, 35), (16, 20)])
def test_masks_sum_to_one_and_colours_stay_in_range_at_any_size(decoder: Any, size: tuple[int, int]) -> None:
    result = build(replace(SMALL, decoder=decoder)).infer(pictures(size=size))
    assert result.masks.shape == (B, K, 1, *size)
    assert result.components.shape == (B, K, 3, *size)
    assert result.reconstruction.shape == (B, 3, *size)
    torch.testing.assert_close(result.masks.sum(dim=1), torch.ones(B, 1, *size).double())
    for x in (result.masks, result.components, result.reconstruction):
        assert 0 <= float(x.min()) < float(x.max()) <= 1


def test_permuting_the_noise_of_slots_permutes_the_slots_and_nothing_else() -> None:
    model, images, eps, order = build(), pictures(), draws(), torch.tensor([2, 0, 1])
    before = model.infer(images, noise=recorded(eps))
    after = model.infer(images, noise=recorded(eps[:, order]))
    for x, y in zip(per_slot(before), per_slot(after), strict=True):
        assert_equal(y, x[:, order])
        assert float((y - x).abs().max()) > 1e-3
    assert_equal(after.reconstruction, before.reconstruction)


def test_slots_compete_for_tokens() -> None:
    """A softmax over tokens would leave a slot as it was, whoever else is there."""
    model, images, eps = build(), pictures(), draws(num_slots=4)
    alone = model.infer(images, InferOptions(num_slots=1, refinement_steps=1), noise=recorded(eps[:, :1]))
    among = model.infer(images, InferOptions(num_slots=4, refinement_steps=1), noise=recorded(eps))
    assert float((alone.slots[:, 0] - among.slots[:, 0]).abs().max()) > 1e-2
    # Alone, a slot gets the plain mean of all values.
    tokens, _ = model.encoder(images * 2 - 1)
    mean = model.attention.keys_values(model.norm_tokens(tokens))[1].mean(dim=1)
    first = model.initial_mean + model.initial_log_std.exp() * eps[:, 0]
    slot = model.gru(mean, first)
    assert_equal(alone.slots[:, 0], slot + model.mlp(model.norm_mlp(slot)))


def test_no_image_depends_on_its_batch() -> None:
    model, images, indices = build(), pictures(3), [5, 2, 9]
    state = TrainState(refinement_steps=2)
    together = model.infer(images, noise=ImageNoise(0, indices))
    loss = model.loss(images, state, noise=ImageNoise(0, indices))
    totals = []
    for b, index in enumerate(indices):
        alone = model.infer(images[b : b + 1], noise=ImageNoise(0, [index]))
        for x, y in zip(everything(together), everything(alone), strict=True):
            assert_equal(x[b : b + 1], y)
        totals.append(model.loss(images[b : b + 1], state, noise=ImageNoise(0, [index])).total)
    assert_equal(loss.total, torch.stack(totals).sum())
    assert not torch.allclose(together.slots[0], together.slots[1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(mode: Callable[[], Any]) -> None:
    model = build()
    expected, codes = model.infer(pictures()), model.encode(pictures())
    with mode():
        inside = pictures()  # under inference_mode this is an inference tensor
        result, other_codes = model.infer(inside), model.encode(inside)
    for x, y in zip(everything(result), everything(expected), strict=True):
        assert torch.equal(x, y)
        assert not x.requires_grad
    assert torch.equal(other_codes, codes)
    assert not other_codes.requires_grad
    assert torch.equal(model.infer(inside).slots, expected.slots)


def test_bytes_and_unit_range_are_the_same_picture() -> None:
    model = build()
    images = (pictures() * 256).to(torch.uint8)
    unit, state = images.double() / 255, TrainState(refinement_steps=1)
    assert torch.equal(model.infer(images).slots, model.infer(unit).slots)
    assert torch.equal(model.encode(images), model.encode(unit))
    assert torch.equal(model.loss(images, state, noise=0).total, model.loss(unit, state, noise=0).total)


def test_no_noise_given_is_seed_zero_and_seeds_matter() -> None:
    model, images = build(), pictures()
    assert torch.equal(model.infer(images).slots, model.infer(images, noise=ImageNoise(0, range(B))).slots)
    assert not torch.equal(model.infer(images).slots, model.infer(images, noise=1).slots)


def test_slots_and_iterations_are_chosen_at_call_time() -> None:
    model, images = build(), pictures()
    for num_slots, num_steps in ((1, 0), (5, 1), (4, 7)):
        options = InferOptions(num_slots, num_steps)
        assert model.infer(images, options).slots.shape == (B, num_slots, D)
    assert torch.equal(model.encode(images), model.encode(images, InferOptions(K, 2)))
    assert not torch.allclose(model.encode(images), model.encode(images, InferOptions(refinement_steps=3)))


def test_codes_are_the_slots_and_never_touch_the_decoder() -> None:
    model, images = build(), pictures()
    options = InferOptions(num_slots=4, refinement_steps=3)
    expected = model.infer(images, options, noise=3).slots

    def forbidden(*_: object) -> None:
        raise AssertionError("the decoder ran")

    model.decoder.register_forward_pre_hook(forbidden)
    assert torch.equal(model.encode(images, options, noise=3), expected)
    with pytest.raises(AssertionError, match="the decoder ran"):
        model.infer(images)


def test_slots_decode_to_the_pictures_they_came_with() -> None:
    model = build()
    result = model.infer(pictures())
    again = model.decode(result.slots, (H, W))
    assert_equal(again.masks, result.masks)
    assert_equal(again.components, result.components)
    assert model.decode(result.slots, (12, 5)).masks.shape == (B, K, 1, 12, 5)


def test_where_colours_are_in_range_components_add_up_to_the_reconstruction() -> None:
    model = build()
    last = model.decoder.layers[-1]
    assert isinstance(last, nn.Conv2d)
    last.weight.data[: 3 * 16] *= 0.02  # the colours'; the mask logits come behind
    last.bias.data[: 3 * 16] = 0.1
    result = model.infer(pictures())
    assert 0 < float(result.components.min()) < float(result.components.max()) < 1
    assert_equal(model.decode(result.slots, (H, W)).reconstruction, result.reconstruction)


# ------------------------------------------------------------------------ training


def test_it_keeps_the_contract() -> None:
    assert isinstance(build(), Model)


def test_the_state_says_how_many_iterations_and_moves_by_a_step() -> None:
    model, images, eps = build(), pictures(), draws()
    state = model.initial_state()
    assert (state.step, state.refinement_steps, state.kl_weight, state.geco) == (0, 2, 0.0, None)
    assert model.next_state(state, {"mse": torch.ones(())}) == replace(state, step=1)
    other = replace(state, refinement_steps=3)
    assert model.step_form(state) != model.step_form(other)
    first, second = (model.loss(images, s, noise=recorded(eps)).terms["mse"] for s in (state, other))
    assert not torch.allclose(first, second)


def test_the_term_is_the_error_of_the_picture_in_unit_range() -> None:
    model = build()
    last = model.decoder.layers[-1]
    assert isinstance(last, nn.Conv2d)
    last.weight.data[: 3 * 16] *= 0.02
    images, eps = pictures(), draws()
    mse = (model.infer(images, noise=recorded(eps)).reconstruction - images).square().mean(dim=(1, 2, 3))
    loss = model.loss(images, TrainState(refinement_steps=2), noise=recorded(eps))
    assert_equal(loss.terms["mse"], mse)
    assert_equal(loss.total, 4 * mse.sum())


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = SlotAttention(replace(SMALL, encoder="conv", decoder="small"))
    model.loss(pictures(), TrainState(refinement_steps=2), noise=0).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_it_learns_a_batch_by_heart() -> None:
    """With other noise at every step, so that slots must look at the pictures; their mean alone has an MSE of 0.066."""
    torch.manual_seed(3)
    model = SlotAttention(replace(SMALL, slot_dim=32, encoder_channels=32))
    images = torch.zeros(4, 3, 12, 12)
    for b in range(4):  # two squares on black
        images[b, b % 3, b : b + 5, 1:6] = 1
        images[b, (b + 1) % 3, 6:11, 7 - b : 12 - b] = 0.8
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    errors = []
    for step in range(250):
        optimizer.zero_grad()
        loss = model.loss(images, TrainState(refinement_steps=2), noise=step)
        (loss.total / 4).backward()
        optimizer.step()
        errors.append(float(loss.terms["mse"].mean()))
    assert errors[0] > 0.2 and errors[-1] < 0.03


@pytest.mark.parametrize("decoder", get_args(DecoderKind))
def test_lower_precisions_stay_close_to_double(decoder: Any) -> None:
    model, images = build(replace(SMALL, encoder="conv", decoder=decoder)), pictures(size=(20, 20))
    state, eps = TrainState(refinement_steps=1), draws()
    double = model.loss(images, state, noise=recorded(eps)).total
    single = model.float().loss(images, state, noise=recorded(eps)).total
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double.item(), rel=1e-4)
    place(model, torch.device("cpu"), "bfloat16")
    half = model.loss(images, state, noise=recorded(eps)).total
    half.backward()
    assert half.item() == pytest.approx(double.item(), rel=0.05)
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


# ------------------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("name", "num_slots", "dim", "size", "decoder"),
    [
        ("tetrominoes", 4, 32, None, "small"),
        ("multi-dsprites", 6, 64, None, "small"),
        ("clevr6", 7, 64, (96, 96), "deconv"),
        ("clevr6-128", 7, 64, (128, 128), "deconv"),
    ],
)
def test_presets_train_as_the_released_code(name: str, num_slots: int, dim: int, size: Any, decoder: str) -> None:
    config = preset(f"slot-attention/{name}")
    model = config.model
    assert isinstance(model, SlotAttentionConfig)
    assert (model.num_slots, model.slot_dim, model.decoder, model.encoder) == (num_slots, dim, decoder, "conv")
    assert (model.refinement_steps, config.curriculum, config.image_size) == (3, ((0, 3),), size)
    assert (config.batch_size, config.steps, config.clip_norm, config.betas) == (64, 500_000, None, (0.9, 0.999))
    for step in (0, 1, 5000, 10_000, 110_000, 499_999):
        assert learning_rate(config, step) == pytest.approx(4e-4 * min(1, step / 10_000) * 0.5 ** (step / 100_000))


# -------------------------------------------------------------------- wrong input


@pytest.mark.parametrize("images", [torch.zeros(3, H, W), torch.zeros(B, 1, H, W), torch.zeros(B, 3, H, W).long()])
def test_other_shapes_and_types_are_refused(images: Tensor) -> None:
    model = build()
    for call in (model.infer, model.encode):
        with pytest.raises(InputError, match="images must be"):
            call(images)
    with pytest.raises(InputError, match="images must be"):
        model.loss(images, model.initial_state(), noise=0)


def test_impossible_numbers_are_refused_in_a_line() -> None:
    for options in (InferOptions(num_slots=0), InferOptions(refinement_steps=-1)):
        with pytest.raises(InputError, match=r"^.*at least.*$"):
            build().infer(pictures(), options)
    for field in ("num_slots", "slot_dim", "encoder_channels", "refinement_steps"):
        with pytest.raises(InputError, match=rf"^{field} must be at least ., got -1$"):
            SlotAttention(replace(SMALL, **{field: -1}))  # type: ignore[arg-type]


def test_there_is_no_prior_to_sample() -> None:
    with pytest.raises(InputError, match=r"^Slot Attention has no prior.*$"):
        build().sample(2, (H, W))
