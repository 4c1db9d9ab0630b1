"""Alignment against scikit-image's similarity transform and insightface's norm_crop."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepipe.align import (
    CROP_PX,
    TEMPLATE_XY_PX,
    AlignSettings,
    aligned_crop,
    decode_crop,
    encode_crop,
    similarity_transform,
)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_umeyamas_solution(seed: int) -> None:
    from skimage.transform import estimate_transform

    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 500, (5, 2)).astype(np.float32)
    target = rng.uniform(0, 112, (5, 2)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = estimate_transform("similarity", points, target).params[:2]
    # scikit-image works in float32 here, hence the tolerance.
    np.testing.assert_allclose(similarity_transform(points, target), expected, atol=1e-3)


def test_a_known_turn_is_undone() -> None:
    angle, scale, shift = np.radians(30), 2.5, np.array([40.0, -7.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = TEMPLATE_XY_PX @ turn.T + shift
    matrix = similarity_transform(moved, TEMPLATE_XY_PX)
    back = moved @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(back, TEMPLATE_XY_PX, atol=1e-9)


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_points_without_spread_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="coincide"):
        similarity_transform(points, TEMPLATE_XY_PX)


def test_crops_are_insightfaces(assets: Path) -> None:
    from insightface.utils.face_align import norm_crop

    picture = cv2.imread(str(assets / "photos/various/insightface_pkg__t1.jpg"))
    rng = np.random.default_rng(0)
    for _ in range(10):
        points = (
            TEMPLATE_XY_PX * rng.uniform(0.4, 3) + rng.uniform(0, 300, 2) + rng.normal(0, 2, (5, 2))
        )
        points = points.astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = norm_crop(picture, points)
        difference = np.abs(aligned_crop(picture, points).astype(int) - expected)
        assert difference.max() <= 1 and difference.mean() < 0.01


def test_outside_the_photo_is_black() -> None:
    white = np.full((50, 50, 3), 255, np.uint8)
    crop = aligned_crop(white, TEMPLATE_XY_PX)
    assert crop.shape == (CROP_PX, CROP_PX, 3)
    assert crop[:49, :49].min() == 255 and crop[60:].max() == 0


@pytest.mark.parametrize(("kind", "exact"), [("png", True), ("jpeg", False)])
def test_stored_crops_come_back(kind: str, exact: bool) -> None:
    noise = np.random.default_rng(1).uniform(0, 255, (14, 14, 3)).astype(np.uint8)
    crop = cv2.resize(noise, (CROP_PX, CROP_PX), interpolation=cv2.INTER_CUBIC)
    back = decode_crop(encode_crop(crop, AlignSettings(crop_format=kind)))  # type: ignore[arg-type]
    assert back is not None
    assert np.array_equal(back, crop) is exact
    assert np.abs(back.astype(int) - crop).mean() < 4


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_crop_is_none(data: bytes) -> None:
    assert decode_crop(data) is None


def test_a_picture_of_another_size_is_no_crop() -> None:
    ok, data = cv2.imencode(".png", np.zeros((10, 10, 3), np.uint8))
    assert ok and decode_crop(data.tobytes()) is None
