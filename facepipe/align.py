"""Aligned face crops: the five-point similarity transform to insightface's template.

Legend: H, W pixels; 5 landmarks; coordinates x, y in pixels.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

CROP_PX = 112

# Where the eyes, nose and mouth corners of an aligned 112 x 112 crop lie.
# Source: insightface.utils.face_align.arcface_dst, which is SphereFace's 112 x 96 template
# moved 8 px to the right.
TEMPLATE_XY_PX = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)


class AlignSettings(BaseModel):
    """How aligned crops are stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop_format: Literal["png", "jpeg"] = Field(
        "png",
        description="png is lossless, about 20 KB a face; jpeg (quality 95) about 5 KB, "
        "and moves embeddings a little",
    )


def similarity_transform(
    points_xy: NDArray[np.floating], target_xy: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the 2 x 3 matrix of the rotation, scale and shift that best maps points to target.

    Least squares over the points, without reflection. Shapes N x 2, float; result float64.
    Raises ValueError for points that all coincide, which no transform can spread.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", PAMI 13(4), 1991, equations 40 to 43. In the plane it has the closed form used
    here: with centred points p and targets q as complex numbers, the optimal factor is
    sum(q conj(p)) / sum(|p|^2). It equals skimage.transform.SimilarityTransform.
    """
    p = np.asarray(points_xy, dtype=np.float64)
    q = np.asarray(target_xy, dtype=np.float64)
    p_mean, q_mean = p.mean(axis=0), q.mean(axis=0)
    pc, qc = p - p_mean, q - q_mean
    spread = float((pc * pc).sum())
    if not np.isfinite(spread) or spread < 1e-12:
        raise ValueError("the landmarks coincide")
    a = float((pc * qc).sum()) / spread  # scale x cos(angle)
    b = float((pc[:, 0] * qc[:, 1] - pc[:, 1] * qc[:, 0]).sum()) / spread  # scale x sin(angle)
    linear = np.array([[a, -b], [b, a]])
    return np.hstack([linear, (q_mean - linear @ p_mean)[:, None]])


def aligned_crop(
    pixels_HWC: NDArray[np.uint8], landmarks_xy: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """Return the 112 x 112 x 3 crop whose landmarks lie on the template; black outside the photo.

    Raises ValueError for coinciding landmarks. Bilinear, as insightface's norm_crop.
    """
    matrix = similarity_transform(landmarks_xy, TEMPLATE_XY_PX)
    crop = cv2.warpAffine(pixels_HWC, matrix, (CROP_PX, CROP_PX), borderValue=(0.0,))
    return np.asarray(crop, dtype=np.uint8)


def encode_crop(crop_HWC: NDArray[np.uint8], settings: AlignSettings) -> bytes:
    """Return an aligned BGR crop as PNG or JPEG bytes."""
    if settings.crop_format == "png":
        # Level 1: 2 % larger than level 3 and a third faster.
        ok, data = cv2.imencode(".png", crop_HWC, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    else:
        ok, data = cv2.imencode(".jpg", crop_HWC, [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not ok:
        raise ValueError(f"OpenCV could not encode a crop as {settings.crop_format}")
    return bytes(data.tobytes())


def decode_crop(data: bytes) -> NDArray[np.uint8] | None:
    """Return a stored crop as 112 x 112 x 3 BGR, or None where it is not one."""
    if not data:
        return None
    crop = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if crop is None or crop.shape != (CROP_PX, CROP_PX, 3):
        return None
    return np.asarray(crop, dtype=np.uint8)
