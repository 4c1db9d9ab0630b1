"""The people nearest to faces: short codes against comparing with all."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe import near_centres
from facepipe.near_centres import NearCentres
from facepipe.neighbors import Float32, nearest, unit_rows


def made(people: int, faces: int, dim: int, cosine: float = 0.8) -> tuple[Float32, Float32]:
    """Return centres in half of the dimensions, turned, and a face of each of the first."""
    rng = np.random.default_rng(people + dim)
    turn, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    centres = unit_rows(rng.standard_normal((people, dim // 2)))
    away = unit_rows(rng.standard_normal((faces, dim // 2)))
    probes = unit_rows(cosine * centres[:faces] + np.sqrt(1 - cosine**2) * away)
    return centres @ turn[: dim // 2].astype(np.float32), probes @ turn[: dim // 2].astype("f4")


@pytest.fixture
def coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code from few pairs on."""
    monkeypatch.setattr(near_centres, "EXACT_PAIRS", 100)


@pytest.mark.parametrize("dim", [64, 128, 510])
def test_codes_find_what_comparing_with_all_finds(coded: None, dim: int) -> None:
    centres, probes = made(3000, 300, dim)
    _, exact = nearest(probes, centres, 5)
    found = NearCentres(centres, 1000).find(probes, 5)
    assert found.shape == (300, 5) and found.dtype == np.int64
    assert (found[:, 0] == exact[:, 0]).mean() >= 0.99
    assert (exact[:, 0] == np.arange(300)).mean() > 0.9


def test_the_found_are_in_the_order_of_their_cosine(coded: None) -> None:
    centres, probes = made(3000, 50, 64)
    found = NearCentres(centres, 1000).find(probes, 8)
    cosine = np.take_along_axis(probes @ centres.T, found, axis=1)
    assert (np.diff(cosine, axis=1) <= 1e-6).all()
    assert all(len(set(row)) == 8 for row in found.tolist())


def test_the_found_do_not_depend_on_what_else_is_asked(
    coded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    centres, probes = made(3000, 70, 64)
    whole = NearCentres(centres, 1000).find(probes, 5)
    monkeypatch.setattr(near_centres, "QUERY_ROWS", 9)
    np.testing.assert_array_equal(NearCentres(centres, 1000).find(probes, 5), whole)
    np.testing.assert_array_equal(NearCentres(centres, 1000).find(probes[40:], 5), whole[40:])


def test_of_equal_centres_the_first_comes_first(coded: None) -> None:
    centres, _ = made(600, 1, 64)
    twice = np.concatenate([centres, centres])
    found = NearCentres(twice, 1000).find(centres[:40], 2)
    np.testing.assert_array_equal(found, np.stack([np.arange(40), np.arange(40) + 600], axis=1))


def test_few_people_are_compared_exactly_and_none_is_no_failure() -> None:
    centres, probes = made(200, 20, 64)
    np.testing.assert_array_equal(
        NearCentres(centres, 1000).find(probes, 3), nearest(probes, centres, 3)[1]
    )
    assert NearCentres(centres[:2], 1000).find(probes, 5).shape == (20, 2)
    assert NearCentres(centres[:0], 1000).find(probes, 5).shape == (20, 0)
