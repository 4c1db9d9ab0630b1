"""What a teacher sees in a photo: its faces at several sizes and mirrored, merged into one.

A detector misses at one size what it sees at another, and its landmarks scatter by a pixel or
two; the mean over sizes and the mirrored photo scatters less. Merging is weighted boxes fusion
(Solovyev, Wang and Gabruseva 2021, arXiv:1910.13302), landmarks alike.

Legend: N faces; H, W pixels; 4 box corners x1 y1 x2 y2; 5 landmarks x, y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facepipe.detect import Detector, DetectSettings, Faces
from facepipe.detection_score import box_iou
from facepipe.models import ModelSettings
from facepipe.packs import Pack

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SAME_FACE_IOU = 0.4  # boxes of two looks that overlap so much are one face
LEAST_SCORE = 0.3  # of a look's face: below it the teacher sees nothing
SURE_SCORE = 0.6  # a face where the best look says so; between the two, nobody is sure
MIRRORED = (1, 0, 2, 4, 3)  # landmarks of a mirrored photo: left and right change places


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """The faces of a photo as they are learned, in pixels of the photo."""

    boxes_N4: Floats
    landmarks_N52: Floats  # zeros where there are none
    has_landmarks_N: NDArray[np.bool_]
    ignored_N: NDArray[np.bool_]  # perhaps a face: neither learned nor held against the net


class Teacher:
    """A pack's detector, asked at several sizes."""

    def __init__(self, pack: Pack, looks: tuple[float, ...]) -> None:
        """Name the pack and the sizes, as shares of a photo's longer side."""
        self._pack, self._shares = pack, looks
        self._at: dict[int, Detector] = {}

    def _detector(self, size_px: int) -> Detector:
        if size_px not in self._at:
            settings = DetectSettings(size_px=size_px, threshold=LEAST_SCORE, padded_pass="never")
            self._at[size_px] = Detector(self._pack, settings, ModelSettings())
        return self._at[size_px]

    def faces(self, photo_HWC: Pixels) -> tuple[Floats, Floats, Floats]:
        """Return boxes (N, 4), landmarks (N, 5, 2) and best scores (N,), best first."""
        mirror = np.ascontiguousarray(photo_HWC[:, ::-1])
        looks = []
        for share in self._shares:
            size_px = max(64, round(max(photo_HWC.shape[:2]) * share / 32) * 32)
            detector = self._detector(size_px)
            looks.append(detector.find([photo_HWC])[0])
            looks.append(_mirrored_back(detector.find([mirror])[0], photo_HWC.shape[1]))
        return merged(
            np.concatenate([look.boxes_N4 for look in looks]),
            np.concatenate([look.landmarks_N52 for look in looks]),
            np.concatenate([look.scores_N for look in looks]),
        )

    def teach(self, photo_HWC: Pixels, labels_N4: Floats | None) -> Taught:
        """Return what is learned of a photo: the labels where there are any, else its own."""
        boxes, points, scores = self.faces(photo_HWC)
        if labels_N4 is None:
            return Taught(
                boxes_N4=boxes,
                landmarks_N52=points,
                has_landmarks_N=np.ones(len(boxes), bool),
                ignored_N=(scores < SURE_SCORE) | _upside_down(points),
            )
        return labelled(labels_N4, boxes, points)


def _upside_down(landmarks_N52: Floats) -> NDArray[np.bool_]:
    """Return which faces have their eyes under their mouth: the teacher guesses at those."""
    eyes, mouth = landmarks_N52[:, :2, 1].mean(axis=1), landmarks_N52[:, 3:, 1].mean(axis=1)
    return np.asarray(eyes >= mouth)


def _mirrored_back(faces: Faces, width_px: int) -> Faces:
    boxes, points = faces.boxes_N4.copy(), faces.landmarks_N52[:, MIRRORED].copy()
    boxes[:, [0, 2]] = width_px - boxes[:, [2, 0]]
    points[..., 0] = width_px - points[..., 0]
    return Faces(boxes, points, faces.scores_N, faces.padded_N)


def merged(
    boxes_N4: Floats, landmarks_N52: Floats, scores_N: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return one face for each group of boxes that overlap its best one, best first.

    Boxes and landmarks are means weighted with the scores, the score is the best. Of equal
    scores the first row leads.
    """
    overlap_NN = box_iou(boxes_N4, boxes_N4)
    left = np.ones(len(boxes_N4), bool)
    faces: list[tuple[Floats, Floats, np.float32]] = []
    for best in np.argsort(-scores_N, kind="stable"):
        if not left[best]:
            continue
        group = np.flatnonzero(left & (overlap_NN[best] >= SAME_FACE_IOU))
        left[group] = False
        left[best] = False
        weight = scores_N[group] / scores_N[group].sum()
        box = (boxes_N4[group] * weight[:, None]).sum(axis=0)
        points = (landmarks_N52[group] * weight[:, None, None]).sum(axis=0)
        faces.append((box, points, scores_N[best]))
    return (
        np.array([face[0] for face in faces], np.float32).reshape(-1, 4),
        np.array([face[1] for face in faces], np.float32).reshape(-1, 5, 2),
        np.array([face[2] for face in faces], np.float32),
    )


def labelled(labels_N4: Floats, boxes_N4: Floats, landmarks_N52: Floats) -> Taught:
    """Return labelled faces with the teacher's landmarks where it sees the same face.

    A face of the teacher's that nobody labelled is ignored: people leave out blurred ones.
    """
    overlap = box_iou(labels_N4, boxes_N4)
    seen = overlap.max(axis=1, initial=0.0) >= SAME_FACE_IOU
    points = np.zeros((len(labels_N4), 5, 2), np.float32)
    if len(boxes_N4):
        points[seen] = landmarks_N52[overlap.argmax(axis=1)[seen]]
    extra = overlap.max(axis=0, initial=0.0) < SAME_FACE_IOU
    return Taught(
        boxes_N4=np.concatenate([labels_N4, boxes_N4[extra]]),
        landmarks_N52=np.concatenate([points, landmarks_N52[extra]]),
        has_landmarks_N=np.concatenate([seen, np.ones(extra.sum(), bool)]),
        ignored_N=np.concatenate([np.zeros(len(labels_N4), bool), np.ones(extra.sum(), bool)]),
    )
