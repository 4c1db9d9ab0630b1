"""Random numbers that are a function of a key: the same at any worker, rank and order of asking.

A generator has a state, which somebody must save, split and restore. Here the number for a
sample follows from what it is for (seed, epoch, sample), so that there is no state at all, and
no version of a library can change it.

Source: SplitMix64 of Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, with the constants of Java's SplittableRandom.

Legend: N numbers asked for, K columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_WORD = (1 << 64) - 1
_MANTISSA_BITS = np.uint64(53)  # of a float64


def mixed(words_N: UInt64) -> UInt64:
    """Return SplitMix64's finaliser of each word, (N,) uint64: a bijection of 64 bits."""
    z = words_N ^ (words_N >> np.uint64(30))
    z = z * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return np.asarray(z ^ (z >> np.uint64(31)))


def key_of(*words: int) -> int:
    """Return the 64-bit key of some whole numbers; their order counts, a sign is wrapped."""
    key = 0
    for word in words:
        chained = np.array([(key ^ (word & _WORD)) & _WORD], np.uint64)
        key = int(mixed(chained + _GAMMA)[0])
    return key


def hashes(key: int | UInt64, index_N: npt.NDArray[np.integer]) -> UInt64:
    """Return the outputs of SplitMix64 seeded with a key (or a key a row), by their numbers.

    ``hashes(key, arange(n))`` are its first n outputs, uint64.
    """
    start = np.uint64(key) if isinstance(key, int) else key
    return mixed(start + (index_N.astype(np.uint64) + np.uint64(1)) * _GAMMA)


def uniforms(key: int, index_N: npt.NDArray[np.integer], columns: int) -> Float64:
    """Return numbers in [0, 1), (N, K) float64; a row depends on the key and its index alone."""
    row_N1 = hashes(key, index_N)[:, None]
    words_NK = hashes(row_N1, np.arange(columns)[None, :])
    unit = 0.5 ** int(_MANTISSA_BITS)
    return np.asarray((words_NK >> np.uint64(64 - int(_MANTISSA_BITS))) * unit)


def permutation(key: int, size: int) -> Int64:
    """Return a permutation of 0 .. size - 1, (size,) int64: the order of its numbers' hashes."""
    return np.argsort(hashes(key, np.arange(size)), kind="stable").astype(np.int64)
