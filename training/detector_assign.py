"""Which points of a net are to answer for which face: SimOTA, on the points near a face.

Source: Ge et al. 2021, YOLOX, arXiv:2107.08430, 2.1 (SimOTA, after Ge et al. 2021, OTA,
arXiv:2103.14259), with which YuNet was trained, too (libfacedetection.train). A face takes the k
points of least cost, k being the sum of the ten best overlaps that the net reaches now. Here
only a square of points about a face's middle on each level is looked at, and only on levels
that see it whole: a small part of all pairs of points and faces, so that assigning takes a
small part of a step.

Legend: B pictures, A points, G faces of all pictures, K candidates of a face, M matches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.detector_net import STRIDES, Points

CENTRE_POINTS = 2  # columns and rows on either side of the nearest point: YOLOX's radius of 2.5
LEAST_STRIDES = (0.0, 2.0, 2.5)  # sides of faces, in strides of a level, that it answers for
MOST_STRIDES = (12.0, 14.0, 64.0)
TOP_OVERLAPS = 10  # whose sum is the number of points; YOLOX 2.1
OVERLAP_WEIGHT = 3.0  # of -log(overlap) beside the score's cost; YOLOX
OUTSIDE_COST = 100.0  # of a point outside the face's box: taken only where there is none inside
_LEAST_OVERLAP = 1e-8


class Faces(NamedTuple):
    """The faces of a batch that are learned."""

    picture_G: Tensor  # int64
    boxes_G4: Tensor  # in pixels


class Matches(NamedTuple):
    """Points and the faces that they answer for, each point at most once."""

    picture_M: Tensor
    point_M: Tensor
    face_M: Tensor
    overlap_M: Tensor  # of the point's box and the face, now


def candidates(boxes_G4: Tensor, height_px: int, width_px: int) -> tuple[Tensor, Tensor]:
    """Return points near each face's middle, (G, K) int64, and which of these count."""
    middle = (boxes_G4[:, :2] + boxes_G4[:, 2:]) / 2
    side = (boxes_G4[:, 2:] - boxes_G4[:, :2]).clamp(min=0).prod(dim=1).sqrt()
    reach = torch.arange(-CENTRE_POINTS, CENTRE_POINTS + 1)
    found, counts, start = [], [], 0
    for stride, least, most in zip(STRIDES, LEAST_STRIDES, MOST_STRIDES, strict=True):
        rows, columns = height_px // stride, width_px // stride
        column = (middle[:, 0] / stride).round().long()[:, None] + reach
        row = (middle[:, 1] / stride).round().long()[:, None] + reach
        there = ((row >= 0) & (row < rows))[:, :, None] & ((column >= 0) & (column < columns))[
            :, None, :
        ]
        fits = (side >= least * stride) & (side < most * stride)
        place = row.clamp(0, rows - 1)[:, :, None] * columns + column.clamp(0, columns - 1)[:, None]
        found.append((start + place).flatten(1))
        counts.append((there & fits[:, None, None]).flatten(1))
        start += rows * columns
    return torch.cat(found, dim=1), torch.cat(counts, dim=1)


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Return the intersection over union of boxes (..., 4), one by one, broadcasting."""
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(
        one[..., :2], other[..., :2]
    )
    shared = sides.clamp(min=0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (one, other)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=_LEAST_OVERLAP)


@torch.no_grad()
def assigned(
    logits_BA: Tensor, boxes_BA4: Tensor, points: Points, faces: Faces, size_px: tuple[int, int]
) -> Matches:
    """Return which points answer for which faces, given scores and boxes (pixels) as they are.

    ``size_px`` is height and width of the pictures. A point that several faces want goes to
    the one of least cost, the first of equals.
    """
    place_GK, counts_GK = candidates(faces.boxes_G4, *size_px)
    picture_GK = faces.picture_G[:, None].expand_as(place_GK)
    overlap_GK = overlaps(boxes_BA4[picture_GK, place_GK], faces.boxes_G4[:, None])
    overlap_GK = overlap_GK * counts_GK
    xy = points.xy_A2[place_GK]
    box = faces.boxes_G4[:, None]
    outside_GK = ((xy < box[..., :2]) | (xy > box[..., 2:])).any(dim=-1)
    cost_GK = (
        F.softplus(-logits_BA[picture_GK, place_GK])  # cross entropy with a face
        - OVERLAP_WEIGHT * overlap_GK.clamp(min=_LEAST_OVERLAP).log()
        + OUTSIDE_COST * outside_GK
    ).masked_fill(~counts_GK, torch.inf)
    top = overlap_GK.topk(min(TOP_OVERLAPS, overlap_GK.shape[1]), dim=1).values.sum(dim=1)
    wanted_G = top.long().clamp(min=1)
    rank_GK = cost_GK.argsort(dim=1, stable=True).argsort(dim=1)
    taken = (rank_GK < wanted_G[:, None]) & cost_GK.isfinite()
    # A point outside is only for a face that has none inside.
    taken &= ~outside_GK | (rank_GK == 0)
    face_M, slot_M = taken.nonzero(as_tuple=True)
    keep = _least(
        picture_GK[face_M, slot_M] * logits_BA.shape[1] + place_GK[face_M, slot_M],
        cost_GK[face_M, slot_M],
        logits_BA.numel(),
    )
    face_M, slot_M = face_M[keep], slot_M[keep]
    return Matches(
        picture_GK[face_M, slot_M], place_GK[face_M, slot_M], face_M, overlap_GK[face_M, slot_M]
    )


def _least(key_M: Tensor, cost_M: Tensor, keys: int) -> Tensor:
    """Return, for each key, the match of least cost; the first of equals."""
    best = torch.full((keys,), torch.inf).scatter_reduce_(0, key_M, cost_M, "amin")
    cheapest = (cost_M == best[key_M]).nonzero().squeeze(1)
    first = torch.full((keys,), len(key_M)).scatter_reduce_(0, key_M[cheapest], cheapest, "amin")
    return cheapest[first[key_M[cheapest]] == cheapest]
