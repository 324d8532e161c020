"""The models, one file each, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from emorl.errors import InputError
from emorl.models.base import Model
from emorl.models.efficientmorl import EfficientMORL, EfficientMORLConfig
from emorl.models.genesis import Genesis, GenesisConfig, GenesisSConfig
from emorl.models.genesis_v2 import GenesisV2, GenesisV2Config
from emorl.models.iodine import Iodine, IodineConfig
from emorl.models.monet import MONet, MONetConfig
from emorl.models.slot_attention import SlotAttention, SlotAttentionConfig
from emorl.models.slot_mlp import SlotMLP, SlotMLPConfig

ModelConfig = (
    EfficientMORLConfig
    | GenesisConfig
    | GenesisSConfig
    | GenesisV2Config
    | IodineConfig
    | MONetConfig
    | SlotAttentionConfig
    | SlotMLPConfig
)
"""Any model's config."""


@dataclass(frozen=True)
class ModelEntry:
    """How a model is built and configured."""

    build: Callable[[Any], Model]
    config: type[ModelConfig]


MODELS = {
    "efficientmorl": ModelEntry(EfficientMORL, EfficientMORLConfig),
    "genesis": ModelEntry(Genesis, GenesisConfig),
    "genesis-s": ModelEntry(Genesis, GenesisSConfig),
    "genesis-v2": ModelEntry(GenesisV2, GenesisV2Config),
    "iodine": ModelEntry(Iodine, IodineConfig),
    "monet": ModelEntry(MONet, MONetConfig),
    "slot-attention": ModelEntry(SlotAttention, SlotAttentionConfig),
    "slot-mlp": ModelEntry(SlotMLP, SlotMLPConfig),
}
"""Name in presets, weights folders and results -> model."""


def model_name(config: ModelConfig) -> str:
    """The table's name of the model this config belongs to."""
    for name, entry in MODELS.items():
        if entry.config is type(config):
            return name
    raise InputError(f"{type(config).__name__} is the config of no model in emorl.models.MODELS")


def build_model(config: ModelConfig) -> Model:
    """The model of a config, with fresh weights from PyTorch's global generator."""
    return MODELS[model_name(config)].build(config)
