"""Initial weights."""

from __future__ import annotations

from typing import Literal

from torch import nn

from emorl.nn.gru import DualGRU

InitialWeights = Literal["pytorch", "keras"]
"""Whose defaults."""


def xavier_small_(*modules: nn.Module, gain: float = 0.02) -> None:
    """Xavier-normal weights of that gain and zero biases, for every linear and convolution inside `modules`."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_normal_(layer.weight, gain=gain)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def keras_(*modules: nn.Module) -> None:
    """Keras's defaults for everything inside `modules`: Glorot-uniform weights and zero biases.

    The recurrent weights of a GRU or LSTM are orthogonal, its gates taken as one matrix; a DualGRU is two GRUs. An
    LSTM's forget gate begins open, with a bias of 1.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, DualGRU):
                for weight_ih, weight_hh in zip(layer.weight_ih, layer.weight_hh, strict=True):
                    nn.init.xavier_uniform_(weight_ih)
                    nn.init.orthogonal_(weight_hh)
                nn.init.zeros_(layer.bias_ih)
                nn.init.zeros_(layer.bias_hh)
            elif isinstance(layer, nn.GRUCell | nn.LSTMCell):
                nn.init.xavier_uniform_(layer.weight_ih)
                nn.init.orthogonal_(layer.weight_hh)
                nn.init.zeros_(layer.bias_ih)
                nn.init.zeros_(layer.bias_hh)
                if isinstance(layer, nn.LSTMCell):
                    nn.init.ones_(layer.bias_ih[layer.hidden_size : 2 * layer.hidden_size])
