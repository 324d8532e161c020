"""Exported networks give what PyTorch gives; what cannot be exported is told in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from emorl.cli import main
from emorl.errors import InputError
from emorl.feed import feed
from emorl.models import ModelConfig, build_model
from emorl.models.base import Model
from emorl.models.genesis import GenesisConfig
from emorl.models.genesis_v2 import GenesisV2Config
from emorl.models.iodine import IodineConfig
from emorl.models.monet import MONetConfig
from emorl.models.slot_attention import SlotAttentionConfig
from emorl.models.slot_mlp import SlotMLPConfig
from emorl.runs import find_weights, load_weights, make_weights, read_json, shipped_names
from emorl.web.networks import Decoder, Encoder, FirstDraw, export_networks
from tests import tiny

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'emorl[dev]'")

SIZE = (16, 24)
OTHERS: dict[str, ModelConfig] = {
    "efficientmorl": tiny.MODEL,
    "genesis-v2": GenesisV2Config(image_size=SIZE, num_slots=3, slot_dim=5, channels=8),
    "monet": MONetConfig(image_size=SIZE, num_slots=3, slot_dim=5, attention_channels=8, component_channels=8),
    "slot-attention": SlotAttentionConfig(3, 5, 2, encoder_channels=8),
    "slot-mlp": SlotMLPConfig(3, 5, encoder_channels=8, grid_size=4, hidden_dim=16),
}


def run(path: Path, feeds: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """What onnxruntime makes of a network."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    return [torch.from_numpy(x) for x in session.run(None, {name: x.numpy() for name, x in feeds.items()})]


def check(model: Model, images: torch.Tensor, folder: Path, metadata: dict[str, Any], atol: float) -> None:
    """Codes, masks and reconstruction of images B 3 H W, and of their codes mixed up."""
    decoder, encoder = Decoder(model, (images.shape[2], images.shape[3])), Encoder(model)
    for image in images.split(1):
        feeds = {"image": image}
        noise = None
        if metadata["noise"] is not None:
            noise = torch.tensor(metadata["noise"]["values"]).view(metadata["noise"]["shape"])
            feeds["noise"] = noise
        with torch.no_grad():
            expected = model.encode(image, encoder.options, noise=FirstDraw(noise))
        (slots,) = run(folder / "encoder.onnx", feeds)
        torch.testing.assert_close(slots, expected, atol=atol, rtol=atol)

        several = torch.cat([slots[0], slots[0].flip(0)[:2]])  # more slots than the model was built for
        logits, colours = run(folder / "decoder.onnx", {"slots": several})
        decoding = model.decode(several[None], decoder.size)
        masks = logits.softmax(dim=0)
        torch.testing.assert_close(masks, decoding.masks[0], atol=atol, rtol=0)
        torch.testing.assert_close((masks * colours).sum(dim=0), decoding.reconstruction[0], atol=atol, rtol=0)


EXPORTED = [name for name in shipped_names() if not name.startswith("iodine/")]
SAME = ("efficientmorl/clevr6-24k", "efficientmorl/clevr6-nano")  # networks as those for Multi-dSprites


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SAME else n for n in EXPORTED])
def test_shipped_weights_are_those_of_pytorch(name: str, tmp_path: Path) -> None:
    model, about = load_weights(find_weights(name))
    source = feed(about).source
    assert source.size is not None
    metadata = export_networks(model, source.size, tmp_path)
    images = torch.from_numpy(source.read(np.arange(4)).image).permute(0, 3, 1, 2) / 255
    check(model, images, tmp_path, metadata, atol=1e-4)
    assert metadata == read_json(tmp_path / "model.json")


def test_a_modulated_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(replace(tiny.MODEL, decoder="modulated"))
    assert isinstance(model, nn.Module)
    model.eval()
    check(model, torch.rand(2, 3, *SIZE), tmp_path, export_networks(model, SIZE, tmp_path), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_model_that_decodes_slots_apart(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(OTHERS[name])
    assert isinstance(model, nn.Module)
    model.eval()
    metadata = export_networks(model, SIZE, tmp_path)
    assert metadata["model"] == name
    assert (metadata["noise"] is None) == (name in ("monet", "slot-mlp"))
    check(model, torch.rand(2, 3, *SIZE), tmp_path, metadata, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (IodineConfig(num_slots=2, slot_dim=4, encoder_channels=4, decoder_channels=4, lstm_dim=0), "gradients"),
        (GenesisConfig(image_size=(16, 16), num_slots=2), "slots before it"),
    ],
)
def test_what_cannot_be_exported_is_told(config: ModelConfig, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        export_networks(build_model(config), (16, 16), tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_the_first_draw_is_given() -> None:
    first, like = torch.full((1, 2, 3), 7.0), torch.ones(1, 2, 3)
    noise = FirstDraw(first)
    assert noise.normal("z0", 0, like) is first
    assert not noise.normal("layers", 0, like).any()


def test_another_draw_gives_other_codes() -> None:
    model, about = load_weights(find_weights("nano"))
    encoder = Encoder(model)
    image = torch.from_numpy(feed(about).source.read(np.array([0])).image).permute(0, 3, 1, 2) / 255
    noise = encoder.first_noise((35, 35))
    assert noise is not None
    assert torch.equal(encoder(image, noise), encoder(image, noise))
    assert not torch.allclose(encoder(image, noise), encoder(image, -noise), atol=0.1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_weights(tmp_path / "weights", tiny.build(), {"data": "tetrominoes"})
    words = ["export-onnx", str(tmp_path / "weights"), "--out", str(tmp_path / "onnx")]
    assert main(words) == 2
    assert "--size" in capsys.readouterr().err
    assert not (tmp_path / "onnx").exists()
    assert main([*words, "--size", "10", "15"]) == 0
    assert {file.name for file in (tmp_path / "onnx").iterdir()} == {"encoder.onnx", "decoder.onnx", "model.json"}
    assert read_json(tmp_path / "onnx" / "model.json")["size"] == [10, 15]
    assert main([*words, "--size", "10", "15"]) == 2
    assert "exists already" in capsys.readouterr().err
