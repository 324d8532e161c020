"""Signs of collapse show where there is one, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from emorl.metrics.collapse import largest_share, sharpness, signs_of_collapse

KL = np.array([30.0, 25.0])


def masks(winners: np.ndarray, num_slots: int, certainty: float = 0.97) -> np.ndarray:
    """B K H W from a label map: the winner has `certainty`, the others share the rest."""
    one_hot = np.moveaxis(np.eye(num_slots)[winners], -1, 1)
    return certainty * one_hot + (1 - certainty) / (num_slots - 1) * (1 - one_hot)


def halves() -> np.ndarray:
    winners = np.zeros((2, 6, 8), int)
    winners[:, :, 4:] = 2
    return winners


def test_the_measures_by_hand() -> None:
    winners = halves()
    winners[1, :3, 4:] = 1
    found = masks(winners, 3, 0.9)
    assert largest_share(found) == pytest.approx([0.5, 0.5])
    winners[1] = 1
    assert largest_share(masks(winners, 3)) == pytest.approx([0.5, 1.0])
    assert sharpness(found) == pytest.approx([0.9, 0.9])


def test_a_sound_decomposition_shows_none() -> None:
    assert signs_of_collapse(masks(halves(), 3), KL) == {}
    assert signs_of_collapse(masks(halves(), 3), None) == {}


def test_one_slot_for_all_pixels() -> None:
    ((kind, sign),) = signs_of_collapse(masks(np.ones((2, 6, 8), int), 3), KL).items()
    assert kind == "one slot"
    assert "one slot takes 100.0 %" in sign and "try" in sign


def test_slots_that_do_not_compete() -> None:
    uniform = np.full((2, 4, 6, 8), 0.25)
    uniform[:, 1] += 0.01
    uniform /= uniform.sum(axis=1, keepdims=True)
    ((kind, sign),) = signs_of_collapse(uniform, KL).items()
    assert kind == "shared"
    assert "share every pixel" in sign and "try" in sign


def test_codes_that_carry_nothing() -> None:
    ((kind, sign),) = signs_of_collapse(masks(halves(), 3), np.array([0.1, 0.2])).items()
    assert kind == "empty codes"
    assert "carry nothing" in sign and "KL" in sign


def test_one_slot_is_no_collapse() -> None:
    assert signs_of_collapse(np.ones((2, 1, 6, 8)), KL) == {}


def test_masks_that_are_not_finite_say_nothing() -> None:
    assert signs_of_collapse(np.full((2, 3, 6, 8), np.nan), np.array([np.nan, 1.0])) == {}


def test_a_few_pixels_of_objects_are_enough() -> None:
    winners = np.zeros((2, 10, 10), int)
    winners[:, 0, :2] = 1
    assert signs_of_collapse(masks(winners, 3), KL) == {}
