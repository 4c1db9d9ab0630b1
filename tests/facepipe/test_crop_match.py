"""What is left when one crop is laid over another: copies against frames of a burst."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from facepipe import crop_match
from facepipe.crop_match import match_probability, unexplained_motion
from tests.facepipe.small_pictures import moved, next_frame, picture

Grey = npt.NDArray[np.uint8]
PX_PER_CELL = 112 / 48


def motion(worse: Grey, better: Grey) -> float:
    return float(unexplained_motion(worse[None], better[None])[0])


def recompressed(grey: Grey, quality: int) -> Grey:
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.maximum(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), 1).astype(np.uint8)


COPIES: dict[str, Callable[[Grey], Grey]] = {
    "itself": lambda g: g.copy(),
    "shifted": lambda g: moved(g, 1.7, -1.2),
    "scaled": lambda g: moved(g, scale=1.06),
    "turned": lambda g: moved(g, turn_deg=4),
    "all of these": lambda g: moved(g, -0.8, 0.6, 0.96, -2),
    "brighter": lambda g: np.clip(g * 0.7 + 60, 1, 255).astype(np.uint8),
    "gamma": lambda g: np.clip(255 * (g / 255.0) ** 1.3, 1, 255).astype(np.uint8),
    "blurred": lambda g: np.asarray(cv2.GaussianBlur(g, (0, 0), 0.8), np.uint8),
    "recompressed": lambda g: recompressed(g, 80),
    "partly outside": lambda g: np.where(np.arange(48) < 40, g, 0).astype(np.uint8),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", COPIES)
def test_a_copy_has_no_motion(change: str, seed: int) -> None:
    grey = picture(seed)
    assert motion(COPIES[change](grey), grey) < 0.3
    assert motion(grey, COPIES[change](grey)) < 0.3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("place", [(0.35, 0.4), (0.65, 0.4), (0.5, 0.75)])
@pytest.mark.parametrize("change", ["itself", "shifted", "brighter", "recompressed"])
def test_a_part_that_moves_is_seen_in_spite_of_the_change(
    change: str, place: tuple[float, float], seed: int
) -> None:
    grey = picture(seed)
    frame = next_frame(grey, 1.0, *place)
    assert motion(COPIES[change](frame), grey) > 0.6


def test_what_moves_further_has_more_motion_and_it_is_in_pixels() -> None:
    grey = picture(5)
    found = [motion(next_frame(grey, cells), grey) for cells in (0.3, 0.6, 1.2)]
    assert found == sorted(found)
    for cells, value in zip((0.3, 0.6, 1.2), found, strict=True):
        assert 0.3 < value / (cells * PX_PER_CELL) < 1.5


def test_other_pictures_are_far_off() -> None:
    others = np.stack([picture(seed) for seed in range(1, 9)])
    first = np.broadcast_to(picture(0), others.shape).copy()
    assert unexplained_motion(first, others).min() > 1.5


@pytest.mark.parametrize("level", [0, 1, 120, 255])
def test_flat_and_empty_pictures_match_nothing(level: int) -> None:
    flat, grey = np.full((48, 48), level, np.uint8), picture(1)
    for pair in ((flat, grey), (grey, flat), (flat, flat)):
        assert motion(*pair) == np.inf
    assert match_probability(np.array([np.inf]), np.array([40.0])) == [0.0]


def test_crops_that_share_too_little_match_nothing() -> None:
    grey = picture(2)
    left, right = grey.copy(), grey.copy()
    left[:, 20:], right[:, :28] = 0, 0
    assert motion(left, right) == np.inf


@pytest.mark.parametrize("block", [1, 3, 100])
def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    first = np.stack([picture(seed) for seed in range(7)])
    second = np.stack([moved(g, 0.5, 0.2) for g in first])
    whole = unexplained_motion(first, second)
    monkeypatch.setattr(crop_match, "PAIR_BLOCK", block)
    np.testing.assert_array_equal(unexplained_motion(first, second), whole)
    assert unexplained_motion(first[:0], second[:0]).shape == (0,)


def test_the_probability_is_a_logistic_of_logs() -> None:
    for motion_px, eyes_px in ((0.2, 40.0), (0.5, 20.0), (1.4, 60.0)):
        odds = (
            motion_px**crop_match.ODDS_MOTION
            * eyes_px**crop_match.ODDS_EYES
            * np.exp(crop_match.ODDS)
        )
        expected = odds / (1 + odds)
        found = match_probability(np.array([motion_px]), np.array([eyes_px]))
        assert found[0] == pytest.approx(expected, rel=1e-9)


def test_the_probability_falls_with_the_motion() -> None:
    steps = np.array([0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 100.0])
    found = match_probability(steps, np.full(len(steps), 40.0))
    assert (np.diff(found) <= 0).all() and found[0] > 0.999 and found[-1] < 1e-6
