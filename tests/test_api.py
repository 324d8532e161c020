"""The package from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import emorl
from emorl.cli import main
from emorl.errors import InputError
from emorl.runs import read_json


def test_a_model_is_loaded_by_name() -> None:
    model = emorl.load("nano")
    found = model.infer(torch.zeros(1, 3, 35, 35, dtype=torch.uint8), noise=0)
    assert found.masks.shape == (1, 4, 1, 35, 35)


def test_scores_are_those_of_the_command(tmp_path: Path) -> None:
    assert main(["evaluate", "nano", "--num-images", "5", "--json", str(tmp_path / "r.json")]) == 0
    told, found = read_json(tmp_path / "r.json"), emorl.evaluate("nano", num_images=5)
    for name in ("foreground_ari", "mse", "nll", "mbo"):
        assert found[name]["mean"] == pytest.approx(told[name]["mean"], rel=1e-6)
    assert found["data"] == told["data"] and found["options"] == told["options"]


def test_other_data_and_options(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", image=np.zeros((3, 35, 35, 3), np.uint8))
    found = emorl.evaluate("nano", tmp_path / "own.npz", num_slots=5, refinement_steps=0)
    assert found["mse"]["num_images"] == 3 and "foreground_ari" not in found
    assert (found["options"]["num_slots"], found["options"]["refinement_steps"]) == (5, 0)


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match="nanoo"):
        emorl.load("nanoo")
    with pytest.raises(AttributeError, match="nothing"):
        emorl.nothing  # noqa: B018


def test_the_names_stay_functions_whatever_is_imported() -> None:
    code = "import emorl, emorl.cli.evaluate; assert callable(emorl.load) and callable(emorl.evaluate)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0


def test_mistakes_from_python_are_told(tmp_path: Path) -> None:
    model = emorl.load("nano")
    with pytest.raises(InputError, match=r"up to 255: give floats in \[0, 1\]"):
        model.infer(torch.full((1, 3, 35, 35), 255.0))
    with pytest.raises(InputError, match="a tensor B 3 H W, got ndarray"):
        model.infer(np.zeros((1, 3, 35, 35), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"emorl\.evaluation\.evaluate"):
        emorl.evaluate(model)  # type: ignore[arg-type]
    assert {"load", "evaluate"} <= set(dir(emorl))
    np.savez(tmp_path / "own.npz", image=np.zeros((3, 40, 40, 3), np.uint8), mask=np.ones((3, 40, 40), np.int64))
    with pytest.raises(InputError, match="--fit centre"):
        emorl.evaluate("nano", tmp_path / "own.npz")
    assert emorl.evaluate("nano", tmp_path / "own.npz", fit="centre")["mse"]["num_images"] == 3
