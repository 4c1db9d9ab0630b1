"""Pose from five points, measures and marks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facepipe.align import TEMPLATE_XY_PX
from facepipe.quality import Quality, QualitySettings, labelled_face, mark, measure, pose_deg

# A rigid head: eyes, nose tip, mouth corners; x right, y down, z towards the camera.
HEAD = np.array(
    [[-1, 0, 0], [1, 0, 0], [0, 1.14, 0.7], [-0.83, 2.3, 0.15], [0.83, 2.3, 0.15]], float
)


def seen(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """Turn the head (up by pitch, then to the viewer's right by yaw, then clockwise) and look."""
    y, p, r = np.radians([yaw_deg, pitch_deg, roll_deg])
    up = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    side = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    flat = (HEAD @ up.T @ side.T)[:, :2]
    turn = np.array([[np.cos(r), -np.sin(r)], [np.sin(r), np.cos(r)]])
    return flat @ turn.T * 40 + [100, 80]


@pytest.mark.parametrize("yaw", [-60, -20, 0, 35, 70])
@pytest.mark.parametrize("roll", [-90, -10, 0, 45, 170])
def test_yaw_and_roll_of_a_turned_head(yaw: float, roll: float) -> None:
    got_yaw, got_pitch, got_roll = pose_deg(seen(yaw, 0, roll))
    assert got_yaw == pytest.approx(yaw, abs=1e-6)
    assert got_roll == pytest.approx(roll, abs=1e-6)
    assert got_pitch == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("pitch", [-40, -15, 0, 20, 45])
def test_pitch_of_a_nodding_head(pitch: float) -> None:
    assert pose_deg(seen(0, pitch, 0))[1] == pytest.approx(pitch, abs=1e-6)


def test_the_template_looks_ahead() -> None:
    yaw, pitch, roll = pose_deg(TEMPLATE_XY_PX)
    assert abs(yaw) < 2 and abs(pitch) < 3 and abs(roll) < 1


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.inf)])
def test_degenerate_landmarks_are_a_profile(points: np.ndarray) -> None:
    assert pose_deg(points)[0] == 90.0


def test_a_mouth_over_the_eyes_is_marked() -> None:
    points = TEMPLATE_XY_PX.copy()
    points[3:, 1] = 10
    assert pose_deg(points)[1] == 90.0


def test_measures() -> None:
    crop = np.full((112, 112, 3), 100, np.uint8)
    box = np.array([-10.0, 0, 30, 40])
    q = measure(crop, TEMPLATE_XY_PX, box, 100, 100)
    assert q.brightness == 100 and q.sharpness == 0
    assert q.inside_frame == pytest.approx(30 / 40)
    assert q.eye_distance_px == pytest.approx(35.24, abs=0.01)
    noisy = np.random.default_rng(0).integers(0, 255, (112, 112, 3)).astype(np.uint8)
    blurred = np.asarray(cv2.GaussianBlur(noisy, (0, 0), 2))
    sharp, soft = (measure(c, TEMPLATE_XY_PX, box, 100, 100).sharpness for c in (noisy, blurred))
    assert sharp > 10 * soft > 0


GOOD = Quality(
    eye_distance_px=40,
    sharpness=100,
    yaw_deg=0,
    pitch_deg=0,
    roll_deg=0,
    brightness=120,
    inside_frame=1,
)


@pytest.mark.parametrize(
    ("change", "score", "status"),
    [
        ({}, 0.9, "ok"),
        ({}, 0.4, "low_score"),
        ({"eye_distance_px": 5.0}, 0.9, "small"),
        ({"inside_frame": 0.2}, 0.9, "cut_off"),
        ({"yaw_deg": -89.0}, 0.9, "profile"),
        ({"sharpness": 3.0}, 0.9, "blurred"),
        ({"brightness": 2.0}, 0.9, "dark"),
        ({"brightness": 254.0}, 0.9, "bright"),
        ({"eye_distance_px": 5.0, "brightness": 2.0}, 0.9, "small"),
    ],
)
def test_the_first_mark_that_applies(change: dict[str, float], score: float, status: str) -> None:
    from dataclasses import replace

    settings = QualitySettings(min_sharpness=10)
    assert mark(replace(GOOD, **change), score, settings) == status


def test_the_labelled_face_is_large_and_central() -> None:
    central, corner, tiny = [40, 40, 60, 60], [0, 0, 22, 22], [49, 49, 51, 51]
    assert labelled_face(np.array([corner, central, tiny], float), 100, 100) == 1
    assert labelled_face(np.array([tiny, [5, 5, 95, 95]], float), 100, 100) == 1
    assert labelled_face(np.zeros((0, 4)), 100, 100) is None
