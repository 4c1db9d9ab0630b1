"""Points for faces: what a slow reading of SimOTA finds, and what must never happen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training.detector_assign import (
    LEAST_STRIDES,
    MOST_STRIDES,
    Faces,
    assigned,
    overlaps,
)
from training.detector_net import STRIDES, points_of

SIZE = (160, 192)


def overlap(one: list[float], other: list[float]) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return width * height / (sum(areas) - width * height)


def slow(logits: list[float], boxes: list[list[float]], faces: list[list[float]]) -> dict[int, int]:
    """SimOTA for one picture, point by point: point -> face."""
    places = points_of(*SIZE)
    xy, strides = places.xy_A2.tolist(), places.stride_A.tolist()
    chosen: dict[int, tuple[float, int]] = {}
    for face, box in enumerate(faces):
        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        found = []
        for point, (place, stride) in enumerate(zip(xy, strides, strict=True)):
            level = STRIDES.index(int(stride))
            if not LEAST_STRIDES[level] * stride <= side < MOST_STRIDES[level] * stride:
                continue
            middle = [round((box[k] + box[k + 2]) / 2 / stride) for k in (0, 1)]
            if max(abs(place[k] / stride - middle[k]) for k in (0, 1)) > 2:
                continue
            fit = overlap(boxes[point], box)
            outside = not all(box[k] <= place[k] <= box[k + 2] for k in (0, 1))
            cost = math.log1p(math.exp(-logits[point])) - 3 * math.log(max(fit, 1e-8))
            found.append((cost + 100 * outside, point, fit, outside))
        wanted = max(1, int(sum(sorted((f[2] for f in found), reverse=True)[:10])))
        for rank, (cost, point, _, outside) in enumerate(sorted(found)[:wanted]):
            if (not outside or rank == 0) and cost < chosen.get(point, (math.inf, 0))[0]:
                chosen[point] = (cost, face)
    return {point: face for point, (_, face) in chosen.items()}


@pytest.mark.parametrize("seed", range(6))
def test_matches_are_those_of_a_slow_reading(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = points_of(*SIZE)
    count = len(points.xy_A2)
    middle = rng.uniform(20, 140, (5, 2))
    half = rng.uniform(4, 40, (5, 1)) * rng.uniform(0.8, 1.2, (5, 2))
    faces = np.hstack([middle - half, middle + half]).astype(np.float32)
    faces[4] = faces[3] + 3  # two that want the same points
    # Boxes that fit well enough near the faces that there is something to rank.
    near = ((points.xy_A2.numpy()[:, None] - middle) ** 2).sum(axis=2).argmin(axis=1)
    boxes = (faces[near] + rng.normal(0, 6, (count, 4))).astype(np.float32)
    logits = rng.normal(-1, 1, count).astype(np.float32)
    found = assigned(
        torch.from_numpy(logits)[None],
        torch.from_numpy(boxes)[None],
        points,
        Faces(torch.zeros(5, dtype=torch.int64), torch.from_numpy(faces)),
        SIZE,
    )
    pairs = dict(zip(found.point_M.tolist(), found.face_M.tolist(), strict=True))
    assert len(pairs) == len(found.point_M)  # no point twice
    assert pairs == slow(logits.tolist(), boxes.tolist(), faces.tolist())
    for point, face, fit in zip(found.point_M, found.face_M, found.overlap_M, strict=True):
        expected = overlap(boxes[point].tolist(), faces[face].tolist())
        assert float(fit) == pytest.approx(expected, abs=1e-5)


def test_pictures_do_not_meet_and_none_may_have_no_face() -> None:
    points = points_of(*SIZE)
    logits = torch.zeros(3, len(points.xy_A2))
    boxes = torch.zeros(3, len(points.xy_A2), 4)
    box = torch.tensor([[40.0, 40.0, 80.0, 80.0]]).repeat(2, 1)
    found = assigned(logits, boxes, points, Faces(torch.tensor([0, 2]), box), SIZE)
    assert sorted(set(found.picture_M.tolist())) == [0, 2]
    empty = Faces(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert len(assigned(logits, boxes, points, empty, SIZE).face_M) == 0


def test_overlaps_broadcast() -> None:
    one = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    assert overlaps(one, torch.tensor([1.0, 1, 3, 3])).tolist() == pytest.approx([1 / 7, 0])
