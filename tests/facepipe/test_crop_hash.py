"""The hash of a crop against its definition, and what does not change it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facepipe.align import TEMPLATE_XY_PX, aligned_crop
from facepipe.crop_hash import (
    MIRROR,
    crop_grey,
    crop_hash,
    hash_cosines,
    hash_rows,
    lengths,
)
from facepipe.schema import CROP_GREY_PX, CROP_HASH_BYTES
from tests.facepipe.small_pictures import Grey, moved, picture

ONE = np.array([False])


def hashed(grey: Grey) -> np.ndarray:
    return hash_rows(crop_hash(grey))


def cosine(first: Grey, second: Grey, mirrored: bool = False) -> float:
    return float(hash_cosines(hashed(first), hashed(second), np.array([mirrored]))[0])


def test_hash_is_its_definition() -> None:
    """DCT-II by its sum, length one, less the average face, in units of its spread."""
    grey = picture(1)
    middle = grey[6:42, 6:42].astype(np.float64)
    n = np.arange(36)
    found = np.zeros((8, 8))
    for u in range(8):
        for v in range(8):
            wave = np.outer(np.cos(np.pi * (n + 0.5) * u / 36), np.cos(np.pi * (n + 0.5) * v / 36))
            found[u, v] = (middle * wave).sum() / 18
    found[0, 0] = 0
    found /= np.sqrt((found**2).sum())
    stored = hashed(grey).reshape(8, 8).astype(float)
    spread = np.array([[(1.0 + u + v) ** -1.4 for v in range(8)] for u in range(8)])
    mean = found - stored / 24 * spread
    assert stored[0, 0] == 0
    clipped = np.abs(stored) == 127
    assert np.abs(mean[:, 1::2][~clipped[:, 1::2]]).max() < 0.03  # odd ones have no average
    assert mean[0, 2] == pytest.approx(-0.347, abs=0.01)
    assert mean[3, 0] == pytest.approx(0.184, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_brightness_and_contrast_do_not_count(seed: int) -> None:
    grey = picture(seed)
    fainter = np.rint(grey * 0.5 + 60).astype(np.uint8)
    assert np.abs(hashed(grey).astype(int) - hashed(fainter)).max() <= 6
    assert cosine(grey, fainter) > 0.99


@pytest.mark.parametrize("seed", range(5))
def test_the_mirrored_hash_follows_from_the_hash(seed: int) -> None:
    grey = picture(seed)
    mirrored = hashed(grey[:, ::-1].copy()).astype(int)
    np.testing.assert_allclose(mirrored, hashed(grey).astype(int) * MIRROR, atol=1)
    assert cosine(grey, grey[:, ::-1].copy(), mirrored=True) > 0.99


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_is_near_and_another_picture_is_not(seed: int) -> None:
    grey = picture(seed)
    assert cosine(grey, moved(grey, 0.8, -0.5, 1.02)) > 0.8
    assert cosine(grey, np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.2), np.uint8)) > 0.9
    assert cosine(grey, picture(seed + 50)) < 0.6


@pytest.mark.parametrize("level", [0, 1, 200, 255])
def test_a_flat_picture_is_near_to_none(level: int) -> None:
    flat = np.full((CROP_GREY_PX, CROP_GREY_PX), level, np.uint8)
    assert crop_hash(flat) == bytes(CROP_HASH_BYTES)
    assert lengths(hashed(flat)).tolist() == [0.0]
    assert cosine(flat, flat) == cosine(flat, picture(0)) == 0.0


def test_rows_of_hashes() -> None:
    pictures = [picture(seed) for seed in range(3)]
    rows = hash_rows(b"".join(crop_hash(p) for p in pictures))
    assert rows.shape == (3, CROP_HASH_BYTES) and rows.dtype == np.int8
    np.testing.assert_array_equal(rows[1], hashed(pictures[1])[0])
    assert hash_rows(b"").shape == (0, CROP_HASH_BYTES)
    assert hash_cosines(rows[:0], rows[:0], ONE[:0]).shape == (0,)


def photo() -> np.ndarray:
    return np.stack([picture(seed, 300) for seed in (1, 2, 3)], axis=2)


def test_the_small_picture_is_that_of_the_crop() -> None:
    landmarks = TEMPLATE_XY_PX * 0.9 + 80
    whole, cut = crop_grey(photo(), landmarks)
    grey = cv2.cvtColor(aligned_crop(photo(), landmarks), cv2.COLOR_BGR2GRAY)
    expected = cv2.resize(grey, (48, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(cut, np.maximum(whole, 1))


@pytest.mark.parametrize("turn", [np.eye(2), np.array([[0.9, -0.3], [0.3, 0.9]])])
def test_it_is_cut_where_the_photo_ends(turn: np.ndarray) -> None:
    landmarks = TEMPLATE_XY_PX @ turn.T - 30
    whole, cut = crop_grey(photo(), landmarks)
    ones = np.full((300, 300, 3), 255, np.uint8)
    inside = cv2.resize(aligned_crop(ones, landmarks)[:, :, 0], (48, 48), interpolation=3)
    assert 0.05 < (cut == 0).mean() < 0.7 and whole.min() >= 1
    assert (cut[inside == 255] > 0).all() and (cut[inside == 0] == 0).all()
    np.testing.assert_array_equal(cut[cut > 0], np.maximum(whole, 1)[cut > 0])


def test_a_copy_cut_closer_has_nearly_the_same_hash() -> None:
    landmarks = TEMPLATE_XY_PX + 90
    closer = photo()[100:, 100:].copy()  # a tenth of the crop is cut off on two sides
    whole, _ = crop_grey(photo(), landmarks)
    again, cut = crop_grey(closer, landmarks - 100)
    assert (cut == 0).mean() > 0.1
    assert cosine(whole, again) > 0.85


def test_landmarks_that_coincide_have_no_crop() -> None:
    with pytest.raises(ValueError, match="coincide"):
        crop_grey(photo(), np.full((5, 2), 50.0))
