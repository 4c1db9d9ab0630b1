"""What a detector is punished for: scores, boxes and landmarks.

Legend: B pictures, A points, M matches of points and faces, 4 box corners x1 y1 x2 y2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from training.detector_assign import Faces, assigned
from training.detector_net import Answer, Points, decoded_boxes

FOCUS = 2.0  # beta of the quality focal loss: Li et al. 2020, arXiv:2006.04388, table 1
_TINY = 1e-7


class LossSettings(BaseModel):
    """How the parts are weighted and landmarks are measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: float = Field(1.0, gt=0, description="weight of the scores' part")
    box: float = Field(2.0, ge=0, description="weight of the boxes' part; GFL's")
    landmarks: float = Field(4.0, ge=0, description="weight of the landmarks' part")
    landmark_knee: float = Field(
        0.04, gt=0, description="share of a face's side up to which errors count squared"
    )


class Truth(NamedTuple):
    """The faces of a batch and what is not to be held against the net."""

    faces: Faces
    landmarks_G52: Tensor  # in pixels
    has_landmarks_G: Tensor  # bool
    ignored_BA: Tensor  # bool: points on what is perhaps a face


class Losses(NamedTuple):
    """The parts of the loss, weighted."""

    score: Tensor
    box: Tensor
    landmarks: Tensor

    def total(self) -> Tensor:
        """Return their sum."""
        return self.score + self.box + self.landmarks


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Return |quality - score|^beta times cross entropy, element by element.

    Source: Li et al. 2020, Generalized Focal Loss, arXiv:2006.04388, eq. 4: a point is to say
    how well its box fits, 0 where there is no face.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (quality - logits.sigmoid()).abs().pow(FOCUS) * entropy


def efficient_iou(one_M4: Tensor, other_M4: Tensor) -> Tensor:
    """Return 1 - EIoU of boxes (M, 4) one by one, (M,).

    Source: Zhang et al. 2022, arXiv:2101.08158, eq. 6: overlap, distance of the middles over
    the diagonal of the box around both, differences of the sides over that box's sides. It is
    what YuNet was trained with.
    """
    low, high = torch.minimum(one_M4, other_M4), torch.maximum(one_M4, other_M4)
    shared = (low[:, 2:] - high[:, :2]).clamp(min=0).prod(dim=1)
    sides = [box[:, 2:] - box[:, :2] for box in (one_M4, other_M4)]
    union = sides[0].prod(dim=1) + sides[1].prod(dim=1) - shared
    around = high[:, 2:] - low[:, :2]
    apart = (one_M4[:, :2] + one_M4[:, 2:] - other_M4[:, :2] - other_M4[:, 2:]) / 2
    distance = apart.square().sum(dim=1) / (around.square().sum(dim=1) + _TINY)
    shape = ((sides[0] - sides[1]).square() / (around.square() + _TINY)).sum(dim=1)
    return 1 - shared / (union + _TINY) + distance + shape


def detector_loss(
    answer: Answer, truth: Truth, points: Points, size_px: tuple[int, int], settings: LossSettings
) -> Losses:
    """Return the loss of a batch; each part is over the number of points that have a face.

    ``size_px`` is height and width of the pictures.
    """
    boxes_BA4 = decoded_boxes(answer.boxes_BA4, points.xy_A2, points.stride_A)
    match = assigned(answer.logits_BA, boxes_BA4.detach(), points, truth.faces, size_px)
    count = max(1, len(match.face_M))
    at = (match.picture_M, match.point_M)
    quality = torch.zeros_like(answer.logits_BA)
    quality[at] = match.overlap_M
    counts = ~truth.ignored_BA
    counts[at] = True
    score = (quality_focal(answer.logits_BA, quality) * counts).sum() / count
    faces_M4 = truth.faces.boxes_G4[match.face_M]
    box = efficient_iou(boxes_BA4[at], faces_M4).sum() / count
    stride_M = points.stride_A[match.point_M]
    found = points.xy_A2[match.point_M, None] + (
        answer.landmarks_BA10[at].view(-1, 5, 2) * stride_M[:, None, None]
    )
    side_M = (faces_M4[:, 2:] - faces_M4[:, :2]).prod(dim=1).clamp(min=1).sqrt()
    error = (found - truth.landmarks_G52[match.face_M]) / side_M[:, None, None]
    apart = F.smooth_l1_loss(
        error, torch.zeros_like(error), reduction="none", beta=settings.landmark_knee
    ).sum(dim=(1, 2))
    landmarks = (apart * truth.has_landmarks_G[match.face_M]).sum() / count
    return Losses(settings.score * score, settings.box * box, settings.landmarks * landmarks)
