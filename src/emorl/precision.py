"""Where and in what a model computes, chosen for the hardware and written down with the run.

Parameters, optimizer, attention, likelihood and KL are float32 always. Convolutions, in channels-last order, may run
in bfloat16 where the hardware multiplies it natively: there they are 1.3 to 3 times faster.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from emorl.errors import InputError, first_line
from emorl.nn.convs import Conv2d, ConvStack, ConvTranspose2d

Precision = Literal["float32", "bfloat16"]
"""Of the convolutions."""

COMPUTED_IN: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
"""What a convolution turns its input into; None for what it is."""

CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
"""Decoders keep the output of a layer below this by decoding a few images at a time: on a CPU it then stays in the
cache, and is not given back to the system and cleared by it time and again."""


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one; raises InputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):  # Apple's GPUs have no float64, which scores are added up in
            raise RuntimeError("choose cpu or cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name} cannot be used ({first_line(error)})") from None
    return device


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (a CPU: AVX-512 BF16 or AMX; a GPU: Ampere and later)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def choose(wanted: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """`auto` is bfloat16 where the hardware has it."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if native_bfloat16(device) else "float32"


def place(model: nn.Module, device: torch.device, precision: Precision) -> None:
    """Move a model to a device, ready to compute there as fast as the precision allows."""
    if precision not in COMPUTED_IN:
        raise InputError(f"unknown precision {precision!r}: there are {', '.join(COMPUTED_IN)}")
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, ConvStack | Conv2d | ConvTranspose2d):
            module.compute_dtype = COMPUTED_IN[precision]
        if isinstance(module, ConvStack):
            module.chunk_bytes = CHUNK_BYTES.get(device.type)
