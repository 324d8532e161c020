"""The generators' randomness is a function, and looks like chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from emorl.data.scene import random_bits, random_words, to_floats, to_integers
from emorl.errors import InputError


def test_bits_are_the_stated_function_for_good() -> None:
    """Straight from the definition, in Python's own integers."""

    def absorb(state: int, word: int) -> int:
        z = (state + 0x9E3779B97F4A7C15 * (word + 1)) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    # The first three outputs of SplitMix64 from state 0, as its authors' program prints them.
    assert [absorb(0, i) for i in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    for seed, index, stream in ((0, 0, 0), (7, 60_319, 2), (2**64 - 1, 2**62, 5)):
        key = absorb(absorb(absorb(0, seed), index), stream)
        assert random_bits(seed, np.array([index]), stream, 4)[0].tolist() == [absorb(key, i) for i in range(4)]


def test_any_subset_in_any_order_has_the_same_bits() -> None:
    everything = random_bits(3, np.arange(1000), 1, 8)
    some = np.random.default_rng(0).permutation(1000)[:300]
    np.testing.assert_array_equal(random_bits(3, some, 1, 8), everything[some])
    np.testing.assert_array_equal(random_bits(3, some.astype(np.int32), 1, 5), everything[some, :5])
    for kind in (np.uint64, np.int64):
        np.testing.assert_array_equal(
            random_bits(3, some, 1, np.array([5, 0, 7], kind)), everything[some][:, [5, 0, 7]]
        )
    assert random_bits(3, some[:0], 1, 8).shape == (0, 8)


@pytest.mark.parametrize("seed", [0, 3, 2**64 - 1])
def test_words_are_the_same_as_tensors_for_any_draws(seed: int) -> None:
    index, draws = np.array([0, 7, 2**40]), np.array([[5, 0], [299, 1]])
    words = random_words(seed, index, 2**32, torch.from_numpy(draws))
    np.testing.assert_array_equal(words.numpy().view(np.uint64), random_bits(seed, index, 2**32, 300)[:, draws])
    assert random_words(seed, index[:0], 1, torch.arange(4)).shape == (0, 4)


def test_seed_index_stream_and_draw_all_matter() -> None:
    words = [random_bits(seed, np.arange(50), stream, 4) for seed in range(20) for stream in range(5)]
    assert len(np.unique(words)) == 20 * 50 * 5 * 4


def test_integers_are_uniform_and_neighbours_independent() -> None:
    values = to_integers(random_bits(0, np.arange(30_000), 0, 2), 19)
    assert values.dtype == np.int64 and values.min() == 0 and values.max() == 18
    assert stats.chisquare(np.bincount(values[:, 0])).pvalue > 1e-4
    table = np.histogram2d(values[:, 0], values[:, 1], bins=19)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4
    table = np.histogram2d(values[:-1, 0], values[1:, 0], bins=19)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_integers_take_a_range_for_each() -> None:
    bits = random_bits(0, np.arange(2000), 0, 3)
    high = np.array([1, 2, 31])
    values = to_integers(bits, high)
    np.testing.assert_array_equal(values.min(axis=0), 0)
    np.testing.assert_array_equal(values.max(axis=0), high - 1)


def test_floats_are_uniform() -> None:
    values = to_floats(random_bits(1, np.arange(20_000), 0, 1))[:, 0]
    assert values.min() >= 0 and values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-4
    assert to_floats(np.array([2**64 - 1], np.uint64))[0] < 1


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(InputError, match="seed"):
        random_bits(seed, np.arange(2), 0, 1)
