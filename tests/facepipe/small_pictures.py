"""Small made pictures of "faces", copies of them, and frames in which something has moved."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from facepipe.schema import CROP_GREY_PX

Grey = npt.NDArray[np.uint8]
SIDE = CROP_GREY_PX


def picture(seed: int, side: int = SIDE) -> Grey:
    """Return a smooth picture with detail at several scales, (side, side), 1 to 255."""
    rng = np.random.default_rng(seed)
    total = np.full((side, side), 128.0)
    for cells, strength in ((4, 40), (9, 25), (20, 14)):
        blobs = rng.normal(0, strength, (cells, cells))
        total += cv2.resize(blobs, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 1, 255).astype(np.uint8)


def moved(
    grey: Grey, dx: float = 0.0, dy: float = 0.0, scale: float = 1.0, turn_deg: float = 0.0
) -> Grey:
    """Return a picture whose landmarks were found a little elsewhere; dx and dy in cells."""
    middle = (grey.shape[1] - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), turn_deg, scale)
    matrix[:, 2] += dx, dy
    size = grey.shape[::-1]
    out = cv2.warpAffine(grey, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.maximum(out, 1).astype(np.uint8)


def next_frame(grey: Grey, cells: float = 1.0, x: float = 0.5, y: float = 0.6) -> Grey:
    """Return a picture in which one part, a seventh of its width, has moved down."""
    side = grey.shape[0]
    v, u = np.mgrid[0:side, 0:side].astype(np.float32)
    near = np.exp(-(((u - x * side) ** 2 + (v - y * side) ** 2) / (2 * (side / 7) ** 2)))
    out = cv2.remap(grey, u, (v - cells * near).astype(np.float32), cv2.INTER_CUBIC, borderMode=1)
    return np.maximum(out, 1).astype(np.uint8)
