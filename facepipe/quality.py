"""How good a face is: size, sharpness, pose, brightness, and the marks that follow.

Legend: 5 landmarks x, y in pixels: left eye, right eye, nose, left and right mouth corner
(left as the viewer sees it).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from facepipe.schema import FaceStatus


class QualitySettings(BaseModel):
    """Below these a face is marked; it is never lost. Defaults mark only the hopeless."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_det_score: float = Field(0.5, ge=0, le=1, description="detector's score")
    min_eye_distance_px: float = Field(
        8.0, ge=0, description="in the full-size photo; at 8 px a 112 px crop is enlarged 4.4 times"
    )
    min_inside_frame: float = Field(0.7, ge=0, le=1, description="share of the box in the photo")
    max_yaw_deg: float = Field(75.0, ge=0, le=90)
    max_pitch_deg: float = Field(60.0, ge=0, le=90)
    max_roll_deg: float = Field(180.0, ge=0, le=180, description="alignment undoes roll")
    min_sharpness: float = Field(
        0.0, ge=0, description="variance of the Laplacian on the aligned crop; 0 marks none"
    )
    min_brightness: float = Field(15.0, ge=0, le=255, description="mean grey level of the crop")
    max_brightness: float = Field(245.0, ge=0, le=255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Measures of one face."""

    eye_distance_px: float
    sharpness: float
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    brightness: float
    inside_frame: float


# A mean adult face in units of half the distance between the pupils: how far the nose tip
# and the mouth corners lie below the eyes (from insightface's 112 px template) and in front
# of them (22 mm and 5 mm of 31.5 mm; anthropometric means after Farkas, Anthropometry of
# the Head and Face, 1994).
_NOSE_DOWN, _NOSE_FRONT = 1.14, 0.70
_MOUTH_DOWN, _MOUTH_FRONT = 2.30, 0.15


def pose_deg(landmarks_xy: NDArray[np.floating]) -> tuple[float, float, float]:
    """Return (yaw, pitch, roll) of a face in degrees from its five landmarks (5 x 2).

    Yaw is positive where the face looks to the viewer's right, pitch where it looks up, roll
    where it is turned clockwise. Closed form for a rigid mean face under scaled orthography,
    after the eye line has been levelled: yaw from the nose's shift against the eyes' middle,
    pitch from how far down between eyes and mouth the nose lies (the geometry of Gee and
    Cipolla, "Determining the gaze of faces in images", IVC 12(10), 1994). Coarse: five points
    of an unknown face. Most of all pitch, whose zero moves with how long the nose is (median
    -11, quartiles some 10 apart, over LFW). Degenerate landmarks give (90, 0, 0), which marks
    them.
    """
    p = np.asarray(landmarks_xy, dtype=np.float64)
    if not np.isfinite(p).all():
        return 90.0, 0.0, 0.0
    eye_line = p[1] - p[0]
    length = float(np.hypot(eye_line[0], eye_line[1]))
    if length < 1e-6:
        return 90.0, 0.0, 0.0
    along = eye_line / length
    down = np.array([-along[1], along[0]])
    middle = (p[0] + p[1]) / 2
    nose, mouth = p[2] - middle, (p[3] + p[4]) / 2 - middle
    yaw = np.arctan2(float(nose @ along), _NOSE_FRONT * length / 2)
    # nose / mouth = (ND cos - NF sin) / (MD cos - MF sin), solved for the angle:
    n, m = float(nose @ down), float(mouth @ down)
    pitch = np.arctan2(_NOSE_DOWN * m - _MOUTH_DOWN * n, _NOSE_FRONT * m - _MOUTH_FRONT * n)
    if m <= 0:  # the mouth above the eyes: no pose of a face
        return float(np.degrees(yaw)), 90.0, float(np.degrees(np.arctan2(*eye_line[::-1])))
    roll = np.arctan2(eye_line[1], eye_line[0])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


def measure(
    crop_HWC: NDArray[np.uint8],
    landmarks_xy: NDArray[np.floating],
    box_xyxy: NDArray[np.floating],
    width_px: int,
    height_px: int,
) -> Quality:
    """Measure one face from its aligned crop, landmarks, box and the photo's size."""
    grey = cv2.cvtColor(crop_HWC, cv2.COLOR_BGR2GRAY)
    yaw, pitch, roll = pose_deg(landmarks_xy)
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    area = max(0.0, x2 - x1) * max(0.0, y2 - y1)
    seen_w = max(0.0, min(x2, width_px) - max(x1, 0.0))
    seen_h = max(0.0, min(y2, height_px) - max(y1, 0.0))
    eyes = np.asarray(landmarks_xy[1], np.float64) - np.asarray(landmarks_xy[0], np.float64)
    return Quality(
        eye_distance_px=float(np.hypot(eyes[0], eyes[1])),
        # Variance of the Laplacian: Pech-Pacheco et al., ICPR 2000.
        sharpness=float(cv2.Laplacian(grey, cv2.CV_32F).var()),
        yaw_deg=yaw,
        pitch_deg=pitch,
        roll_deg=roll,
        brightness=float(grey.mean()),
        inside_frame=seen_w * seen_h / area if area > 0 else 0.0,
    )


def mark(quality: Quality, det_score: float, settings: QualitySettings) -> FaceStatus:
    """Return the first mark that applies to a face, ``ok`` where none does."""
    q, s = quality, settings
    turned = (
        abs(q.yaw_deg) > s.max_yaw_deg
        or abs(q.pitch_deg) > s.max_pitch_deg
        or abs(q.roll_deg) > s.max_roll_deg
    )
    marks = (
        (det_score < s.min_det_score, FaceStatus.LOW_SCORE),
        (q.eye_distance_px < s.min_eye_distance_px, FaceStatus.SMALL),
        (q.inside_frame < s.min_inside_frame, FaceStatus.CUT_OFF),
        (turned, FaceStatus.PROFILE),
        (q.sharpness < s.min_sharpness, FaceStatus.BLURRED),
        (q.brightness < s.min_brightness, FaceStatus.DARK),
        (q.brightness > s.max_brightness, FaceStatus.BRIGHT),
    )
    return next((status for applies, status in marks if applies), FaceStatus.OK)


def labelled_face(boxes_N4: NDArray[np.floating], width_px: int, height_px: int) -> int | None:
    """Return which face of a photo its label means: the large, central one.

    The rule of insightface's max_num=1: area less twice the squared distance of the box's
    centre from the photo's centre. Ties go to the first; None for no face.
    """
    if len(boxes_N4) == 0:
        return None
    boxes = np.asarray(boxes_N4, dtype=np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    dx = (boxes[:, 0] + boxes[:, 2]) / 2 - width_px / 2
    dy = (boxes[:, 1] + boxes[:, 3]) / 2 - height_px / 2
    return int(np.argmax(area - 2.0 * (dx * dx + dy * dy)))
