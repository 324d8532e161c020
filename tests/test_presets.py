"""Presets: the paper's values, and every one of them trains and infers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from emorl.errors import InputError
from emorl.geco import GecoConfig
from emorl.models import MODELS, build_model, model_name
from emorl.models.base import InferOptions, Model
from emorl.presets import PRESETS, full_name, preset

# K, D, likelihood, sigma, GECO target of an image, H W, decoder, steps, curriculum, I at test time, training images:
# the table of the paper's training, section 4 and App. F.
PAPER: dict[str, tuple[Any, ...]] = {
    "tetrominoes": (4, 32, "gaussian", 0.3, -4500, (35, 35), "small", 200_000, ((0, 3),), 3, 60_000),
    "multi-dsprites": (
        *(6, 64, "gaussian", 0.1, None, (64, 64), "broadcast", 300_000),
        *(((0, 3), (100_000, 1)), 1, 60_000),
    ),
    "clevr6": (
        *(7, 64, "mixture", 0.1, -61_000, (96, 96), "broadcast", 300_000),
        *(((0, 3), (100_000, 1)), 1, 50_000),
    ),
}

SMALL_SPRITES = ("multi-dsprites-32", "multi-dsprites-textured-32")
OTHER_VALUES: dict[tuple[str, str], dict[str, object]] = {
    ("efficientmorl", "multi-dsprites-32"): {"sigma": 0.1},
    ("efficientmorl", "multi-dsprites-textured-32"): {"sigma": 0.1},
    ("genesis", "multi-dsprites-textured-32"): {"likelihood": "gaussian", "sigma": 0.1},
    ("genesis-s", "multi-dsprites-textured-32"): {"likelihood": "gaussian", "sigma": 0.1},
    ("genesis", "multi-dsprites-32"): {"kl_weight": 0.1},
    ("genesis-s", "multi-dsprites-32"): {"kl_weight": 0.1},
    ("iodine", "multi-dsprites-32"): {"scale": 0.1, "kl_weight": 0.1},
}
"""Of the models of small presets: the paper's sigmas, and a KL that colours can pay at ours."""

ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "tetrominoes-no-geco": ("tetrominoes", {"geco": None}),
    "tetrominoes-single-gru": ("tetrominoes", {"gru": "single"}),
    "tetrominoes-reversed": ("tetrominoes", {"prior": "reversed"}),
    "tetrominoes-bottom-up": ("tetrominoes", {"prior": "bottom-up"}),
    "clevr6-no-geco": ("clevr6", {"geco": None}),
    "clevr6-single-gru": ("clevr6", {"gru": "single"}),
}


@pytest.mark.parametrize("name", PAPER)
def test_values_are_the_papers(name: str) -> None:
    config = preset(name)
    model = config.model
    size = PAPER[name][5]
    target = None if model.geco is None else pytest.approx(model.geco.target_per_element * 3 * size[0] * size[1])
    found = (
        *(model.num_slots, model.slot_dim, model.likelihood, model.sigma, target, size, model.decoder),
        *(config.steps, config.curriculum, model.refinement_steps, config.num_images),
    )
    assert found == PAPER[name]
    assert config.data == name


@pytest.mark.parametrize("name", PAPER)
def test_values_that_all_of_the_papers_runs_share(name: str) -> None:
    config = preset(name)
    assert (config.batch_size, config.learning_rate, config.clip_norm) == (32, 4e-4, 5.0)
    assert (config.warmup_steps, config.decay, config.half_life_steps) == (10_000, "half-life", 100_000)
    assert config.kl_warmup_steps == 0
    model = config.model
    assert (model.num_layers, model.prior, model.gru, model.kl_weight) == (3, "reversed++", "dual", 1.0)
    assert (model.encoder, model.loss_weights, model.initial_weights) == ("conv", "paper", "released")
    if model.geco:
        assert (model.geco.warmup_steps, model.geco.decay, model.geco.rate) == (1000, 0.99, 1e-6)


def test_clevr_at_128_has_the_released_codes_values() -> None:
    config, smaller = preset("clevr-128"), preset("clevr6")
    geco = GecoConfig(target_per_element=-2.1, acceleration=5.0)
    model = replace(smaller.model, num_slots=11, refinement_steps=2, geco=geco)
    other = {"data": "clevr", "image_size": (128, 128), "num_images": 60_000, "curriculum": ((0, 3), (100_000, 2))}
    assert config == replace(smaller, model=model, **other)


@pytest.mark.parametrize(("name", "count"), [("tetrominoes", 467_236), ("clevr6", 666_500)])
def test_parameter_counts_are_the_published_models(name: str, count: int) -> None:
    model = build_model(preset(name).model)
    assert isinstance(model, nn.Module)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_differs_in_what_it_ablates_alone(name: str) -> None:
    base, changes = ABLATIONS[name]
    whole = preset(base)
    assert preset(name) == replace(whole, model=replace(whole.model, **changes)) != whole


def test_every_preset_is_the_papers_or_an_ablation_or_ours() -> None:
    own = {name.removeprefix("efficientmorl/") for name in PRESETS if name.startswith("efficientmorl/")}
    assert own == {
        *PAPER,
        *ABLATIONS,
        "clevr-128",
        "nano",
        "tetrominoes-24k",
        "tetrominoes-fast",
        "multi-dsprites-24k",
        "multi-dsprites-nano",
        "clevr6-24k",
        "clevr6-nano",
        *SMALL_SPRITES,
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_the_papers_data_sets_and_small_ones(name: str) -> None:
    own = {preset.removeprefix(f"{name}/") for preset in PRESETS if preset.startswith(f"{name}/")}
    assert own >= {*PAPER, "nano", *SMALL_SPRITES}
    for data in PAPER:
        config = preset(f"{name}/{data}")
        assert config.data == data and config.subset is None  # clevr6 is the filtered set; sprites are not filtered
        assert config.model.num_slots == PAPER[data][0]


# Of presets whose values come from other code: of the model, and of the run.
QUOTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "monet/tetrominoes": (
        {"sigma_background": 0.3, "sigma_foreground": 0.36, "kl_weight": 0.5, "mask_weight": 0.5, "slot_dim": 16},
        {"batch_size": 64, "learning_rate": 1e-4, "betas": (0.9, 0.999), "half_life_steps": 500_000, "steps": 500_000},
    ),
    "monet/multi-dsprites": (
        {"sigma_background": 0.06, "sigma_foreground": 0.1, "kl_weight": 0.5, "mask_weight": 0.5},
        {"batch_size": 64, "learning_rate": 1e-4, "betas": (0.9, 0.999), "decay": "half-life-from-start"},
    ),
    "monet/clevr6": (
        {"sigma_background": 0.06, "sigma_foreground": 0.1, "kl_weight": 0.5, "mask_weight": 0.5},
        {"batch_size": 32, "learning_rate": 3e-5, "betas": (0.0, 0.99), "half_life_steps": 500_000},
    ),
    "monet/clevr6-paper": (
        {"sigma_background": 0.09, "sigma_foreground": 0.11, "image_size": (128, 128)},
        {"batch_size": 64, "learning_rate": 1e-4, "betas": (0.0, 0.9), "decay": "none", "steps": 1_000_000},
    ),
    "monet/multi-dsprites-paper": (
        {"sigma_background": 0.09, "sigma_foreground": 0.11, "image_size": (64, 64)},
        {"batch_size": 64, "learning_rate": 1e-4, "betas": (0.0, 0.9), "decay": "none", "steps": 1_000_000},
    ),
    **{
        f"genesis-v2/{data}": (
            {"sigma": 0.7, "slot_dim": 64, "channels": 64, "kernel": "gaussian", "kl_weight": 1.0},
            {"batch_size": 32, "learning_rate": 1e-4, "decay": "none", "clip_norm": None, "steps": 500_000},
        )
        for data in PAPER
    },
    "iodine/clevr6-flatten": (
        {
            "density": "gaussian",
            "scale": 0.1,
            "prior_variance": 1.0,
            "pool": "flatten",
            "slot_dim": 64,
            "lstm_dim": 128,
        },
        {"batch_size": 32, "learning_rate": 1e-3, "betas": (0.95, 0.999), "clip_norm": 5.0, "image_size": (96, 96)},
    ),
}


@pytest.mark.parametrize("name", QUOTED)
def test_values_are_those_of_the_code_that_is_followed(name: str) -> None:
    config = preset(name)
    of_model, of_run = QUOTED[name]
    assert {field: getattr(config.model, field) for field in of_model} == of_model
    assert {field: getattr(config, field) for field in of_run} == of_run


@pytest.mark.parametrize("name", SMALL_SPRITES)
def test_small_sprites_are_the_nano_run_on_other_pictures(name: str) -> None:
    for model in MODELS:
        nano, sprites = preset(f"{model}/nano"), preset(f"{model}/{name}")
        assert (sprites.data, sprites.image_size, sprites.fit) == (name.removesuffix("-32"), (32, 32), "centre")
        changed = replace(sprites, data=nano.data, image_size=nano.image_size, fit=nano.fit, model=nano.model)
        assert changed == nano
        changes: dict[str, object] = {"num_slots": 4}
        if nano.model.image_size is not None:
            changes["image_size"] = nano.model.image_size
        for field, value in OTHER_VALUES.get((model, name), {}).items():
            assert getattr(sprites.model, field) == value
            changes[field] = getattr(nano.model, field)
        assert replace(sprites.model, **changes) == nano.model  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_a_step_and_infers(name: str) -> None:
    config = preset(name)
    torch.manual_seed(0)
    model = build_model(config.model)
    assert isinstance(model, nn.Module) and isinstance(model, Model)
    size = config.model.image_size or (14, 11)
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)

    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)
    state = replace(model.initial_state(), refinement_steps=config.refinement_steps(0))
    loss = model.loss(images, state, noise=0)
    loss.total.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)
    optimizer.step()
    state = model.next_state(state, {name: values.mean(dim=0) for name, values in loss.terms.items()})
    assert state.step == 1
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))

    found = model.infer(images, noise=0)
    assert found.masks.shape == (1, config.model.num_slots, 1, *size)
    torch.testing.assert_close(found.masks.sum(dim=1), torch.ones(1, 1, *size))
    assert found.reconstruction.shape == images.shape
    assert model.encode(images, InferOptions(refinement_steps=0)).shape == found.slots.shape


# ----------------------------------------------------------------------- names


@pytest.mark.parametrize("name", PRESETS)
def test_names_say_model_and_data(name: str) -> None:
    config = PRESETS[name]()
    model, _, data = name.partition("/")
    assert model == model_name(config.model) and model in MODELS
    assert data == "nano" or data.startswith(config.data)
    assert preset(name) == config and full_name(name) == name
    if model == "efficientmorl":
        assert preset(data) == config and full_name(data) == name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_is(name: str) -> None:
    first = (PRESETS[name].__doc__ or "").splitlines()[0]
    assert re.fullmatch(r"\S.*\.", first)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("tetrominos", "efficientmorl/tetrominoes"),
        ("clevr", "efficientmorl/clevr6"),
        ("nanoo", "efficientmorl/nano"),
        ("eficientmorl/multi-dsprites", "efficientmorl/multi-dsprites"),
    ],
)
def test_an_unknown_preset_is_answered_with_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"unknown preset {wrong}; did you mean {meant}?"):
        preset(wrong)


def test_a_preset_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(InputError) as caught:
        preset("?/?")
    assert all(name in str(caught.value) for name in PRESETS)
