"""Faces compared with groups and moved, against sums worked out one by one."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from facepipe.cluster_model import PersonModel
from facepipe.cluster_polish import Fits, Shared, fits, move, shared_groups
from facepipe.knn_graph import knn_graph
from facepipe.neighbors import unit_rows

Int64 = npt.NDArray[np.int64]
NONE = (np.empty(0, np.int64), np.empty(0, np.int64))
NOBODY = np.zeros(6, np.bool_)
MODEL = PersonModel(
    stranger_mean=0.0, stranger_std=0.065, tail_degrees=20.0, alone_share=0.3, faces=100
)


def made() -> tuple[npt.NDArray[np.float16], Int64]:
    """Return 5, 4 and 2 faces of three people and one of a fourth."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(4), [5, 4, 2, 1])
    centres = unit_rows(rng.standard_normal((4, 256)))
    noise = rng.standard_normal((12, 256)) / 16
    return unit_rows(centres[person] + 0.8 * noise).astype(np.float16), person


def test_each_face_is_compared_with_the_others_of_its_group() -> None:
    vectors, person = made()
    shared = shared_groups(vectors, 10 * person)
    unit = unit_rows(vectors).astype(np.float64)
    assert shared.names_G.tolist() == [0, 10, 20]
    assert shared.size_G.tolist() == [5, 4, 2]
    assert shared.place_N.tolist() == [0] * 5 + [1] * 4 + [2] * 2 + [-1]
    for i in range(12):
        rest = [j for j in range(12) if j != i and person[j] == person[i]]
        total = unit[rest].sum(axis=0) if rest else np.zeros(256)
        expected = unit[i] @ total / (np.linalg.norm(total) or 1.0)
        assert shared.cosine_N[i] == pytest.approx(expected, abs=1e-5)
        assert shared.others_N[i] == pytest.approx(len(rest))


def test_fits_are_the_odds_of_every_group_tried() -> None:
    vectors, person = made()
    group = person.copy()
    group[0] = 1  # of person 0, found with person 1
    graph = knn_graph(vectors, 11)  # everybody: every group is tried
    shared = shared_groups(vectors, group)
    fit = fits(vectors, graph, shared, MODEL)
    unit = unit_rows(vectors).astype(np.float64)
    for i in range(12):
        odds = {}
        for g in range(3):
            rest = [j for j in range(12) if j != i and group[j] == g]
            total = unit[rest].sum(axis=0)
            cosine = unit[i] @ total / np.linalg.norm(total)
            odds[g] = float(MODEL.log_odds(cosine, 1.0, float(len(rest))))
        own = odds.pop(int(group[i]), 0.0)
        best = max(odds, key=lambda g: odds[g])
        assert fit.own_N[i] == pytest.approx(own, abs=1e-3)
        assert fit.best_N[i] == best
        assert fit.best_odds_N[i] == pytest.approx(odds[best], abs=1e-3)
        # Alone (odds of 1), its own group, the others, and the one face that is alone.
        every = [0.0, *odds.values()] + ([own] if group[i] < 3 else [])
        if i != 11:
            every.append(float(MODEL.log_odds(unit[i] @ unit[11], 1.0, 1.0)))
        else:
            every.append(float(MODEL.log_odds(-1.0, 1.0, 1.0)))
        assert fit.all_N[i] == pytest.approx(math.log(sum(map(math.exp, every))), abs=1e-3)
    assert fit.best_N[0] == 0 and fit.best_odds_N[0] > fit.own_N[0]


def scene(own: list[float], best: list[int], odds: list[float]) -> tuple[Int64, Shared, Fits]:
    """Return six faces: 0, 1 and 2, 3 are two groups, 4 and 5 alone."""
    group = np.array([0, 0, 2, 2, 4, 5])
    shared = Shared(
        place_N=np.array([0, 0, 1, 1, -1, -1]),
        names_G=np.array([0, 2]),
        size_G=np.array([2, 2]),
        centres_GD=np.zeros((2, 1), np.float32),
        cosine_N=np.zeros(6),
        others_N=np.ones(6),
    )
    fit = Fits(
        own_N=np.array(own),
        best_N=np.array(best),
        best_odds_N=np.array(odds),
        all_N=np.zeros(6),
    )
    return group, shared, fit


def test_a_face_goes_where_it_fits_best_or_stays_or_leaves() -> None:
    group, shared, fit = scene(
        own=[5.0, -1.0, 3.0, 2.0, 0.0, 0.0],
        best=[1, -1, 0, 0, 1, 0],
        odds=[4.0, -np.inf, 3.5, 1.0, 2.0, -0.5],
    )
    moved, moves = move(group, shared, fit, NOBODY, NONE)
    assert moved[0] == 0  # fits its own better
    assert moved[1] not in group  # fits nobody: alone
    assert moved[2] == 0 and moved[3] == 2
    assert moved[4] == 2  # joins
    assert moved[5] == 5  # stays alone
    assert moves == 3


def test_faces_a_person_spoke_of_stay() -> None:
    group, shared, fit = scene([-9.0] * 4 + [0.0] * 2, [1, 1, 0, 0, 1, 0], [9.0] * 6)
    moved, moves = move(group, shared, fit, ~NOBODY, NONE)
    assert moved.tolist() == group.tolist() and moves == 0


@pytest.mark.parametrize("swap", [False, True])
def test_of_two_that_stay_apart_the_better_moves(swap: bool) -> None:
    group, shared, fit = scene([5.0] * 4 + [0.0] * 2, [-1, -1, -1, -1, 1, 1], [0.0] * 4 + [3, 2])
    apart = (np.array([5, 4]), np.array([4, 0])) if swap else (np.array([4]), np.array([5]))
    moved, moves = move(group, shared, fit, NOBODY, apart)
    assert moved.tolist() == [0, 0, 2, 2, 2, 5] and moves == 1


def test_a_face_does_not_move_to_one_that_it_stays_apart_from() -> None:
    group, shared, fit = scene([5.0] * 4 + [0.0] * 2, [-1, -1, -1, -1, 1, 1], [0.0] * 4 + [3, 2])
    moved, _ = move(group, shared, fit, NOBODY, (np.array([2]), np.array([4])))
    assert moved.tolist() == [0, 0, 2, 2, 4, 2]
