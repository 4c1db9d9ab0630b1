"""What a detector's outputs mean: candidate boxes, landmarks and scores in the input's pixels.

Legend: B pictures, A anchor points x anchors, 4 box corners x1 y1 x2 y2, 5 landmarks x, y.
Every head answers for one picture with (scores_A, boxes_A4, landmarks_A52), float32.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import ModelUnreadable

Floats = NDArray[np.float32]
Candidates = tuple[Floats, Floats, Floats]

# outputs -> (strides, anchors a point, with landmarks). Source: insightface
# model_zoo/scrfd.py and retinaface.py, which tell their graphs apart in this way.
_DISTANCE_HEADS = {
    6: ((8, 16, 32), 2, False),
    9: ((8, 16, 32), 2, True),
    10: ((8, 16, 32, 64, 128), 1, False),
    15: ((8, 16, 32, 64, 128), 1, True),
}
_YUNET_STRIDES = (8, 16, 32)


@lru_cache(maxsize=64)
def _centres(height_px: int, width_px: int, stride: int, anchors: int) -> Floats:
    """Return the x, y of every anchor, row by row, each point ``anchors`` times."""
    y, x = np.mgrid[: height_px // stride, : width_px // stride]
    points = np.stack([x, y], axis=-1).astype(np.float32).reshape(-1, 2) * np.float32(stride)
    return np.repeat(points, anchors, axis=0)


def scrfd_candidates(
    outputs: list[Floats],
    picture: int,
    height_px: int,
    width_px: int,
    threshold: float,
    pictures: int = 1,
) -> Candidates:
    """Read insightface's distance heads (SCRFD, RetinaFace) for one of a batch's pictures.

    A box is the distances from its anchor to left, top, right and bottom in strides, a
    landmark its offset in strides (Guo et al., "Sample and Computation Redistribution for
    Efficient Face Detection", ICLR 2022; insightface's distance2bbox and distance2kps).
    Raises ModelUnreadable for a head without landmarks or of an unknown number of outputs.
    """
    strides, anchors, landmarks = _DISTANCE_HEADS.get(len(outputs), ((), 0, False))
    if not landmarks:
        raise ModelUnreadable(
            f"the detector has {len(outputs)} outputs: one with five landmarks has 9 or 15; "
            "a detector without landmarks cannot be aligned"
        )
    found = []
    for level, stride in enumerate(strides):
        parts = [outputs[level + k * len(strides)] for k in range(3)]
        scores, distances, offsets = (p.reshape(pictures, -1, p.shape[-1])[picture] for p in parts)
        chosen = np.flatnonzero(scores[:, 0] >= threshold)
        centres = _centres(height_px, width_px, stride, anchors)[chosen]
        distance = distances[chosen] * np.float32(stride)
        boxes = np.hstack([centres - distance[:, :2], centres + distance[:, 2:]])
        points = centres[:, None, :] + offsets[chosen].reshape(-1, 5, 2) * np.float32(stride)
        found.append((scores[chosen, 0], boxes, points))
    scores, boxes, points = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, boxes, points


def yunet_candidates(
    outputs: dict[str, Floats], picture: int, height_px: int, width_px: int, threshold: float
) -> Candidates:
    """Read YuNet's heads; the score is the geometric mean of class and objectness.

    Source: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023; decoding as in
    OpenCV's FaceDetectorYN (modules/objdetect/src/face_detect.cpp).
    """
    found = []
    for stride in _YUNET_STRIDES:
        cls, obj, box, kps = (outputs[f"{k}_{stride}"][picture] for k in _YUNET_HEADS)
        scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        chosen = np.flatnonzero(scores >= threshold)
        centres = _centres(height_px, width_px, stride, 1)[chosen]
        middle = centres + box[chosen, :2] * np.float32(stride)
        half = np.exp(np.minimum(box[chosen, 2:], 20)) * np.float32(stride / 2)
        points = centres[:, None, :] + kps[chosen].reshape(-1, 5, 2) * np.float32(stride)
        found.append((scores[chosen], np.hstack([middle - half, middle + half]), points))
    scores, boxes, points = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, boxes, points


_YUNET_HEADS = ("cls", "obj", "bbox", "kps")


def suppress(boxes_A4: Floats, scores_A: Floats, iou: float) -> NDArray[np.intp]:
    """Return the rows that greedy non-maximum suppression keeps, best score first.

    Ties go to the first row. Widths count pixels (x2 - x1 + 1), as insightface's nms does,
    so that the same boxes survive.
    """
    order = np.argsort(-scores_A, kind="stable")
    x1, y1, x2, y2 = (boxes_A4[:, k] for k in range(4))
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        order = rest[shared / (area[best] + area[rest] - shared) <= iou]
    return np.array(keep, dtype=np.intp)
