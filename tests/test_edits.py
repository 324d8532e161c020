"""Scenes of which one slot is changed. That they are what a whole decode gives, tests/models/test_contract.py tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emorl.edits import Edits

SIZE = (2, 3)


class Painter:
    """A slot is one colour, the first dimension of its code, and its logit is the second."""

    def __init__(self) -> None:
        self.drawn = 0

    def decode_slots(self, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        self.drawn += len(slots)
        colour, logit = slots[:, 0, None, None, None], slots[:, 1, None, None, None]
        return logit.expand(-1, 1, *size), colour.expand(-1, 3, *size)


def edits(codes: list[list[float]], slot: int) -> Edits:
    painter: Any = Painter()
    return Edits(painter, torch.tensor([codes]), torch.tensor([slot]), SIZE)


def test_a_scene_of_one_slot_is_that_slot() -> None:
    pictures, won = edits([[0.3, 1.0]], 0)(torch.tensor([[[0.7, -5.0], [0.2, 40.0]]]))
    assert torch.allclose(pictures[0, :, 0, 0, 0], torch.tensor([0.7, 0.2]))
    assert won.all()


def test_of_equal_slots_the_first_wins() -> None:
    same = torch.tensor([[[0.5, 1.0]]])
    for slot, wins in ((0, True), (1, False)):
        pictures, won = edits([[0.0, 1.0], [0.0, 1.0]], slot)(same)
        assert bool(won.all()) is bool(won.any()) is wins
        assert torch.allclose(pictures, torch.tensor(0.25))


def test_the_other_slots_are_decoded_once() -> None:
    model: Any = Painter()
    codes = torch.rand(30, 7, 2)
    scenes = Edits(model, codes, torch.arange(30) % 7, SIZE)
    assert model.drawn == 30 * 7 + 1
    for dimension in range(2):
        scenes.set_dimension(dimension, torch.linspace(0, 1, 6).numpy())
    assert model.drawn == 30 * 7 + 1 + 2 * 30 * 6


def test_setting_a_dimension_leaves_the_others_of_the_code() -> None:
    pictures, _ = edits([[0.2, 50.0], [0.9, 0.0]], 0).set_dimension(1, torch.tensor([-50.0, 0.0, 50.0]).numpy())
    assert torch.allclose(pictures[0, :, 0, 0, 0], torch.tensor([0.9, 0.55, 0.2]))
