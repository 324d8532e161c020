"""Randomness of the generators: bits as a pure function of (seed, index, stream, draw).

Every generator draws its scenes from here, so a scene depends on its seed and index alone: any subset, in any
order, in any number of processes, gives the same bits. There is no generator object to carry or to seed; the
hash is evaluated for all asked scenes at once.

    key(seed, index, stream) = absorb(absorb(absorb(0, seed), index), stream)
    bits(..., draw)          = absorb(key, draw)
    absorb(h, word)          = mix(h + golden * (word + 1))    modulo 2^64

`mix` is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), so the draws of one key are that generator's stream started at the key. `stream` separates
unrelated uses in one scene: the attempts of a rejection loop, the geometry and the colours.

Axes: N scenes, M draws.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from emorl.errors import InputError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SIGNED_GOLDEN = int(_GOLDEN.view(np.int64))
_SIGNED_MULTIPLIERS = tuple(int(word.view(np.int64)) for word in _MULTIPLIERS)


def _absorb(state: np.ndarray, word: np.ndarray) -> np.ndarray:
    z: np.ndarray = state + _GOLDEN * (word + np.uint64(1))
    z ^= z >> np.uint64(30)
    z *= _MULTIPLIERS[0]
    z ^= z >> np.uint64(27)
    z *= _MULTIPLIERS[1]
    z ^= z >> np.uint64(31)
    return z


def random_bits(seed: int, index: np.ndarray, stream: int, draws: int | np.ndarray) -> np.ndarray:
    """Independent uniform 64-bit words for many scenes.

    Args:
        seed: 0 to 2^64 - 1.
        index: N, integers >= 0: the scenes.
        stream: >= 0: which use within a scene.
        draws: M, whole numbers, which ones; or the number M of the first ones.

    Returns:
        N M, uint64. Row n depends on seed, index[n] and stream only, and a draw on its number besides.

    Raises:
        InputError: the seed is out of range.
    """
    numbers = draws if isinstance(draws, np.ndarray) else np.arange(draws)
    return _absorb(_keys(seed, index, stream)[:, None], numbers.astype(np.uint64))


def random_words(seed: int, index: np.ndarray, stream: int, draws: Tensor) -> Tensor:
    """The words of `random_bits` for draws by number (any shape, int64), on their device: N and their shape.

    int64, with the same bits. Raises InputError for a seed out of range.
    """
    keys = torch.from_numpy(_keys(seed, index, stream).view(np.int64)).to(draws.device)
    z = keys.view(-1, *(1,) * draws.ndim) + _SIGNED_GOLDEN * (draws + 1)  # wraps around, as unsigned words do
    for shift, multiplier in ((30, _SIGNED_MULTIPLIERS[0]), (27, _SIGNED_MULTIPLIERS[1]), (31, 1)):
        z ^= (z >> shift) & ((1 << 64 - shift) - 1)  # without the copies of the sign
        z *= multiplier
    return z


def _keys(seed: int, index: np.ndarray, stream: int) -> np.ndarray:
    """N, uint64: what the draws of each scene are hashed with."""
    if not 0 <= seed < 2**64:
        raise InputError(f"seed {seed} is out of range: give a whole number from 0 to 2^64 - 1")
    # Arrays of one element: numpy warns of overflow for scalars, and wrapping around is wanted here.
    key = _absorb(np.zeros(1, np.uint64), np.array([seed], np.uint64))
    key = _absorb(key, np.asarray(index).astype(np.uint64))
    return _absorb(key, np.array([stream], np.uint64))


def to_integers(bits: np.ndarray, high: int | np.ndarray) -> np.ndarray:
    """Words to uniform integers in [0, high).

    Args:
        bits: any shape, uint64, from `random_bits`.
        high: broadcasts against bits, 1 to 2^31. The bias of a value is below high / 2^32.

    Returns:
        The shape of the two broadcast, int64.
    """
    return ((bits >> np.uint64(32)) * np.asarray(high, np.uint64) >> np.uint64(32)).astype(np.int64)


def to_floats(bits: np.ndarray) -> np.ndarray:
    """Words (any shape, uint64) to uniform float64 in [0, 1): multiples of 2^-53."""
    return (bits >> np.uint64(11)) * 2.0**-53
