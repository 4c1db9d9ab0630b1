"""Overlap of boxes, and how good a detector is: average precision.

Legend: N detections, M labelled faces, 4 box corners x1 y1 x2 y2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionScore:
    """Average precision and the curve behind it, from the highest score down."""

    ap: float
    precision: Float
    recall: Float
    score: Float
    faces: int  # labelled faces that count
    ignored: int  # labelled faces that do not


def average_precision(
    boxes: Sequence[npt.ArrayLike],
    scores: Sequence[npt.ArrayLike],
    truth: Sequence[npt.ArrayLike],
    *,
    min_size_px: float = 0.0,
    min_iou: float = 0.5,
) -> DetectionScore:
    """Return the all-point average precision of detections over photos.

    boxes, scores, truth: one entry a photo, (N, 4), (N,), (M, 4), in one scale. From the
    highest score down each detection goes to the labelled face it overlaps most, where
    IoU >= min_iou; the second one on a face, and one on no face, is a false alarm, as WIDER
    FACE has it. Ties in score keep the order given. AP is the area under the precision
    envelope (VOC 2010, WIDER's voc_ap); NaN where no labelled face counts.

    A face of less than min_size_px (the root of its box's area) is neither hit nor miss,
    labelled or not: such a label does not count, nor does a detection on one, nor a
    detection of that size on no face, as COCO has it for its ranges of area. (WIDER counts
    the last as false alarms, though it leaves many of the smallest faces unlabelled.)
    """
    kinds = [
        _match(_box_array(b), np.asarray(s, np.float64), _box_array(t), min_size_px, min_iou)
        for b, s, t in zip(boxes, scores, truth, strict=True)
    ]
    sizes = [_size(_box_array(t)) for t in truth]
    ignored = int(sum((size < min_size_px).sum() for size in sizes))
    faces = sum(map(len, sizes)) - ignored
    score_N = np.concatenate([np.empty(0), *(np.asarray(s, np.float64) for s in scores)])
    kind_N = np.concatenate([np.empty(0, np.int64), *kinds])
    order = np.argsort(-score_N, kind="stable")
    order = order[kind_N[order] >= 0]
    hits = np.cumsum(kind_N[order])
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / faces if faces else np.full(len(hits), np.nan)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    ap = float((np.diff(recall, prepend=0.0) * envelope).sum()) if faces else math.nan
    return DetectionScore(
        ap=ap,
        precision=precision,
        recall=recall,
        score=score_N[order],
        faces=faces,
        ignored=ignored,
    )


def _match(
    boxes_N4: Float, score_N: Float, truth_M4: Float, min_size_px: float, min_iou: float
) -> Int:
    """Return 1 for a hit, 0 for a false alarm, -1 for a detection that does not count."""
    kind_N = np.where(_size(boxes_N4) >= min_size_px, 0, -1)
    if not len(truth_M4) or not len(boxes_N4):
        return kind_N
    overlap_NM = box_iou(boxes_N4, truth_M4)
    counts_M = _size(truth_M4) >= min_size_px
    taken_M = np.zeros(len(truth_M4), dtype=bool)
    for row in np.argsort(-score_N, kind="stable"):
        face = int(overlap_NM[row].argmax())
        if overlap_NM[row, face] < min_iou:
            continue
        kind_N[row] = -1 if not counts_M[face] else int(not taken_M[face])
        taken_M[face] = True
    return kind_N


def box_iou(boxes_N4: npt.ArrayLike, others_M4: npt.ArrayLike) -> Float:
    """Return the (N, M) intersection over union of boxes; 0 where both are empty."""
    return paired_iou(_box_array(boxes_N4)[:, None, :], _box_array(others_M4)[None, :, :])


def paired_iou(a: Float, b: Float) -> Float:
    """Return the intersection over union of boxes (..., 4) one by one, broadcasting."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0.0, None).prod(axis=-1)
    area_a = (a[..., 2:] - a[..., :2]).prod(axis=-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(axis=-1)
    iou: Float = shared / np.maximum(area_a + area_b - shared, np.finfo(np.float64).tiny)
    return iou


def _box_array(boxes: npt.ArrayLike) -> Float:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def _size(boxes_M4: Float) -> Float:
    side_M: Float = np.sqrt(np.clip(boxes_M4[:, 2:] - boxes_M4[:, :2], 0.0, None).prod(axis=1))
    return side_M
