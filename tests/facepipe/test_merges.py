"""Groups that are one person: taken at a stated share of false ones, and never in chains."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from facepipe.impostors import Impostors
from facepipe.merges import FALSE_SHARE, Tail, false_share, link, measure_tail
from facepipe.neighbors import unit_rows

Array = npt.NDArray[np.float32]
PRIOR = Impostors(mean=0.0, std=0.088, quantiles=())  # of 128 dimensions


def centres(count: int, seed: int = 0, dim: int = 128) -> Array:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, dim)))


def near(vectors: Array, cosine: float, seed: int = 1) -> Array:
    away = np.random.default_rng(seed).normal(size=vectors.shape)
    away -= (away * vectors).sum(axis=1, keepdims=True) * vectors
    return unit_rows(cosine * vectors + np.sqrt(1 - cosine**2) * unit_rows(away))


def linked(sums: Array, **said: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int64]:
    sizes = np.full(len(sums), 8.0)
    return link(sums, sizes, np.arange(len(sums)), PRIOR, **said).person_M


def test_halves_of_people_are_joined_and_strangers_are_not() -> None:
    people = centres(200)
    sums = np.vstack([people, near(people[:20], 0.85)])
    person = linked(sums)
    assert (person[200:] == person[:20]).all()
    assert len(np.unique(person)) == 200


@pytest.mark.parametrize("count", [3, 40, 400])
def test_strangers_stay_strangers(count: int) -> None:
    assert len(np.unique(linked(centres(count, seed=count)))) == count


def test_no_chain_joins_its_ends() -> None:
    """Each next one as near as halves of a person are, the ends strangers."""
    angle = np.linspace(0, np.deg2rad(180), 7)
    chain = np.zeros((7, 128), np.float32)
    chain[:, 0], chain[:, 1] = np.cos(angle), np.sin(angle)
    person = linked(np.vstack([chain, centres(200, seed=3)]))[:7]
    cosine = chain @ chain.T
    for a, b in np.argwhere(person[:, None] == person[None, :]):
        assert cosine[a, b] > 0.2  # one pair of strangers in a hundred
    assert len(np.unique(person)) > 2


def test_what_a_person_says_is_done() -> None:
    people = centres(100)
    sums = np.vstack([people, near(people[:2], 0.9)])
    person = linked(sums, apart=((0, 100),), together=((5, 6),))
    assert person[0] != person[100] and person[1] == person[101] and person[5] == person[6]


def test_apart_holds_for_all_of_a_group() -> None:
    people = centres(100)
    sums = np.vstack([people, near(people[:1], 0.95, 1), near(people[:1], 0.95, 2)])
    person = linked(sums, apart=((0, 101),))
    assert person[0] != person[101]


def test_the_tail_is_the_share_of_impostors_beyond() -> None:
    vectors = centres(900, seed=5)
    tail = measure_tail(vectors, np.full(900, 9.0), np.arange(900), PRIOR)
    cosine = (vectors @ vectors.T)[np.triu_indices(900, 1)].astype(np.float64)
    for share in (0.006, 0.003, 0.001):
        at = np.quantile(cosine, 1 - share)
        rate = float(tail.rate(np.array([at]), np.array([9.0]))[0])
        assert rate == pytest.approx(share, rel=0.35)
    # Further out a normal tail falls faster: never fewer strangers than are there.
    assert float(tail.rate(np.array([cosine.max()]), np.array([9.0]))[0]) >= 1 / len(cosine)


@pytest.mark.parametrize("total", [300, 4000])
def test_the_tail_is_that_of_strangers_though_neighbours_are_one_person(total: int) -> None:
    vectors = centres(total, seed=6)
    vectors[1::2] = near(vectors[::2], 0.9)
    size, label = np.full(total, 9.0), np.arange(total)
    tail = measure_tail(vectors, size, label, PRIOR)
    others = measure_tail(centres(total, seed=6), size, label, PRIOR)
    np.testing.assert_allclose(tail.base_S, others.base_S, rtol=0.05)
    np.testing.assert_allclose(tail.scale_S, others.scale_S, rtol=0.15)


def test_rate_falls_with_the_cosine_and_knows_the_size() -> None:
    tail = Tail(base_S=np.array([0.1, 0.2, 0.3]), scale_S=np.array([0.1, 0.1, 0.1]))
    size = np.array([1.0, 2.9, 3.0, 6.0])
    np.testing.assert_allclose(
        tail.rate(np.full(4, 0.4), size), 0.01 * np.exp([-3.0, -3.0, -2.0, -1.0])
    )
    assert (tail.rate(np.full(4, 0.05), size) == 1).all()


def test_false_share_is_what_strangers_alone_would_give() -> None:
    rate = np.array([1e-3, 1e-9, 1e-5, 0.5])
    np.testing.assert_allclose(false_share(rate, 1000.0), [1 / 3, 1e-6, 5e-3, 1.0])
    assert (false_share(np.array([1e-7] * 4), 1000.0) <= FALSE_SHARE).all()
    assert false_share(np.empty(0), 10.0).shape == (0,)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_groups(count: int) -> None:
    assert linked(centres(count)).tolist() == list(range(count))
