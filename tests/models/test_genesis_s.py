"""GENESIS-S where it differs from GENESIS; what both share is tested with GENESIS."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from emorl.models import build_model, model_name
from emorl.models.genesis import Genesis, GenesisConfig, GenesisSConfig
from emorl.presets.genesis import PRESETS
from tests.models.test_genesis import (
    BOTH,
    ONE_STAGE,
    AnyConfig,
    B,
    Forbidden,
    Given,
    H,
    K,
    W,
    assert_equal,
    build,
    noise_for,
    num_parameters,
    pictures,
)


@pytest.mark.parametrize(("side", "count"), [(32, 4_342_916), (64, 12_207_236), (96, 7_619_716), (128, 12_207_236)])
def test_parameter_counts_are_the_released_models(side: int, count: int) -> None:
    assert num_parameters(GenesisSConfig(image_size=(side, side))) == count


@BOTH
def test_a_config_names_its_model(config: AnyConfig) -> None:
    name = "genesis" if isinstance(config, GenesisConfig) else "genesis-s"
    assert model_name(config) == name
    model = build_model(config)
    assert isinstance(model, Genesis) and model.config is config


def test_there_is_no_second_latent_variable() -> None:
    model = build(ONE_STAGE)
    assert not any("component_encoder" in name or "component_prior" in name for name in model.state_dict())
    assert model.infer(pictures()).slots.shape == (B, K, ONE_STAGE.mask_dim)
    assert set(model.loss(pictures(), model.initial_state(), noise=0).terms) == {"nll", "kl", "constraint"}


def test_codes_need_no_decoder() -> None:
    model, images = build(ONE_STAGE), pictures()
    expected = model.encode(images)
    model.component_decoder = model.mask_decoder = model.mask_prior = Forbidden()  # type: ignore[assignment]
    assert torch.equal(model.encode(images), expected)


def test_the_code_of_a_mask_is_the_code_of_its_component() -> None:
    model, images = build(ONE_STAGE), pictures()
    eps = noise_for(model)
    before = model.infer(images, noise=Given(eps))
    eps[:, -1] += 1
    after = model.infer(images, noise=Given(eps))
    assert_equal(before.masks, after.masks)  # what is left, whatever the last code says
    assert_equal(before.components[:, :-1], after.components[:, :-1])
    assert (before.components[:, -1] - after.components[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name.removeprefix("genesis/") for name in PRESETS if name.startswith("genesis/")])
def test_its_presets_are_those_of_genesis_but_for_the_model(name: str) -> None:
    two, one = PRESETS[f"genesis/{name}"](), PRESETS[f"genesis-s/{name}"]()
    for field in fields(two):
        if field.name != "model":
            assert getattr(two, field.name) == getattr(one, field.name)
    shared = {field.name for field in fields(one.model)}
    assert {field.name for field in fields(two.model)} - shared == {"component_dim"}
    assert all(getattr(one.model, field) == getattr(two.model, field) for field in shared)
    told = [(PRESETS[f"{model}/{name}"].__doc__ or "") for model in ("genesis", "genesis-s")]
    assert told[1].count("GENESIS-S") == told[0].count("GENESIS") <= 1


@BOTH
def test_the_last_code_of_masks_shows_in_the_picture_only_here(config: AnyConfig) -> None:
    model, images = build(config), pictures()
    slots = model.infer(images).slots.requires_grad_()
    (grad,) = torch.autograd.grad(model.decode(slots, (H, W)).reconstruction.sum(), slots)
    shows = bool(grad[:, -1, : config.mask_dim].abs().max() > 0)
    assert shows == isinstance(config, GenesisSConfig)
