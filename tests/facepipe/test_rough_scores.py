"""Fast scores that leave out no row which exact ones would take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe.rough_scores import (
    FEW_QUERIES,
    FewScores,
    ManyScores,
    Rough,
    index_over,
    rough_scores,
)
from tests.facepipe.made_index import people, units

Half = NDArray[np.float16]
KINDS: list[Callable[[NDArray[np.float32]], Rough]] = [FewScores, ManyScores]


def exact(queries_QD: NDArray[np.float32], base_ND: Half) -> NDArray[np.float64]:
    return queries_QD.astype(np.float64) @ base_ND.astype(np.float64).T


def spiky(count: int, dim: int, seed: int) -> Half:
    """Return unit vectors with a few large components, the worst for a common step."""
    rng = np.random.default_rng([9, seed])
    raw = rng.normal(size=(count, dim)) ** 5
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def need(
    rough: Rough, queries: NDArray[np.float32], base: Half, least: NDArray[np.float32], k: int
) -> int:
    """Check that all pairs that are needed are there, once; return how many there are."""
    query_P, place_P = rough.worth(base, least, k)
    assert (np.diff(query_P) >= 0).all()
    found = set(zip(query_P.tolist(), place_P.tolist(), strict=True))
    assert len(found) == len(query_P)
    scores = exact(queries, base)
    for q in range(len(queries)):
        kth = np.sort(scores[q])[-min(k, len(base))]
        wanted = np.flatnonzero(scores[q] >= max(least[q], kth))  # all of equal ones
        assert {(q, int(row)) for row in wanted} <= found
    return len(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 16, 128, 512])
@pytest.mark.parametrize("make", [units, spiky])
def test_no_row_that_is_needed_is_left_out(
    kind: Callable[[NDArray[np.float32]], Rough], dim: int, make: Callable[..., Half]
) -> None:
    base, queries = make(700, dim, seed=1), make(9, dim, seed=2).astype(np.float32)
    rough = kind(queries)
    scores = exact(queries, base)
    for k in (1, 10, 700, 900):
        need(rough, queries, base, np.full(9, -np.inf, np.float32), k)
    for rank in (0, 3, 50):
        least = np.sort(scores, axis=1)[:, -1 - rank].astype(np.float32)
        need(rough, queries, base, least, 5)
        mixed = np.where(np.arange(9) % 2, least, -np.inf).astype(np.float32)
        need(rough, queries, base, mixed, 5)
    assert len(rough.worth(base, np.full(9, 1.9, np.float32), 5)[0]) == 0


@given(st.integers(0, 10**6), st.sampled_from([1, 3, 8, 33]), st.integers(1, 40))
def test_no_needed_row_is_left_out_of_odd_vectors(seed: int, dim: int, k: int) -> None:
    """Exact copies, opposite vectors, single components, subnormal numbers."""
    rng = np.random.default_rng(seed)
    base = np.concatenate(
        [units(20, dim, seed), np.eye(dim, dtype=np.float16), spiky(9, dim, seed)]
    )
    base = np.concatenate([base, -base, base[:7]])
    base = base[rng.permutation(len(base))]
    queries = base[rng.integers(0, len(base), 6)].astype(np.float32)
    scores = exact(queries, base)
    for kind in KINDS:
        need(kind(queries), queries, base, np.full(6, -np.inf, np.float32), k)
        least = np.sort(scores, axis=1)[:, -min(k, len(base))].astype(np.float32)
        need(kind(queries), queries, base, np.nextafter(least, np.float32(-2)), k)


def test_few_rows_are_taken_for_faces() -> None:
    """A bound that let everything through would be safe too."""
    base = people(2000, 5, 512)
    queries = base[::97].astype(np.float32)
    least = np.sort(exact(queries, base), axis=1)[:, -5].astype(np.float32)
    for kind, most in ((FewScores, 6), (ManyScores, 60)):
        assert need(kind(queries), queries, base, least, 5) <= most * len(queries)


def test_what_is_fastest_is_chosen() -> None:
    queries = units(FEW_QUERIES + 1).astype(np.float32)
    assert isinstance(rough_scores(queries[:FEW_QUERIES]), FewScores)
    assert isinstance(rough_scores(queries), ManyScores)


def test_an_index_over_rows_copies_nothing() -> None:
    base = units(50, 32)
    index = index_over(base[10:])
    scores, places = index.search(base[10:13].astype(np.float32), 1)
    assert places[:, 0].tolist() == [0, 1, 2]
    base[11] = base[0]  # the same memory
    assert index.search(base[:1].astype(np.float32), 1)[1].tolist() == [[1]]
    assert scores[:, 0] == pytest.approx(1, abs=2e-3)
