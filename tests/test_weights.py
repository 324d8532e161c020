"""Shipped weights: they load, they are small, and they find objects in scenes they have never seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from emorl.data.base import Source
from emorl.data.sources import open_source
from emorl.evaluation import evaluate
from emorl.runs import SHIPPED, find_weights, load_weights, shipped_names


def mean_ari(source: Source) -> float:
    model, _ = load_weights(find_weights("nano"))
    return float(evaluate(model, source)["foreground_ari"]["mean"])


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_weights_load_and_are_small(name: str) -> None:
    folder = find_weights(name)
    assert folder == SHIPPED / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2e6
    _, about = load_weights(folder)
    assert about["data"] and about["image_size"]


def test_nano_is_shipped() -> None:
    assert "efficientmorl/nano" in shipped_names()


def test_nano_finds_the_objects_of_scenes_never_trained_on() -> None:
    assert mean_ari(open_source("tetrominoes", split="test")) >= 0.95


@pytest.mark.parametrize("name", ["tetrominoes_mini.tfrecords", "tetrominoes_real4.npz"])
def test_nano_finds_the_objects_of_real_images(shared: Path, name: str) -> None:
    assert mean_ari(open_source(shared / "data" / name)) >= 0.90
