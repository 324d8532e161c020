"""Scenes from the prior."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emorl.errors import InputError
from emorl.noise import ImageNoise
from emorl.sample import sample
from tests import tiny


def test_a_scene_depends_on_seed_and_number_alone() -> None:
    model = tiny.build()
    few, many = sample(model, 3, (10, 15), seed=1), sample(model, 20, (10, 15), seed=1)
    assert np.array_equal(few.image, many.image[:3]) and np.array_equal(few.mask, many.mask[:3])
    assert many.index.tolist() == list(range(20))
    assert not np.array_equal(sample(model, 3, (10, 15), seed=2).image, few.image)


def test_pictures_and_labels_are_those_of_the_model() -> None:
    model = tiny.build()
    scenes = sample(model, 2, (10, 15), num_slots=5, seed=3)
    drawn = model.sample(2, (10, 15), num_slots=5, noise=ImageNoise(3, [0, 1]))
    assert scenes.image.shape == (2, 10, 15, 3) and scenes.image.dtype == np.uint8
    assert np.abs(scenes.image / 255 - drawn.reconstruction.permute(0, 2, 3, 1).numpy()).max() <= 0.5 / 255 + 1e-6
    assert scenes.mask is not None
    assert np.array_equal(scenes.mask, 1 + torch.argmax(drawn.masks[:, :, 0], dim=1).numpy())


@pytest.mark.parametrize(("count", "size"), [(0, (10, 15)), (2, (0, 15))])
def test_nothing_to_draw_is_told(count: int, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        sample(tiny.build(), count, size)
