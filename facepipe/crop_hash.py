"""The hash of an aligned crop, its small grey picture, and which hashes are near one another.

The crop is the face wherever it lies in the photo, at whatever size and turn, so that its
hash is that of every copy in which the face can be found. It is a vector of small numbers and
not of bits: the mirrored crop's hash follows from it (facepipe.crop_pairs), and a number near
zero says that its sign says little.

Legend: N crops, G side of the grey picture, K x K lowest frequencies, P pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facepipe.schema import CROP_GREY_PX, CROP_HASH_BYTES

FREQUENCIES = 8  # K: of each axis
EDGE_PX = 6  # of the grey picture, left out: what is cut off or behind the head differs
DCT_ROUND = 4  # decimals of a coefficient: rounding errors must not become another hash
HASH_SCALE = 24.0  # int8 steps for a standard deviation: 5 of them fit

# What the average aligned face has at each frequency, in thousandths of all; rows are vertical
# frequencies, columns horizontal ones 0, 2, 4, 6. It is symmetric, so that odd ones have none.
# Median over 1,010 photos of LFW and their mirror images.
_AVERAGE_FACE = np.array(
    [
        [0, -347, -94, -101],
        [170, -116, 57, 5],
        [2, -33, -63, 51],
        [184, -25, -61, 29],
        [-141, 39, 57, -27],
        [-190, 54, 50, -7],
        [21, -5, -24, -8],
        [93, -29, -9, 10],
    ]
)
SPREAD_POWER = -1.4  # standard deviation around it, as (1 + u + v) to this power; same photos

Grey = npt.NDArray[np.uint8]
Int8 = npt.NDArray[np.int8]
Float = npt.NDArray[np.float64]


def _dct_basis(size: int) -> Float:
    rows, columns = np.arange(FREQUENCIES)[:, None], np.arange(size)[None, :]
    return np.asarray(np.cos(np.pi * rows * (2 * columns + 1) / (2 * size)) * np.sqrt(2 / size))


_BASIS = _dct_basis(CROP_GREY_PX - 2 * EDGE_PX)
_MEAN = np.zeros((FREQUENCIES, FREQUENCIES))
_MEAN[:, ::2] = _AVERAGE_FACE / 1000
_SPREAD = (1.0 + np.add.outer(np.arange(FREQUENCIES), np.arange(FREQUENCIES))) ** SPREAD_POWER
# +1 where a coefficient stays as it is in the mirror, -1 where it changes its sign.
MIRROR = np.tile(np.where(np.arange(FREQUENCIES) % 2, -1, 1), FREQUENCIES).astype(np.int8)


def crop_grey(
    pixels_HWC: npt.NDArray[np.uint8], landmarks_xy: npt.NDArray[np.floating]
) -> tuple[Grey, Grey]:
    """Return the small grey picture of a face's aligned crop, whole and cut; (G, G) uint8 each.

    pixels_HWC: the photo, BGR. The first goes on beyond the photo's edge as it was there, so
    that a copy cut closer has nearly the same hash; the second is 0 there and nowhere else,
    for what compares cell with cell. Raises ValueError for coinciding landmarks.
    """
    import cv2  # settings that name this module must stay quick to import

    from facepipe.align import CROP_PX, TEMPLATE_XY_PX, similarity_transform

    matrix = similarity_transform(landmarks_xy, TEMPLATE_XY_PX)
    size, side = (CROP_PX, CROP_PX), (CROP_GREY_PX, CROP_GREY_PX)
    crop = cv2.warpAffine(pixels_HWC, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), side, interpolation=cv2.INTER_AREA)
    inside = _inside(matrix, *pixels_HWC.shape[:2])
    whole = np.asarray(grey, np.uint8)
    return whole, np.where(inside, np.maximum(whole, 1), 0).astype(np.uint8)


def _inside(matrix: Float, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return which cells of the small picture lie within the photo, by their middle."""
    from facepipe.align import CROP_PX

    cells = (np.arange(CROP_GREY_PX) + 0.5) * CROP_PX / CROP_GREY_PX - 0.5
    y, x = np.meshgrid(cells - matrix[1, 2], cells - matrix[0, 2], indexing="ij")
    (a, b), (c, d) = matrix[:, :2]
    area = a * d - b * c
    photo_x, photo_y = (d * x - b * y) / area, (a * y - c * x) / area
    within = (photo_x >= 0) & (photo_x <= width - 1) & (photo_y >= 0) & (photo_y <= height - 1)
    return np.asarray(within)


def crop_hash(grey_GG: Grey) -> bytes:
    """Return the hash of a small grey picture, the whole one: K x K int8, as bytes.

    The lowest frequencies of the DCT-II of its middle (as in Zauner's pHash, but of the crop),
    scaled to length one, so that brightness and contrast do not count, less those of the
    average face, in units of their spread. The first, the brightness, is 0. A flat picture
    has a hash of zeros, which is near to none.
    """
    middle = slice(EDGE_PX, CROP_GREY_PX - EDGE_PX)
    coefficients = np.round(
        _BASIS @ grey_GG[middle, middle].astype(np.float64) @ _BASIS.T, DCT_ROUND
    )
    coefficients[0, 0] = 0.0
    length = float(np.sqrt((coefficients * coefficients).sum()))
    if length < 1.0:
        return bytes(CROP_HASH_BYTES)
    numbers = (coefficients / length - _MEAN) / _SPREAD * HASH_SCALE
    numbers[0, 0] = 0.0
    return np.clip(np.rint(numbers), -127, 127).astype(np.int8).tobytes()


def hash_rows(hashes: npt.NDArray[np.uint8] | bytes) -> Int8:
    """Return stored hashes, one after the other, as (N, K * K) int8."""
    return np.frombuffer(hashes, np.int8).reshape(-1, CROP_HASH_BYTES)


def lengths(hash_NK: Int8) -> npt.NDArray[np.float32]:
    """Return the length of each hash; 0 is that of a flat picture."""
    squares_N = np.einsum("nk,nk->n", hash_NK, hash_NK, dtype=np.int32)
    return np.asarray(np.sqrt(squares_N), np.float32)


def hash_cosines(first_PK: Int8, second_PK: Int8, mirrored_P: npt.NDArray[np.bool_]) -> Float:
    """Return how alike pairs of hashes are, -1 to 1; of mirrored pairs the second is mirrored."""
    turned_PK = np.where(mirrored_P[:, None], second_PK * MIRROR, second_PK)
    dots_P = np.einsum("pk,pk->p", first_PK, turned_PK, dtype=np.int32)
    scale_P = lengths(first_PK).astype(np.float64) * lengths(second_PK)
    return np.asarray(dots_P / np.where(scale_P > 0, scale_P, np.inf), np.float64)
