"""The perceptual hash of a whole picture.

Legend: N hashes, S side of the shrunken picture.
"""

from __future__ import annotations

from collections.abc import Sequence

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
MIRROR_BITS = np.uint64(0x5555555555555555)  # of odd columns

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


def mirrored_words(hashes_N: UInt64) -> UInt64:
    """Return nearly the hashes that the mirror images of the pictures have.

    In the mirror the coefficients of odd horizontal frequencies change their sign; what lies
    between the median and its negative is wrong here, a few bits of 64.
    """
    return hashes_N ^ MIRROR_BITS
