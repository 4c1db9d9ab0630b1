"""A frame as a file: an exact PNG, turned as its matrix says."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from facepipe.image_header import read_header, sniff
from facepipe.video_picture import encode_png, turn_upright


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 2), (1, 21845), (1, 21844), (255, 257), (300, 400), (2000, 1)]
)
def test_a_png_is_read_back_exactly(height: int, width: int) -> None:
    """Sizes around a whole number of stored blocks: 65535 bytes are 21844.7 pixels."""
    pixels = np.random.default_rng([5, height, width]).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    data = encode_png(pixels)
    image = Image.open(io.BytesIO(data))
    image.verify()  # every checksum
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert sniff(data) == "png"
    header = read_header(data, "png")
    assert (header.width_px, header.height_px) == (width, height)
    assert encode_png(pixels[::-1][::-1]) == data


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("off_deg", [-20, 0, 20])
def test_a_matrix_moves_each_pixel_to_its_place(
    quarters: int, mirrored: bool, off_deg: float
) -> None:
    """By the definition: (p, q) goes to (a p + c q, b p + d q), shifted into view."""
    a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][quarters]
    if mirrored:
        a, b = -a, -b
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    moved = {(a * p + c * q, b * p + d * q): pixels[q, p] for p in range(3) for q in range(2)}
    left, top = min(x for x, _ in moved), min(y for _, y in moved)
    wide, high = (3, 2) if quarters % 2 == 0 else (2, 3)
    wanted = np.array([[moved[left + x, top + y] for x in range(wide)] for y in range(high)])
    angle = np.deg2rad(off_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    (a, b), (c, d) = np.rint(np.array([[a, b], [c, d]]) @ turn * 65536).astype(int).tolist()
    matrix = struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    np.testing.assert_array_equal(turn_upright(pixels, matrix), wanted)


@pytest.mark.parametrize("matrix", [None, b"", bytes(35), bytes(36)])
def test_no_matrix_turns_nothing(matrix: bytes | None) -> None:
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(turn_upright(pixels, matrix), pixels)
