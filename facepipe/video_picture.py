"""A video frame as the file of a photo: upright, and in bytes that nothing but it decides.

Legend: H height, W width, C channels (R, G, B).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_STORED_BYTES = 65535  # of one stored block (RFC 1951, section 3.2.4)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MATRIX = struct.Struct("=9i")


def encode_png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """Return 8-bit RGB pixels as a PNG, uncompressed.

    It lives in memory only, between a video and the decoder of photos. Stored blocks cost a
    tenth of the fastest compression, and are the same bytes whichever zlib is installed, as
    an id made of them has to be. Format: PNG (W3C), zlib (RFC 1950).
    """
    height, width, _ = pixels_HWC.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter, none
    rows[:, 1:] = pixels_HWC.reshape(height, -1)
    data = rows.tobytes()
    parts = [b"\x78\x01"]
    for start in range(0, len(data), _STORED_BYTES):
        block = data[start : start + _STORED_BYTES]
        last = start + len(block) == len(data)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack(">I", zlib.adler32(data)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", b"".join(parts)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def turn_upright(pixels_HWC: NDArray[np.uint8], matrix: bytes | None) -> NDArray[np.uint8]:
    """Return pixels as a display matrix shows them: turned by quarters, mirrored.

    The matrix is FFmpeg's (libavutil/display.h): nine int32 a b u, c d v, x y w that take
    (p, q) to (a p + c q + x, b p + d q + y). One between two quarters is taken as the nearer.
    """
    if matrix is None or len(matrix) != _MATRIX.size:
        return pixels_HWC
    a, b, _, c, d, *_ = _MATRIX.unpack(matrix)
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
        a, d = c, b
    return pixels_HWC[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
