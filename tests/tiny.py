"""A model and a run so small that a training step takes milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from emorl.config import TrainConfig, to_json
from emorl.geco import GecoConfig
from emorl.models.efficientmorl import EfficientMORL, EfficientMORLConfig
from emorl.nn.choices import PatchConfig
from emorl.presets import preset

MODEL = EfficientMORLConfig(
    num_slots=3,
    slot_dim=8,
    num_layers=2,
    refinement_steps=1,
    likelihood="gaussian",
    sigma=0.3,
    encoder="patch",
    decoder="subpixel",
    patch=PatchConfig(
        encoder_patch=5,
        encoder_channels=8,
        encoder_layers=1,
        decoder_patch=5,
        decoder_channels=8,
        decoder_layers=1,
    ),
    initial_weights="pytorch",
)

RUN = TrainConfig(
    model=MODEL,
    data="tetrominoes",
    num_images=9,
    batch_size=2,
    steps=14,
    learning_rate=1e-3,
    warmup_steps=3,
    half_life_steps=10,
    kl_warmup_steps=5,
    curriculum=((0, 1), (5, 2)),
    precision="float32",
    log_every=1,
    validate_every=6,
    validation_images=2,
    checkpoint_every=4,
)
"""Validation and checkpoint fall together at step 12."""

GECO_RUN = replace(
    RUN,
    model=replace(MODEL, geco=GecoConfig(target_per_element=-1.0, warmup_steps=4, rate=1e-5)),
    kl_warmup_steps=0,
)

FOLLOWING_RUN = replace(
    GECO_RUN, model=replace(MODEL, geco=GecoConfig(quantile=0.5, warmup_steps=4, decay=0.8, rate=1e-5))
)


def build(config: EfficientMORLConfig = MODEL, seed: int = 0) -> EfficientMORL:
    """A model ready for inference, with the weights of a seed, in the layout of loaded ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EfficientMORL(config).eval().requires_grad_(False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def words(config: TrainConfig) -> list[str]:
    """The words behind `emorl train` that ask for a config."""
    preset = "tetrominoes" if config.model.geco else "nano"
    return [preset, *_options("", to_json(config))]


def _options(prefix: str, fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _options(f"{prefix}{name}.", value)
        elif value is not None and f"{prefix}{name}" != "model.name":
            yield f"--{prefix}{name}".replace("_", "-")
            yield from _flat(value)


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield str(value)


def write_experiment(path: Path, **changes: Any) -> Path:
    """The file of an experiment whose two seeds are tiny runs, with other values and further overrides."""
    overrides = dict(_dotted("", _unlike(to_json(preset("nano")), to_json(replace(RUN, validate_every=0)))))
    content: dict[str, Any] = {"why": "A test.", "scale": "nano", "order": 1, "hardware": "any", "serves": []}
    content |= {"preset": "nano", "seeds": [0, 1]} | {k: v for k, v in changes.items() if k != "overrides"}
    lines = [f"{name} = {json.dumps(value)}" for name, value in content.items()]
    overrides |= changes.get("overrides", {})
    lines += ["[overrides]", *(f"{name} = {json.dumps(value)}" for name, value in overrides.items())]
    path.write_text("\n".join(lines))
    return path


def _unlike(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What `other` has that differs from `base`, at any depth."""
    found = {}
    for name, value in other.items():
        inner = _unlike(base[name], value) if isinstance(value, Mapping) and isinstance(base[name], Mapping) else value
        if inner != ({} if isinstance(value, Mapping) else base[name]):
            found[name] = inner
    return found


def _dotted(prefix: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _dotted(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
