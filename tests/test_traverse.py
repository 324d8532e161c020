"""Traversals: what is run through, and the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emorl.cli import main
from emorl.data.base import Subset
from emorl.data.sources import open_source
from emorl.errors import InputError
from emorl.figures import save_animation, traversal_sheet
from emorl.runs import make_weights
from emorl.traverse import Ranges, num_ranging_steps, ranges, traverse
from tests import tiny

SIZE = (35, 35)


def scenes() -> Subset:
    return Subset(open_source("tetrominoes", split="test"), 0, 20)


@pytest.fixture(scope="module")
def known() -> Ranges:
    steps: list[int] = []
    found = ranges(tiny.build(), scenes(), 5, 0, steps.append)
    assert sum(steps) == num_ranging_steps(tiny.build(), scenes())
    return found


def test_every_dimension_has_a_range_a_place_and_a_name(known: Ranges) -> None:
    assert known.values.shape == (8, 5) and (np.diff(known.values, axis=1) > 0).all()
    assert sorted(known.order.tolist()) == list(range(8))
    assert [name.partition(":")[0] for name in known.names] == [str(d) for d in range(8)]
    factors = ", ".join(name.partition(": ")[2] for name in known.names if ":" in name)
    assert set(factors.split(", ")) <= {"x", "y", "shape", "color_0", "color_1", "color_2", "orientation", ""}


def test_a_sheet_and_an_animation_for_every_slot(known: Ranges, tmp_path: Path) -> None:
    files = traverse(tiny.build(), scenes(), 2, known, tmp_path, slots=(0, 2), num_dimensions=3)
    assert [file.name for file in files] == [
        *("tetrominoes_00002_slot0.png", "tetrominoes_00002_slot0.webp"),
        *("tetrominoes_00002_slot2.png", "tetrominoes_00002_slot2.webp"),
    ]
    with Image.open(files[1]) as animation:
        assert animation.n_frames == 3 * (5 + 3)  # three dimensions, there and back
        first = np.asarray(animation.convert("RGB"))
        animation.seek(4)
        last = np.asarray(animation.convert("RGB"))
    assert not np.array_equal(first, last)


def test_one_dimension_moves_and_the_others_stay(known: Ranges, tmp_path: Path) -> None:
    """The first frame is the slot with its most active dimension at its least value."""
    model = tiny.build()
    (_, animation) = traverse(model, scenes(), 0, known, tmp_path, slots=(1,), num_dimensions=1)
    images = torch.from_numpy(scenes().read(np.array([0])).image).permute(0, 3, 1, 2)
    from emorl.models.base import InferOptions
    from emorl.noise import ImageNoise

    slots = model.infer(
        images, InferOptions(sample=False), noise=ImageNoise(0, scenes().read(np.array([0])).index)
    ).slots
    slots[0, 1, known.order[0]] = float(known.values[known.order[0], 0])
    expected = model.decode(slots, SIZE).reconstruction[0].permute(1, 2, 0).numpy()
    with Image.open(animation) as frames:
        scale = frames.width // SIZE[1]
        shown = np.asarray(frames.convert("RGB"))[::scale, ::scale] / 255
    assert np.abs(shown - expected).max() < 2 / 255


def test_a_slot_that_is_not_there_is_told(known: Ranges, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 to 2"):
        traverse(tiny.build(), scenes(), 0, known, tmp_path, slots=(3,))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_weights(tmp_path / "weights", tiny.build(), {"data": "tetrominoes", "image_size": [35, 35]})
    words = ["traverse", str(tmp_path / "weights"), "--slots", "0", "--dimensions", "2", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "slot0.webp" in capsys.readouterr().out
    assert main([*words, "--image", "999999"]) == 2
    assert "--image must be from 0" in capsys.readouterr().err
    assert main([*words, "--values", "1"]) == 2


def test_a_name_for_each_row_and_a_known_ending() -> None:
    picture = np.zeros((4, 4, 3))
    with pytest.raises(InputError, match="one name for each row"):
        traversal_sheet(picture.astype(np.uint8), picture, picture, [picture[None]], ["a", "b"])
    with pytest.raises(InputError, match=r"\.webp or \.gif"):
        save_animation(picture[None], "x.mp4")
