"""Shipped weights: they load, they are small, and they find objects in scenes they have never seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from emorl.data.base import Source, Subset
from emorl.data.images import made_on_demand
from emorl.data.sources import open_source
from emorl.evaluation import evaluate
from emorl.feed import feed
from emorl.runs import SHIPPED, find_weights, load_weights, shipped_names


def mean_ari(source: Source, name: str = "nano") -> float:
    model, _ = load_weights(find_weights(name))
    num = 64 if name in LARGE else 320
    if made_on_demand(source):
        num = 16 if name in LARGE else 32
    return float(evaluate(model, Subset(source, 0, min(num, len(source))))["foreground_ari"]["mean"])


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_weights_load_and_are_small(name: str) -> None:
    folder = find_weights(name)
    assert folder == SHIPPED / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3e6
    _, about = load_weights(folder)
    assert about["data"] and about["image_size"]


FOUND = {
    "efficientmorl/clevr6-24k": 0.92,
    "efficientmorl/clevr6-nano": 0.87,
    "efficientmorl/multi-dsprites-48k": 0.86,
    "efficientmorl/multi-dsprites-nano": 0.58,
    "efficientmorl/nano": 0.95,
    "efficientmorl/tetrominoes-24k": 0.985,
    "efficientmorl/tetrominoes-fast": 0.975,
    "iodine/nano": 0.73,
    "slot-attention/nano": 0.81,
}
"""Foreground ARI on the 320 test scenes (of LARGE models' the first 64, of rendered ones the first 32, of both the
first 16), less what another machine may lose."""
LARGE = ("efficientmorl/clevr6-24k", "efficientmorl/multi-dsprites-48k", "efficientmorl/tetrominoes-24k")
"""Full-size models: a scene takes them a tenth of a second."""


def test_these_are_shipped() -> None:
    assert shipped_names() == sorted(FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_they_find_the_objects_of_scenes_never_trained_on(name: str) -> None:
    _, about = load_weights(find_weights(name))
    assert mean_ari(feed(about).source, name) >= FOUND[name]


@pytest.mark.parametrize(("weights", "least"), [("nano", 0.90), ("tetrominoes-24k", 0.985)])
@pytest.mark.parametrize("name", ["tetrominoes_mini.tfrecords", "tetrominoes_real4.npz"])
def test_they_find_the_objects_of_real_images(shared: Path, name: str, weights: str, least: float) -> None:
    assert mean_ari(open_source(shared / "data" / name), weights) >= least
