"""Training images: all at once, or when they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from emorl.data.base import Source, Subset
from emorl.data.clevr.source import Clevr
from emorl.data.images import Images, made_on_demand
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.views import View, Viewed
from emorl.errors import InputError
from emorl.types import Batch

CPU = torch.device("cpu")


class Slow(Tetrominoes):
    """Tetrominoes that write down what they are asked for."""

    slow = True

    def __init__(self, num: int) -> None:
        super().__init__(0, num)
        self.asked: list[list[int]] = []

    def read(self, indices: np.ndarray) -> Batch:
        self.asked.append(indices.tolist())
        return super().read(indices)


def expected(source: Source, num: int) -> torch.Tensor:
    return torch.from_numpy(source.read(np.arange(num)).image).permute(0, 3, 1, 2)


def test_a_quick_source_is_read_at_once() -> None:
    source = Tetrominoes(0, 600)
    images = Images(source, 530, CPU)
    assert torch.equal(images.tensor, expected(source, 530))
    assert not images.missing.any()


def test_a_slow_source_is_asked_once_for_what_is_needed() -> None:
    source = Slow(20)
    images = Images(Subset(source, 5, 15), 8, CPU)
    assert source.asked == [] and not images.tensor.any()
    images.fetch(torch.tensor([3, 0, 3]))
    images.fetch(torch.tensor([0, 7]))
    images.fetch(torch.tensor([3, 7]))
    assert source.asked == [[5, 8], [12]]
    there = torch.tensor([0, 3, 7])
    assert torch.equal(images.tensor[there], expected(Subset(Tetrominoes(0, 20), 5, 15), 8)[there])
    assert images.missing.tolist() == [False, True, True, False, True, True, True, False]


class Keen(Slow):
    """They are as quick to make by fours."""

    read_ahead = 4


def test_a_source_that_likes_many_is_asked_for_others_too() -> None:
    source = Keen(20)
    images = Images(Subset(source, 5, 15), 8, CPU)
    images.fetch(torch.tensor([3, 0, 3]))
    images.fetch(torch.tensor([1, 2]))
    images.fetch(torch.tensor([7, 4, 5, 6]))
    assert source.asked == [[5, 8, 6, 7], [9, 10, 11, 12]]
    assert torch.equal(images.tensor, expected(Subset(Tetrominoes(0, 20), 5, 15), 8))
    assert not images.missing.any()


def test_what_is_slow_stays_slow_as_a_part_or_a_view() -> None:
    clevr = Clevr(0, 10)
    sources: dict[Any, bool] = {
        clevr: True,
        Subset(clevr, 0, 5): True,
        Viewed(Subset(clevr, 0, 5), View(size=(96, 96), window="clevr")): True,
        Tetrominoes(0, 10): False,
    }
    assert [made_on_demand(source) for source in sources] == list(sources.values())


def test_too_few_images_are_told() -> None:
    with pytest.raises(InputError, match="10 training images, num_images is 11: give --num-images 10"):
        Images(Tetrominoes(0, 10), 11, CPU)
