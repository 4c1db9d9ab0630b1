"""The perceptual hash of a picture, and which hashes are near one another.

Legend: N hashes, S side of the shrunken picture, P pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from facepipe.schema import PHASH_BYTES

HASH_BITS = 8 * PHASH_BYTES
DCT_KEPT = 8  # imagehash.phash: hash_size, the lowest frequencies kept of each axis
DCT_SIDE_PX = 32  # imagehash.phash: highfreq_factor 4 times hash_size
GREY_OF_BGR = np.array([0.114, 0.587, 0.299])  # luma of ITU-R BT.601
DCT_ROUND = 3  # decimals of a grey level: rounding errors must not become hash bits
# The median rule sets 32 of 64 bits of an ordinary picture. Fewer are set only where
# coefficients tie at the median, as in flat, striped or mirrored artificial pictures: such
# a hash is shared by pictures that have nothing else in common.
FEATURELESS_BITS = 24
PAIR_BLOCK = 1 << 21  # comparisons at a time: about 190 MB of temporaries
MIN_BANDS = 3  # a band of more than 22 bits would need a table of starts of over 32 MB

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]


def _dct_basis() -> npt.NDArray[np.float64]:
    """Return the 8 lowest rows of the DCT-II of 32 points (as scipy.fft.dct scales it)."""
    rows, columns = np.arange(DCT_KEPT)[:, None], np.arange(DCT_SIDE_PX)[None, :]
    return 2.0 * np.cos(np.pi * rows * (2 * columns + 1) / (2 * DCT_SIDE_PX))


_DCT_BASIS = _dct_basis()


def perceptual_hash(pixels_HWC: npt.NDArray[np.uint8]) -> bytes:
    """Return the DCT hash of an upright picture: 64 bits, first bit highest.

    pixels_HWC: (H, W, 3) uint8 in BGR order, of any size from 1 x 1.

    pHash as in Zauner, "Implementation and Benchmarking of Perceptual Image Hash
    Functions" (2010), in the form of imagehash.phash: grey, 32 x 32, DCT-II, the 8 x 8
    lowest frequencies, a bit where a coefficient is over their median. Here the shrinking
    averages areas (where the picture is larger) in place of Lanczos filtering.
    """
    import cv2  # settings that name this module must stay quick to import

    side = (DCT_SIDE_PX, DCT_SIDE_PX)
    how = cv2.INTER_AREA if min(pixels_HWC.shape[:2]) >= DCT_SIDE_PX else cv2.INTER_LINEAR
    small_SS3 = cv2.resize(pixels_HWC, side, interpolation=how).astype(np.float64)
    coefficients = np.round(_DCT_BASIS @ (small_SS3 @ GREY_OF_BGR) @ _DCT_BASIS.T, DCT_ROUND)
    return np.packbits(coefficients > np.median(coefficients)).tobytes()


def hash_words(hashes: Sequence[bytes]) -> UInt64:
    """Return perceptual hashes as 64-bit words, first byte highest."""
    return np.frombuffer(b"".join(hashes), dtype=">u8").astype(np.uint64)


def featureless(hashes_N: UInt64) -> Bool:
    """Return which hashes say too little to compare pictures by (see FEATURELESS_BITS)."""
    return np.bitwise_count(hashes_N) < FEATURELESS_BITS


def candidate_pairs(hashes_N: UInt64, max_distance_bits: int) -> Int64:
    """Return every pair of distinct rows whose hashes differ in few enough bits.

    hashes_N: 64-bit words. Returns (P, 2) int64, sorted, the lower row first. Exact: with
    the word cut in bands, two words within the distance agree in some band up to distance
    // bands bits (pigeonhole), so each word meets just the words of its own and the
    neighbouring band values (multi-index hashing, Norouzi et al. 2012).

    Featureless hashes are in no pair: they would meet one another in N^2 pairs that mean
    nothing. Equal hashes are pairs too: to keep a crowd of equal ones from making M^2
    pairs, give each value once, as ``find_duplicates`` does.
    """
    if not 0 <= max_distance_bits < HASH_BITS:
        raise ValueError(f"max_distance_bits is {max_distance_bits}; it must be in 0..63")
    rows = np.flatnonzero(~featureless(hashes_N))
    words = hashes_N[rows]
    bands = _bands(len(words), max_distance_bits)
    radius = max_distance_bits // len(bands)
    found = [np.empty((0, 2), np.int64)]
    for place in range(len(bands)):
        for first, second in _meetings(words, bands[place], radius):
            differing = words[first] ^ words[second]
            near = np.bitwise_count(differing) <= max_distance_bits
            for shift, width in bands[:place]:  # an earlier band has found this pair already
                near &= np.bitwise_count(_band(differing, shift, width)) > radius
            found.append(np.stack([rows[first[near]], rows[second[near]]], axis=1))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _bands(words: int, distance: int) -> list[tuple[int, int]]:
    """Return (shift, width in bits) of the bands that need the fewest comparisons."""

    def cost(count: int) -> float:
        width = HASH_BITS / count
        near_values = sum(math.comb(round(width), bits) for bits in range(distance // count + 1))
        return float(count * near_values * (1.0 + words / 2.0**width))

    count = min(range(MIN_BANDS, HASH_BITS // 4 + 1), key=cost)
    edges = [HASH_BITS * place // count for place in range(count + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(edges)]


def _band(words: UInt64, shift: int, width: int) -> UInt64:
    return (words >> np.uint64(shift)) & np.uint64((1 << width) - 1)


def _meetings(words: UInt64, band: tuple[int, int], radius: int) -> Iterator[tuple[Int64, Int64]]:
    """Yield rows whose band differs in at most ``radius`` bits, each pair once, in blocks."""
    shift, width = band
    value_N = _band(words, shift, width)
    order = np.argsort(value_N, kind="stable")
    value_N = value_N[order]  # neighbours in memory are then looked up together
    starts = np.searchsorted(value_N, np.arange((1 << width) + 1, dtype=np.uint64))
    for mask in _masks(width, radius):
        # Of two values that differ by the mask, the one without its highest bit looks.
        looking = np.flatnonzero(value_N & np.uint64(1 << int(mask).bit_length() >> 1) == 0)
        other = (value_N[looking] ^ mask).astype(np.int64)
        begin = starts[other] if mask else looking + 1  # equal values: only those further on
        end = starts[other + 1]
        for block in _blocks(end - begin):
            item, place = _spans(begin[block], end[block])
            first, second = order[looking[block][item]], order[place]
            yield np.minimum(first, second), np.maximum(first, second)


def _masks(width: int, radius: int) -> list[np.uint64]:
    return [
        np.uint64(sum(1 << bit for bit in bits))
        for count in range(radius + 1)
        for bits in itertools.combinations(range(width), count)
    ]


def _blocks(count_N: Int64) -> Iterator[slice]:
    """Yield runs of rows with at most PAIR_BLOCK items in all (or a single row with more)."""
    total_N = np.cumsum(count_N)
    start = 0
    while start < len(count_N):
        before = total_N[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total_N, before + PAIR_BLOCK, side="right")))
        yield slice(start, stop)
        start = stop


def _spans(begin_N: Int64, end_N: Int64) -> tuple[Int64, Int64]:
    """Return, for each item of each span begin..end, its row and its place."""
    length_N = end_N - begin_N
    row = np.repeat(np.arange(len(begin_N)), length_N)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(length_N) - length_N, length_N)
    return row, begin_N[row] + offset
