"""The two networks of a model as ONNX files: a picture to codes, and codes to what each slot shows by itself.

    encoder.onnx   image (1 3 H W, float32 in [0, 1]) and, where slots begin as draws, noise -> slots (1 K D)
    decoder.onnx   slots (N D) -> logits (N 1 H W) and colours (N 3 H W in [0, 1])
    model.json     shapes, and the noise of seed 0; described in page/metadata.d.ts

A scene is the mixture of its slots' colours, weighted by the softmax over slots of their logits: so an edited slot is
decoded alone, and a scene can hold any number of slots from anywhere. The encoder takes no refinement step and follows
posterior means; only its first draw, which tells the slots apart, is an input.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emorl.errors import InputError
from emorl.models import model_name
from emorl.models.base import InferOptions, Model
from emorl.models.genesis import Genesis
from emorl.models.iodine import Iodine
from emorl.models.slot_attention import SlotAttention
from emorl.noise import ImageNoise
from emorl.runs import write_json
from emorl.version import __version__

IMPOSSIBLE: dict[type, str] = {
    Iodine: "finds its slots by gradients of its decoder, which an exported network does not have",
    Genesis: "makes the mask of a slot from the slots before it, so that none can be decoded by itself",
}


class FirstDraw:
    """Noise whose first draw is given; all others are zero, so that means are followed. See `emorl.noise.Noise`."""

    def __init__(self, first: Tensor | None) -> None:
        self.first = first
        self.asked: tuple[str, int, Tensor] | None = None
        """What the first draw was asked for with; None as long as nothing was."""

    def normal(self, name: str, index: int, like: Tensor) -> Tensor:
        """See `Noise`."""
        if self.asked is None and self.first is not None:
            self.asked = (name, index, like)
            return self.first
        self.asked = self.asked or (name, index, like)
        return torch.zeros_like(like)


class Encoder(nn.Module):
    """A picture to codes."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        # Slot Attention's steps are those of its attention; elsewhere a step is a gradient of the decoder.
        self.options = InferOptions(refinement_steps=None if isinstance(model, SlotAttention) else 0)

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """1 3 H W and the first draw, 1 ... -> 1 K D."""
        return self.model.encode(image, self.options, noise=FirstDraw(noise))

    def first_noise(self, size: tuple[int, int]) -> Tensor | None:
        """The first draw of seed 0 for image 0; None for a model that draws nothing."""
        probe = FirstDraw(None)
        self.model.encode(torch.zeros(1, 3, *size), self.options, noise=probe)
        return None if probe.asked is None else ImageNoise(0, [0]).normal(*probe.asked)


class Decoder(nn.Module):
    """Codes to logits and colours, each slot by itself."""

    def __init__(self, model: Model, size: tuple[int, int]) -> None:
        super().__init__()
        if type(model) in IMPOSSIBLE:
            raise InputError(f"{model_name(model.config)} cannot be exported: it {IMPOSSIBLE[type(model)]}")
        self.model = model
        self.size = size

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """N D -> N 1 H W and N 3 H W."""
        shown = self.model.decode_slots(slots, self.size)
        assert shown is not None
        return shown


def export_networks(model: Model, size: tuple[int, int], folder: Path) -> dict[str, Any]:
    """Write both networks and what the page must know of them into an existing folder; returns the latter.

    Args:
        model: on the CPU, in float32.
        size: H W of the pictures; the networks take no other.
        folder: gets encoder.onnx, decoder.onnx and model.json.

    Raises:
        InputError: the model cannot be exported, or the packages for it are missing.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise InputError("the export needs onnx and onnxscript: pip install 'emorl[web]'")
    decoder, encoder = Decoder(model, size).eval(), Encoder(model).eval()
    noise = encoder.first_noise(size)
    image = torch.zeros(1, 3, *size)
    inputs = (image,) if noise is None else (image, noise)
    with torch.no_grad():
        slots = encoder(*inputs)[0]  # K D
        names = ["image", "noise"][: len(inputs)]
        _export(encoder, inputs, names, ["slots"], folder / "encoder.onnx")
        _export(decoder, (slots,), ["slots"], ["logits", "colours"], folder / "decoder.onnx", dynamic=True)
    metadata = {
        "model": model_name(model.config),
        "emorl": __version__,
        "size": list(size),
        "numSlots": slots.shape[0],
        "slotDim": slots.shape[1],
        "noise": None if noise is None else {"shape": list(noise.shape), "values": noise.flatten().tolist()},
    }
    write_json(folder / "model.json", metadata)
    return metadata


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: list[str],
    outputs: list[str],
    path: Path,
    dynamic: bool = False,
) -> None:
    """One network into one file; `dynamic` lets the first axis of its input have any length."""
    axes = ({0: torch.export.Dim("count")},) if dynamic else None
    with _quiet():
        program = torch.onnx.export(
            module, inputs, input_names=names, output_names=outputs, dynamic_shapes=axes, dynamo=True, verbose=False
        )
    assert program is not None
    program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps PyTorch's exporter from telling of packages that are not there and of its own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
