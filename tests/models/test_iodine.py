"""IODINE: equal to the plain formulation, and the laws it keeps."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from emorl.benchmark.counters import peak_bytes
from emorl.errors import InputError
from emorl.models import build_model
from emorl.models.base import InferOptions, Model, TrainState
from emorl.models.iodine import Iodine, IodineConfig, cosine_coordinates, step_weights
from emorl.nn.convs import ConvStack
from emorl.noise import ImageNoise, RecordedNoise
from emorl.precision import place
from emorl.presets import PRESETS, preset
from emorl.types import Inference
from tests.models.plain import gradients, random_weights

B, K, D, H, W = 2, 3, 5, 11, 14  # no two alike
SMALL = IodineConfig(
    num_slots=K,
    slot_dim=D,
    refinement_steps=2,
    density="gaussian",
    scale=0.3,
    prior_variance=1.0,
    decoder_layers=2,
    decoder_channels=6,
    encoder_layers=2,
    encoder_channels=7,
    hidden=(9, 8),
    lstm_dim=10,
)
RELEASED = replace(SMALL, density="logistic", scale=0.2, prior_variance=math.log(2))


def build(config: IodineConfig = SMALL, seed: int = 0) -> Iodine:
    """A model in float64 with weights that matter; two of its updates do not yet blow up."""
    model = Iodine(config).double()
    random_weights(model, seed)
    model.refinement.head.weight.data.mul_(0.3)
    return model


def network(name: str) -> IodineConfig:
    """The model of a preset."""
    config = preset(f"iodine/{name}").model
    assert isinstance(config, IodineConfig)
    return config


def pictures(batch: int = B, size: tuple[int, int] = (H, W), seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(num_steps: int, batch: int = B, num_slots: int = K, seed: int = 1) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_slots, D)
    return {"z": [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(num_steps + 1)]}


# --------------------------------------------------- the plain formulation, one image at a time

Weights = Mapping[str, Tensor]


@dataclass
class PlainStep:
    """One entry 0..T."""

    mean: Tensor
    raw: Tensor
    z: Tensor
    masks: Tensor
    components: Tensor
    nll: Tensor
    kl: Tensor
    delta: Tensor | None


def std(raw: Tensor) -> Tensor:
    return (torch.log1p(torch.exp(torch.minimum(raw, torch.tensor(80.0, dtype=raw.dtype)))) + 1e-5) ** 0.5


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def normed(w: Weights, name: str, x: Tensor) -> Tensor:
    """One map C H W, or one vector, of one slot."""
    centred = x - x.mean()
    x = centred / torch.sqrt((centred**2).mean() + 1e-5)
    scale, offset = w[f"{name}.weight"], w[f"{name}.bias"]
    return x * scale + offset if x.ndim == 1 else x * scale[:, None, None] + offset[:, None, None]


def line(count: int, i: int) -> float:
    return -1 + 2 * i / (count - 1) if count > 1 else -1.0


def plain_decode(w: Weights, config: IodineConfig, z: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """K D -> mask logits K 1 H W and components K 3 H W."""
    patch = config.decoder_patch
    rows, columns = math.ceil(height / patch), math.ceil(width / patch)
    down = torch.tensor([[line(rows, i)] * columns for i in range(rows)], dtype=z.dtype)
    right = torch.tensor([[line(columns, j) for j in range(columns)]] * rows, dtype=z.dtype)
    tile = z.reshape(*z.shape, 1, 1).repeat(1, 1, rows, columns)
    x = torch.cat([tile, down.expand(len(z), 1, -1, -1), right.expand(len(z), 1, -1, -1)], dim=1)
    for i in range(config.decoder_layers + 1):
        kernel, bias = w[f"decoder.layers.{2 * i}.weight"], w[f"decoder.layers.{2 * i}.bias"]
        x = F.conv2d(x, kernel, bias, padding=config.decoder_kernel // 2)
        x = F.elu(x) if i < config.decoder_layers else x
    x = x.reshape(-1, 4, patch, patch, rows, columns).permute(0, 1, 4, 2, 5, 3)
    x = x.reshape(-1, 4, rows * patch, columns * patch)[:, :, :height, :width]
    return x[:, :1], x[:, 1:]


def log_f(config: IodineConfig, image: Tensor, components: Tensor) -> Tensor:
    """Of every channel, K 3 H W."""
    if config.density == "gaussian":
        return Normal(components, config.scale).log_prob(image) + 0.5 * math.log(2 * math.pi)
    u = (image - components) / config.scale
    return -u - math.log(config.scale) - 2 * torch.log1p(torch.exp(-u))


def log_mixture(config: IodineConfig, logits: Tensor, each: Tensor) -> Tensor:
    """log p of every pixel, H W, of slots with mask logits K 1 H W and log f K 3 H W."""
    masks = torch.softmax(logits, dim=0)
    if config.joint_channels:
        return torch.log((masks[:, 0] * torch.exp(each.sum(dim=1))).sum(dim=0))
    return torch.log((masks * torch.exp(each)).sum(dim=0)).sum(dim=0)


def plain_features(
    w: Weights, config: IodineConfig, image: Tensor, maps: dict[str, Tensor], grads: tuple[Tensor, Tensor]
) -> Tensor:
    """K F."""
    height, width = image.shape[1:]
    if config.coordinates == "linear":
        grid = [[[line(height, i) for j in range(width)] for i in range(height)]]
        grid += [[[line(width, j) for j in range(width)] for i in range(height)]]
    else:
        u = [math.pi * i / (height - 1) for i in range(height)]
        v = [math.pi * j / (width - 1) for j in range(width)]
        pairs = [(a, b) for a in range(3) for b in range(3)][1:]
        grid = [[[math.cos(a * p) * math.cos(b * q) for q in v] for p in u] for a, b in pairs]
    rows = []
    for k in range(len(maps["masks"])):
        seen = [image, *(maps[name][k] for name in ("logits", "components", "masks", "posterior"))]
        seen += [normed(w, "encoder.norm_components", grads[1][k].detach())]
        seen += [normed(w, "encoder.norm_logits", grads[0][k].detach())]
        seen += [normed(w, "encoder.norm_log_prob", maps["log_prob"].detach())]
        seen += [normed(w, "encoder.norm_gain", maps["gain"][k].detach())]
        rows.append(torch.cat([*seen, torch.tensor(grid, dtype=image.dtype)]))
    x, flatten = torch.stack(rows), config.pool == "flatten"
    for i in range(config.encoder_layers):
        kernel, bias = w[f"encoder.convs.{2 * i}.weight"], w[f"encoder.convs.{2 * i}.bias"]
        x = F.elu(F.conv2d(x, kernel, bias, stride=1 if flatten else 2, padding=config.encoder_kernel // 2))
    if flatten:  # means of blocks of 4x4, smaller at the end of the picture
        blocks = [
            [x[:, :, i : i + 4, j : j + 4].mean(dim=(2, 3)) for j in range(0, width, 4)] for i in range(0, height, 4)
        ]
        x = torch.stack([torch.stack(row, dim=-1) for row in blocks], dim=-2).reshape(len(x), -1)
    else:
        x = x.mean(dim=(2, 3))
    for i in range(len(config.hidden)):
        x = linear(w, f"encoder.mlp.{2 * i}", x)
        x = F.elu(x) if flatten or i < len(config.hidden) - 1 else x
    return x


def lstm(w: Weights, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    name = "refinement.recurrence"
    gates = x @ w[f"{name}.weight_ih"].T + w[f"{name}.bias_ih"] + h @ w[f"{name}.weight_hh"].T + w[f"{name}.bias_hh"]
    entry, forget, cell, out = gates.chunk(4, dim=-1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(entry) * torch.tanh(cell)
    return torch.sigmoid(out) * torch.tanh(c), c


def plain_run(
    w: Weights,
    config: IodineConfig,
    image: Tensor,
    eps: list[Tensor],
    *,
    kl_weight: float = 1.0,
    sample: bool = True,
) -> tuple[Tensor, list[PlainStep]]:
    """The loss of one image 3 H W and its entries 0..T, T + 1 the number of draws K D."""
    num_slots, num_steps = len(eps[0]), len(eps) - 1
    mean, raw = (w[f"initial_{name}"].repeat(num_slots, 1) for name in ("mean", "raw"))
    delta = None
    h = c = torch.zeros(num_slots, config.lstm_dim, dtype=image.dtype)
    total, steps = torch.zeros((), dtype=image.dtype), []
    prior = Normal(torch.zeros_like(mean), math.sqrt(config.prior_variance))
    for t in range(num_steps + 1):
        z = mean + std(raw) * eps[t] if sample or t < num_steps else mean + 0 * raw
        logits, components = plain_decode(w, config, z, *image.shape[1:])
        each = log_f(config, image, components)
        log_prob = log_mixture(config, logits, each)
        nll, kl = -log_prob.sum(), kl_divergence(Normal(mean, std(raw)), prior).sum()
        loss = nll + kl_weight * kl
        total = total + (t / num_steps if num_steps else 1.0) * loss
        masks = torch.softmax(logits, dim=0)
        steps.append(PlainStep(mean, raw, z, masks, components, nll, kl, delta))
        if t == num_steps:
            return total, steps
        inputs = (logits, components, mean, raw)
        d_logits, d_components, d_mean, d_raw = torch.autograd.grad(loss, inputs, retain_graph=True)
        others = [[j for j in range(num_slots) if j != k] for k in range(num_slots)]
        maps = {
            "logits": logits,
            "components": components,
            "masks": masks,
            "posterior": torch.softmax(each.sum(dim=1, keepdim=True), dim=0),
            "log_prob": log_prob[None],
            "gain": torch.stack([log_prob - log_mixture(config, logits[j], each[j]) for j in others])[:, None],
        }
        if config.detach_inputs:
            maps = {name: x.detach() for name, x in maps.items()}
        x = plain_features(w, config, image, maps, (d_logits, d_components))
        d_lambda = [normed(w, "refinement.norm", g) for g in torch.cat([d_mean, d_raw], dim=1).detach()]
        x = torch.cat([x, mean, raw, torch.stack(d_lambda)], dim=1)
        if config.pool == "flatten":
            x = F.elu(linear(w, "refinement.joint.0", x))
        if config.lstm_dim:
            x, c = lstm(w, x, h, c)
            h = x
        delta = linear(w, "refinement.head", x)
        mean, raw = mean + delta[:, :D], raw + delta[:, D:]
    raise AssertionError


CASES: dict[str, IodineConfig] = {
    "gaussian": SMALL,
    "logistic": RELEASED,
    "channels mixed apart": replace(RELEASED, joint_channels=False),
    "no lstm, cosines": replace(SMALL, lstm_dim=0, coordinates="cosine", hidden=(6,)),
    "flatten, 5x5": replace(
        SMALL, pool="flatten", image_size=(H, W), encoder_kernel=5, decoder_kernel=5, encoder_channels=4
    ),
    "patches": replace(RELEASED, decoder_patch=3, decoder_layers=1),
}


@pytest.mark.parametrize("detach_inputs", [True, False])
@pytest.mark.parametrize("num_steps", [0, 1, 3])
@pytest.mark.parametrize("name", CASES)
def test_loss_terms_and_all_gradients_equal_the_plain_formulation(
    name: str, num_steps: int, detach_inputs: bool
) -> None:
    config = replace(CASES[name], detach_inputs=detach_inputs)
    model, images, noise = build(config), pictures(), draws(num_steps)
    loss = model.loss(images, TrainState(refinement_steps=num_steps, kl_weight=1.3), noise=RecordedNoise(noise))
    w = dict(model.named_parameters())
    runs = [plain_run(w, config, x, [eps[b] for eps in noise["z"]], kl_weight=1.3) for b, x in enumerate(images)]
    expected = torch.stack([total for total, _ in runs]).sum()
    assert_equal(loss.total, expected)
    terms = {
        "nll": [steps[-1].nll for _, steps in runs],
        "kl": [steps[-1].kl for _, steps in runs],
        "nll_per_step": [[step.nll for step in steps] for _, steps in runs],
        "kl_per_step": [[step.kl for step in steps] for _, steps in runs],
        "delta_norm_per_step": [
            [step.delta.norm(dim=-1).mean() for step in steps if step.delta is not None] for _, steps in runs
        ],
    }
    assert set(loss.terms) == set(terms)
    for term, values in terms.items():
        assert not loss.terms[term].requires_grad
        assert_equal(loss.terms[term], stacked(values))

    right = gradients(expected, w)
    loss.total.backward()
    scale = max(float(g.abs().max()) for g in right.values())
    for parameter in w:
        ours = w[parameter].grad
        ours = torch.zeros_like(w[parameter]) if ours is None else ours
        # Some true gradients are zero (the bias of the mask logit): there only rounding is left to compare.
        size = max(float(right[parameter].abs().max()), 1e-4 * scale)
        assert float((ours - right[parameter]).abs().max()) < 1e-9 * size, parameter


def stacked(values: list[Any]) -> Tensor:
    """Nested lists of scalars as a tensor, cut off from their past."""
    if values and not isinstance(values[0], Tensor):
        return torch.stack([stacked(row) for row in values])
    return torch.stack(values).detach() if values else torch.zeros(0, dtype=torch.float64)


def assert_equal(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), expected.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("name", ["logistic", "flatten, 5x5"])
def test_inference_equals_the_plain_formulation(name: str, sample: bool) -> None:
    config = replace(CASES[name], kl_weight=1.5)
    model, images, noise = build(config), pictures(), draws(2)
    ours = model.infer(images, InferOptions(sample=sample, keep_steps=True), noise=RecordedNoise(noise))
    assert len(ours.steps) == 3 and ours.layers == ()
    w = dict(model.named_parameters())
    for b, image in enumerate(images):
        _, steps = plain_run(w, config, image, [eps[b] for eps in noise["z"]], kl_weight=1.5, sample=sample)
        for step, expected in zip(ours.steps, steps, strict=True):
            assert_equal(step.posterior.mean[b], expected.mean)
            assert_equal(step.posterior.std[b], std(expected.raw))
            assert_equal(step.nll[b], expected.nll)
            assert_equal(step.kl[b], expected.kl)
            assert step.decoding is not None
            assert_equal(step.decoding.masks[b], expected.masks)
            assert_equal(step.decoding.components[b], expected.components.clamp(0, 1))
        assert_equal(ours.slots[b], steps[-1].z)
        assert_equal(ours.reconstruction[b], (steps[-1].masks * steps[-1].components.clamp(0, 1)).sum(dim=0))


@pytest.mark.parametrize("name", ["gaussian", "logistic", "channels mixed apart"])
def test_gradients_that_refinement_sees_are_those_by_the_logits_and_the_colours_of_the_decode(name: str) -> None:
    """By the logit, not by the mask or its logarithm: that one would be minus the share."""
    model, images = build(CASES[name]), pictures()
    canvas = torch.randn(B, K, 4, H, W, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    canvas.requires_grad_()
    (grad,) = torch.autograd.grad(model.mixture(images, canvas).nll().sum(), canvas)
    maps = model.maps(images, canvas)
    assert_equal(maps.grad_logits, grad[:, :, :1])
    assert_equal(maps.grad_components, grad[:, :, 1:])
    assert_equal(maps.grad_logits.sum(dim=1), torch.zeros(B, 1, H, W).double())
    assert_equal(maps.log_prob.sum(dim=(1, 2, 3, 4)), -model.mixture(images, canvas).nll())
    passing = {name for name, x in maps._asdict().items() if x.requires_grad}
    assert passing == {"logits", "components", "masks", "posterior"}


# ------------------------------------------------------------------------- sizes

LEGACY_COUNTS = {"clevr6": 1_177_168, "multi-dsprites": 339_152, "tetrominoes": 199_568}
"""Of the released networks, with their constant channels and one bias per LSTM."""


@pytest.mark.parametrize("name", LEGACY_COUNTS)
def test_parameter_counts_are_the_released_ones_less_the_constants(name: str) -> None:
    config = network(name)
    decoder = config.decoder_kernel**2 * config.decoder_channels  # weights of the constant 5 tiled with the code
    encoder = config.encoder_kernel**2 * config.encoder_channels  # of the constant 0.5 among the maps
    flat = 4 * config.lstm_dim or 2 * config.slot_dim  # of the constant 0.5 beside lambda
    second_bias = 4 * config.lstm_dim  # PyTorch's LSTM has two
    count = sum(p.numel() for p in Iodine(config).parameters())
    assert count == LEGACY_COUNTS[name] - decoder - encoder - flat + second_bias
    assert count == {"clevr6": 1_176_016, "multi-dsprites": 337_552, "tetrominoes": 197_904}[name]


def test_the_flattening_network_is_the_one_efficientmorl_was_compared_with_and_a_little_more() -> None:
    """2,751,396 there (App. E.3: about 2.75M)."""
    config = network("clevr6-flatten")
    count = sum(p.numel() for p in Iodine(config).parameters())
    gain = 5 * 5 * 32  # weights of a map that is not seen there
    last = (5 * 5 - 1) * 32 * 4  # the decoder's last convolution is 1x1 there
    scales = 2 * (3 + 1 + 1 + 1) + 2 * 128  # normalisations have no scale and offset there
    assert count == 2_751_396 + gain + last + scales == 2_755_536


def test_slots_steps_and_size_are_chosen_at_call_time() -> None:
    model = build()
    result = model.infer(pictures(size=(10, 5)), InferOptions(num_slots=5, refinement_steps=4))
    assert result.masks.shape == (B, 5, 1, 10, 5)
    assert result.components.shape == (B, 5, 3, 10, 5)
    assert result.reconstruction.shape == (B, 3, 10, 5)
    assert result.slots.shape == (B, 5, D)
    assert len(result.steps) == 5
    assert all(step.decoding is None for step in result.steps)
    assert len(model.infer(pictures()).steps) == 3
    one = model.infer(pictures(), InferOptions(num_slots=1))
    assert torch.equal(one.masks, torch.ones_like(one.masks)) and bool(one.slots.isfinite().all())


@pytest.mark.parametrize("size", [(35, 35), (32, 32), (13, 1), (96, 64)])
@pytest.mark.parametrize("patch", [1, 4])
def test_masks_sum_to_one_and_colours_stay_in_range(size: tuple[int, int], patch: int) -> None:
    model = build(replace(SMALL, decoder_patch=patch)).float()
    result = model.infer(pictures(1, size), InferOptions(keep_steps=True))
    for decoding in [result, *(step.decoding for step in result.steps)]:
        assert decoding is not None
        torch.testing.assert_close(decoding.masks.sum(dim=1), torch.ones(1, 1, *size), rtol=0, atol=1e-5)
        for x in (decoding.masks, decoding.components, decoding.reconstruction):
            assert 0 <= float(x.min()) and float(x.max()) <= 1 + 1e-6


def test_colours_are_cut_for_display_alone() -> None:
    model, images = build(), pictures()
    model.decoder.layers[-1].bias.data[1:] = 3.0  # every colour is too bright  # type: ignore[index, union-attr]
    found = model.infer(images)
    assert float(found.components.max()) == 1
    canvas = model.decode_raw(found.slots, (H, W))
    assert float(canvas[:, :, 1:].detach().max()) > 2
    assert_equal(found.steps[-1].nll, model.mixture(images, canvas).nll())


def test_cosines_are_those_of_the_released_code() -> None:
    grid = cosine_coordinates(5, 9, torch.zeros(1))
    assert grid.shape == (8, 5, 9)
    torch.testing.assert_close(grid[0, 0], torch.cos(torch.linspace(0, math.pi, 9)))
    torch.testing.assert_close(grid[2, :, 0], torch.cos(torch.linspace(0, math.pi, 5)))
    torch.testing.assert_close(grid[7, -1, -1], torch.tensor(1.0))
    assert not bool((grid == 1).all(dim=-1).all(dim=-1).any())


# ------------------------------------------------------------------ what it keeps


def per_slot(result: Inference) -> list[Tensor]:
    found = [result.masks, result.components, result.slots]
    for step in result.steps:
        assert step.decoding is not None
        found += [step.posterior.mean, step.posterior.std, step.decoding.masks, step.decoding.components]
    return found


def per_image(result: Inference) -> list[Tensor]:
    return [result.reconstruction, *(x for step in result.steps for x in (step.nll, step.kl))]


KEEP = InferOptions(keep_steps=True)


def test_permuting_the_noise_of_slots_permutes_the_slots_and_nothing_else() -> None:
    model, images, order, noise = build(RELEASED), pictures(), torch.tensor([2, 0, 1]), draws(2)
    before = model.infer(images, KEEP, noise=RecordedNoise(noise))
    permuted = {"z": [eps[:, order] for eps in noise["z"]]}
    after = model.infer(images, KEEP, noise=RecordedNoise(permuted))
    for x, y in zip(per_slot(before), per_slot(after), strict=True):
        assert_equal(y, x[:, order])
    assert float((after.slots - before.slots).abs().max()) > 1e-2
    for x, y in zip(per_image(before), per_image(after), strict=True):
        assert_equal(y, x)


def test_slots_start_equal_and_differ_by_their_noise_alone() -> None:
    model, images = build(), pictures()
    first = model.infer(images).steps[0].posterior
    assert torch.equal(first.mean, model.initial_mean.expand(B, K, D))
    same = {"z": [eps[:, :1].expand(B, K, D) for eps in draws(2)["z"]]}
    result = model.infer(images, noise=RecordedNoise(same))
    assert_equal(result.slots, result.slots[:, :1].expand(B, K, D))


@pytest.mark.parametrize("detach_inputs", [True, False])
def test_no_image_depends_on_its_batch(detach_inputs: bool) -> None:
    model, images, indices = build(replace(RELEASED, detach_inputs=detach_inputs)), pictures(3), [5, 2, 9]
    state = TrainState(refinement_steps=2)
    together = model.infer(images, KEEP, noise=ImageNoise(0, indices))
    total = model.loss(images, state, noise=ImageNoise(0, indices)).total
    total.backward()
    whole = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    totals = []
    for b, index in enumerate(indices):
        alone = model.infer(images[b : b + 1], KEEP, noise=ImageNoise(0, [index]))
        for x, y in zip(per_slot(together) + per_image(together), per_slot(alone) + per_image(alone), strict=True):
            assert_equal(x[b : b + 1], y)
        totals.append(model.loss(images[b : b + 1], state, noise=ImageNoise(0, [index])).total)
    torch.stack(totals).sum().backward()
    assert_equal(total, torch.stack(totals).sum())
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(whole[name], p.grad, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("chunk_bytes", [1, 20_000])
def test_a_few_images_at_a_time_give_the_same(chunk_bytes: int) -> None:
    model, images, state = build(), pictures(5), TrainState(refinement_steps=2)
    model.loss(images, state, noise=0).total.backward()
    whole = {name: p.grad for name, p in model.named_parameters()}
    found = model.infer(images)
    model.zero_grad()
    for module in model.modules():
        if isinstance(module, ConvStack):
            module.chunk_bytes = chunk_bytes
    assert model.encoder.images_per_chunk(K, H, W) < 5 and model.decoder.images_per_chunk(K, H, W) < 5
    model.loss(images, state, noise=0).total.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, whole[name], rtol=1e-8, atol=1e-8)
    assert_equal(model.infer(images).masks, found.masks)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("num_steps", [0, 2])
def test_the_callers_gradient_mode_does_not_matter(mode: Callable[[], Any], num_steps: int) -> None:
    model, images = build(), pictures()
    options = InferOptions(refinement_steps=num_steps, keep_steps=True)
    expected = model.infer(images, options)
    codes = model.encode(images, options)
    with mode():
        inside = pictures()  # under inference_mode this is an inference tensor
        result = model.infer(inside, options)
        other_codes = model.encode(inside, options)
    for x, y in zip(per_slot(result) + per_image(result), per_slot(expected) + per_image(expected), strict=True):
        assert torch.equal(x, y) and not x.requires_grad and not x.is_inference()
    assert torch.equal(other_codes, codes) and not other_codes.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_bytes_and_unit_range_are_the_same_picture_in_any_order_of_memory() -> None:
    model, state = build(), TrainState(refinement_steps=1)
    images = (pictures() * 256).to(torch.uint8)
    unit = images.double() / 255
    assert torch.equal(model.infer(images).slots, model.infer(unit).slots)
    assert torch.equal(model.encode(images), model.encode(unit))
    totals = []
    for x in (images, unit, images.contiguous(memory_format=torch.channels_last)):
        loss = model.loss(x, state, noise=0)
        loss.total.backward()
        totals.append(loss.total)
    assert torch.equal(totals[0], totals[1])
    assert_equal(totals[2], totals[1])


def test_no_noise_given_is_seed_zero_and_seeds_matter() -> None:
    model, images = build(), pictures()
    assert torch.equal(model.infer(images).slots, model.infer(images, noise=0).slots)
    assert not torch.equal(model.infer(images).slots, model.infer(images, noise=1).slots)


def test_codes_are_the_last_posterior_mean_and_the_last_decode_is_spared() -> None:
    model, images = build(), pictures()
    for num_steps in (0, 1, 2):
        options = InferOptions(num_slots=4, refinement_steps=num_steps)
        last = model.infer(images, options, noise=3).steps[-1].posterior.mean
        watch = Watch(model.decoder)
        assert_equal(model.encode(images, options, noise=3), last)
        assert watch.forward == num_steps
        watch.remove()


def test_without_sampling_the_mean_is_decoded() -> None:
    model, images = build(), pictures()
    result = model.infer(images, InferOptions(sample=False))
    assert torch.equal(result.slots, result.steps[-1].posterior.mean)
    assert torch.equal(model.encode(images), result.slots)
    sampled = model.infer(images)
    assert torch.equal(sampled.steps[-1].posterior.mean, result.slots)  # samples told the slots apart on the way
    assert not torch.allclose(sampled.slots, sampled.steps[-1].posterior.mean)


def test_slots_decode_to_the_pictures_they_came_with() -> None:
    model = build()
    result = model.infer(pictures(), KEEP)
    again = model.decode(result.slots, (H, W))
    assert_equal(again.masks, result.masks)
    assert_equal(again.components, result.components)
    last = result.steps[-1].decoding
    assert last is not None and torch.equal(last.masks, result.masks)
    assert model.decode(result.slots, (6, 21)).masks.shape == (B, K, 1, 6, 21)
    assert torch.equal(model.infer(pictures()).masks, result.masks)


def test_scenes_of_the_prior_have_its_spread() -> None:
    config = replace(SMALL, prior_variance=math.log(2))
    found = build(config).sample(400, (6, 4), num_slots=2, noise=3)
    assert found.masks.shape == (400, 2, 1, 6, 4) and found.steps == ()
    assert float(found.slots.mean()) == pytest.approx(0, abs=0.05)
    assert float(found.slots.std()) == pytest.approx(math.sqrt(math.log(2)), abs=0.02)


@pytest.mark.parametrize("variance", [math.log(2), 1.0, 0.3])
def test_the_initial_posterior_is_the_prior(variance: float) -> None:
    model = Iodine(replace(SMALL, prior_variance=variance)).double()
    first = model.infer(pictures()).steps[0]
    torch.testing.assert_close(first.kl, torch.zeros(B).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(first.posterior.std, torch.full((B, K, D), math.sqrt(variance)).double())
    assert float(model.initial_raw.detach()[0]) == pytest.approx(math.log(math.expm1(variance)), abs=5e-5)


# -------------------------------------------------------------------- the savings


class Watch:
    """Counts the runs of a network and fails where an earlier one is still in memory."""

    def __init__(self, network: nn.Module) -> None:
        self.forward = self.backward = 0
        self.outputs: list[weakref.ref[Tensor]] = []
        self.hooks = [network.register_forward_pre_hook(self.enter), network.register_forward_hook(self.leave)]

    def enter(self, *_: object) -> None:
        assert self.num_alive() == 0
        self.forward += 1

    def leave(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        if output.requires_grad:  # what has no graph keeps no activations
            self.outputs.append(weakref.ref(output))
            output.register_hook(self.differentiated)

    def differentiated(self, _: Tensor) -> None:
        self.backward += 1

    def num_alive(self) -> int:
        return sum(ref() is not None for ref in self.outputs)

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_every_decode_runs_forward_once_and_backward_once_and_is_freed(num_steps: int) -> None:
    model, images = build(), pictures()
    decoder, encoder = Watch(model.decoder), Watch(model.encoder)
    gc.disable()  # reference counts alone must do it
    try:
        loss = model.loss(images, TrainState(refinement_steps=num_steps), noise=0)
        assert decoder.num_alive() == encoder.num_alive() == 0
        loss.total.backward()
    finally:
        gc.enable()
    assert (decoder.forward, decoder.backward) == (num_steps + 1, num_steps + 1)
    assert (encoder.forward, encoder.backward) == (2 * num_steps, num_steps)  # once more in the backward
    decoder.forward = decoder.backward = 0
    model.infer(images, InferOptions(refinement_steps=num_steps))
    assert (decoder.forward, decoder.backward) == (num_steps + 1, num_steps)


def training_peak(config: IodineConfig, num_steps: int, size: tuple[int, int], batch: int) -> int:
    """Bytes of a training step, counted on tensors without content."""
    model = Iodine(config).to("meta")
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # the engine's gradients stay where they are
    images = torch.zeros(batch, 3, *size, device="meta")
    state = TrainState(refinement_steps=num_steps)
    return peak_bytes(lambda: model.loss(images, state, noise=0).total.backward())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("name", "size"), [("clevr6", (128, 128)), ("multi-dsprites", (64, 64))])
def test_memory_hardly_grows_with_the_number_of_steps(name: str, size: tuple[int, int]) -> None:
    """A step leaves what was decoded (four values per pixel and slot), decoder gradients, and the latent part."""
    config, batch = network(name), 16
    peaks = {steps: training_peak(config, steps, size, batch) for steps in (0, 1, 5)}
    canvas = 4 * 4 * batch * config.num_slots * size[0] * size[1]  # float32
    assert peaks[5] - 5 * canvas < 1.1 * peaks[0]
    decoder = 4 * sum(p.numel() for p in Iodine(config).decoder.parameters())
    assert (peaks[5] - peaks[1]) / 4 < 1.1 * canvas + decoder
    passing = replace(config, detach_inputs=False)
    assert training_peak(passing, 5, size, batch) > 4 * peaks[5]


def test_memory_of_inference_does_not_grow_with_the_number_of_steps() -> None:
    model, images = Iodine(network("clevr6")).to("meta"), torch.zeros(1, 3, 64, 64, device="meta")
    one, five = (
        peak_bytes(lambda steps=steps: model.infer(images, InferOptions(refinement_steps=steps)))  # type: ignore[misc]
        for steps in (1, 5)
    )
    assert five < 1.02 * one


@pytest.mark.parametrize("detach_inputs", [True, False])
def test_a_second_backward_is_refused(detach_inputs: bool) -> None:
    loss = build(replace(SMALL, detach_inputs=detach_inputs)).loss(pictures(), TrainState(refinement_steps=1), noise=0)
    loss.total.backward()
    with pytest.raises(RuntimeError):
        loss.total.backward()


# ------------------------------------------------------------------------ training


def test_it_keeps_the_contract() -> None:
    model = build()
    assert isinstance(model, Model)
    state = model.initial_state()
    assert state == TrainState(refinement_steps=2, kl_weight=1.0)
    assert model.next_state(state, {}) == replace(state, step=1)
    assert model.step_form(state) == 2


def test_weights_of_the_steps() -> None:
    assert step_weights(5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert step_weights(1) == [0, 1]
    assert step_weights(0) == [1]


def test_what_came_before_refinement_has_no_weight() -> None:
    """So its decode trains nothing."""
    model, images, noise = build(), pictures(), draws(1)
    total = model.loss(images, TrainState(refinement_steps=1), noise=RecordedNoise(noise)).total
    (without,) = torch.autograd.grad(total, model.decoder.layers[-1].weight)  # type: ignore[arg-type]
    step = model.infer(images, noise=RecordedNoise(noise), options=InferOptions(refinement_steps=1)).steps[-1]
    assert_equal(total, (step.nll + step.kl).sum())
    z = step.posterior.mean + step.posterior.std * noise["z"][1]
    last = model.mixture(images, model.decode_raw(z, (H, W))).nll().sum()
    (expected,) = torch.autograd.grad(last, model.decoder.layers[-1].weight)  # type: ignore[arg-type]
    assert_equal(without, expected)


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = build(CASES[name])
    model.loss(pictures(), TrainState(refinement_steps=2), noise=0).total.backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None and float(p.grad.abs().max()) > 0, parameter


def test_initial_weights_follow_the_released_code() -> None:
    torch.manual_seed(0)
    model = Iodine(IodineConfig())
    for name, p in model.named_parameters():
        p = p.detach()
        if "norm" in name:
            assert torch.equal(p, torch.full_like(p, float(name.endswith("weight")))), name
        elif p.ndim > 1:
            fan_in = 512 + 256 if "recurrence" in name else math.prod(p.shape[1:])
            assert float(p.abs().max()) <= 2 * fan_in**-0.5, name
            assert float(p.std()) == pytest.approx(0.88 * fan_in**-0.5, rel=0.1), name  # of a normal cut at 2
        elif name == "refinement.recurrence.bias_ih":
            expected = torch.zeros(4, 256)
            expected[1] = 1
            assert torch.equal(p, expected.flatten())
        elif not name.startswith("initial_"):
            assert torch.equal(p, torch.zeros_like(p)), name


@pytest.mark.parametrize("detach_inputs", [True, False])
def test_the_loss_falls_on_a_fixed_batch(detach_inputs: bool) -> None:
    """Squares of two colours on black."""
    torch.manual_seed(0)
    config = replace(network("nano"), scale=0.15, num_slots=3, slot_dim=8, detach_inputs=detach_inputs)
    config = replace(config, decoder_channels=16, encoder_channels=16, hidden=(32,), lstm_dim=32, refinement_steps=2)
    model, images = Iodine(config), torch.zeros(3, 3, 16, 16)
    for b in range(3):
        images[b, 0, 1 + 2 * b : 6 + 2 * b, 2:7] = 1
        images[b, 1, 8:13, 9 - b : 14 - b] = 1
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, betas=(0.95, 0.999))
    losses = []
    for step in range(80):
        loss = model.loss(images, TrainState(refinement_steps=2), noise=step)
        optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.total.detach()))
    first, last = (sum(part) / 10 for part in (losses[:10], losses[-10:]))
    assert last < first - 0.4 * abs(first)


@pytest.mark.parametrize("config", [SMALL, RELEASED], ids=["gaussian", "logistic"])
def test_single_precision_stays_close_to_double(config: IodineConfig) -> None:
    model, images, state = build(config), pictures(), TrainState(refinement_steps=2)
    double = model.loss(images, state, noise=0).total
    single = model.float().loss(images.float(), state, noise=0).total
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double.item(), rel=1e-4)


def test_bfloat16_stays_within_the_convolutions_and_changes_little() -> None:
    torch.manual_seed(0)
    model, state = Iodine(network("nano")), TrainState(refinement_steps=1)
    images = (pictures() * 255).to(torch.uint8)
    found = {}
    for precision in ("float32", "bfloat16"):
        place(model, torch.device("cpu"), precision)  # type: ignore[arg-type]
        model.zero_grad()
        loss = model.loss(images, state, noise=0)
        loss.total.backward()
        found[precision] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert {values.dtype for values in loss.terms.values()} == {torch.float32}
    error = (found["bfloat16"] - found["float32"]).norm() / found["float32"].norm()
    assert 0 < float(error) < 5e-2


@pytest.mark.parametrize(
    "config", [replace(SMALL, scale=0.01), replace(RELEASED, scale=0.01)], ids=["gaussian", "logistic"]
)
def test_pictures_that_no_slot_explains_stay_finite_with_their_gradients(config: IodineConfig) -> None:
    """Every density underflows in single precision."""
    model = build(config).float()
    model.decoder.layers[-1].bias.data[1:] = -5.0  # type: ignore[index, union-attr]
    loss = model.loss(pictures().float(), TrainState(refinement_steps=2), noise=0)
    loss.total.backward()
    assert bool(loss.total.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_standard_deviations_stay_finite(raw: float) -> None:
    """A variance of 0 was the common cause of NaN in the released code."""
    model = build().float()
    model.initial_raw.data.fill_(raw)
    first = model.infer(pictures()).steps[0]
    expected = math.sqrt(1e-5) if raw < 0 else math.sqrt(80)
    torch.testing.assert_close(first.posterior.std, torch.full((B, K, D), expected), rtol=1e-5, atol=0)
    assert bool(first.kl.isfinite().all())


# ------------------------------------------------------------------------- presets

RELEASED_VALUES: dict[str, tuple[Any, ...]] = {
    # K, D, coordinates, decoder, refinement convolutions, hidden, LSTM, batch, rate, H W
    "clevr6": (7, 64, "linear", (4, 64, 3), (4, 64, 3), (256, 256), 256, 32, 1e-3, (128, 128)),
    "multi-dsprites": (6, 16, "cosine", (4, 32, 5), (3, 32, 5), (128,), 128, 128, 3e-4, None),
    "tetrominoes": (4, 32, "cosine", (4, 32, 5), (3, 32, 5), (128,), 0, 256, 3e-4, None),
}


@pytest.mark.parametrize("name", RELEASED_VALUES)
def test_presets_have_the_released_values(name: str) -> None:
    config = preset(f"iodine/{name}")
    m = network(name)
    assert RELEASED_VALUES[name] == (
        *(m.num_slots, m.slot_dim, m.coordinates),
        *(
            (m.decoder_layers, m.decoder_channels, m.decoder_kernel),
            (m.encoder_layers, m.encoder_channels, m.encoder_kernel),
        ),
        *(m.hidden, m.lstm_dim, config.batch_size, config.learning_rate, config.image_size),
    )
    assert (m.density, m.scale, m.prior_variance, m.joint_channels) == ("logistic", 0.03, math.log(2), True)
    assert (m.refinement_steps, config.curriculum, m.decoder_patch, m.pool) == (5, ((0, 5),), 1, "mean")
    assert (config.steps, config.betas, config.clip_norm) == (1_000_000, (0.95, 0.999), 5.0)
    assert (config.warmup_steps, config.decay, config.kl_warmup_steps) == (0, "half-life", 0)
    assert 0.5 ** (1e6 / config.half_life_steps) == pytest.approx(0.1, rel=1e-5)
    other = preset(f"iodine/{name}-unit-gaussian")
    assert other == replace(config, model=replace(m, density="gaussian", scale=0.1, prior_variance=1.0))


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("iodine/")])
def test_every_preset_takes_a_step(name: str) -> None:
    config = preset(name)
    model = build_model(config.model)
    assert isinstance(model, Iodine)
    size = model.config.image_size or (14, 11)
    state = replace(model.initial_state(), refinement_steps=1)
    loss = model.loss(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8), state, noise=0)
    loss.total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


# -------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, H, W), torch.zeros(B, 1, H, W), torch.zeros(B, 3, H, W, dtype=torch.int64)],
)
def test_other_shapes_and_types_are_refused(images: Tensor) -> None:
    model = build()
    for call in (model.infer, model.encode, lambda x: model.loss(x, model.initial_state())):
        with pytest.raises(InputError, match="images must be"):
            call(images)


def test_the_flattening_network_is_built_for_one_size() -> None:
    model = build(CASES["flatten, 5x5"])
    for call in (model.infer, model.encode, lambda x: model.loss(x, model.initial_state())):
        with pytest.raises(InputError, match="images are 14x11, and this model is built for 11x14 alone"):
            call(pictures(size=(W, H)))
    assert model.decode(torch.zeros(B, K, D).double(), (W, H)).masks.shape == (B, K, 1, W, H)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slots": 0}, "num_slots must be at least 1, got 0"),
        ({"slot_dim": -1}, "slot_dim must be at least 1, got -1"),
        ({"refinement_steps": -1}, "refinement_steps must be at least 0, got -1"),
        ({"lstm_dim": -2}, "lstm_dim must be at least 0, got -2"),
        ({"decoder_kernel": 4}, "take an odd number"),
        ({"encoder_kernel": 2}, "take an odd number"),
        ({"hidden": ()}, "hidden"),
        ({"hidden": (3, 0)}, "hidden"),
        ({"scale": 0.0}, "scale must be a positive number"),
        ({"scale": math.nan}, "scale must be a positive number"),
        ({"prior_variance": 1e-5}, "prior_variance"),
        ({"prior_variance": math.inf}, "prior_variance"),
        ({"pool": "flatten"}, "give both or neither"),
        ({"image_size": (4, 4)}, "give both or neither"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Iodine(replace(SMALL, **changes))
    assert "\n" not in str(caught.value)


def test_impossible_counts_are_refused() -> None:
    for options in (InferOptions(num_slots=0), InferOptions(refinement_steps=-1)):
        with pytest.raises(InputError, match="at least"):
            build().infer(pictures(), options)
