"""The parts of a detector's loss against their formulas, written out once more."""

from __future__ import annotations

import math

import pytest
import torch

from training.detector_assign import Faces
from training.detector_loss import (
    LossSettings,
    Truth,
    detector_loss,
    efficient_iou,
    quality_focal,
)
from training.detector_net import Answer, points_of

SIZE = (64, 64)


def test_quality_focal_is_equation_4() -> None:
    for logit, quality in [(-3.0, 0.0), (0.4, 0.7), (2.0, 1.0)]:
        score = 1 / (1 + math.exp(-logit))
        entropy = (1 - quality) * math.log(1 - score) + quality * math.log(score)
        expected = -(abs(quality - score) ** 2) * entropy
        found = quality_focal(torch.tensor(logit), torch.tensor(quality))
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_efficient_iou_is_equation_6_and_0_for_the_same_box() -> None:
    one, other = torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([[1.0, 1.0, 4.0, 5.0]])
    shared, union, around = 3 * 1, 8 + 12 - 3, (4.0, 5.0)
    distance = (0.5**2 + 2**2) / (around[0] ** 2 + around[1] ** 2)
    shape = (4 - 3) ** 2 / around[0] ** 2 + (2 - 4) ** 2 / around[1] ** 2
    expected = 1 - shared / union + distance + shape
    assert float(efficient_iou(one, other)) == pytest.approx(expected, rel=1e-5)
    assert float(efficient_iou(one, one)) == pytest.approx(0, abs=1e-6)


def answer_and_truth(has_landmarks: bool = True) -> tuple[Answer, Truth]:
    """A picture with one face that the net answers for exactly everywhere."""
    points = points_of(*SIZE)
    box = torch.tensor([16.0, 16.0, 48.0, 48.0])
    landmarks = torch.tensor([[24.0, 26.0], [40, 26], [32, 34], [26, 42], [38, 42]])
    middle = ((box[:2] + box[2:]) / 2 - points.xy_A2) / points.stride_A[:, None]
    sides = (torch.full((2,), 32.0) / points.stride_A[:, None]).log()
    offsets = (landmarks - points.xy_A2[:, None]) / points.stride_A[:, None, None]
    answer = Answer(
        torch.full((1, len(points.xy_A2)), -20.0),
        torch.cat([middle, sides], dim=1)[None],
        offsets.flatten(1)[None],
    )
    truth = Truth(
        faces=Faces(torch.zeros(1, dtype=torch.int64), box[None]),
        landmarks_G52=landmarks[None],
        has_landmarks_G=torch.tensor([has_landmarks]),
        ignored_BA=torch.zeros(1, len(points.xy_A2), dtype=torch.bool),
    )
    return answer, truth


def test_an_exact_answer_costs_its_scores_alone() -> None:
    answer, truth = answer_and_truth()
    found = detector_loss(answer, truth, points_of(*SIZE), SIZE, LossSettings())
    assert float(found.box) == pytest.approx(0, abs=1e-5)
    assert float(found.landmarks) == pytest.approx(0, abs=1e-5)
    # Every matched point should say 1 and says sigmoid(-20): the cross entropy is 20.
    assert float(found.score) == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize(("has_landmarks", "costs"), [(True, True), (False, False)])
def test_landmarks_cost_only_where_they_are_known(has_landmarks: bool, costs: bool) -> None:
    answer, truth = answer_and_truth(has_landmarks)
    moved = truth._replace(landmarks_G52=truth.landmarks_G52 + 1.6)  # .05 of the face's side
    settings = LossSettings(landmarks=1.0, landmark_knee=0.04)
    found = detector_loss(answer, moved, points_of(*SIZE), SIZE, settings)
    expected = 10 * (0.05 - 0.04 / 2) if costs else 0.0  # ten coordinates, beyond the knee
    assert float(found.landmarks) == pytest.approx(expected, rel=1e-3)


def test_points_on_a_doubtful_face_cost_nothing() -> None:
    answer, truth = answer_and_truth()
    points = points_of(*SIZE)
    logits = answer.logits_BA.clone()
    logits[0, 0] = 10.0  # far from the face
    loud = answer._replace(logits_BA=logits)
    ignored = truth.ignored_BA.clone()
    ignored[0, 0] = True
    quiet, punished, excused = (
        float(detector_loss(a, t, points, SIZE, LossSettings()).score)
        for a, t in [
            (answer, truth),
            (loud, truth),
            (loud, truth._replace(ignored_BA=ignored)),
        ]
    )
    assert punished > quiet + 0.1
    assert excused == pytest.approx(quiet, rel=1e-5)
