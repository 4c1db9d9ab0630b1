"""Photos as the demo's page shows them: small, upright, inside the page, with faces framed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.decode import DecodeSettings, decode
from pipelines.demo_changes import jpeg

THUMB_PX = 132  # the longer side, of 100 files: half a megabyte
LARGE_PX = 320
QUALITY = 78
AROUND = 0.4  # of a face that is cut out, of its width and height


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where a face is on a thumbnail, in percent of it."""

    left: float
    top: float
    width: float
    height: float


def _pixels(data: bytes) -> NDArray[np.uint8] | None:
    return decode(data, DecodeSettings()).pixels_HWC


def thumb(data: bytes, side_px: int) -> str:
    """Return a photo as a small JPEG in a data URI, upright; empty where it has no pixels."""
    pixels = _pixels(data)
    return "" if pixels is None else _uri(pixels, side_px)


def face_cut(data: bytes, box_px: Sequence[float]) -> str:
    """Return a face of a photo with what is around it, as `thumb` does."""
    pixels = _pixels(data)
    if pixels is None:
        return ""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = box_px
    across, down = AROUND * (x2 - x1), AROUND * (y2 - y1)
    rows = slice(max(0, int(y1 - down)), min(height, int(y2 + down) + 1))
    columns = slice(max(0, int(x1 - across)), min(width, int(x2 + across) + 1))
    return _uri(pixels[rows, columns], THUMB_PX)


def _uri(pixels_HWC: NDArray[np.uint8], side_px: int) -> str:
    factor = min(1.0, side_px / max(pixels_HWC.shape[:2]))
    size = [max(1, round(factor * side)) for side in pixels_HWC.shape[1::-1]]
    small = cv2.resize(np.ascontiguousarray(pixels_HWC), size, interpolation=cv2.INTER_AREA)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(small, QUALITY)).decode()}"


def framed(box_px: Sequence[float], width_px: int, height_px: int) -> Frame:
    """Return a box cut to the photo, in percent of it."""
    x1, x2 = (100 * min(max(x, 0.0), width_px) / max(width_px, 1) for x in box_px[0::2])
    y1, y2 = (100 * min(max(y, 0.0), height_px) / max(height_px, 1) for y in box_px[1::2])
    return Frame(
        left=round(x1, 2), top=round(y1, 2), width=round(x2 - x1, 2), height=round(y2 - y1, 2)
    )
