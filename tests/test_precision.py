"""bfloat16 is chosen where the hardware has it, stays within the convolutions, and changes little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emorl.errors import InputError
from emorl.models.base import TrainState
from emorl.models.efficientmorl import EfficientMORL
from emorl.nn.convs import ConvStack
from emorl.precision import CHUNK_BYTES, choose, native_bfloat16, pick_device, place
from emorl.presets import preset
from emorl.runs import load_weights, newest_checkpoint, read_json
from emorl.train import train
from tests import tiny
from tests.models.plain import random_weights

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("found", "native"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_bf16": False}, False), ({}, False)],
)
def test_auto_is_what_the_hardware_has(found: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert native_bfloat16(CPU) == native
    assert choose("auto", CPU) == ("bfloat16" if native else "float32")
    assert choose("float32", CPU) == "float32" and choose("bfloat16", CPU) == "bfloat16"


@pytest.mark.parametrize("name", ["mps", "meta", "nonsense", "cuda:99"])
def test_devices_that_cannot_train_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"device {name} cannot be used"):
        pick_device(name)


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_from_ampere_on_have_it(
    capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_bfloat16(torch.device("cuda", 0)) == native


def gradient(model: nn.Module, images: Tensor, num_steps: int) -> tuple[Tensor, dict[str, Tensor]]:
    assert isinstance(model, EfficientMORL)
    model.zero_grad()
    loss = model.loss(images, TrainState(refinement_steps=num_steps), noise=0)
    loss.total.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), loss.terms


MODELS = {name: preset(name).model for name in ("tetrominoes", "multi-dsprites", "clevr6", "nano")}
MODELS["modulated"] = replace(MODELS["nano"], decoder="modulated")


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_gradient_changes_little(name: str) -> None:
    torch.manual_seed(0)
    model = EfficientMORL(MODELS[name])
    if name != "modulated":  # whose pictures such weights make much more contrasted than training does
        random_weights(model, seed=1)
    images = torch.randint(0, 256, (2, 3, 21, 18), dtype=torch.uint8)
    place(model, CPU, "float32")
    exact, terms = gradient(model, images, 1)
    place(model, CPU, "bfloat16")
    rough, rough_terms = gradient(model, images, 1)
    assert 0 < float((rough - exact).norm() / exact.norm()) < 3e-2
    for term, values in terms.items():
        torch.testing.assert_close(rough_terms[term], values, rtol=5e-2, atol=0.5)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {values.dtype for values in rough_terms.values()} == {torch.float32}


def test_nothing_but_convolutions_sees_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention, likelihood and KL are computed in float32."""
    seen: dict[str, set[torch.dtype]] = {}

    def watch(owner: Any, name: str) -> None:
        honest = getattr(owner, name)

        def watched(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            seen.setdefault(name, set()).add(x.dtype)
            return honest(x, *args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    for name in ("softmax", "logsumexp"):
        watch(torch, name)
    for name in ("layer_norm", "softplus", "linear", "conv2d"):
        watch(nn.functional, name)
    model = EfficientMORL(preset("clevr6").model)
    place(model, CPU, "bfloat16")
    gradient(model, torch.randint(0, 256, (1, 3, 12, 9), dtype=torch.uint8), 1)
    assert seen.pop("conv2d") == {torch.bfloat16}
    assert len(seen) == 5 and all(kinds == {torch.float32} for kinds in seen.values()), seen


def test_placing_reaches_every_stack() -> None:
    model = EfficientMORL(preset("clevr6").model)
    place(model, CPU, "bfloat16")
    stacks = [module for module in model.modules() if isinstance(module, ConvStack)]
    assert len(stacks) == 2
    assert all(stack.compute_dtype == torch.bfloat16 and stack.chunk_bytes == CHUNK_BYTES["cpu"] for stack in stacks)
    place(model, CPU, "float32")
    assert all(stack.compute_dtype is None for stack in stacks)


@pytest.mark.parametrize(("name", "chunk_bytes"), [("multi-dsprites", 1), ("multi-dsprites", 10**5), ("modulated", 1)])
def test_chunks_change_no_result(name: str, chunk_bytes: int) -> None:
    model = EfficientMORL(MODELS[name]).double()
    random_weights(model, seed=1)
    images = torch.randint(0, 256, (5, 3, 7, 10), dtype=torch.uint8)
    whole, terms = gradient(model, images, 1)
    decoded = model.infer(images, noise=0)
    for module in model.modules():
        if isinstance(module, ConvStack):
            module.chunk_bytes = chunk_bytes
    assert model.decoder.images_per_chunk(7, 7, 10) < 5
    parts, part_terms = gradient(model, images, 1)
    assert float((parts - whole).norm() / whole.norm()) < 1e-10
    for term, values in terms.items():
        torch.testing.assert_close(part_terms[term], values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.infer(images, noise=0).masks, decoded.masks, rtol=1e-9, atol=1e-12)


def test_a_run_keeps_what_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it goes on on hardware that would choose otherwise; resuming is exact in bfloat16 too."""
    config = replace(tiny.RUN, precision="auto", validate_every=0)
    quiet: dict[str, Any] = {"report": lambda line: None}
    monkeypatch.setattr("emorl.precision.native_bfloat16", lambda device: True)
    train(tmp_path / "whole", config, **quiet)
    train(tmp_path / "parts", config, max_minutes=0, **quiet)
    monkeypatch.setattr("emorl.precision.native_bfloat16", lambda device: False)
    assert read_json(tmp_path / "parts" / "config.json")["precision"] == "bfloat16"
    train(tmp_path / "parts", None, **quiet)
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert lines[0] == lines[1]
    checkpoint = newest_checkpoint(tmp_path / "parts")
    assert checkpoint is not None
    model, about = load_weights(checkpoint)
    assert about["precision"] == "bfloat16"
    assert isinstance(model, nn.Module)  # scores are made in float32 all the same
    assert all(m.compute_dtype is None for m in model.modules() if isinstance(m, ConvStack))
