"""Initial weights."""

from __future__ import annotations

from torch import nn


def xavier_small_(*modules: nn.Module, gain: float = 0.02) -> None:
    """Xavier-normal weights of that gain and zero biases, for every linear and convolution inside `modules`."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_normal_(layer.weight, gain=gain)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
