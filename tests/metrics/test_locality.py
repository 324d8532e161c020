"""Leak of a change: known cases."""

from __future__ import annotations

import numpy as np
import pytest

from emorl.metrics.locality import leak

N, S, H, W = 2, 3, 4, 5


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Black pictures whose left two columns are the slot's."""
    own = np.zeros((N, H, W), bool)
    own[:, :, :2] = True
    return np.zeros((N, H, W, 3)), np.zeros((N, S, H, W, 3)), own, np.repeat(own[:, None], S, axis=1)


def test_a_change_within_the_slot_leaks_nothing_and_one_outside_is_all_leak() -> None:
    before, after, own, own_after = scene()
    after[0, :, :, :2] = 0.5
    after[1, :, :, 2:] = 0.5
    assert leak(before, after, own, own_after).tolist() == [0, 1]


def test_both_places_of_a_moved_object_are_its_own() -> None:
    before, after, own, own_after = scene()
    before[:, :, :2] = 1
    after[:, :, :, 3:] = 1
    own_after[:] = False
    own_after[:, :, :, 3:] = True
    assert leak(before, after, own, own_after).tolist() == [0, 0]


def test_the_share_is_of_squares() -> None:
    before, after, own, own_after = scene()
    after[:, 1, 0, 0] = 0.3  # its own pixel
    after[:, 2, 0, 4] = 0.1  # another's
    assert leak(before, after, own, own_after) == pytest.approx([0.01 / 0.1] * N)


def test_nothing_changed_has_no_leak_to_tell() -> None:
    assert np.isnan(leak(*scene())).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    before, after, own, own_after = scene()
    with pytest.raises(ValueError, match="do not fit"):
        leak(before, after[:1], own, own_after)
    with pytest.raises(ValueError, match="do not fit"):
        leak(before, after, own, own_after[:, :1])
