"""The model of one person and of strangers, against made vectors whose laws are known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from facepipe.cluster_model import PersonModel, first_model, fitted_model
from facepipe.neighbors import unit_rows

Vectors = npt.NDArray[np.float16]


def strangers(count: int, dim: int, seed: int = 0) -> Vectors:
    return unit_rows(np.random.default_rng(seed).standard_normal((count, dim))).astype(np.float16)


def model(**changes: float) -> PersonModel:
    values = {
        "stranger_mean": 0.01,
        "stranger_std": 0.065,
        "tail_degrees": 20.0,
        "pair_cosine": 0.6,
        "face_std": 0.06,
        "alone_share": 0.3,
    }
    return PersonModel(faces=10_000, **{**values, **changes})


@pytest.mark.parametrize("degrees", [5.0, 20.0, math.inf])
@pytest.mark.parametrize(("cosine", "a", "b"), [(0.3, 1, 1), (0.5, 1, 7), (0.55, 4, 9)])
def test_log_odds_are_the_ratio_of_the_two_laws_and_the_prior(
    degrees: float, cosine: float, a: int, b: int
) -> None:
    stats = pytest.importorskip("scipy.stats")
    this = model(tail_degrees=degrees)
    # Mean cosine of means of a and of b faces, by the cosine rho of any two of them.
    mean = 0.6 * math.sqrt(a * b) / math.sqrt((1 + (a - 1) * 0.6) * (1 + (b - 1) * 0.6))
    same = stats.t.logpdf(cosine, 5, loc=mean, scale=0.06 * math.sqrt(1 / a + 1 / b))
    law = stats.norm if math.isinf(degrees) else stats.t(degrees)
    other = law.logpdf((cosine - 0.01) / 0.065) - math.log(0.065)
    prior = math.log(max(a, b) / 10_000 / 0.3)
    assert cosine < mean  # above it the law of one person is flat
    assert this.log_odds(cosine, a, b) == pytest.approx(same - other + prior, rel=1e-9)


def test_odds_rise_with_the_cosine_from_strangers_to_the_same_picture() -> None:
    cosine = np.linspace(0.01, 1.0, 200)
    for a, b in [(1, 1), (1, 50), (30, 30)]:
        assert (np.diff(model().log_odds(cosine, a, b)) > 0).all()


def test_odds_do_not_depend_on_the_order_or_on_what_is_asked_beside() -> None:
    cosine, a, b = np.array([0.2, 0.4, 0.9]), np.array([1, 5, 2]), np.array([9, 1, 2])
    odds = model().log_odds(cosine, a, b)
    np.testing.assert_array_equal(odds, model().log_odds(cosine, b, a))
    for i in range(3):
        assert odds[i] == model().log_odds(cosine[i : i + 1], a[i : i + 1], b[i : i + 1])[0]


@pytest.mark.parametrize("dim", [64, 128, 512])
def test_strangers_are_measured(dim: int) -> None:
    found = first_model(strangers(4000, dim))
    assert found.stranger_mean == pytest.approx(0.0, abs=0.005)
    assert found.stranger_std == pytest.approx(1 / math.sqrt(dim), rel=0.03)


def test_people_with_many_faces_do_not_move_the_strangers() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(20), 100)
    centres = unit_rows(rng.standard_normal((20, 512)))
    vectors = unit_rows(centres[person] + 0.03 * rng.standard_normal((2000, 512)))
    found = first_model(vectors)
    assert found.stranger_std == pytest.approx(1 / math.sqrt(512), rel=0.25)
    assert abs(found.stranger_mean) < 0.02


@pytest.mark.parametrize("count", [0, 1, 2])
def test_of_few_faces_the_prior_is_assumed(count: int) -> None:
    found = first_model(strangers(count, 512))
    assert 0 < found.stranger_std < 0.1
    assert math.isfinite(float(found.log_odds(0.9, 1.0, 1.0)))


def test_faces_of_one_person_are_not_taken_for_strangers() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_rows(np.ones(512) + 0.8 * rng.standard_normal((400, 512)))
    assert first_model(vectors).stranger_mean < 0.05


def fit(vectors: Vectors, person: npt.NDArray[np.int64]) -> PersonModel:
    """Fit with the true groups, cosines to the others' centre worked out one by one."""
    unit = unit_rows(vectors).astype(np.float64)
    cosine, others = [], []
    for i in range(len(unit)):
        rest = np.flatnonzero((person == person[i]) & (np.arange(len(unit)) != i))
        if len(rest):
            centre = unit[rest].sum(axis=0)
            cosine.append(float(unit[i] @ centre / np.linalg.norm(centre)))
            others.append(float(len(rest)))
    return fitted_model(first_model(vectors), vectors, person, np.array(cosine), np.array(others))


def test_the_model_of_groups_has_their_pair_cosine_and_single_faces() -> None:
    rng = np.random.default_rng(3)
    person = np.concatenate([np.repeat(np.arange(150), 6), np.arange(150, 450)])
    centres = unit_rows(rng.standard_normal((450, 256)))
    noise = rng.standard_normal((len(person), 256)) / 16
    vectors = unit_rows(centres[person] + 0.8 * noise).astype(np.float16)
    found = fit(vectors, person)
    assert found.pair_cosine == pytest.approx(1 / (1 + 0.8**2), abs=0.02)
    assert found.stranger_std == pytest.approx(1 / 16, rel=0.05)
    assert found.alone_share == pytest.approx(300 / 1200, abs=0.01)
    assert found.faces == 1200


def test_a_heavy_tail_of_strangers_is_noticed() -> None:
    # Four families: a third of what makes a face is the family's, so some strangers look alike.
    rng = np.random.default_rng(4)
    people = 600
    own = rng.standard_normal((people, 512)) / math.sqrt(512)
    family = rng.standard_normal((60, 512)) / math.sqrt(512)
    person = np.repeat(np.arange(people), 2)
    noise = rng.standard_normal((len(person), 512)) / math.sqrt(512)
    alike = own + 0.6 * family[np.arange(people) % 60]
    plain = _of_pairs(own, person, noise)
    related = _of_pairs(alike, person, noise)
    assert related.tail_degrees < plain.tail_degrees
    assert related.tail_degrees < 15
    # So a likeness that would be proof elsewhere is none here.
    assert related.log_odds(0.4, 1.0, 1.0) < plain.log_odds(0.4, 1.0, 1.0) - 3


def _of_pairs(
    centres: npt.NDArray[np.float64],
    person: npt.NDArray[np.int64],
    noise: npt.NDArray[np.float64],
) -> PersonModel:
    unit = unit_rows(centres[person] + 0.7 * noise)
    cosine = np.einsum("nd,nd->n", unit[0::2], unit[1::2]).astype(np.float64)
    vectors, others = unit.astype(np.float16), np.ones(len(person))
    return fitted_model(first_model(vectors), vectors, person, np.repeat(cosine, 2), others)


def test_where_few_groups_are_found_strangers_are_what_they_were_at_first() -> None:
    # 512 numbers in which only 64 dimensions are used: strangers are more alike than usual.
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((512, 64)))[0].T
    vectors = unit_rows(np.random.default_rng(1).standard_normal((600, 64)) @ basis)
    person = np.arange(600)
    person[1] = 0  # the one pair
    first = first_model(vectors)
    found = fitted_model(first, vectors, person, np.ones(2), np.ones(2))
    assert first.stranger_std == pytest.approx(1 / 8, rel=0.1)
    assert found.stranger_std == pytest.approx(first.stranger_std, rel=0.1)
