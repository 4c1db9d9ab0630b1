"""Made faces: functions of their number, of the shares that are set, and of the faces."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.taught_faces import made_faces
from training.face_mixes import MARGIN_PX, NO_SOURCE, MixSettings, make_picture, placed

FACES = made_faces(people=5, pictures=2).pixels_NHWC


def test_a_picture_follows_from_its_number() -> None:
    settings = MixSettings()
    for number in (0, 1, 12345):
        one, two = (make_picture(FACES, number, 7, settings) for _ in range(2))
        assert np.array_equal(one[0], two[0])
        assert one[1] == two[1]
    pictures = [make_picture(FACES, n, seed, settings)[0] for n in range(3) for seed in (7, 8)]
    assert len({picture.tobytes() for picture in pictures}) == 6
    assert {(p.shape, p.dtype.str) for p in pictures} == {((112, 112, 3), "|u1")}


@pytest.mark.parametrize("real", [0.0, 0.4, 1.0])
def test_the_share_of_real_faces_is_the_one_that_is_set(real: float) -> None:
    settings = MixSettings(real=real, bent_real=0.0)
    sources = np.array([make_picture(FACES, n, 3, settings)[1] for n in range(300)])
    # Five standard deviations of 300 draws.
    assert abs((sources != NO_SOURCE).mean() - real) <= 5 * (real * (1 - real) / 300) ** 0.5
    shown = sources[sources != NO_SOURCE]
    assert not len(shown) or set(shown.tolist()) == set(range(len(FACES)))


def test_a_bent_face_is_nobody() -> None:
    settings = MixSettings(real=1.0, bent_real=1.0)
    assert {make_picture(FACES, n, 0, settings)[1] for n in range(20)} == {NO_SOURCE}


def test_a_face_stays_near_its_place() -> None:
    inner = slice(MARGIN_PX, -MARGIN_PX)
    for number in range(10):
        window = FACES[number % len(FACES)]
        moved = placed(window, np.random.default_rng(number), bad=False)
        sides = [side[inner, inner].astype(np.float64) for side in (window, window[:, ::-1])]
        alike = [np.corrcoef(moved.ravel(), side.ravel())[0, 1] for side in sides]
        assert max(alike) > 0.8  # as it was or mirrored; another person's is near 0
