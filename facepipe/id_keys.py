"""64-bit keys of texts: what stands for an id where memory must not hold the id itself.

A random linear hash of the bytes, then a mix: equal texts have equal keys everywhere and always;
two of N different ones share a key with a chance of N^2 / 2^65 (1 in 370,000 at ten million).
So whoever must be sure compares the texts of equal keys. Legend: N texts.
"""

from __future__ import annotations

import functools
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
UInt64 = NDArray[np.uint64]

BLOCK_TEXTS = 4096  # at a time: what is made of them stays in the cache
_WEIGHTS_SEED = 20240611  # any number, never changed: keys of two runs are compared
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's finaliser
_NOTHING = np.empty(0, np.uint8)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's step


def text_keys(texts: pa.Array | pa.ChunkedArray, salt: int = 0) -> UInt64:
    """Return a key of each text (N, uint64); null has one of its own. salt: another hash."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    plain = pc.fill_null(texts, "").cast(pa.large_string())
    keys_N = np.empty(len(plain), np.uint64)
    for start in range(0, len(plain), BLOCK_TEXTS):
        block = slice(start, start + BLOCK_TEXTS)
        keys_N[block] = _keys(plain[block], salt)
    keys_N[np.asarray(texts.is_null())] = mixed(np.uint64(salt) + _GOLDEN)
    return keys_N


def joined(*keys: UInt64) -> UInt64:
    """Return one key for several of the same row; their order matters."""
    total = np.zeros_like(keys[0])
    for part in keys:
        total = mixed((total + _GOLDEN) ^ part)
    return total


def mixed(values: UInt64 | np.uint64) -> UInt64:
    """Return values with all bits spread over all (splitmix64; Steele et al., OOPSLA 2014)."""
    spread = np.array(values, np.uint64)
    spread ^= spread >> np.uint64(30)
    spread *= _MIX[0]
    spread ^= spread >> np.uint64(27)
    spread *= _MIX[1]
    spread ^= spread >> np.uint64(31)
    return spread


def float_keys(values_NC: NDArray[np.float32]) -> UInt64:
    """Return a key of each row of numbers (N x C, float32), by their bits."""
    words_NC = np.ascontiguousarray(values_NC, np.float32).view(np.uint32).astype(np.uint64)
    return joined(*(words_NC[:, c] for c in range(words_NC.shape[1])))


def repeated(keys_N: UInt64) -> UInt64:
    """Return the keys that occur more than once, rising, each once."""
    ordered = np.sort(keys_N)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def among(keys_N: UInt64, sorted_M: UInt64) -> NDArray[np.int64]:
    """Return the place of each key in a rising array, -1 where it is not in it."""
    if not len(sorted_M):
        return np.full(len(keys_N), -1, np.int64)
    places_N = np.minimum(np.searchsorted(sorted_M, keys_N), len(sorted_M) - 1)
    return np.where(sorted_M[places_N] == keys_N, places_N, -1).astype(np.int64)


def _keys(texts: pa.Array, salt: int) -> UInt64:
    """Return sum((byte + 1) x weight of its place) modulo 2^64, mixed with length and salt."""
    count = len(texts)
    if not count:
        return np.empty(0, np.uint64)
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int64, count + 1, texts.offset * 8)
    lengths_N = np.diff(offsets)
    total = int(offsets[-1] - offsets[0])
    stored = np.frombuffer(data, np.uint8, total, int(offsets[0])) if total else _NOTHING
    sums_N = _sums(stored, offsets, lengths_N)
    return joined(np.full(count, salt, np.uint64), sums_N, lengths_N.astype(np.uint64))


def _sums(stored: UInt8, offsets: NDArray[np.int64], lengths_N: NDArray[np.int64]) -> UInt64:
    """Return the sum of each text, whose bytes lie one after the other in ``stored``."""
    count, longest = len(lengths_N), int(lengths_N.max())
    weights = _weights(longest)
    if lengths_N.min() == longest:  # as ids are: a fifth of the time
        weights = weights[:longest]
        bytes_NW = stored.reshape(count, longest)
        sums_N = np.einsum("nw,w->n", bytes_NW, weights, dtype=np.uint64, casting="unsafe")
        return cast(UInt64, sums_N + weights.sum(dtype=np.uint64))
    place = np.arange(len(stored)) - np.repeat(offsets[:-1] - offsets[0], lengths_N)
    terms = (stored.astype(np.uint64) + np.uint64(1)) * weights[place]
    sums = np.append(np.cumsum(terms, dtype=np.uint64), np.uint64(0))  # sums[-1] = 0
    ends_N = offsets[1:] - offsets[0] - 1
    return cast(UInt64, sums[ends_N] - sums[ends_N - lengths_N])


@functools.lru_cache(maxsize=8)
def _weights(length: int) -> UInt64:
    """Return a random odd number for each place of a text."""
    generator = np.random.Generator(np.random.PCG64(_WEIGHTS_SEED))
    size = 1 << max(6, (length - 1).bit_length())  # a longer text has the same first weights
    weights: UInt64 = generator.integers(0, 2**64, size, np.uint64) | np.uint64(1)
    return weights
