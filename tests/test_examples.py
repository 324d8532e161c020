"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

import emorl

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *words: str, where: Path) -> str:
    env = os.environ | {"PYTHONPATH": str(EXAMPLES.parent / "src")}
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_scene_is_edited(tmp_path: Path) -> None:
    said = run("edit_a_scene.py", where=tmp_path)
    assert "slots that show an object" in said
    with Image.open(tmp_path / "edited.png") as picture:
        assert picture.size == (4 * 35 * 6, 35 * 6)


def test_batches_have_the_scores_of_the_command(tmp_path: Path) -> None:
    told = run("batches.py", where=tmp_path)
    assert "(64 images)" in told
    expected = emorl.evaluate("nano", num_images=64)["foreground_ari"]["mean"]
    assert f"{expected:.4f}" in told.splitlines()[0]
    assert (tmp_path / "batches.png").exists()


def test_own_pictures_are_learned_and_their_curves_drawn(tmp_path: Path) -> None:
    assert "sheets" in run("own_pictures.py", "--steps", "8", where=tmp_path)
    assert list((tmp_path / "runs" / "own" / "sheets").glob("*_sheet_*.png"))
    assert "wrote curves.png" in run("training_curves.py", "runs/own", where=tmp_path)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1320, 396)


def test_every_example_is_run_here() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in tested for path in EXAMPLES.glob("*.py"))
