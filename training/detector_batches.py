"""Training pictures in batches, with their faces as a loss takes them.

Legend: B pictures, G faces that are learned, A points; H, W pixels; 4 box corners; 5 landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.detector_assign import Faces
from training.detector_loss import Truth
from training.detector_mosaics import Picture
from training.detector_net import Points, points_of


def batch_of(pictures: Sequence[Picture]) -> tuple[Tensor, Truth, Points]:
    """Return pictures of one size, B x 3 x H x W of 0..255, what they show, and their points."""
    stacked = torch.from_numpy(np.stack([p.pixels_HWC for p in pictures]))
    height, width = stacked.shape[1:3]
    points = points_of(height, width)
    return stacked.permute(0, 3, 1, 2).float(), truth_of(pictures, points), points


def truth_of(pictures: Sequence[Picture], points: Points) -> Truth:
    """Return the faces of pictures that are learned, and the points on ignored ones."""
    learned = [~picture.ignored_N for picture in pictures]
    counts = torch.tensor([int(mask.sum()) for mask in learned])
    return Truth(
        faces=Faces(
            torch.repeat_interleave(torch.arange(len(pictures)), counts),
            _joined([p.boxes_N4[m] for p, m in zip(pictures, learned, strict=True)], 4),
        ),
        landmarks_G52=_joined(
            [p.landmarks_N52[m].reshape(-1, 10) for p, m in zip(pictures, learned, strict=True)],
            10,
        ).view(-1, 5, 2),
        has_landmarks_G=torch.from_numpy(
            np.concatenate([p.has_landmarks_N[m] for p, m in zip(pictures, learned, strict=True)])
        ),
        ignored_BA=torch.stack(
            [_within(points, torch.from_numpy(p.boxes_N4[p.ignored_N])) for p in pictures]
        ),
    )


def _joined(
    parts: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float32]]], width: int
) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros((0, width), np.float32), *parts]))


def _within(points: Points, boxes_N4: Tensor) -> Tensor:
    """Return which points lie in any of the boxes, or a stride beside one: (A,) bool."""
    reach = points.stride_A[:, None, None] * torch.tensor([-0.5, 0.5])
    low = (points.xy_A2[:, None] >= boxes_N4[:, :2] + reach[..., :1]).all(dim=-1)
    high = (points.xy_A2[:, None] <= boxes_N4[:, 2:] + reach[..., 1:]).all(dim=-1)
    return (low & high).any(dim=1)
