"""Slot MLP: equal to the plain formulation, and the laws it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from emorl.errors import InputError
from emorl.models.base import InferOptions, Model
from emorl.models.slot_attention import SlotAttention, SlotAttentionConfig
from emorl.models.slot_mlp import SlotMLP, SlotMLPConfig
from emorl.nn.choices import DecoderKind
from emorl.noise import ImageNoise
from emorl.precision import place
from emorl.presets import preset
from emorl.types import Inference
from tests.models import plain, plain_slots

B, K, D, H, W = 2, 3, 6, 7, 9  # no two alike, H and W no multiples of a patch
SMALL = SlotMLPConfig(
    num_slots=K, slot_dim=D, encoder="patch", encoder_channels=10, grid_size=4, hidden_dim=24, decoder="subpixel"
)


def build(config: SlotMLPConfig = SMALL, seed: int = 0) -> SlotMLP:
    """A model in float64 with weights that matter; some colours lie outside of [-1, 1]."""
    model = SlotMLP(config).double()
    plain.random_weights(model, seed)
    return model


def pictures(batch: int = B, size: tuple[int, int] = (H, W), seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_equal(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), expected.detach(), rtol=1e-10, atol=1e-11)


# --------------------------------------------------- equal to the plain formulation


def taps(size: int, target: int) -> Tensor:
    """A row of bilinear weights over `size` places for each of `target` places, all of them cell centres."""
    weights = torch.zeros(target, size, dtype=torch.float64)
    for i in range(target):
        at = max(0.0, (i + 0.5) * size / target - 0.5)
        left = min(int(at), size - 1)
        weights[i, left] += 1 - (at - left)
        weights[i, min(left + 1, size - 1)] += at - left
    return weights


def plain_slots_of(w: plain.Weights, config: SlotMLPConfig, image: Tensor) -> Tensor:
    """Slots K D of an image 3 H W."""
    x = plain_slots.features(w, config, image)  # h w C
    rows, columns = taps(x.shape[0], config.grid_size), taps(x.shape[1], config.grid_size)
    x = torch.einsum("ih,jw,hwc->cij", rows, columns, x).reshape(-1)
    for i in (0, 2):
        x = torch.relu(plain.linear(w, f"mlp.{i}", x))
    return plain.linear(w, "mlp.4", x).reshape(config.num_slots, config.slot_dim)


@pytest.mark.parametrize(("encoder", "decoder"), [("patch", "subpixel"), ("conv", "deconv"), ("conv", "small")])
def test_loss_gradients_and_inference_equal_the_plain_formulation(encoder: Any, decoder: Any) -> None:
    size = (18, 33) if decoder == "deconv" else (H, W)
    config = replace(SMALL, encoder=encoder, decoder=decoder)
    model, images = build(config), pictures(size=size)
    w = dict(model.named_parameters())
    result = model.infer(images)
    assert (result.layers, result.steps, result.decoder_masks) == ((), (), None)
    errors = []
    for b, image in enumerate(images):
        slots = plain_slots_of(w, config, image)
        masks, colours = plain_slots.decode(w, decoder, slots, *size)
        assert_equal(result.slots[b], slots)
        assert_equal(result.masks[b], masks)
        assert_equal(result.components[b], ((colours + 1) / 2).clamp(0, 1))
        assert_equal(result.reconstruction[b], (((masks * colours).sum(dim=0) + 1) / 2).clamp(0, 1))
        errors.append(plain_slots.error(image, masks, colours))
    expected = torch.stack(errors)
    loss = model.loss(images, model.initial_state())
    assert_equal(loss.total, expected.sum())
    assert set(loss.terms) == {"mse"}
    assert not loss.terms["mse"].requires_grad
    assert_equal(loss.terms["mse"], expected / 4)

    gradients = plain.gradients(expected.sum(), w)
    loss.total.backward()
    scale = max(float(g.abs().max()) for g in gradients.values())
    assert scale > 1e-3
    for name, parameter in w.items():
        assert parameter.grad is not None
        # The true gradient of the mask logit's bias is zero: there only rounding is left to compare.
        size_of = max(float(gradients[name].abs().max()), 1e-4 * scale)
        assert float((parameter.grad - gradients[name]).abs().max()) < 1e-9 * size_of, name


# ------------------------------------------------------------- sizes and first weights


@pytest.mark.parametrize("name", ["tetrominoes", "multi-dsprites", "clevr6", "nano"])
def test_it_is_slot_attention_with_another_way_to_the_slots(name: str) -> None:
    """The same encoder up to the position code, the same decoder, and a run that differs in the model alone."""
    config, other = preset(f"slot-mlp/{name}"), preset(f"slot-attention/{name}")
    assert isinstance(config.model, SlotMLPConfig) and isinstance(other.model, SlotAttentionConfig)
    assert replace(config, model=other.model, curriculum=other.curriculum) == other
    assert config.curriculum == ((0, 0),)
    ours, theirs = SlotMLP(config.model), SlotAttention(other.model)
    shapes, their_shapes = ({n: p.shape for n, p in model.named_parameters()} for model in (ours, theirs))
    shared = ("encoder.convs", "encoder.position", "decoder")
    assert {n: shape for n, shape in shapes.items() if not n.startswith("mlp")} == {
        n: shape for n, shape in their_shapes.items() if n.startswith(shared)
    }
    assert config.model.num_slots == other.model.num_slots


def test_parameter_counts() -> None:
    model = SlotMLP(SlotMLPConfig())
    assert sum(p.numel() for p in model.mlp.parameters()) == 8_881_600
    assert sum(p.numel() for p in model.parameters()) == 9_709_124


def test_initial_weights_follow_keras() -> None:
    torch.manual_seed(0)
    for name, p in SlotMLP(replace(SMALL, hidden_dim=200)).named_parameters():
        if p.ndim == 1:
            assert torch.equal(p, torch.zeros_like(p)), name
        else:
            bound = math.sqrt(6 / ((p.shape[0] + p.shape[1]) * math.prod(p.shape[2:])))
            assert 0.8 * bound < float(p.detach().abs().max()) <= bound, name


# ------------------------------------------------------------------ what it keeps


def everything(result: Inference) -> list[Tensor]:
    return [result.masks, result.components, result.slots, result.reconstruction]


@pytest.mark.parametrize("decoder", get_args(DecoderKind))
@pytest.mark.parametrize("size", [(7, 9), (35, 35), (16, 20)])
def test_masks_sum_to_one_and_colours_stay_in_range_at_any_size(decoder: Any, size: tuple[int, int]) -> None:
    result = build(replace(SMALL, decoder=decoder)).infer(pictures(size=size))
    assert result.masks.shape == (B, K, 1, *size)
    assert result.components.shape == (B, K, 3, *size)
    torch.testing.assert_close(result.masks.sum(dim=1), torch.ones(B, 1, *size).double())
    for x in (result.masks, result.components, result.reconstruction):
        assert 0 <= float(x.min()) < float(x.max()) <= 1


def test_the_order_of_slots_is_fixed_and_nothing_is_drawn() -> None:
    model, images = build(), pictures()
    first = model.infer(images, noise=0)
    for noise in (1, ImageNoise(3, [9, 4])):
        for x, y in zip(everything(model.infer(images, noise=noise)), everything(first), strict=True):
            assert torch.equal(x, y)
    state = model.initial_state()
    assert torch.equal(model.loss(images, state, noise=0).total, model.loss(images, state, noise=1).total)
    # A slot has weights of its own: with those of two slots exchanged, they change places.
    last = model.mlp[4]
    order = torch.tensor([1, 0, 2])
    for parameter in last.parameters():
        parameter.data.copy_(parameter.detach().unflatten(0, (K, D))[order].flatten(0, 1))
    moved = model.infer(images)
    assert_equal(moved.slots, first.slots[:, order])
    assert_equal(moved.masks, first.masks[:, order])
    assert float((moved.slots - first.slots).abs().max()) > 1e-2


def test_no_image_depends_on_its_batch() -> None:
    model, images = build(), pictures(3)
    together, state = model.infer(images), model.initial_state()
    totals = []
    for b in range(3):
        alone = model.infer(images[b : b + 1])
        for x, y in zip(everything(together), everything(alone), strict=True):
            assert_equal(x[b : b + 1], y)
        totals.append(model.loss(images[b : b + 1], state).total)
    assert_equal(model.loss(images, state).total, torch.stack(totals).sum())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(mode: Callable[[], Any]) -> None:
    model = build()
    expected = model.infer(pictures())
    with mode():
        inside = pictures()  # under inference_mode this is an inference tensor
        result, codes = model.infer(inside), model.encode(inside)
    for x, y in zip(everything(result), everything(expected), strict=True):
        assert torch.equal(x, y)
        assert not x.requires_grad
    assert torch.equal(codes, expected.slots)
    assert not codes.requires_grad
    assert torch.equal(model.infer(inside).slots, expected.slots)


def test_bytes_and_unit_range_are_the_same_picture() -> None:
    model = build()
    images = (pictures() * 256).to(torch.uint8)
    unit, state = images.double() / 255, model.initial_state()
    assert torch.equal(model.infer(images).slots, model.infer(unit).slots)
    assert torch.equal(model.loss(images, state).total, model.loss(unit, state).total)


def test_codes_are_the_slots_and_never_touch_the_decoder() -> None:
    model, images = build(), pictures()
    result = model.infer(images)
    again = model.decode(result.slots, (H, W))
    assert_equal(again.masks, result.masks)
    assert_equal(again.components, result.components)

    def forbidden(*_: object) -> None:
        raise AssertionError("the decoder ran")

    model.decoder.register_forward_pre_hook(forbidden)
    assert torch.equal(model.encode(images), result.slots)
    with pytest.raises(AssertionError, match="the decoder ran"):
        model.infer(images)


# ------------------------------------------------------------------------ training


def test_it_keeps_the_contract() -> None:
    model = build()
    assert isinstance(model, Model)
    state = model.initial_state()
    assert (state.step, state.refinement_steps, state.kl_weight, state.geco) == (0, 0, 0.0, None)
    assert model.next_state(state, {"mse": torch.ones(())}) == replace(state, step=1)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = SlotMLP(replace(SMALL, encoder="conv", decoder="small"))
    model.loss(pictures(), model.initial_state()).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_it_learns_a_batch_by_heart() -> None:
    """The mean of the pictures alone has an MSE of 0.066."""
    torch.manual_seed(0)
    model = SlotMLP(replace(SMALL, slot_dim=16, encoder_channels=16))
    images = torch.zeros(4, 3, 12, 12)
    for b in range(4):  # two squares on black
        images[b, b % 3, b : b + 5, 1:6] = 1
        images[b, (b + 1) % 3, 6:11, 7 - b : 12 - b] = 0.8
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    errors = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = model.loss(images, model.initial_state())
        (loss.total / 4).backward()
        optimizer.step()
        errors.append(float(loss.terms["mse"].mean()))
    assert errors[0] > 0.15 and errors[-1] < 0.02


def test_lower_precisions_stay_close_to_double() -> None:
    model, images = build(replace(SMALL, encoder="conv")), pictures(size=(20, 20))
    state = model.initial_state()
    double = model.loss(images, state).total
    assert model.float().loss(images, state).total.item() == pytest.approx(double.item(), rel=1e-4)
    place(model, torch.device("cpu"), "bfloat16")
    assert model.loss(images, state).total.item() == pytest.approx(double.item(), rel=0.05)


# -------------------------------------------------------------------- wrong input


def test_another_number_of_slots_is_refused() -> None:
    model, images = build(), pictures()
    assert model.infer(images, InferOptions(num_slots=K, refinement_steps=0)).slots.shape == (B, K, D)
    for call in (model.infer, model.encode):
        with pytest.raises(InputError, match=r"^this Slot MLP has 3 slots and no other number.*$"):
            call(images, InferOptions(num_slots=K + 1))
        with pytest.raises(InputError, match="one inference"):
            call(images, InferOptions(draws=2))
        with pytest.raises(InputError, match="has no refinement steps"):
            call(images, InferOptions(refinement_steps=1))


@pytest.mark.parametrize("images", [torch.zeros(3, H, W), torch.zeros(B, 1, H, W), torch.zeros(B, 3, H, W).long()])
def test_other_shapes_and_types_are_refused(images: Tensor) -> None:
    model = build()
    for call in (model.infer, model.encode):
        with pytest.raises(InputError, match="images must be"):
            call(images)
    with pytest.raises(InputError, match="images must be"):
        model.loss(images, model.initial_state())


def test_impossible_sizes_are_refused_in_a_line() -> None:
    for field in ("num_slots", "slot_dim", "encoder_channels", "grid_size", "hidden_dim"):
        with pytest.raises(InputError, match=rf"^{field} must be at least 1, got 0$"):
            SlotMLP(replace(SMALL, **{field: 0}))  # type: ignore[arg-type]


def test_there_is_no_prior_to_sample() -> None:
    with pytest.raises(InputError, match=r"^Slot MLP has no prior.*$"):
        build().sample(2, (H, W))
