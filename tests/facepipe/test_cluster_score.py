"""BCubed and pairwise measures against their definitions, face by face and pair by pair."""

from __future__ import annotations

import itertools
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import pytest

from facepipe.cluster_score import score_people

Int64 = npt.NDArray[np.int64]


def by_definition(found: list[int], true: list[int]) -> tuple[float, float, float, float]:
    """Return BCubed P, R and pairwise P, R; -1 in found is like nobody else's."""
    same_found = [[a == b >= 0 or i == j for j, b in enumerate(found)] for i, a in enumerate(found)]
    same_true = [[a == b for b in true] for a in true]
    both = [
        [f and t for f, t in zip(fs, ts, strict=True)]
        for fs, ts in zip(same_found, same_true, strict=True)
    ]
    faces = range(len(found))
    precision = sum(sum(both[i]) / sum(same_found[i]) for i in faces) / len(found)
    recall = sum(sum(both[i]) / sum(same_true[i]) for i in faces) / len(found)
    pairs = list(itertools.combinations(faces, 2))
    hits = sum(both[i][j] for i, j in pairs)
    said, there = (sum(m[i][j] for i, j in pairs) for m in (same_found, same_true))
    return precision, recall, hits / said if said else 1.0, hits / there if there else 1.0


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_the_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    found, true = rng.integers(-1, 5, count), rng.integers(0, 6, count)
    score = score_people(found, true)
    expected = by_definition(found.tolist(), true.tolist())
    got = (
        score.bcubed_precision,
        score.bcubed_recall,
        score.pair_precision,
        score.pair_recall,
    )
    assert got == pytest.approx(expected)


def test_f_is_the_harmonic_mean() -> None:
    # One person of four found as two and two: R = 1/2, of 6 pairs 2 are found.
    score = score_people(np.array([0, 0, 1, 1]), np.zeros(4, np.int64))
    assert (score.bcubed_precision, score.bcubed_recall) == (1.0, 0.5)
    assert score.bcubed_f == pytest.approx(2 / 3)
    assert score.pair_f == pytest.approx(0.5)  # 2 * 1 * (1/3) / (4/3)
    assert score.people == 2


def test_faces_left_alone_are_people_of_their_own() -> None:
    truth = np.array([0, 0, 1])
    left = score_people(np.array([-1, -1, -1]), truth)
    named = score_people(np.array([7, 3, 5]), truth)
    assert left == named
    assert left.people == 3
    assert left.pair_recall == left.pair_f == 0.0


def test_numbers_mean_nothing_but_same_or_not() -> None:
    rng = np.random.default_rng(1)
    found, true = rng.integers(-1, 9, 200), rng.integers(0, 9, 200)
    names = np.append(rng.permutation(1000)[:9], -1)  # -1 stays -1
    renamed = astuple(score_people(names[found], true + 50))
    assert renamed == pytest.approx(astuple(score_people(found, true)))
