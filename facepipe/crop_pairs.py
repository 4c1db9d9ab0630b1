"""Pairs of crops whose hashes are near: what has to be compared, out of N^2.

Locality-sensitive hashing with the likeliest slips tried first (multi-probe: Lv et al., VLDB
2007): a key is some of a hash's signs, and where two copies differ in a sign it is one of
the numbers nearest to zero.

Legend: N crops, best first; K numbers of a hash; P pairs; E entries looked up.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from facepipe.crop_hash import MIRROR, Int8, hash_cosines, lengths

# Of the pairs of copies of 440 LFW photos 99.5 % are nearer than both (benchmarks/
# bench_duplicates.py); of pairs of strangers one in 100,000.
MIN_HASH_COSINE = 0.7
MAX_SIGNS = 18  # of 63 in which the two differ: quick to ask, and asked first
STRIDES = (1, 2, 4, 5, 8, 10, 11, 13)  # one for each table; none shares a factor with 63
PROBE_SIGNS = 5  # of a key, nearest to zero: all 2^5 ways that they can have slipped
KEY_SIGNS = (8, 20)  # least and most
# A crop is compared with so many of those that share its key, the best of them. The best of a
# crowd of copies is what stays, so that one round finds them all; further rounds do the rest.
CROWD = 32
PAIR_BLOCK = 1 << 20  # comparisons at a time: about 100 MB of temporaries

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]


def near_pairs(hash_NK: Int8) -> tuple[Int64, Bool]:
    """Return pairs of crops whose hashes are near.

    hash_NK: facepipe.crop_hash, best crop first. Returns (P, 2) int64, sorted, the better
    first; and (P,) bool, whether it is near to the mirrored second (a pair can be in it both
    ways). Of a key that more than CROWD crops share, pairs of two of the lesser ones may be
    left out: such crops have many other pairs.
    """
    rows = np.flatnonzero(lengths(hash_NK) > 0).astype(np.int64)
    hashes = hash_NK if len(rows) == len(hash_NK) else hash_NK[rows]
    word_N = _words(hashes > 0)
    mirror_N = word_N ^ _words(MIRROR[None] < 0)
    found = [np.empty(0, np.int64)]
    for table in range(len(STRIDES)):
        keys = _Keys.of(hashes, table)
        for mirrored, words in ((False, word_N), (True, mirror_N)):
            for first, second in keys.meetings(mirrored):
                near = (first != second) & (
                    np.bitwise_count(words[first] ^ word_N[second]) <= MAX_SIGNS
                )
                first, second = first[near], second[near]
                turned = np.full(len(first), mirrored)
                alike = hash_cosines(hashes[first], hashes[second], turned) >= MIN_HASH_COSINE
                low = np.minimum(first, second)[alike]
                high = np.maximum(first, second)[alike]
                found.append((low * len(rows) + high) * 2 + mirrored)
        found = [np.unique(np.concatenate(found))]
    pair_P, mirrored_P = found[0] // 2, found[0] % 2 == 1
    pairs = np.stack([rows[pair_P // max(1, len(rows))], rows[pair_P % max(1, len(rows))]], axis=1)
    return pairs, mirrored_P


def _words(signs_NK: Bool) -> UInt64:
    packed = np.packbits(signs_NK, axis=1)
    return packed.view(">u8").astype(np.uint64)[:, 0]


class _Keys:
    """One table: the crops by the signs at some places of their hashes."""

    def __init__(self, hash_NK: Int8, places: Int64) -> None:
        """Sort the crops by key; those of one key stay in their order, best first."""
        self._numbers = hash_NK[:, places]
        self._mirror = MIRROR[places] < 0
        self._weights = np.left_shift(1, np.arange(len(places))).astype(np.int64)
        key_N = (self._numbers > 0) @ self._weights
        self._order = np.argsort(key_N, kind="stable")
        self._starts = np.searchsorted(key_N[self._order], np.arange((1 << len(places)) + 1))

    @classmethod
    def of(cls, hash_NK: Int8, table: int) -> _Keys:
        """Return a table over as many signs as leave about two crops a key."""
        least, most = KEY_SIGNS
        count = min(most, max(least, len(hash_NK).bit_length() - 1))
        numbers = hash_NK.shape[1] - 1  # the first is no number
        return cls(hash_NK, 1 + (np.arange(count) * STRIDES[table] + table) % numbers)

    def meetings(self, mirrored: bool) -> Iterator[tuple[Int64, Int64]]:
        """Yield crops and what they meet under their own key and the likeliest others."""
        step = PAIR_BLOCK // CROWD
        for start in range(0, len(self._numbers), step):
            numbers = self._numbers[start : start + step]
            signs = numbers > 0
            if mirrored:
                signs = signs ^ self._mirror
            # Not argpartition: its choice among equals is the machine's.
            weak = np.argsort(np.abs(numbers.astype(np.int16)), axis=1, kind="stable")
            flips = self._weights[weak[:, :PROBE_SIGNS]]
            key = signs @ self._weights
            for mask in range(1 << PROBE_SIGNS):
                slipped = [bit for bit in range(PROBE_SIGNS) if mask >> bit & 1]
                probe = key ^ flips[:, slipped].sum(axis=1)
                row, place = self._found(probe)
                yield row + start, self._order[place]

    def _found(self, key_E: Int64) -> tuple[Int64, Int64]:
        """Return, for each crop of each key asked for, the entry and the place in the order."""
        begin = self._starts[key_E]
        count = np.minimum(self._starts[key_E + 1] - begin, CROWD)
        row = np.repeat(np.arange(len(key_E)), count)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        return row, begin[row] + offset
