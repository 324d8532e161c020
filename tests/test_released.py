"""Released checkpoints: names, layout, and files that must not be trusted."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emorl.errors import InputError
from emorl.models.efficientmorl import EfficientMORL, EfficientMORLConfig
from emorl.released import from_released_names, read_checkpoint, to_released_names
from tests.models.plain import random_weights

D = 6
DUAL = EfficientMORLConfig(num_slots=4, slot_dim=D, decoder="small")
SINGLE = replace(DUAL, gru="single", decoder="deconv")


def build(config: EfficientMORLConfig, seed: int = 0) -> EfficientMORL:
    model = EfficientMORL(config)
    random_weights(model, seed)
    return model


def checkpoint(model: EfficientMORL) -> dict[str, Any]:
    """What the authors' training script leaves behind."""
    weights = {f"module.{n}": t for n, t in to_released_names(dict(model.state_dict())).items()}
    weights |= {"module.geco_beta": torch.tensor(0.75), "module.geco_C_ema": torch.tensor(-350.0)}
    weights["module.hvae_networks.gru.cell.zeros"] = torch.zeros(2 * D)
    weights["module.hvae_networks.gru.cell.zeros_n"] = torch.zeros(D)
    moments = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([moments], lr=4e-4)
    moments.sum().backward()
    optimizer.step()
    return {"step": 300_000, "model": weights, "model_opt": optimizer.state_dict(), "lr": [4e-4]}


def assert_same(a: EfficientMORL, b: EfficientMORL) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize("config", [DUAL, SINGLE])
def test_names_go_there_and_back(config: EfficientMORLConfig) -> None:
    ours = {n: p.detach() for n, p in build(config).named_parameters()}
    released = to_released_names(ours)
    assert sum(t.numel() for t in released.values()) == sum(t.numel() for t in ours.values())
    back = from_released_names(released)
    assert set(back) == set(ours)
    for name, p in ours.items():
        assert torch.equal(back[name], p), name


def test_names_are_those_of_the_reference_files(shared: Path) -> None:
    with np.load(shared / "reference" / "gaussian_small.npz") as file:
        recorded = {n.removeprefix("param/"): file[n].shape for n in file.files if n.startswith("param/")}
    ours = to_released_names(dict(build(replace(DUAL, slot_dim=32)).named_parameters()))
    assert {n: tuple(t.shape) for n, t in ours.items()} | {"geco_beta": (), "geco_C_ema": ()} == recorded


def test_names_of_the_single_gru() -> None:
    ours = dict(build(SINGLE).named_parameters())
    released = to_released_names(ours)
    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        assert torch.equal(released[f"hvae_networks.gru.{kind}_l0"], ours[f"gru.cell.{kind}"])
    assert torch.equal(released["hvae_networks.project_update.weight"], ours["gru.project.weight"])
    assert not any("gru.cell" in name for name in released)


def test_rows_of_the_dual_gru_run_reset_and_update_of_the_mean_then_of_the_scale() -> None:
    released = to_released_names(dict(build(DUAL).named_parameters()))
    ours = dict(build(DUAL).named_parameters())
    prefix = "hvae_networks.gru.cell."
    for kind, new in (("ih", "in"), ("hh", "hn")):
        bias = ours[f"gru.bias_{kind}"]
        gates = [bias[0, :D], bias[0, D : 2 * D], bias[1, :D], bias[1, D : 2 * D]]
        assert torch.equal(released[f"{prefix}bias_{kind}"], torch.cat(gates))
        assert torch.equal(released[f"{prefix}bias_{new}"], torch.cat([bias[0, 2 * D :], bias[1, 2 * D :]]))
        for cell in (0, 1):
            weight = ours[f"gru.weight_{kind}"][cell]
            assert torch.equal(released[f"{prefix}weight_{kind}_{cell + 1}"], weight[: 2 * D])
            assert torch.equal(released[f"{prefix}weight_{new}_{cell + 1}"], weight[2 * D :])


def test_a_missing_parameter_is_noticed() -> None:
    released = to_released_names(dict(build(DUAL).named_parameters()))
    for name in ("hvae_networks.init_posterior", "hvae_networks.gru.cell.weight_in_2"):
        with pytest.raises(KeyError, match=name):
            from_released_names({n: t for n, t in released.items() if n != name})


# ---------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("config", [DUAL, SINGLE])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_becomes_the_model_it_came_from(tmp_path: Path, config: EfficientMORLConfig, zipped: bool) -> None:
    model, path = build(config), tmp_path / "released.pth"
    content = checkpoint(model)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    other = build(config, seed=1)
    other.load_state_dict(from_released_names(read_checkpoint(path)))
    assert_same(other, model)
    assert float(other.geco_zeta) == 0.75


def test_geco_scalars_may_stand_beside_the_model(tmp_path: Path) -> None:
    content = checkpoint(build(DUAL))
    for name in ("geco_beta", "geco_C_ema"):
        content[name] = content["model"].pop(f"module.{name}")
    torch.save(content, tmp_path / "released.pth")
    read = read_checkpoint(tmp_path / "released.pth")
    assert float(from_released_names(read)["geco_zeta"]) == 0.75


def test_names_without_the_prefix_are_read_too(tmp_path: Path) -> None:
    content = checkpoint(build(DUAL))
    content["model"] = {n.removeprefix("module."): t for n, t in content["model"].items()}
    torch.save(content, tmp_path / "released.pth")
    assert set(read_checkpoint(tmp_path / "released.pth")) == set(content["model"])


# --------------------------------------------------------------------- hostile files


class Hostile:
    """Makes a folder when a careless reader unpickles it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def refusal(path: Path) -> str:
    """The message with which a file is refused: one line that names it."""
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("where", ["entry", "tensor", "name"])
def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path: Path, kind: str, where: str) -> None:
    path, trace = tmp_path / "hostile.pth", tmp_path / "it-ran"
    content = checkpoint(build(DUAL))
    if where == "entry":
        content["options"] = Hostile(trace)
    elif where == "tensor":
        content["model"]["module.extra"] = Hostile(trace)
    else:
        content["model"][Hostile(trace)] = torch.zeros(1)
    if kind == "pickle":
        content = {"model": {"x": Hostile(trace)}} if where == "tensor" else {Hostile(trace): 1}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    refusal(path)
    assert not trace.exists()


def test_the_hostile_pickle_would_have_run(tmp_path: Path) -> None:
    """The check above can fail: a careless reader does run it."""
    torch.save({"model": {"x": Hostile(tmp_path / "it-ran")}}, tmp_path / "hostile.pth")
    torch.load(tmp_path / "hostile.pth", weights_only=False)
    assert (tmp_path / "it-ran").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "released.pth")
    assert "no such file" in refusal(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_refused_wherever_it_is_cut(tmp_path: Path, zipped: bool) -> None:
    path, whole = tmp_path / "cut.pth", tmp_path / "whole.pth"
    content = {"model": {"module.a": torch.arange(50.0), "module.b": torch.zeros(3)}, "step": 5}
    torch.save(content, whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    assert set(read_checkpoint(whole)) == {"a", "b"}
    for length in range(0, len(data) - 1, max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        refusal(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_with_wrong_bytes_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.pth"
    torch.save({"model": {"module.a": torch.arange(50.0)}}, path, _use_new_zipfile_serialization=False)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        wrong = data.copy()
        wrong[rng.integers(len(wrong))] = rng.integers(256)
        path.write_bytes(wrong)
        try:
            read_checkpoint(path)
        except InputError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    "content",
    [
        {"weights": {"a": torch.zeros(1)}},
        {"model": torch.zeros(3)},
        {"model": {"a": [1, 2]}},
        [torch.zeros(1)],
        torch.zeros(1),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert "no released checkpoint" in refusal(tmp_path / "other.pth")


@pytest.mark.parametrize("data", [b"", b"\n", b"hello", bytes(1000), b"PK\x03\x04", b"\x80\x02."])
def test_anything_else_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "other.pth").write_bytes(data)
    refusal(tmp_path / "other.pth")


def test_tensors_come_to_the_cpu(tmp_path: Path) -> None:
    torch.save(checkpoint(build(DUAL)), tmp_path / "released.pth")
    read: dict[str, Tensor] = read_checkpoint(tmp_path / "released.pth")
    assert {t.device.type for t in read.values()} == {"cpu"}
